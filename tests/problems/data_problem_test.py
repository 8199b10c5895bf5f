import dataclasses
import itertools
from typing import ClassVar

import jax
import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from pav_jax.data.packing import Demonstrations
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.grading import NormalizedMatch
from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.prompt_format import PromptFormat, Record
from pav_jax.problems.text import SPLITS, TextProblem
from pav_jax.training.evaluation import evaluate


def made(split, number, long=()):
  return tuple(
    Record(
      f"{split}/{i}",
      f"What is {i}+{i}?" + " really?" * (60 * (i in long)),
      f"It is {i}+{i}.\nThat is\n$\\boxed{{{2 * i}}}$.",
      f"{2 * i}",
    )
    for i in range(number)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(DataProblem):
  """Some of its problems of train, and one of test if asked for, are long."""

  long_test: tuple = ()

  def records(self):
    return {
      "train": made("train", 20, long=(3, 4)),
      "validation": made("validation", 5),
      "test": made("test", 7, self.long_test),
    }


class Recording:
  """A grader that says yes to responses of even length, and keeps what came."""

  seen: ClassVar[list] = []

  def __call__(self, responses, answers):
    self.seen.append((list(responses), list(answers)))
    return np.array([len(text) % 2 == 0 for text in responses])


@pytest.fixture
def problem(pieces_path):
  return Sums(
    vocabulary=SentencePieceVocabulary(pieces_path),
    grader=NormalizedMatch(num_workers=1),
    max_prompt_len=96,
    max_response_len=64,
    max_steps=4,
  )


def test_it_is_a_text_problem(problem):
  assert isinstance(problem, TextProblem)
  assert problem == dataclasses.replace(problem)
  assert hash(problem) == hash(dataclasses.replace(problem))
  assert problem.ends_step[4] and problem.fingerprint


def test_ids_skip_what_is_too_long(problem):
  # Split s has ids 3 index + s; 3 and 4 of train are too long.
  assert (
    problem.split_size("train") == 18 and problem.num_left_out("train") == 2
  )
  ids = problem.problem_ids("train", 1, 5)
  assert ids.tolist() == [3, 6, 15, 18] and ids.dtype == np.int32
  assert problem.problem_ids("test", 0, 7).tolist() == list(range(2, 23, 3))
  short = dataclasses.replace(problem, max_length=20, max_prompt_len=1000)
  with pytest.raises(ValueError, match="shortest problem of split 'train'"):
    short.split_size("train")
  roomy = dataclasses.replace(problem, max_prompt_len=1000)
  assert roomy.num_left_out("train") == 0


def test_prompts_differ_in_length(problem):
  ids = problem.problem_ids("test", 0, 7)
  prompts, lengths = problem.prompts(ids), problem.prompt_lengths(ids)
  assert prompts.shape == (7, 96) and prompts.dtype == np.int32
  texts = [f"Problem:\nWhat is {i}+{i}?\n\nSolution:\n" for i in range(7)]
  for row, length, text in zip(prompts, lengths, texts, strict=True):
    assert row[0] == problem.vocabulary.bos_id
    assert problem.vocabulary.decode(row[:length]) == text
    assert (row[:length] != 0).all() and (row[length:] == 0).all()


def test_demonstrations_are_rollouts(problem):
  ids = problem.problem_ids("train", 2, 6)
  rollout = problem.demonstrations(ids, np.arange(4))
  assert rollout.tokens.shape == (4, 96 + 64)
  np.testing.assert_array_equal(
    rollout.prefix_len[:, 0], problem.prompt_lengths(ids)
  )
  np.testing.assert_array_equal(problem.outcomes(rollout), rollout.outcome)
  for row, ends, index in zip(
    rollout.tokens, rollout.prefix_len, ids // 3, strict=True
  ):
    # Three lines are three steps; the last ends with the end token.
    steps = [
      problem.vocabulary.decode(row[begin:end])
      for begin, end in itertools.pairwise(ends)
    ]
    assert steps == [
      f"It is {index}+{index}.\n",
      "That is\n",
      f"$\\boxed{{{2 * index}}}$.",
      "",
    ]
    assert row[ends[-1] - 1] == problem.vocabulary.eos_id
    assert (row[ends[-1] :] == 0).all()
  assert not problem.dead_prefixes(rollout).any()
  assert problem.dead_prefixes(rollout).shape == rollout.prefix_len.shape


def test_responses_are_graded_as_texts_that_ended(problem, monkeypatch):
  vocabulary = problem.vocabulary
  problem = dataclasses.replace(problem, grader=Recording())
  monkeypatch.setattr(Recording, "seen", [])
  encoded = [
    [*vocabulary.encode("four"), 1],
    [*vocabulary.encode("four")],  # no end
    [*vocabulary.encode("one"), 1, *vocabulary.encode("four"), 1],
    [1],
    [vocabulary.vocab_size, 1],  # no token of the vocabulary
    [0, *vocabulary.encode("four"), 1],  # padding: no response
  ]
  responses = np.zeros((6, 12), np.int32)
  for row, ids in zip(responses, encoded, strict=True):
    row[: len(ids)] = ids
  ids = problem.problem_ids("test", 0, 6)
  rollout = problem.rollout(ids, responses, np.zeros(6, int))
  assert rollout.outcome.tolist() == [1, 0, 0, 1, 0, 0]
  assert Recording.seen == [(["four", "one", ""], ["0", "4", "6"])]
  answers = problem.answers(ids)
  for response, answer, want in zip(
    responses, answers, rollout.outcome, strict=True
  ):
    assert problem.grade(response, answer) == want
    assert problem.grade(response.tolist(), answer.tolist()) == want


def test_right_answers_are_right(problem):
  # Graded for real: the answer of problem i is 2 i.
  ids = problem.problem_ids("test", 0, 4)
  responses = problem.responses(ids, np.zeros(4, int))
  assert problem.rollout(ids, responses, ids).outcome.tolist() == [1] * 4
  assert problem.rollout(ids, responses[::-1], ids).outcome.tolist() == [0] * 4


def test_shots_go_before_and_stop_responses(problem):
  problem = dataclasses.replace(
    problem, prompt=PromptFormat(num_shots=1, seed=1), max_prompt_len=400
  )
  ids = problem.problem_ids("train", 0, 3)
  texts = [
    problem.vocabulary.decode(row[:length])
    for row, length in zip(
      problem.prompts(ids), problem.prompt_lengths(ids), strict=True
    )
  ]
  first, other = problem.prompt.shots(problem.records()["train"])
  for text, index in zip(texts, ids // 3, strict=True):
    shot = other if first.problem == f"What is {index}+{index}?" else first
    assert text.startswith(f"Problem:\n{shot.problem}\n\nSolution:\n")
    assert shot.solution in text
    assert text.endswith(
      f"\n\nProblem:\nWhat is {index}+{index}?\n\nSolution:\n"
    )
  # Without an end token, but with another problem begun.
  text = "\\boxed{0}\n\nProblem:\nWhat is \\boxed{5}"
  response = np.array(problem.vocabulary.encode(text), np.int32)[None]
  (outcome,) = problem.rollout(
    problem.problem_ids("test", 0, 1), response, np.zeros(1, int)
  ).outcome
  assert outcome == 1


def test_examples_resume_and_shard(problem):
  def rows(*args, **kwargs):
    found = problem.examples(*args, **kwargs)
    return [(i, p.tolist(), a.tolist()) for i, p, a in found]

  want = rows("train")
  assert [row[0] for row in want] == problem.problem_ids(
    "train", 0, 18
  ).tolist()
  assert rows("train", 7, 11) == want[7:11]
  for start in (0, 5):
    for host in range(3):
      assert rows("train", start, 18, host=host, num_hosts=3) == [
        want[i] for i in range(start, 18) if i % 3 == host
      ]
  assert problem.vocabulary.decode(want[6][2]) == "16"


def test_long_prompts_of_the_test_split(problem):
  long = dataclasses.replace(problem, long_test=(2,))
  with pytest.raises(ValueError, match=r"the prompt of test/2 has \d+ tokens"):
    long.split_size("test")
  cut = dataclasses.replace(long, cut_prompts=True)
  ids = cut.problem_ids("test", 0, 7)
  prompts, lengths = cut.prompts(ids), cut.prompt_lengths(ids)
  assert (lengths == 96).tolist() == [i == 2 for i in range(7)]
  assert prompts[2, 0] == cut.vocabulary.bos_id
  text = cut.vocabulary.decode(prompts[2])
  assert text.endswith("really?\n\nSolution:\n") and "What is" not in text
  # The others are as they were.
  others = [0, 1, 3, 4, 5, 6]
  np.testing.assert_array_equal(prompts[others], problem.prompts(ids[others]))


def test_packing_takes_a_split_once_and_fits(problem):
  with pytest.raises(
    ValueError, match="row_length is 100, expected at least 160"
  ):
    Demonstrations(problem, num_rows=2, row_length=100)
  short = dataclasses.replace(problem, max_length=100)
  batches = Demonstrations(short, num_rows=2, row_length=100)
  assert batches.num_problems == 18
  position, texts = 0, []
  while position < 18:
    batch, position = batches(position)
    assert batch.tokens.shape == (2, 100)
    for row, segments, learnt in zip(
      batch.tokens, batch.segments, batch.loss_mask, strict=True
    ):
      for segment in range(1, segments.max() + 1):
        ids = row[(segments == segment) & learnt]
        texts.append(short.vocabulary.decode(ids))
  kept = [i for i in range(20) if i not in (3, 4)]
  want = [f"It is {i}+{i}.\nThat is\n$\\boxed{{{2 * i}}}$." for i in kept]
  # A few of the next pass may stand in the last batch.
  assert sorted(texts[:18]) == sorted(want) or set(texts) == set(want)


class Solving:
  """A policy that solves every other problem."""

  def __init__(self, problem):
    self.problem = problem

  def sample(
    self, params, key, prompts, prompt_len, problem_id, *, num_samples
  ):
    del params, key
    np.testing.assert_array_equal(prompts[:, 0], self.problem.vocabulary.bos_id)
    np.testing.assert_array_equal(
      prompt_len, self.problem.prompt_lengths(problem_id)
    )
    texts = [
      self.problem.vocabulary.decode(row[:length])
      for row, length in zip(prompts, prompt_len, strict=True)
    ]
    assert all(text.endswith("?\n\nSolution:\n") for text in texts)
    ids = np.repeat(problem_id, num_samples)
    responses = self.problem.responses(ids, ids)
    odd = ids // 3 % 2 == 1
    responses[odd] = self.problem.responses(ids * 0 + 2, ids)[odd]
    return self.problem.rollout(ids, responses, np.zeros_like(ids))


def test_policies_are_evaluated_on_it(problem):
  ids = problem.problem_ids("test", 0, 7)
  found = evaluate(
    Solving(problem),
    None,
    jax.random.key(0),
    problem,
    ids,
    num_samples=2,
    rows_per_call=6,
  )
  assert found.num_correct.tolist() == [2, 0, 2, 0, 2, 0, 2]


def test_a_language_model_has_its_sizes(problem):
  config = TransformerConfig(
    vocab_size=problem.vocabulary.vocab_size + 8,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=8,
    max_length=96 + 72,
  )
  policy = language_model(config, problem)
  # The longest solution and an eighth more: 64 + 8.
  assert (policy.max_new_tokens, policy.max_steps) == (72, 4)
  with pytest.raises(ValueError, match="prompts have 97 tokens"):
    language_model(config, dataclasses.replace(problem, max_prompt_len=97))


@pytest.mark.parametrize(
  ("ask", "match"),
  [
    (lambda p: p.problem_ids("dev", 0, 1), "split is 'dev'"),
    (lambda p: p.problem_ids("test", 0, 8), "stop are 0 and 8, .* <= 7"),
    (lambda p: p.problem_ids("test", 3, 3), "expected 0 <= start < stop"),
    (lambda p: p.examples("test", 0, 8), "stop are 0 and 8"),
    (lambda p: p.examples("test", host=1), "host is 1"),
    (lambda p: p.prompts(np.array([3 * 20])), "problem_id is 60"),
    (lambda p: p.prompts(np.array([-1])), "problem_id is -1"),
    (
      lambda p: dataclasses.replace(p, max_response_len=8).responses(
        p.problem_ids("test", 0, 1), np.zeros(1, int)
      ),
      "a solution has .* max_response_len = 8",
    ),
    (lambda p: dataclasses.replace(p, max_steps=0), "max_steps is 0"),
    (lambda p: dataclasses.replace(p, max_length=0), "demonstration_len is 0"),
  ],
)
def test_bad_requests(problem, ask, match):
  with pytest.raises(ValueError, match=match):
    ask(problem)


def test_an_empty_split_is_refused(problem):
  class Empty(Sums):
    def records(self):
      return dict.fromkeys(SPLITS, ())

  with pytest.raises(ValueError, match="split 'test' is empty"):
    Empty(vocabulary=problem.vocabulary).split_size("test")
