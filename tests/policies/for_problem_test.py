"""A policy with a tokenizer of somebody else's model."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from pav_jax import models
from pav_jax.models import transformer
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import export, language_model, used_tokens
from pav_jax.problems.chain import Chain
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.prompt_format import Record, chat_prompt

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "tokenizers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(DataProblem):
  """Two sums in each split."""

  def records(self):
    return {
      split: [
        Record(f"{split}{i}", f"{i}+{i}?", f"{i}+{i}\n\n={2 * i}", str(2 * i))
        for i in (1, 2)
      ]
      for split in ("train", "validation", "test")
    }


@pytest.fixture(scope="module")
def problem():
  pytest.importorskip("tokenizers")
  tokenizer = Tokenizer(str(FOLDER / "byte_level"))
  return Sums(vocabulary=tokenizer, prompt=chat_prompt(tokenizer))


def config(vocab_size):
  return TransformerConfig(
    vocab_size=vocab_size,
    width=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=8,
    max_length=4096,
  )


def test_chats_of_problems_have_steps_and_come_back(problem):
  (prompt, _) = (x.prompt for x in problem.examples("train"))
  assert problem.decode_problem(prompt) == "1+1?"
  ids = problem.problem_ids("train", 0, 1)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  steps = np.diff(rollout.prefix_len[0])
  # Two newlines are one token, which ends the first of two steps.
  texts = [
    problem.vocabulary.decode(
      rollout.tokens[0, rollout.prefix_len[0, h] : rollout.prefix_len[0, h + 1]]
    )
    for h in range(2)
  ]
  assert texts == ["1+1\n\n", "=2<|end|>"]
  assert (steps > 0).sum() == 2


def test_padded_embeddings_end_no_step(problem):
  size = problem.vocabulary.vocab_size
  policy = language_model(config(size + 8), problem)
  table = np.frombuffer(policy.is_delimiter, bool)
  assert table.shape == (size + 8,) and not table[size:].any()
  np.testing.assert_array_equal(table[:size], problem.ends_step)
  assert policy.end_token == problem.vocabulary.eos_id
  assert policy.pad_token != policy.end_token
  with pytest.raises(ValueError, match=f"expected at least {size}"):
    language_model(config(size - 1), problem)


def test_an_exported_policy_has_its_tokenizer(problem, tmp_path):
  policy = language_model(config(432), problem)
  params = transformer.init(policy.config, jax.random.key(0))
  export(tmp_path / "policy", policy, params, problem, start="0123")
  model = models.load(tmp_path / "policy", fingerprint=problem.fingerprint)
  assert model.tokenizer.encode("a b\n") == problem.vocabulary.encode("a b\n")
  assert model.tokenizer.pad_id == problem.vocabulary.pad_id
  side = json.loads((tmp_path / "policy" / "pav_jax.json").read_text())
  assert (side["start"], side["fingerprint"]) == ("0123", problem.fingerprint)
  # What is loaded and saved again has it too.
  models.save(tmp_path / "again", model)
  again = models.load(tmp_path / "again")
  assert again.tokenizer.encode("a b\n") == problem.vocabulary.encode("a b\n")
  with pytest.raises(ValueError, match="fingerprint"):
    models.load(tmp_path / "policy", fingerprint="another")
  with pytest.raises(ValueError, match="no checkpoint that has a tokenizer"):
    _ = dataclasses.replace(model, source=None).tokenizer


def test_used_tokens_are_those_of_demonstrations_and_what_is_asked_for():
  # What 200 problems of the train split say, others say too.
  problem = Chain(horizon=2)
  kept = used_tokens(problem, num_demonstrations=200, also=(11, 11))
  ids = problem.problem_ids("validation", 0, 20)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  for tokens, length in zip(
    rollout.tokens, rollout.prefix_len[:, -1], strict=True
  ):
    assert set(tokens[:length].tolist()) <= set(kept.ids)
  vocabulary = problem.vocabulary
  assert {vocabulary.eos_id, vocabulary.pad_id, 11} <= set(kept.ids)


def test_words_of_other_splits_questions_may_be_said_too():
  problem = Chain(horizon=2)
  few = used_tokens(problem, num_demonstrations=1)
  more = used_tokens(problem, num_demonstrations=1, questions={"test": 50})
  asked = problem.prompts(problem.problem_ids("test", 0, 50))
  assert set(more.ids) == set(few.ids) | set(np.unique(asked).tolist())
  assert len(more.ids) > len(few.ids)
