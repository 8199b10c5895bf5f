import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.rollout import Rollout
from pav_jax.training.rewards import Reward

KEY = jax.random.key(0)
ROLLOUT = Rollout(
  tokens=jnp.zeros((1, 3), jnp.int32),
  logp=jnp.zeros((1, 3)),
  prefix_len=jnp.array([[0, 1, 2, 3]]),
  outcome=jnp.ones(1),
  problem_id=jnp.zeros(1, jnp.int32),
  sample_id=jnp.zeros(1, jnp.int32),
)
Q_PROVER = jnp.array([[0.2, 0.5, 0.5, 1.0]])
OUTCOME = jnp.ones((1, 3))


@jax.tree_util.Partial
def prover(key, rollout):
  del key, rollout
  return Q_PROVER


def test_effective_reward_adds_the_advantage_of_each_step_alone():
  # A^μ = (0.3, 0, 0.5), and 1 + 2 A^μ.
  got = Reward(prover, alpha=2.0)(KEY, ROLLOUT, OUTCOME)
  np.testing.assert_allclose(got, [[1.6, 1.0, 2.0]], rtol=1e-6)


def test_alpha_zero_is_outcome_only():
  for kind in ("advantage", "value"):
    got = Reward(prover, alpha=0.0, kind=kind)(KEY, ROLLOUT, OUTCOME)
    np.testing.assert_array_equal(got, OUTCOME)


def test_value_ablation_pays_for_standing_still():
  # The second step changes nothing, and Q^μ rewards it with 0.5 all the same.
  got = Reward(prover, alpha=1.0, kind="value")(KEY, ROLLOUT, 0 * OUTCOME)
  np.testing.assert_allclose(got, [[0.5, 0.5, 1.0]])


def test_losses_may_count_less_than_gains():
  # A^μ = (0.3, -0.5, 0.8); values are never negative, and stay.
  q = jnp.array([[0.2, 0.5, 0.0, 0.8]])
  for weight, expected in (
    (1.0, [1.6, 0.0, 2.6]),
    (0.5, [1.6, 0.5, 2.6]),
    (0.0, [1.6, 1.0, 2.6]),
  ):
    reward = Reward(None, alpha=2.0, negative_weight=weight)
    np.testing.assert_allclose(reward.of_values(OUTCOME, q), [expected], 1e-6)
  value = Reward(None, kind="value", negative_weight=0.0)
  np.testing.assert_allclose(value.of_values(OUTCOME, q), [[1.5, 1.0, 1.8]])


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(alpha=float("inf")), "alpha is inf"),
    (dict(alpha=float("nan")), "alpha is nan"),
    (dict(kind="advantages"), "reward kind is 'advantages'"),
    (dict(num_rollouts=-1), "num_rollouts is -1"),
    (dict(negative_weight=-1.0), "negative_weight is -1.0"),
    (dict(negative_weight=float("nan")), "negative_weight is nan"),
  ],
)
def test_bad_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Reward(prover, **settings)
