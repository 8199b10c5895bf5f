"""From graded rollouts to the next policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
from pav_jax.credit import EffectiveReward
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.base import Given
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.sampled_terms import sampled_terms
from pav_jax.training.baselines import (
  GroupMean,
  LearnedBaseline,
  NoBaseline,
  for_policy,
  less_baseline,
)
from pav_jax.training.rl_learning import Experience, RlState, learn
from pav_jax.training.updates import Batch, Gradient, NaturalGradient
from tests.training.tabular_policy import Coins, Tabular, ones_and_zeros

POLICY = Tabular()
PARAMS = {"logits": jnp.array([[0.3, -0.2], [0.1, 0.4]])}
START = {"logits": jnp.array([[-0.5, 0.5], [0.9, 0.0]])}
PROGRESS = less_baseline(reward=EffectiveReward(2.0), baseline=NoBaseline())


def experience(number=6, seed=1):
  """Six rollouts of three problems, on-policy and graded."""
  ids = np.repeat(np.arange(number // 2), 2)
  rollout = POLICY.sample(
    PARAMS, jax.random.key(seed), ids, np.tile([0, 1], number // 2)
  )
  rollout = dataclasses.replace(rollout, outcome=Coins().grade(rollout))
  assert 0 < rollout.outcome.mean() < 1
  logp_ref = POLICY.logp(START, rollout)
  return Experience(rollout, logp_ref, ones_and_zeros(rollout))


SEEN = experience()


PLAIN = Given()  # the prover has no wrappers


def run(
  update, estimator=PROGRESS, outer=PLAIN, seen=SEEN, policy=POLICY, **numbers
):
  state = RlState(
    PARAMS, update.init(PARAMS), credit.init(estimator, jax.random.key(0)), ()
  )
  numbers = {"num_updates": 1, "num_minibatches": 1} | numbers
  return learn(policy, (outer, estimator, update), state, seen, 1.0, **numbers)


def follow(update, weights, *, passes=(False,), seen=SEEN, minibatches=1):
  """The same from calls of the update alone: on-policy or not, in turn."""
  params, state = PARAMS, update.init(PARAMS)
  size = len(weights) // minibatches
  for off_policy in passes:
    for first in range(0, len(weights), size):
      part = jax.tree.map(
        lambda x, first=first: x[first : first + size],
        (seen.rollout, weights, seen.logp_ref),
      )
      batch = Batch(*part, off_policy)
      params, state, metrics = update(
        params, state, lambda p, b=batch: POLICY.logp(p, b.rollout), batch
      )
  return params, metrics


def effective(q):
  return SEEN.rollout.outcome[:, None] + 2.0 * jnp.diff(q, axis=-1)


def assert_same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


@pytest.mark.parametrize(
  "update",
  [
    Gradient("sgd", 0.3, kl_weight=0.7),
    NaturalGradient(0.3, damping=0.1, max_kl=1e6, kl_weight=0.7),
  ],
  ids=["gradient", "natural"],
)
def test_it_follows_the_effective_reward_and_the_penalty(update):
  state, metrics = run(update)
  want, _ = follow(update, effective(SEEN.q))
  assert_same(state.params, want)
  # Without the penalty the policy would be another one.
  free, _ = follow(
    dataclasses.replace(update, kl_weight=0.0), effective(SEEN.q)
  )
  assert np.max(np.abs(free["logits"] - want["logits"])) > 1e-3
  # E over tokens of exp(r) − 1 − r with r = log π_ref − log π, by hand.
  r = np.asarray(SEEN.logp_ref - SEEN.rollout.logp)[:, 1:]
  kl = np.mean(np.sum(np.exp(r) - 1 - r, axis=-1))
  np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)


def test_later_passes_have_importance_ratios():
  update = Gradient("sgd", 2.0, kl_weight=0.5)
  state, metrics = run(update, num_updates=3)
  want, _ = follow(update, effective(SEEN.q), passes=(False, True, True))
  assert_same(state.params, want)
  without, _ = follow(update, effective(SEEN.q), passes=(False,) * 3)
  assert np.max(np.abs(without["logits"] - want["logits"])) > 1e-2
  # Reported is the first pass, which the others do not change.
  _, first = run(update)
  assert metrics["loss"] == first["loss"]


def test_minibatches_are_followed_one_after_another_with_ratios():
  update = Gradient("sgd", 2.0)
  state, metrics = run(update, num_updates=2, num_minibatches=3)
  want, _ = follow(
    update, effective(SEEN.q), passes=(True, True), minibatches=3
  )
  assert_same(state.params, want)
  assert metrics["accuracy"] == SEEN.rollout.outcome.mean()


def test_k_is_that_of_best_of_k_and_chosen_only_where_it_is_to_be():
  ks = (1.0, 2.0, 8.0)
  terms = sampled_terms(
    SEEN.q, SEEN.rollout.outcome, SEEN.rollout.prefix_len, jnp.array(ks)
  )
  update = Gradient("sgd", 0.3)
  for outer, k in (
    (Given(), 1.0),
    (BestOfK(Given(), 4.0), 4.0),
    (AdaptiveK(Given(), ks), ks[int(np.argmax(terms.progress))]),
    (AdaptiveK(Given(), ks, by="bound"), ks[int(np.argmax(terms.bound))]),
  ):
    state, metrics = run(update, outer=outer)
    assert metrics["k"] == k
    of_k = 1 - (1 - np.asarray(SEEN.q, np.float64)) ** k
    want, _ = follow(update, effective(jnp.asarray(of_k, jnp.float32)))
    assert_same(state.params, want)
  index = int(np.argmax(terms.progress))
  _, metrics = run(update, outer=AdaptiveK(Given(), ks))
  for name, x in terms._asdict().items():
    np.testing.assert_allclose(metrics[name], x[index], rtol=1e-6)


def test_a_response_that_was_cut_off_is_worth_nothing_at_its_end():
  # Responses end by themselves with token 1; the prover says .8 of the others.
  q = jnp.broadcast_to(jnp.array([0.3, 0.5, 0.8]), SEEN.q.shape)
  seen = dataclasses.replace(SEEN, q=q)
  update = Gradient("sgd", 0.3)
  state, _ = run(update, seen=seen, policy=Tabular(end=1))
  ended = np.asarray(SEEN.rollout.tokens)[:, -1] == 1
  assert 0 < ended.mean() < 1
  worth = np.array(q)
  worth[~ended, -1] = 0.0
  want, _ = follow(update, effective(jnp.asarray(worth)))
  assert_same(state.params, want)


def test_a_value_function_is_fitted_once_for_all_passes():
  # From 0, Adam's first step is its learning rate along the sign: rewards are
  # positive on average. Weights of all passes are those of the value before.
  learned = less_baseline(
    reward=EffectiveReward(2.0), baseline=LearnedBaseline(learning_rate=0.1)
  )
  estimator = for_policy(learned, POLICY)
  update = Gradient("sgd", 1.0)
  state, _ = run(update, estimator, num_updates=4)
  value, _ = state.credit
  np.testing.assert_allclose(np.abs(value["value"]), 0.1, rtol=1e-4)
  want, _ = follow(update, effective(SEEN.q), passes=(False, True, True, True))
  assert_same(state.params, want)


def test_groups_are_the_samples_of_a_problem():
  estimator = less_baseline(
    reward=EffectiveReward(0.0), baseline=GroupMean(own=True)
  )
  update = Gradient("sgd", 1.0)
  outcome = np.asarray(SEEN.rollout.outcome)
  centred = outcome - np.repeat(outcome.reshape(3, 2).mean(-1), 2)
  state, metrics = run(
    update, estimator, seen=dataclasses.replace(SEEN, q=None)
  )
  weights = jnp.broadcast_to(centred[:, None], (6, 2)).astype(jnp.float32)
  want, _ = follow(update, weights)
  assert_same(state.params, want)
  # The log has rewards before they are centred.
  assert metrics["reward"] == 2 * outcome.mean()
  assert "k" not in metrics


def test_monte_carlo_values_of_the_policy_take_the_outcome_s_place():
  update = Gradient("sgd", 1.0)
  q_policy = jnp.broadcast_to(jnp.array([0.1, 0.4, 0.7]), (6, 3))
  seen = dataclasses.replace(SEEN, q_policy=q_policy)
  state, _ = run(update, seen=seen)
  want, _ = follow(update, q_policy[:, 1:] + 2.0 * jnp.diff(SEEN.q, axis=-1))
  assert_same(state.params, want)
