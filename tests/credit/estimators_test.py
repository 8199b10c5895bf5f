import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit, losses
from pav_jax.testing import tabular

NAN = np.nan


@pytest.fixture
def rollout(make_rollout):
  """Problem 0: right in 3 steps, wrong in 2. Problem 1: right in 1 step."""
  return make_rollout([3, 2, 1], [1, 0, 1], [0, 0, 1])


# Values past the end of a response are no part of anything.
Q = jnp.array([[0.5, 0.6, 0.4, 1.0], [0.5, 0.2, 0.0, NAN], [0.9, 1, NAN, NAN]])


def test_outcome_is_every_steps_weight(rollout):
  want = [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
  np.testing.assert_array_equal(credit.outcome(rollout), want)


def test_effective_reward_adds_the_advantage_of_each_step_alone(rollout):
  # A = (.1, −.2, .6), (−.3, −.2) and .1; R + 2 A.
  got = credit.EffectiveReward(2.0)(rollout, Q)
  want = [[1.2, 0.6, 2.2], [-0.6, -0.4, 0], [1.2, 0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_effective_reward_without_alpha_is_the_outcome(rollout):
  for q in (None, Q):
    got = credit.EffectiveReward(0.0)(rollout, q)
    np.testing.assert_array_equal(got, credit.outcome(rollout))


def test_losses_of_progress_may_count_less(rollout):
  # As above, with advantages below 0 at half, and at no weight.
  for weight, want in (
    (0.5, [[1.2, 0.8, 2.2], [-0.3, -0.2, 0], [1.2, 0, 0]]),
    (0.0, [[1.2, 1.0, 2.2], [0, 0, 0], [1.2, 0, 0]]),
  ):
    got = credit.EffectiveReward(2.0, weight)(rollout, Q)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_values_in_place_of_advantages(rollout):
  # App. G: R + 2 Q^μ after each step.
  got = credit.EffectiveReward(2.0, of="value")(rollout, Q)
  want = [[2.2, 1.8, 3], [0.4, 0, 0], [3, 0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_spos_pav_arm_is_a_value_and_five_times_a_best_of_4_advantage(
  make_rollout,
):
  # Q^π = .5 → .5 → 1: values .5 and 1, Best-of-4 .9375, .9375, 1.
  q = jnp.array([[0.5, 0.5, 1.0]])
  best_of_4 = 1 - (1 - q) ** 4
  got = credit.EffectiveReward(5.0)(
    make_rollout([2], [1], room=2), best_of_4, q_policy=q
  )
  np.testing.assert_allclose(got, [[0.5, 1 + 5 * 0.0625]], rtol=1e-6)


def test_gae_by_hand(rollout):
  # γ = 1, λ = .5. Row 0: δ = .1, −.2, .6, so Â = .15, .1, .6. Row 1: δ = −.3
  # and 0 − .2. Row 2: 1 − .9.
  got = credit.gae(rollout, Q, gae_lambda=0.5)
  want = [[0.15, 0.1, 0.6], [-0.4, -0.2, 0], [0.1, 0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)
  # γ = .5, λ = 1: δ = .3 − .5, .2 − .6, 1 − .4.
  got = credit.gae(rollout, Q, gae_lambda=1.0, discount=0.5)
  want = [-0.2 + 0.5 * -0.4 + 0.25 * 0.6, -0.4 + 0.5 * 0.6, 0.6]
  np.testing.assert_allclose(got[0], want, atol=1e-6)


def test_gae_with_lambda_1_is_the_outcome_less_the_value(rollout):
  got = credit.gae(rollout, Q, gae_lambda=1.0)
  want = [[0.5, 0.4, 0.6], [-0.5, -0.2, 0], [0.1, 0, 0]]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_gae_looks_at_no_value_of_a_whole_response(rollout):
  other = jnp.where(jnp.arange(4) == jnp.array([[3], [2], [1]]), 0.123, Q)
  np.testing.assert_array_equal(
    credit.gae(rollout, other), credit.gae(rollout, Q)
  )


def test_vine_is_progress_under_the_policy(rollout):
  # Where whole responses have their outcomes as values, α A alone.
  progress = credit.EffectiveReward(1.0)(rollout, Q) - credit.outcome(rollout)
  np.testing.assert_allclose(credit.vine(rollout, Q), progress, atol=1e-6)
  np.testing.assert_allclose(
    credit.vine(rollout, Q), credit.gae(rollout, Q, gae_lambda=0.0)
  )


def test_low_probability_marks_tokens_that_had_a_choice():
  logp = jnp.log(jnp.array([0.5, 0.89, 0.91, 1.0]))
  np.testing.assert_array_equal(credit.low_probability(logp), [1, 1, 0, 0])


def test_pure_at_low_temperature_is_the_worst_step_up_to_it(make_rollout):
  # One sample, r = 2 q − 1 = .2, −.6, .8: the minimum −.6, counted until then.
  rollout = make_rollout([3], [1])
  q = jnp.array([[0.5, 0.6, 0.2, 0.9]])
  got = credit.pure(rollout, q, temperature=1e-3, outcome_weight=0.0)
  np.testing.assert_allclose(got, [[-0.6, -0.6, 0]], atol=1e-6)
  # T = 1, by its definition; and the outcome on top.
  r = np.array([0.2, -0.6, 0.8])
  weighted = r * np.exp(-r) / np.exp(-r).sum()
  want = np.cumsum(weighted[::-1])[::-1] + 0.5
  got = credit.pure(rollout, q, temperature=1.0, outcome_weight=0.5)
  np.testing.assert_allclose(got, [want], atol=1e-6)


def test_pure_subtracts_what_the_others_are_worth_a_step(make_rollout):
  # T → 0. Minima: −.6 of 2 steps, .2 of 1; outcomes 1 and 0. Row 0: reward −.6
  # at step 1 and 0 at step 2, each less .2; row 1: .2 less −.6 / 2.
  rollout = make_rollout([2, 1], [1, 0], room=2)
  q = jnp.array([[0.5, 0.2, 0.9], [0.5, 0.6, NAN]])
  got = credit.pure(rollout, q, temperature=1e-3)
  np.testing.assert_allclose(
    got, [[-1.0 + 1, -0.2 + 1], [0.5 - 1, 0]], atol=1e-6
  )


def test_pures_baseline_by_tokens_is_what_others_earn_a_token(make_rollout):
  # As above with steps of 3, 1 and 2 tokens. The other sample's .2 over 2
  # tokens is .1 a token, .3 and .1 of row 0's steps; row 1's −.6 over 4, −.3.
  rollout = dataclasses.replace(
    make_rollout([2, 1], [1, 0], room=2),
    tokens=jnp.ones((2, 5), jnp.int32),
    logp=jnp.zeros((2, 5)),
    prefix_len=jnp.array([[1, 4, 5], [1, 3, 3]]),
  )
  q = jnp.array([[0.5, 0.2, 0.9], [0.5, 0.6, NAN]])
  got = credit.pure(
    rollout, q, temperature=1e-3, outcome_weight=0.0, baseline="tokens"
  )
  np.testing.assert_allclose(got, [[-1.0, -0.1], [0.5, 0]], atol=1e-6)


def test_pures_baselines_agree_where_steps_are_tokens_and_lengths_equal(
  make_rollout,
):
  rollout = make_rollout([3, 3], [1, 0])
  q = jnp.array([[0.5, 0.6, 0.2, 0.9], [0.5, 0.4, 0.7, 0.0]])
  np.testing.assert_allclose(
    credit.pure(rollout, q, baseline="tokens"),
    credit.pure(rollout, q),
    atol=1e-6,
  )
  with pytest.raises(ValueError, match="by is 'words', expected 'steps' or"):
    credit.pure(rollout, q, baseline="words")


def test_dapo_averages_over_groups_that_have_spread(make_rollout):
  # Of 6 rollouts the 4 of problems 0 and 2 have spread: 6/4 of GRPO's.
  rollout = make_rollout(
    [1] * 6, [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 2, 2], room=1
  )
  np.testing.assert_array_equal(credit.has_spread(rollout), [1, 1, 0, 0, 1, 1])
  got = credit.dapo(rollout)
  np.testing.assert_allclose(got, 1.5 * credit.grpo(rollout))
  np.testing.assert_array_equal(got[2:4], 0)
  # The groups that are kept, alone, have GRPO's.
  kept = jax.tree.map(lambda x: x[jnp.array([0, 1, 4, 5])], rollout)
  np.testing.assert_allclose(credit.dapo(kept), credit.grpo(kept))
  nothing = dataclasses.replace(rollout, outcome=jnp.zeros(6))
  np.testing.assert_array_equal(credit.dapo(nothing), 0)


def test_group_relative_estimators_by_hand(make_rollout):
  # Outcomes 1, 0, 0, 1 and lengths unlike: mean 1/2, deviation √(1/3).
  rollout = make_rollout([3, 2, 1, 1], [1, 0, 0, 1])
  exists = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
  centred = np.array([[0.5], [-0.5], [-0.5], [0.5]]) * exists
  np.testing.assert_allclose(credit.dr_grpo(rollout), centred)
  np.testing.assert_allclose(credit.rloo(rollout), centred * 4 / 3, rtol=1e-6)
  np.testing.assert_allclose(credit.grpo(rollout), centred / 3**-0.5, rtol=1e-5)
  np.testing.assert_allclose(
    credit.grpo(rollout, ddof=0), centred / 0.5, rtol=1e-5
  )


def test_groups_are_problems_unless_told_otherwise(rollout):
  # Row 2 alone answers problem 1: R by RLOO, 0 with its own mean.
  np.testing.assert_allclose(credit.rloo(rollout)[:, 0], [1, -1, 1])
  np.testing.assert_allclose(credit.dr_grpo(rollout)[:, 0], [0.5, -0.5, 0])
  got = credit.rloo(rollout, None, jnp.array([0, 1, 0]))
  np.testing.assert_allclose(got[:, 0], [0, 0, 0])


ESTIMATORS = {
  "outcome": credit.outcome,
  "effective reward": credit.EffectiveReward(2.0),
  "negative weight": credit.EffectiveReward(2.0, 0.0),
  "value": credit.EffectiveReward(1.0, of="value"),
  "gae": credit.gae,
  "vine": credit.vine,
  "pure": credit.pure,
  "rloo": credit.rloo,
  "grpo": credit.grpo,
  "dr_grpo": credit.dr_grpo,
  "dapo": credit.dapo,
  "prime": credit.prime,
  "progress_advantage": credit.progress_advantage,
  "spo_tree": credit.spo_tree,
  "tree_rl": credit.tree_rl,
  "gigpo": credit.gigpo,
  "centred": credit.Centred(
    credit.EffectiveReward(1.0), credit.batch_mean, credit.group_deviation
  ),
  "leave one out": credit.Centred(
    credit.vine, functools.partial(credit.group_mean, leave_one_out=True)
  ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_steps_past_the_end_have_no_weight_and_no_say(rollout, name):
  estimate = jax.jit(ESTIMATORS[name])
  weights = estimate(rollout, Q)
  assert weights.dtype == jnp.float32
  exists = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
  np.testing.assert_array_equal(np.where(exists, 0, weights), 0)
  assert np.isfinite(weights).all()
  # Room for two more steps changes nothing.
  longer = dataclasses.replace(
    rollout, prefix_len=jnp.pad(rollout.prefix_len, ((0, 0), (0, 2)), "edge")
  )
  got = estimate(longer, jnp.pad(Q, ((0, 0), (0, 2)), constant_values=NAN))
  np.testing.assert_allclose(got[:, :3], weights, atol=1e-6)
  np.testing.assert_array_equal(got[:, 3:], 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_may_come_in_any_order(rollout, name):
  order = jnp.array([2, 0, 1])
  shuffled = jax.tree.map(lambda x: x[order], rollout)
  np.testing.assert_allclose(
    ESTIMATORS[name](shuffled, Q[order]),
    ESTIMATORS[name](rollout, Q)[order],
    atol=1e-6,
  )


def test_a_missing_prover_is_named(rollout):
  for estimate in (
    credit.vine,
    credit.gae,
    credit.pure,
    credit.prime,
    credit.progress_advantage,
    credit.EffectiveReward(1.0),
  ):
    with pytest.raises(ValueError, match="q is None; expected values"):
      estimate(rollout, None)


@pytest.mark.usefixtures("no_shape_checks")
def test_values_and_groups_of_another_shape_are_refused(rollout):
  with pytest.raises(ValueError, match=r"q has shape \(3, 3\); expected"):
    credit.vine(rollout, Q[:, 1:])
  with pytest.raises(ValueError, match=r"groups has shape \(2,\); expected"):
    credit.rloo(rollout, None, jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(alpha=float("inf")), "alpha is inf"),
    (dict(of="advantages"), "of is 'advantages'"),
    (dict(negative_weight=-1.0), "negative_weight is -1.0"),
    (dict(negative_weight=float("nan")), "negative_weight is nan"),
  ],
)
def test_bad_settings_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    credit.EffectiveReward(**settings)


# --- expectations of a process whose values are known -------------------------


@pytest.fixture(scope="module")
def process():
  return tabular.random_process(
    jax.random.key(3), num_actions=2, num_steps=3, num_correct=3
  )


LOGITS = jax.random.normal(jax.random.key(4), (7, 2))


def expected_gradient(process, weights_of):
  """E Σ_h w_h ∇log π(a_h|s_h) over all responses of the table LOGITS."""
  probs = jax.nn.softmax(LOGITS)
  rollout, prob = tabular.all_rollouts(process, probs)
  q = tabular.prefix_values(process, probs)
  visited = tabular.visited_prefixes(process, rollout)
  weights = weights_of(rollout, q[visited])

  def loss(logits):
    logp = jax.nn.log_softmax(logits)
    token_logp = logp[visited[:, :-1], rollout.tokens[:, 1:]]
    return losses.policy_gradient_loss(
      jnp.pad(token_logp, ((0, 0), (1, 0))),
      len(prob) * prob[:, None] * weights,
      rollout.prefix_len,
    )

  return -jax.grad(loss)(LOGITS)


@pytest.mark.parametrize(
  "estimate",
  [
    credit.outcome,
    credit.vine,
    credit.gae,
    functools.partial(credit.gae, gae_lambda=1.0),
  ],
)
def test_with_exact_values_the_expected_gradient_is_that_of_the_success_rate(
  process, estimate
):
  def success(logits):
    return tabular.prefix_values(process, jax.nn.softmax(logits))[0]

  np.testing.assert_allclose(
    expected_gradient(process, estimate), jax.grad(success)(LOGITS), atol=1e-6
  )


def test_a_policy_that_is_its_own_prover_doubles_the_gradient(process):
  # Q^π + A^π: both have the expected gradient of the success rate (Sec. 3.2).
  np.testing.assert_allclose(
    expected_gradient(process, credit.EffectiveReward(1.0)),
    2 * expected_gradient(process, credit.outcome),
    atol=1e-6,
  )
