import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit

Q = jnp.array([[0.5, 0.75, 1.0], [0.5, 0.25, 0.25]])


@pytest.fixture
def rollout(make_rollout):
  return make_rollout([2, 1], [1, 0], room=2)


def test_centred_subtracts_and_divides(rollout):
  # Rewards 1.25, 1.25 and −.25; means at the steps .5 and 1.25.
  centred = credit.Centred(credit.EffectiveReward(1.0), credit.batch_mean)
  want = [[0.75, 0.0], [-0.75, 0.0]]
  np.testing.assert_allclose(centred(rollout, Q), want)
  halved = credit.Centred(
    credit.EffectiveReward(1.0),
    credit.batch_mean,
    lambda rollout, rewards, groups: jnp.full_like(rewards, 2.0),
  )
  np.testing.assert_allclose(halved(rollout, Q), np.array(want) / 2)


def test_centred_by_nothing_is_the_reward(rollout):
  reward = credit.EffectiveReward(1.0)
  np.testing.assert_array_equal(
    credit.Centred(reward)(rollout, Q), reward(rollout, Q)
  )


def test_groups_reach_reward_baseline_and_scale(rollout):
  seen = []

  def spy(rollout, x, groups):
    seen.append(groups)
    return jnp.ones((2, 2))

  groups = jnp.array([4, 4])
  credit.Centred(spy, spy, spy)(rollout, Q, groups)
  assert [x is groups for x in seen] == [True] * 3


def test_numbers_are_leaves_and_functions_structure(rollout):
  # So arms that differ in α alone share one compiled program.
  arms = [
    credit.Centred(credit.EffectiveReward(alpha), credit.batch_mean)
    for alpha in (1.0, 2.0)
  ]
  assert jax.tree.structure(arms[0]) == jax.tree.structure(arms[1])
  assert jax.tree.leaves(arms[1]) == [2.0, 1.0]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *arms)
  both = jax.jit(jax.vmap(lambda arm: arm(rollout, Q)))(stacked)
  for got, arm in zip(both, arms, strict=True):
    np.testing.assert_allclose(got, arm(rollout, Q), rtol=1e-6)


def test_plain_functions_need_no_state(rollout):
  assert credit.init(credit.outcome, jax.random.key(0)) == ()
  weights, state = credit.apply(credit.rloo, (), rollout, None)
  np.testing.assert_array_equal(weights, credit.rloo(rollout))
  assert state == ()


def test_estimators_with_state_get_it_and_give_it_back(rollout):
  class Counting:
    def init(self, key, params=None):
      return params

    def apply(self, state, rollout, q, groups=None):
      return state * credit.outcome(rollout), state + 1

  counting = Counting()
  state = credit.init(counting, jax.random.key(0), jnp.float32(3.0))
  weights, state = credit.apply(counting, state, rollout, None)
  np.testing.assert_array_equal(weights, 3 * credit.outcome(rollout))
  assert state == 4.0


def test_an_estimator_of_ones_own_is_one_function(rollout):
  def half(rollout, q, groups=None):
    return credit.outcome(rollout) / 2

  baseline = functools.partial(credit.group_mean, leave_one_out=True)
  got = credit.Centred(half, baseline)(rollout, None)
  # Rewards 1/2 and 0 of two samples of one problem; step 2 has one alone, whose
  # place the other's outcome takes.
  np.testing.assert_allclose(got, [[0.5, 0.5], [-0.5, 0]])
