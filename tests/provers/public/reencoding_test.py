import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.plain_text import PlainText
from pav_jax.provers import base
from pav_jax.provers.public import reencoding
from pav_jax.provers.public.reencoding import AS_SAMPLED, PublicReader
from pav_jax.provers.public.step_joining import ChatSteps, SeparatedSteps
from pav_jax.provers.public.step_reader import StepReader
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import Rollout
from pav_jax.testing.byte_tokens import ByteTokens

POLICY = ByteTokens()
MODEL = ByteTokens(("<extra_0>", "<|im_end|>"), bos_id=2)
PROBLEM = PlainText(POLICY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts(PublicReader):
  """Scores a step by the tokens up to its mark, per cent."""

  meaning: str = "value"
  seen: list = dataclasses.field(default_factory=list, compare=False)

  @property
  def networks(self):
    return ()

  def scores(self, tokens, mark, begin=None):
    self.seen.append((tokens.shape, mark.shape))
    return np.where(mark >= 0, (mark + 1) / 100, np.nan).astype(np.float32)


def reader(**options):
  return Counts(params={}, joining=SeparatedSteps(), tokenizer=MODEL, **options)


def rollout(*rows, num_steps=3):
  """Rollouts of a problem and steps, in tokens of the policy."""
  tokens, prefix_len = [], []
  for problem, *steps in rows:
    ids, lengths = POLICY.encode(problem), [len(problem)]
    for step in steps:
      ids = [*ids, *(POLICY.encode(step) if isinstance(step, str) else step)]
      lengths.append(len(ids))
    tokens.append(ids)
    prefix_len.append(lengths + [lengths[-1]] * (num_steps + 1 - len(lengths)))
  width = max(map(len, tokens))
  tokens = [ids + [0] * (width - len(ids)) for ids in tokens]
  batch = np.arange(len(rows), dtype=np.int32)
  return Rollout(
    tokens=np.array(tokens, np.int32),
    logp=np.zeros((len(rows), width), np.float32),
    prefix_len=np.array(prefix_len, np.int32),
    outcome=np.full(len(rows), np.nan, np.float32),
    problem_id=batch,
    sample_id=0 * batch,
  )


END = [POLICY.eos_id]


def test_steps_are_decoded_and_encoded_one_by_one():
  # Of the model: <bos>, problem, then each step and "\n"; it says how many
  # tokens there are up to there. The policy's delimiters are no text of a step.
  prover = reader().prover(PROBLEM)
  q = prover(None, rollout(("ab", "cde\n", "f", END), ("x", "y\n\n"), ("pq",)))
  expected = [
    [0.5, 0.07, 0.09, 0.09],  # 1 + 2 + 4, and 2 more; the end is no text
    [0.5, 0.04, 0.04, 0.04],
    [0.5, 0.5, 0.5, 0.5],  # no step is there to be read
  ]
  np.testing.assert_allclose(q, expected, rtol=1e-6)
  assert q.dtype == np.float32


def test_a_step_without_text_repeats_the_value_before():
  # A delimiter, and then the end at once.
  q = reader().prover(PROBLEM)(None, rollout(("ab", "cde\n", END, "f")))
  np.testing.assert_allclose(q, [[0.5, 0.07, 0.07, 0.09]], rtol=1e-6)


@pytest.mark.parametrize("odd", [[POLICY.pad_id], [POLICY.vocab_size]])
def test_what_is_no_text_is_worth_nothing_from_there_on(odd):
  q = reader().prover(PROBLEM)(None, rollout(("ab", "c\n", [70, *odd], "f")))
  np.testing.assert_allclose(q, [[0.5, 0.05, 0, 0]], rtol=1e-6)


def test_many_rollouts_are_read_in_parts_of_few_shapes():
  counts = reader()
  prover = counts.prover(PROBLEM, rows_per_call=4)
  rows = [("ab", "c" * (i % 3) + "d\n") for i in range(11)]
  q = prover(None, rollout(*rows))
  one = [reader().prover(PROBLEM)(None, rollout(row))[0] for row in rows]
  np.testing.assert_array_equal(q, one)
  assert [shape[0] for shape, _ in counts.seen] == [4, 4, 3]
  assert {mark for _, mark in counts.seen} == {(4, 4), (3, 4)}


@pytest.mark.parametrize(
  "number, least, room",
  [(1, 32, 32), (33, 32, 48), (49, 32, 64), (65, 32, 96), (3, 1, 3), (5, 1, 6)],
)
def test_room_is_a_power_of_two_or_half_more(number, least, room):
  assert reencoding.room_for(number, least) == room


def test_the_rule_goes_with_the_meaning():
  right = reader(meaning="correctness")
  with pytest.raises(ValueError, match="no rule says how"):
    right.prover(PROBLEM)
  with pytest.raises(ValueError, match="would be mixed up"):
    reader().prover(PROBLEM, rule="product")
  prover = right.prover(PROBLEM, rule="product")
  assert prover.meaning == "correctness"
  q = prover(None, rollout(("ab", "c\n", "d\n")))
  np.testing.assert_allclose(q, [[1, 0.05, 0.05 * 0.07, 0.05 * 0.07]])


def test_a_prover_needs_a_tokenizer_and_readable_settings():
  lacks = dataclasses.replace(reader(), tokenizer=None)
  with pytest.raises(ValueError, match="tokenizer is None and there is none"):
    lacks.prover(PROBLEM)
  lacks.prover(PROBLEM, tokenizer=POLICY)
  with pytest.raises(ValueError, match="start is 'read' and joining"):
    reader().prover(PROBLEM, start="read")
  with pytest.raises(ValueError, match="rows_per_call is 0"):
    reader().prover(PROBLEM, rows_per_call=0)
  with pytest.raises(ValueError, match="expected 'value'"):
    other = dataclasses.replace(reader(), joining=AS_SAMPLED, fingerprint="x")
    other.prover(Fingerprinted(POLICY))


@dataclasses.dataclass(frozen=True)
class Fingerprinted(PlainText):
  fingerprint: str = "x"


CONFIG = TransformerConfig(
  vocab_size=MODEL.vocab_size,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=8,
  max_length=128,
)


def model(*outputs, **options):
  """A random model whose head has layers of so many outputs."""
  key, inputs, head = jax.random.key(3), CONFIG.width, []
  for number in outputs:
    key, own = jax.random.split(key)
    kernel = jax.random.normal(own, (inputs, number))
    head.append({"kernel": kernel, "bias": jnp.linspace(-0.5, 0.5, number)})
    inputs = number
  return StepReader(
    params={
      "backbone": transformer.init(CONFIG, jax.random.key(0)),
      "head": tuple(head),
    },
    config=CONFIG,
    **{"meaning": "value", "joining": AS_SAMPLED, "fingerprint": "x"} | options,
  )


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_model_of_the_policys_own_tokens_is_a_verifier(outputs):
  of_model = model(outputs)
  prover = of_model.prover(Fingerprinted(POLICY))
  assert isinstance(prover, Verifier) and base.prefix_cache(prover)
  rows = rollout(("ab", "cde\n", "f"), ("x", "y\n\n"))
  q = base.values(prover, None, rows)
  mark = rows.prefix_len - 1
  np.testing.assert_allclose(q, of_model.scores(rows.tokens, mark), atol=1e-5)
  assert np.ptp(q) > 0.01


def test_other_heads_and_other_tokens_are_no_verifier():
  problem = Fingerprinted(POLICY)
  with pytest.raises(ValueError, match="for a head of 2 layers"):
    model(4, 2).prover(problem)
  with pytest.raises(ValueError, match="fingerprint None, expected x"):
    model(1, fingerprint=None).prover(problem)
  with pytest.raises(ValueError, match="start is 'half' and joining"):
    model(1).prover(problem, start="half")


def test_a_prover_says_what_its_values_depend_on():
  made = model(2, joining=ChatSteps(system=""), tokenizer=MODEL)
  prover = made.prover(PROBLEM)
  described = base.described(prover, lambda params: "DIGEST")
  assert "DIGEST" in described and "ChatSteps" in described
  other = made.prover(PROBLEM, joining=SeparatedSteps())
  assert base.described(other, lambda params: "DIGEST") != described
  assert prover.networks[0].trunk == CONFIG and prover.layout is None
