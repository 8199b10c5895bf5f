"""Searches of a tiny random policy, guided by tiny random verifiers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import beam_values, transformer
from pav_jax.models import value_network as network
from pav_jax.models.families import base
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.provers.verifier import Verifier
from pav_jax.search.cached_beams import search
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import value_function

END, DELIMITER, VOCAB = 1, 3, 6
# A window of 3, which prompts and responses exceed.
CONFIG = TransformerConfig(
  vocab_size=VOCAB,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=16,
  sliding_window=3,
  max_length=48,
)
POLICY = LanguageModel(
  config=CONFIG,
  end_token=END,
  is_delimiter=[token == DELIMITER for token in range(VOCAB)],
  max_new_tokens=14,
  max_steps=3,
  temperature=1.5,
)
PROMPTS = np.random.default_rng(2).integers(2, VOCAB, size=(4, 5))
PROMPT_LEN = np.array([5, 1, 4, 2])
IDS = np.array([7, 0, 3, 12])
KEY = jax.random.key(4)
SETTINGS = Settings(
  num_beams=4,
  num_candidates=2,
  num_steps=3,
  num_trees=2,
  lookahead=1,
  merge=True,
)


def random_params(config, seed):
  shapes = transformer.shapes(config)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
  """Verifiers read steps of up to six tokens in two blocks."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(beam_values, "BLOCK", 4)
    yield


@pytest.fixture(scope="module")
def params():
  return random_params(CONFIG, 0)


def verifier(seed, reader_layers, **changes):
  config = VerifierConfig(dataclasses.replace(CONFIG, **changes), reader_layers)
  key = jax.random.key(seed)
  params = network.init(config, random_params(config.trunk, seed), key)
  kernel = np.random.default_rng(seed).normal(size=config.trunk.width)
  params["head"] |= {"kernel": jnp.asarray(kernel, jnp.float32)}
  return Verifier(params, config)


@pytest.fixture(scope="module")
def values():
  """Of a verifier with a reader, and of Best-of-3 of one of another shape."""
  prover = verifier(
    2, 0, width=8, mlp_width=24, num_layers=3, **base.PLAIN, qkv_bias=True
  )
  prover = BestOfK(prover, 3.0)
  return value_function(verifier(1, 2), prover)


def find(params, values, rows=(0, 1, 2, 3), settings=SETTINGS, **more):
  more = {"alpha": 0.7, "max_step_tokens": 6} | more
  rows = list(rows)
  return jax.device_get(
    search(
      POLICY,
      params,
      values,
      KEY,
      PROMPTS[rows],
      PROMPT_LEN[rows],
      IDS[rows],
      settings=settings,
      **more,
    )
  )


@pytest.fixture(scope="module")
def found(params, values):
  return find(params, values)


def rows_of(found):
  """The traces that there are, one after another."""
  return jax.tree.map(lambda x: x[found.valid], found.rollout)


def assert_same(ours, others):
  np.testing.assert_array_equal(ours.valid, others.valid)
  for name in "chosen", "start", "count":
    np.testing.assert_array_equal(getattr(ours, name), getattr(others, name))
  valid = ours.valid
  for name in "tokens", "prefix_len":
    ours_, others_ = (getattr(x.rollout, name) for x in (ours, others))
    np.testing.assert_array_equal(ours_[valid], others_[valid])
  for name in "finished", "q_policy", "q_prover":
    ours_, others_ = (getattr(x, name)[valid] for x in (ours, others))
    np.testing.assert_allclose(ours_, others_, atol=1e-5)


def expected_values(values, rollout):
  """Of one pass over whole traces, 0 of whole responses without an end."""
  ended = np.asarray(POLICY.has_ended(rollout))
  length = rollout.prefix_len
  cut = ~ended[:, None] & (length == length[:, -1:])
  assert cut.any() and not cut.all()
  return [np.where(cut, 0.0, q) for q in values(None, rollout)]


def test_values_are_those_of_a_pass_over_the_traces(found, values):
  whole = expected_values(values, rows_of(found))
  for ours, want in zip((found.q_policy, found.q_prover), whole, strict=True):
    np.testing.assert_allclose(ours[found.valid], np.asarray(want), atol=1e-5)
  assert np.ptp(found.q_policy) > 0.2


def test_log_probabilities_are_those_of_a_teacher_forced_pass(params, found):
  rollout = rows_of(found)
  np.testing.assert_allclose(
    rollout.logp, POLICY.logp(params, rollout), atol=2e-5
  )
  assert found.finished[found.valid].all()


def test_steps_end_where_the_policys_do(found):
  rollout = rows_of(found)
  for row, prefix_len in zip(rollout.tokens, rollout.prefix_len, strict=True):
    start, length = prefix_len[[0, -1]]
    bounds = [start]
    for t in range(start, length):
      closes = row[t] == DELIMITER and len(bounds) < POLICY.max_steps
      if closes and row[min(t + 1, len(row) - 1)] == END and t + 2 == length:
        continue  # the end token belongs to this step
      if closes or t + 1 == length:
        bounds.append(t + 1)
    bounds += [length] * (4 - len(bounds))
    assert prefix_len.tolist() == bounds
    step = np.diff(prefix_len).max()
    assert row[length - 1] == END or length - start == 14 or step >= 6
    assert step <= 7 and (row[length:] == POLICY.pad_token).all()


def test_readers_of_whole_traces_find_the_same(params, values, found):
  again = find(params, dataclasses.replace(values, by_trace=True))
  assert_same(again, found)


def test_results_do_not_depend_on_what_shares_the_batch(params, values, found):
  rows = [2, 0, 2, 2]
  again = find(params, values, rows)
  assert_same(again, jax.tree.map(lambda x: x[rows], found))


def test_candidates_that_go_on_look_ahead(found):
  # Four beams were expanded in the first round, two candidates each, and every
  # candidate that had not ended looked a step ahead.
  step, ahead = found.count[:, 0, 0], found.count[:, 0, 1]
  assert ((step > 0).sum((1, 2)) == 8).all()
  assert (ahead[step == 0] == 0).all() and (ahead > 0).any()
  # And merged traces are all different.
  for rows, valid in zip(found.rollout.tokens, found.valid, strict=True):
    assert len({tuple(row) for row in rows[valid].tolist()}) == valid.sum()


def test_one_beam_and_one_candidate_sample_the_policy(params):
  ignorant = ClosedForm(lambda rollout: np.full(rollout.prefix_len.shape, 0.5))
  settings = Settings(num_beams=1, num_candidates=1, num_steps=3)
  found = find(
    params, value_function(ignorant), settings=settings, max_step_tokens=None
  )
  # The policy itself, a step at a time: it completes prefix h, and what follows
  # the first step of that is sampled afresh.
  rollout = rows_of(found)
  start = np.broadcast_to(PROMPT_LEN[:, None], (4, 4)).astype(np.int32)
  partial = dataclasses.replace(rollout, prefix_len=start)
  for h in range(3):
    partial = POLICY.complete(
      params,
      KEY,
      partial,
      num_samples=1,
      prefixes=np.full((4, 1), h, np.int32),
    )
  np.testing.assert_array_equal(partial.tokens, rollout.tokens)
  np.testing.assert_array_equal(partial.prefix_len, rollout.prefix_len)


def test_counts_every_token_that_was_sampled(found):
  start = np.where(found.count[:, 0, 0] > 0, PROMPT_LEN[:, None, None], 0)
  np.testing.assert_array_equal(found.start[:, 0, 0], start)
  # The answer's steps are among the candidates of their rounds.
  for b in range(4):
    steps = np.diff(found.answer.prefix_len[b])
    for h, length in enumerate(steps[steps > 0]):
      start = found.answer.prefix_len[b, h]
      # An end token may have joined the step.
      sampled = found.count[b, h, 0] == length
      joined = found.count[b, h, 0] == length - 1
      assert ((sampled | joined) & (found.start[b, h, 0] == start)).any()


def test_alpha_0_does_not_look_at_the_prover(params, values):
  # K is traced: another prover is the same program.
  policy, other = values.readers
  found = [
    find(params, value_function(policy, BestOfK(other, k)), alpha=0.0)
    for k in (1.0, 9.0)
  ]
  np.testing.assert_array_equal(*(x.rollout.tokens for x in found))
  assert not np.allclose(found[0].q_prover, found[1].q_prover)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"settings": Settings(num_beams=1, num_steps=4)}, "max_steps, 3"),
    ({"rows": ()}, r"shape \(0, 5\)"),
    ({"max_step_tokens": 0}, "max_step_tokens is 0"),
  ],
)
def test_bad_input(params, values, change, message):
  with pytest.raises(ValueError, match=message):
    find(params, values, **change)
