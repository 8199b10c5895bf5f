import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
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
  expected = baselines.NoBaseline()(ROLLOUT, REWARDS)
  np.testing.assert_array_equal(expected, jnp.zeros((3, 2)))


def test_batch_mean_is_over_the_rollouts_that_have_the_step():
  # Step 1: (1 + 2 + 6) / 3. Step 2 is missing in row 1: (4 + 8) / 2.
  expected = baselines.BatchMean()(ROLLOUT, REWARDS)
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


def test_several_steps_are_as_many_fits():
  # Of a call that makes three steps, and of three that make one each.
  key = jax.random.key(2)
  once = baselines.LearnedBaseline(VALUE, num_steps=3)
  thrice = baselines.LearnedBaseline(VALUE)
  state = thrice.init(key)
  for _ in range(3):
    _, state = thrice(state, ROLLOUT, REWARDS)
  _, got = once(once.init(key), ROLLOUT, REWARDS)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, state
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    once.fit(once.init(key), ROLLOUT, REWARDS),
    got,
  )


def test_learned_credit_is_reward_less_prediction_and_learns_the_reward():
  baseline = baselines.LearnedBaseline(VALUE, learning_rate=0.05)
  learned = baselines.LearnedCredit(credit.outcome, baseline)
  rollout = dataclasses.replace(ROLLOUT, outcome=jnp.array([1.0, 0.0, 1.0]))
  state = credit.init(learned, jax.random.key(0))
  rewards = credit.outcome(rollout)
  predicted = VALUE.values(state[0], rollout)
  weights, fitted = credit.apply(learned, state, rollout, None)
  exists = np.array([[1, 1], [1, 0], [1, 1]], bool)
  want = np.where(exists, rewards - predicted, 0)
  np.testing.assert_allclose(weights, want, atol=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
    fitted,
    baseline(state, rollout, rewards)[1],
  )


def test_learned_gae_with_lambda_1_learns_the_success_rate():
  # Then Â + V is the outcome. Step 1 starts in one state: 2 of 3 are right.
  learned = baselines.LearnedGae(
    baselines.LearnedBaseline(VALUE, learning_rate=0.05), gae_lambda=1.0
  )
  rollout = dataclasses.replace(ROLLOUT, outcome=jnp.array([1.0, 0.0, 1.0]))
  state = credit.init(learned, jax.random.key(0))
  weights, _ = credit.apply(learned, state, rollout, None)
  want = credit.outcome(rollout) - VALUE.values(state[0], rollout)
  np.testing.assert_allclose(weights[0], want[0], atol=1e-6)

  @jax.jit
  def fit(state):
    return jax.lax.scan(
      lambda state, _: (learned.apply(state, rollout, None)[1], None),
      state,
      length=300,
    )[0]

  values = VALUE.values(fit(state)[0], rollout)
  np.testing.assert_allclose(values[:, 0], 2 / 3, atol=0.02)


def test_bad_learning_rate_is_refused():
  with pytest.raises(ValueError, match=r"learning_rate is 0\.0"):
    baselines.LearnedBaseline(VALUE, learning_rate=0.0)


def test_group_means_are_of_a_problems_samples():
  # Rows 0 and 2 answer problem 0, row 1 problem 1 alone. Left out, row 0 has
  # row 2's rewards and the other way round; row 1 has nobody, so nothing.
  rollout = dataclasses.replace(ROLLOUT, problem_id=jnp.array([0, 1, 0]))
  with_own = baselines.GroupMean()(rollout, REWARDS)
  np.testing.assert_allclose(with_own, [[3.5, 6.0], [2.0, 100.0], [3.5, 6.0]])
  left_out = baselines.GroupMean(own=False)(rollout, REWARDS)
  np.testing.assert_allclose(left_out, [[6.0, 8.0], [0.0, 0.0], [1.0, 4.0]])


def test_group_means_of_outcomes_leave_advantages_as_they_are():
  """Rewards of outcomes and advantages, less the mean outcome alone."""
  outcome, adv = jnp.array([1.0, 0.0, 0.0]), jnp.array([[0.0, -0.5]] * 3)
  rollout = dataclasses.replace(
    ROLLOUT, problem_id=jnp.array([0, 1, 0]), outcome=outcome
  )
  rewards = outcome[:, None] + adv
  for own, mean in ((True, [0.5, 0.0, 0.5]), (False, [0.0, 0.0, 1.0])):
    found = baselines.GroupMean(own, "outcomes")(rollout, rewards)
    np.testing.assert_allclose(found, np.stack([mean] * 2, -1))
  with pytest.raises(ValueError, match="of is 'values', expected 'rewards'"):
    baselines.GroupMean(of="values")


def test_group_means_skip_steps_that_do_not_exist():
  # All three answer one problem; row 1 has no second step: (4 + 8) / 2.
  expected = baselines.GroupMean()(ROLLOUT, REWARDS)
  np.testing.assert_allclose(expected, [[3.0, 6.0]] * 3)


def test_an_estimator_is_a_reward_and_a_baseline_of_either_kind():
  centred = baselines.less_baseline(
    reward=credit.outcome, baseline=baselines.GroupMean()
  )
  rollout = dataclasses.replace(ROLLOUT, outcome=jnp.array([1.0, 0.0, 1.0]))
  weights, state = credit.apply(centred, (), rollout, None)
  np.testing.assert_allclose(
    weights, [[1 / 3, 0.0], [-2 / 3, 0.0], [1 / 3, 0.0]], atol=1e-6
  )
  assert state == ()
  learned = baselines.less_baseline(
    reward=credit.outcome, baseline=baselines.LearnedBaseline(VALUE)
  )
  assert isinstance(learned, baselines.LearnedCredit)
  with pytest.raises(ValueError, match="baseline is 'learned', expected"):
    baselines.less_baseline(reward=credit.outcome, baseline="learned")


def test_a_value_function_without_a_network_has_the_policys():
  class Policy:
    def value_network(self):
      return VALUE

  learned = baselines.less_baseline(
    reward=credit.outcome, baseline=baselines.LearnedBaseline()
  )
  assert baselines.for_policy(learned, Policy()).baseline.value is VALUE
  other = MadeValue(Planted((0, 1), length=2, vocab_size=3), hidden=(4,))
  own = baselines.less_baseline(
    reward=credit.outcome, baseline=baselines.LearnedBaseline(other)
  )
  assert baselines.for_policy(own, Policy()).baseline.value is other
