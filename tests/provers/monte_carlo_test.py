import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.chain import Chain
from pav_jax.problems.planted import Planted
from pav_jax.provers.monte_carlo import MonteCarlo, fit

PROBLEM = Planted(planted=(1, 2), length=4, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(6, 5))
NUM_ROLLOUTS = 500


def compiled(fn):
  """Compiles once for the tests below, and returns NumPy arrays."""
  fn = jax.jit(fn)
  return lambda *args: jax.device_get(fn(*args))


score = compiled(lambda prover, key, rollout: prover(key, rollout))
logits = compiled(POLICY.logits)
grade = compiled(PROBLEM.grade)
states_of = compiled(PROBLEM.states)


@pytest.fixture(scope="module")
def params():
  """Random, with a taste for the planted tokens: values from 0.1 to 0.9."""
  rng = np.random.default_rng(5)
  shapes = jax.eval_shape(POLICY.init, jax.random.key(0))
  params = {
    name: (0.6 * rng.normal(size=x.shape)).astype(np.float32)
    for name, x in shapes.items()
  }
  taste = np.tile(np.array([0.0, 0.8, 0.8, -0.8], np.float32), 4)
  return params | {"bias_2": params["bias_2"] + taste}


@pytest.fixture(scope="module")
def rollout(params):
  ids = np.zeros(12, np.int32), np.arange(12, dtype=np.int32)
  return compiled(POLICY.sample)(params, jax.random.key(1), *ids)


@pytest.fixture(scope="module")
def exact(params, rollout):
  """Q^π of every prefix: all responses enumerated, in float64."""
  grid = np.indices((4,) * 4).reshape(4, -1).T
  probs = np.exp(logits(params, grid).astype(np.float64))
  probs /= probs.sum(-1, keepdims=True)
  # All 4^4 sequences as if sampling went on past the end: what follows it sums
  # to 1, and grading cuts there.
  taken = np.take_along_axis(probs, grid[..., None], -1)[..., 0]
  correct = np.array(
    [bytes((1, 2)) in bytes(row).split(b"\x03")[0] for row in grid.tolist()]
  )
  q = np.zeros(rollout.prefix_len.shape)
  for b, lengths in enumerate(rollout.prefix_len):
    for h, n in enumerate(lengths):
      begins = (grid[:, :n] == rollout.tokens[b, :n]).all(-1)
      q[b, h] = (taken[begins, n:].prod(-1) * correct[begins]).sum()
  return q


def test_values_lie_within_binomial_error_of_exact_ones(params, rollout, exact):
  prover = MonteCarlo(PROBLEM, NUM_ROLLOUTS, POLICY, params)
  q = score(prover, jax.random.key(2), rollout)
  # 60 values of 500 Bernoulli trials each: 4 standard deviations for the single
  # one, and for the mean of the standardised squares, of variance 2 / n.
  sigma = np.sqrt(exact * (1 - exact) / NUM_ROLLOUTS)
  error = q - exact
  assert (np.abs(error) <= 4 * sigma + 1e-6).all()
  random = sigma > 0.01
  assert random.sum() > 20
  squares = (error[random] / sigma[random]) ** 2
  assert abs(squares.mean() - 1) < 4 * np.sqrt(2 / random.sum())
  successes = q * NUM_ROLLOUTS
  np.testing.assert_allclose(successes, np.round(successes), rtol=1e-6)


def test_finished_prefixes_have_their_outcome(params, rollout):
  outcome = grade(rollout)
  assert 0 < outcome.sum() < len(outcome)
  prover = MonteCarlo(PROBLEM, 2, POLICY, params)
  q = score(prover, jax.random.key(3), rollout)
  finished = rollout.prefix_len == rollout.prefix_len[:, -1:]
  assert finished[:, :-1].any()
  np.testing.assert_array_equal(
    q[finished], np.broadcast_to(outcome[:, None], q.shape)[finished]
  )
  # And once the sequence has occurred, whatever is sampled is correct.
  states = states_of(rollout.tokens, rollout.prefix_len)
  assert (q[states == 2] == 1).all()


def test_values_do_not_depend_on_batch_mates(params, rollout):
  prover = MonteCarlo(PROBLEM, 2, POLICY, params)
  whole = score(prover, jax.random.key(3), rollout)
  rows = np.array([7, 1, 10])
  few = score(
    prover, jax.random.key(3), jax.tree.map(lambda x: x[rows], rollout)
  )
  np.testing.assert_array_equal(few, whole[rows])
  other = score(prover, jax.random.key(4), rollout)
  assert (other != whole).any()


TEXT = Chain(horizon=2, modulus=4, operations=(Chain().operations[0],), rho=0.0)
MODEL = language_model(
  TransformerConfig(
    vocab_size=16,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_width=16,
    sliding_window=8,
    max_length=32,
  ),
  TEXT,
  max_new_tokens=12,
)


@dataclasses.dataclass(frozen=True)
class EvenSum(Chain):
  """Correct are responses with an even sum of tokens: half of a random model's.

  Unlike the grade of a model that never learnt anything it tells rows apart.
  """

  def grade(self, rollout):
    return (np.asarray(rollout.tokens).sum(-1) % 2 == 0).astype(np.float32)


EVEN = EvenSum(horizon=2, modulus=4, operations=TEXT.operations, rho=0.0)


@pytest.fixture(scope="module")
def model_params():
  return MODEL.init(jax.random.key(0))


def test_of_a_text_problem_they_are_fractions_of_the_policys_completions(
  model_params,
):
  ids = TEXT.problem_ids("train", 0, 4)
  right = TEXT.demonstrations(ids, np.zeros_like(ids))
  prover = MonteCarlo(EVEN, 2)
  assert prover.placement == "host"
  prover = prover.with_policy(MODEL, model_params)
  key = jax.random.key(1)
  q = prover(key, right)
  completed = MODEL.complete(model_params, key, right, num_samples=2)
  outcome = EVEN.grade(completed).reshape(4, 3, 2)
  # Whole responses have their own outcome, and were not completed.
  np.testing.assert_array_equal(q[:, :-1], outcome.mean(-1)[:, :-1])
  np.testing.assert_array_equal(q[:, -1], EVEN.grade(right))
  assert len(np.unique(q)) > 1


def test_a_response_that_goes_on_is_completed_and_repeats_its_last_value(
  model_params,
):
  ids = TEXT.problem_ids("train", 0, 4)
  whole = TEXT.demonstrations(ids, np.zeros_like(ids))
  length = np.minimum(whole.prefix_len, whole.prefix_len[:, 1:2])
  partial = dataclasses.replace(whole, prefix_len=length)
  prover = MonteCarlo(EVEN, 4, MODEL, model_params)
  key = jax.random.key(1)
  of_whole, of_partial = prover(key, whole), prover(key, partial)
  np.testing.assert_array_equal(of_partial[:, :2], of_whole[:, :2])
  np.testing.assert_array_equal(of_partial[:, 2], of_whole[:, 1])


def test_it_follows_the_policy_only_if_it_has_none(params, rollout):
  following = MonteCarlo(PROBLEM, 2)
  with pytest.raises(ValueError, match="has no policy"):
    following(jax.random.key(0), rollout)
  prover = following.with_policy(POLICY, params)
  assert prover == MonteCarlo(PROBLEM, 2, POLICY, params)
  other = prover.with_policy(None, ())
  assert other is prover


@pytest.mark.parametrize("name", ["num_completions", "rows_per_call"])
def test_numbers_are_counted_from_1(name):
  with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
    MonteCarlo(PROBLEM, **{name: 0})


def test_fit_by_hand():
  # (8 - 4)² / (16 · 1/4 · 3/4) = 16/3 and (2 - 2)² / … = 0; the variances of
  # the terms are 2 + (1 - 6 pq) / (npq): 2 - 1/24 and 2 - 1/2.
  found = fit(
    np.array([8.0, 2.0, 1.0, 3.0, 0.0]),
    np.array([16, 4, 4, 4, 0]),
    np.array([0.25, 0.5, 0.0, 1.0, 0.3]),
  )
  assert found.prefixes == 2
  assert found.chi_square == pytest.approx(16 / 3)
  spread = (2 - 1 / 24 + 2 - 1 / 2) ** 0.5
  assert found.chi_square_z == pytest.approx((16 / 3 - 2) / spread)
  # Mean of 1/4 and 0; 4 of √(3 + 1).
  assert found.bias == pytest.approx(1 / 8)
  assert found.bias_z == pytest.approx(2)
  # A success of value 0, a failure of value 1.
  assert found.impossible == 2
  assert fit(np.zeros(2), np.ones(2, int), np.zeros(2)).prefixes == 0


def test_fit_is_calibrated():
  # Of binomial counts both z are standard normal: over 200 data sets their mean
  # is within 4 / √200 of 0, their variance within 4 √(2 / 200) of 1.
  rng = np.random.default_rng(0)
  q = rng.uniform(0.02, 0.98, 300)
  n = rng.integers(1, 20, 300)
  fits = [fit(rng.binomial(n, q) * 1.0, n, q) for _ in range(200)]
  for name in ("chi_square_z", "bias_z"):
    z = np.array([getattr(one, name) for one in fits])
    assert abs(z.mean()) < 0.29
    assert abs(z.var() - 1) < 0.4
