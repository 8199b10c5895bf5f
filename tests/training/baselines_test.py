import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.policies.made_policy import MadeValue
from pav_jax.problems.planted import Planted
from pav_jax.rollout import Rollout
from pav_jax.training import baselines

ROLLOUT = Rollout(
  tokens=jnp.array([[0, 1], [2, 0], [0, 2]]),
  logp=jnp.zeros((3, 2)),
  prefix_len=jnp.array([[0, 1, 2], [0, 1, 1], [0, 1, 2]]),
  outcome=jnp.zeros(3),
  problem_id=jnp.zeros(3, jnp.int32),
  sample_id=jnp.arange(3),
)
REWARDS = jnp.array([[1.0, 4.0], [2.0, 100.0], [6.0, 8.0]])
VALUE = MadeValue(Planted((0, 1), length=2, vocab_size=3), hidden=(8,))


def test_no_baseline_is_zero():
  expected, state = baselines.NoBaseline()((), ROLLOUT, REWARDS)
  np.testing.assert_array_equal(expected, jnp.zeros((3, 2)))
  assert state == ()


def test_batch_mean_is_over_the_rollouts_that_have_the_step():
  # Step 1: (1 + 2 + 6) / 3. Step 2 is missing in row 1: (4 + 8) / 2.
  expected, _ = baselines.BatchMean()((), ROLLOUT, REWARDS)
  np.testing.assert_allclose(expected, [[3.0, 6.0]] * 3)


def test_learned_baseline_is_used_before_it_is_fitted():
  baseline = baselines.LearnedBaseline(VALUE)
  state = baseline.init(jax.random.key(0))
  before, _ = baseline(state, ROLLOUT, REWARDS)
  other, _ = baseline(state, ROLLOUT, 10 * REWARDS)
  np.testing.assert_array_equal(before, other)
  np.testing.assert_array_equal(before, VALUE.values(state[0], ROLLOUT))


def test_learned_baseline_finds_the_mean_reward_of_a_state():
  # Step 1 starts in one state, the empty prefix: least squares is the mean 3.
  # Step 2 of rows 0 and 2 starts after token 0: the mean of 4 and 8.
  baseline = baselines.LearnedBaseline(VALUE, learning_rate=0.05)

  @jax.jit
  def fit(state):
    return jax.lax.scan(
      lambda state, _: (baseline(state, ROLLOUT, REWARDS)[1], None),
      state,
      length=300,
    )[0]

  state = fit(baseline.init(jax.random.key(0)))
  expected, _ = baseline(state, ROLLOUT, REWARDS)
  np.testing.assert_allclose(expected[:, 0], 3.0, atol=0.05)
  np.testing.assert_allclose(expected[jnp.array([0, 2]), 1], 6.0, atol=0.05)


def test_learned_baseline_cannot_see_the_step_it_is_subtracted_from():
  baseline = baselines.LearnedBaseline(VALUE)
  state = baseline.init(jax.random.key(1))
  other = dataclasses.replace(
    ROLLOUT, tokens=jnp.array([[0, 2], [2, 1], [0, 0]])
  )
  np.testing.assert_array_equal(
    baseline(state, ROLLOUT, REWARDS)[0], baseline(state, other, REWARDS)[0]
  )


def test_bad_learning_rate_is_refused():
  with pytest.raises(ValueError, match=r"learning_rate is 0\.0"):
    baselines.LearnedBaseline(VALUE, learning_rate=0.0)


def test_group_means_are_of_a_problems_samples():
  # Rows 0 and 2 answer problem 0, row 1 problem 1 alone. Left out, row 0 has
  # row 2's rewards and the other way round; row 1 has nobody, so its own.
  rollout = dataclasses.replace(ROLLOUT, problem_id=jnp.array([0, 1, 0]))
  with_own, _ = baselines.GroupMean()((), rollout, REWARDS)
  np.testing.assert_allclose(with_own, [[3.5, 6.0], [2.0, 100.0], [3.5, 6.0]])
  left_out, _ = baselines.GroupMean(own=False)((), rollout, REWARDS)
  np.testing.assert_allclose(left_out, [[6.0, 8.0], [2.0, 100.0], [1.0, 4.0]])


def test_group_means_of_outcomes_leave_advantages_as_they_are():
  """Rewards of outcomes and advantages, less the mean outcome alone."""
  outcome, adv = jnp.array([1.0, 0.0, 0.0]), jnp.array([[0.0, -0.5]] * 3)
  rollout = dataclasses.replace(
    ROLLOUT, problem_id=jnp.array([0, 1, 0]), outcome=outcome
  )
  rewards = outcome[:, None] + adv
  for own, mean in ((True, [0.5, 0.0, 0.5]), (False, [0.0, 0.0, 1.0])):
    found, _ = baselines.GroupMean(own, "outcomes")((), rollout, rewards)
    np.testing.assert_allclose(found, np.stack([mean] * 2, -1))
  with pytest.raises(ValueError, match="of is 'values', expected 'rewards'"):
    baselines.GroupMean(of="values")


def test_group_means_skip_steps_that_do_not_exist():
  # All three answer one problem; row 1 has no second step: (4 + 8) / 2.
  expected, _ = baselines.GroupMean()((), ROLLOUT, REWARDS)
  np.testing.assert_allclose(expected, [[3.0, 6.0]] * 3)
