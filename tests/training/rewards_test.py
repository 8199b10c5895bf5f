import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.training.rewards import Reward
from pav_jax.types import Rollout

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


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(alpha=float("inf")), "alpha is inf"),
    (dict(alpha=float("nan")), "alpha is nan"),
    (dict(kind="advantages"), "reward kind is 'advantages'"),
    (dict(num_rollouts=-1), "num_rollouts is -1"),
  ],
)
def test_bad_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Reward(prover, **settings)
