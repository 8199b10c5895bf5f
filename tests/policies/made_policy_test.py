import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import made
from pav_jax.policies.made_policy import (
  MadePolicy,
  MadeValue,
  rollout_from_tokens,
)
from pav_jax.problems.planted import Planted

PROBLEM = Planted(planted=(1, 2), length=4, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(8, 6))
KEY = jax.random.key(11)

NUM_COMPLETIONS = 3


def compiled(fn, **kwargs):
  """Compiles once for the tests below, and returns NumPy arrays."""
  fn = jax.jit(fn, **kwargs)
  return lambda *args, **kwargs: jax.device_get(fn(*args, **kwargs))


sample = compiled(POLICY.sample)
complete = compiled(POLICY.complete, static_argnames="num_samples")
logits = compiled(POLICY.logits)
logp = compiled(POLICY.logp)
make_rollout = compiled(functools.partial(rollout_from_tokens, PROBLEM))


def rollout_of(tokens):
  tokens = np.array(tokens, np.int32)
  ids = np.arange(len(tokens), dtype=np.int32)
  return make_rollout(tokens, np.full(tokens.shape, -0.5, np.float32), ids, ids)


def ids(problem_id, sample_id):
  return np.array(problem_id, np.int32), np.array(sample_id, np.int32)


@pytest.fixture(scope="module")
def params():
  """Far from uniform, with biases, so that prefixes matter."""
  rng = np.random.default_rng(5)
  shapes = jax.eval_shape(POLICY.init, KEY)
  return {
    name: (0.8 * rng.normal(size=x.shape)).astype(np.float32)
    for name, x in shapes.items()
  }


@pytest.fixture(scope="module")
def rollout(params):
  """4,096 responses to two problems' worth of ids."""
  index = np.arange(4096)
  return sample(params, KEY, *ids(index % 2, index // 2))


@pytest.fixture(scope="module")
def probability(params):
  """Exact probability of every response, padded with the end token."""
  tokens = np.array(list(itertools.product(range(4), repeat=4)), np.int32)
  probs = np.exp(logits(params, tokens).astype(np.float64))
  probs /= probs.sum(-1, keepdims=True)
  exact = {}
  for row, p in zip(tokens.tolist(), probs, strict=True):
    length = row.index(3) + 1 if 3 in row else 4
    response = (*row[:length], *[3] * (4 - length))
    exact[response] = np.prod([p[t, row[t]] for t in range(length)])
  return exact


def test_exact_probabilities_sum_to_1(probability):
  # 3^4 responses without an end token, 3^h that end after h < 4 others.
  assert len(probability) == 81 + 1 + 3 + 9 + 27
  np.testing.assert_allclose(sum(probability.values()), 1, rtol=1e-6)


def test_rollout_from_tokens_by_hand():
  rollout = make_rollout(
    np.array([[0, 3, 1, 2], [3, 3, 0, 1], [0, 1, 2, 3], [1, 2, 1, 2]]),
    np.full((4, 4), -0.5, np.float32),
    *ids([0, 1, 2, 3], [7, 8, 9, 10]),
  )
  np.testing.assert_array_equal(
    rollout.tokens, [[0, 3, 3, 3], [3, 3, 3, 3], [0, 1, 2, 3], [1, 2, 1, 2]]
  )
  np.testing.assert_array_equal(
    rollout.prefix_len,
    [[0, 1, 2, 2, 2], [0, 1, 1, 1, 1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]],
  )
  h = -0.5
  np.testing.assert_array_equal(
    rollout.logp, [[h, h, 0, 0], [h, 0, 0, 0], [h, h, h, h], [h, h, h, h]]
  )
  assert np.isnan(rollout.outcome).all()
  np.testing.assert_array_equal(rollout.problem_id, [0, 1, 2, 3])
  np.testing.assert_array_equal(rollout.sample_id, [7, 8, 9, 10])


def test_sampling_reports_the_teacher_forced_log_probabilities(params, rollout):
  np.testing.assert_allclose(logp(params, rollout), rollout.logp, atol=1e-5)


def test_log_probabilities_are_those_of_the_exact_distribution(
  rollout, probability
):
  got = rollout.logp.astype(np.float64).sum(-1)
  want = [probability[tuple(t)] for t in rollout.tokens.tolist()]
  np.testing.assert_allclose(got, np.log(want), atol=2e-5)


def test_nothing_follows_the_end(params, rollout):
  ended = np.cumsum(rollout.tokens == 3, axis=-1)
  padding = ended - (rollout.tokens == 3) > 0
  assert 0.1 < padding.mean() < 0.9
  assert (rollout.tokens[padding] == 3).all()
  assert (rollout.logp[padding] == 0).all()
  assert (rollout.logp[~padding] < 0).all()
  np.testing.assert_array_equal(
    rollout.prefix_len[:, -1], (~padding).sum(axis=-1)
  )
  # Whatever is written into the padding: no value and no gradient changes.
  junk = np.where(padding, 1, rollout.tokens)
  written = dataclasses.replace(rollout, tokens=junk)
  np.testing.assert_array_equal(logp(params, written), logp(params, rollout))
  gradient = jax.jit(jax.grad(lambda p, r: jnp.sum(POLICY.logp(p, r) ** 2)))
  jax.tree.map(
    np.testing.assert_array_equal,
    gradient(params, written),
    gradient(params, rollout),
  )


def test_log_probability_of_a_step_has_no_gradient_from_later_tokens(params):
  # log π(a_2 | a_1) may not move the outputs' biases of other positions, nor
  # the embeddings (rows of kernel_0) of tokens 2 to 4.
  rollout = rollout_of([[1, 2, 0, 1]])
  positive = jax.tree.map(lambda x: np.abs(x) + 0.1, params)
  gradient_fn = jax.jit(jax.grad(lambda p, r: POLICY.logp(p, r)[0, 1]))
  gradient = gradient_fn(positive, rollout)
  bias = np.asarray(gradient["bias_2"]).reshape(4, 4)
  assert bias[1].all()
  assert not bias[[0, 2, 3]].any()
  embedding = np.asarray(gradient["kernel_0"]).reshape(4, 4, -1)
  assert embedding[0, 1].any()
  assert not embedding[1:].any()


def test_responses_come_with_their_probability(rollout, probability):
  # Chi-square over responses, those expected fewer than 5 times merged: mean k
  # and variance 2k for k degrees of freedom.
  index = {response: i for i, response in enumerate(probability)}
  counts = np.zeros(len(index))
  for response in map(tuple, rollout.tokens.tolist()):
    counts[index[response]] += 1
  expected = len(rollout.tokens) * np.array(list(probability.values()))
  rare = expected < 5
  counts = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  assert len(counts) > 30
  chi_square = np.sum((counts - expected) ** 2 / expected)
  freedom = len(counts) - 1
  assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_responses_depend_on_their_address_alone(params, rollout):
  # Other order, other batch-mates, other batch size.
  rows = np.array([4000, 3, 77, 2048, 5])
  few = sample(params, KEY, rollout.problem_id[rows], rollout.sample_id[rows])
  np.testing.assert_array_equal(few.tokens, rollout.tokens[rows])
  np.testing.assert_array_equal(few.prefix_len, rollout.prefix_len[rows])
  np.testing.assert_allclose(few.logp, rollout.logp[rows], atol=1e-5)
  # Equal addresses within a batch give equal rows; another run, other rows.
  twice = sample(params, KEY, *ids([1] * 5, [3] * 5))
  assert (twice.tokens == twice.tokens[0]).all()
  np.testing.assert_array_equal(twice.tokens[0], rollout.tokens[2 * 3 + 1])
  other = sample(
    params,
    jax.random.key(12),
    rollout.problem_id[rows],
    rollout.sample_id[rows],
  )
  assert (other.tokens != few.tokens).any()


@pytest.fixture(scope="module")
def completions(params, rollout):
  few = jax.tree.map(lambda x: x[:20], rollout)
  done = complete(params, KEY, few, num_samples=NUM_COMPLETIONS)
  shape = (20, 5, NUM_COMPLETIONS)
  return few, jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), done)


def test_completions_begin_with_their_prefix_and_keep_the_ids(completions):
  few, done = completions
  assert done.tokens.shape == (20, 5, NUM_COMPLETIONS, 4)
  for b, h in np.ndindex(20, 5):
    length = int(few.prefix_len[b, h])
    prefix = few.tokens[b, :length]
    assert (done.tokens[b, h, :, :length] == prefix).all()
    assert (done.problem_id[b, h] == few.problem_id[b]).all()
    assert (done.sample_id[b, h] == few.sample_id[b]).all()
  # A completion of the bare problem that happens to begin like the rollout goes
  # on otherwise than that of prefix 1: each prefix has randomness of its own.
  alike = done.tokens[:, 0, :, 0] == few.tokens[:, None, 0]
  assert alike.sum() >= 10
  assert (done.tokens[:, 0][alike] != done.tokens[:, 1][alike]).any()
  # They differ otherwise: from one another and from what they complete.
  assert (done.tokens[:, 0, 0] != done.tokens[:, 0, 1]).any()
  assert (done.tokens[:, 0, 0] != few.tokens).any()


def test_completions_of_a_finished_response_are_itself(completions):
  few, done = completions
  finished = few.prefix_len == few.prefix_len[:, -1:]
  assert finished[:, :-1].any()
  for b, h in zip(*np.nonzero(finished), strict=True):
    for field in ("tokens", "prefix_len"):
      want = getattr(few, field)[b]
      assert (getattr(done, field)[b, h] == want).all()
    np.testing.assert_allclose(
      done.logp[b, h], np.tile(few.logp[b], (NUM_COMPLETIONS, 1)), atol=1e-5
    )


def test_completions_report_teacher_forced_log_probabilities(
  params, completions
):
  _, done = completions
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), done)
  np.testing.assert_allclose(logp(params, flat), flat.logp, atol=1e-5)


def test_completions_depend_on_their_address_alone(params, completions):
  few, done = completions
  rows = np.array([9, 2, 13])
  mixed = complete(
    params,
    KEY,
    jax.tree.map(lambda x: x[rows], few),
    num_samples=NUM_COMPLETIONS - 1,
  )
  np.testing.assert_array_equal(
    mixed.tokens.reshape(3, 5, NUM_COMPLETIONS - 1, 4),
    done.tokens[rows][:, :, : NUM_COMPLETIONS - 1],
  )


def test_lanes_of_a_vmap_over_parameters_and_keys_are_separate_runs(params):
  # As seeds are trained: each lane has its own network and run key.
  stacked = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), params)
  keys = jax.random.split(KEY, 2)
  index = np.arange(5)
  lanes = compiled(jax.vmap(POLICY.sample, (0, 0, None, None)))(
    stacked, keys, *ids(0 * index, index)
  )
  for lane in range(2):
    one = sample(
      jax.tree.map(lambda x, i=lane: x[i], stacked),
      keys[lane],
      *ids(0 * index, index),
    )
    np.testing.assert_array_equal(lanes.tokens[lane], one.tokens)
    np.testing.assert_allclose(lanes.logp[lane], one.logp, atol=1e-5)


def test_values_see_the_tokens_before_each_step_alone():
  value = MadeValue(PROBLEM, hidden=(8, 6))
  rng = np.random.default_rng(6)
  params = {
    name: (0.1 + rng.random(x.shape)).astype(np.float32)
    for name, x in jax.eval_shape(value.init, KEY).items()
  }
  rollout = rollout_of([[1, 2, 0, 3], [1, 2, 1, 3], [1, 0, 1, 0], [0, 2, 0, 3]])
  values = compiled(value.values)(params, rollout)
  assert values.shape == (4, 4)
  # Row 0 shares its first 2, 1 and 0 tokens with rows 1, 2 and 3: so many
  # states after the bare problem have equal values, and the next does not.
  for row, shared in ((1, 2), (2, 1), (3, 0)):
    np.testing.assert_array_equal(
      values[row, : shared + 1], values[0, : shared + 1]
    )
    assert values[row, shared + 1] != values[0, shared + 1]
  network = compiled(functools.partial(made.apply, value.config))
  np.testing.assert_allclose(
    values, network(params, rollout.tokens)[..., 0], rtol=1e-6
  )


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("kind", [MadePolicy, MadeValue])
def test_networks_too_narrow_are_refused_when_configured(kind):
  assert hash(kind(PROBLEM, [8, 6])) == hash(kind(PROBLEM, (8, 6)))
  with pytest.raises(ValueError, match=r"hidden is \(8, 2\), expected"):
    kind(PROBLEM, (8, 2))
