import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import credit
from pav_jax.training import baselines
from pav_jax.training.implicit_rewards import LearnedImplicit
from tests.training.tabular_policy import Tabular

KEY = jax.random.key(0)
START = {"logits": jnp.zeros((2, 2))}


def rollouts():
  """Two steps of a token: heads and heads, right; tails and heads, wrong."""
  policy = Tabular()
  rollout = policy.sample(START, KEY, jnp.array([0]), num_samples=2)
  return dataclasses.replace(
    rollout,
    tokens=jnp.array([[0, 1, 1], [0, 0, 1]]),
    outcome=jnp.array([1.0, 0.0]),
  )


def test_it_rewards_before_it_learns_and_learns_what_was_right():
  learned = LearnedImplicit(
    model=Tabular(), beta=1.0, learning_rate=0.1, num_steps=1
  )
  state = learned.init(KEY, START)
  rollout = rollouts()
  weights, state = credit.apply(learned, state, rollout, None)
  # A model that is its reference has no rewards: the outcomes alone.
  np.testing.assert_allclose(weights, credit.rloo(rollout), atol=1e-6)
  # Adam's first step is its rate, by the sign of the gradient. With σ(0) = 1/2
  # the gradient by log-ratios is −1/4 for row 0 and 1/4 for row 1: the first
  # step's heads gain and its tails lose; of the second both have the same.
  logits = state[0]["logits"]
  np.testing.assert_allclose(logits[0], [-0.1, 0.1], rtol=1e-3)
  np.testing.assert_allclose(logits[1], 0, atol=1e-6)
  np.testing.assert_array_equal(state[2]["logits"], START["logits"])
  # Now the first step has a reward: log π_φ / π_ref of it, less the other's
  # mean of two steps; the second has 0 and that mean to come.
  gain = np.log(2 / (1 + np.exp(-0.2)))
  loss = np.log(2 / (1 + np.exp(0.2)))
  weights, _ = credit.apply(learned, state, rollout, None)
  want = [
    [1 + gain - loss, 1 - loss / 2],
    [-1 + loss - gain, -1 - gain / 2],
  ]
  np.testing.assert_allclose(weights, want, atol=1e-4)


def test_the_model_is_the_policys_unless_it_has_one():
  policy, other = Tabular(), Tabular("host")
  assert baselines.for_policy(LearnedImplicit(), policy).model == policy
  given = LearnedImplicit(model=other)
  assert baselines.for_policy(given, policy) is given
