import jax
import numpy as np
import pytest

from pav_jax.policies.made_policy import MadePolicy
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
  prover = MonteCarlo(params, POLICY, PROBLEM, NUM_ROLLOUTS)
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
  prover = MonteCarlo(params, POLICY, PROBLEM, 2)
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
  prover = MonteCarlo(params, POLICY, PROBLEM, 2)
  whole = score(prover, jax.random.key(3), rollout)
  rows = np.array([7, 1, 10])
  few = score(
    prover, jax.random.key(3), jax.tree.map(lambda x: x[rows], rollout)
  )
  np.testing.assert_array_equal(few, whole[rows])
  other = score(prover, jax.random.key(4), rollout)
  assert (other != whole).any()


def test_rollouts_are_counted_from_1(params):
  assert MonteCarlo(params, POLICY, PROBLEM).num_rollouts == 1
  with pytest.raises(ValueError, match="num_rollouts is 0, expected at least"):
    MonteCarlo(params, POLICY, PROBLEM, 0)


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
