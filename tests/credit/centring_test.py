import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit

REWARDS = jnp.array([[1.0, 4.0], [2.0, 0.0], [6.0, 8.0]])


@pytest.fixture
def rollout(make_rollout):
  """Three samples, the second of one step."""
  return make_rollout([2, 1, 2], [1, 0, 0], room=2)


def test_batch_mean_is_over_the_rollouts_that_have_the_step(rollout):
  # Step 1: (1 + 2 + 6) / 3. Step 2 is missing in row 1: (4 + 8) / 2.
  got = credit.batch_mean(rollout, REWARDS)
  np.testing.assert_allclose(got, [[3.0, 6.0]] * 3)


def test_group_means_are_of_a_problems_samples(rollout):
  groups = jnp.array([0, 1, 0])
  got = credit.group_mean(rollout, REWARDS, groups)
  np.testing.assert_allclose(got[::2], [[3.5, 6.0]] * 2)
  np.testing.assert_allclose(got[1, 0], 2.0)
  # Left out, rows 0 and 2 have each other's, and row 1 nobody's.
  got = credit.group_mean(rollout, REWARDS, groups, leave_one_out=True)
  np.testing.assert_allclose(got, [[6.0, 8.0], [0, 0], [1.0, 4.0]])


def test_what_is_averaged(rollout):
  # Outcomes 1, 0, 0: of all, and of those with a step 2, rows 0 and 2.
  for of, want in (
    ("rewards", [3.0, 6.0]),
    ("outcomes", [1 / 3, 1 / 2]),
    ("responses", [1 / 3, 1 / 3]),
  ):
    got = credit.group_mean(rollout, REWARDS, of=of)
    np.testing.assert_allclose(got, [want] * 3, rtol=1e-6)


def test_left_out_where_no_other_sample_has_the_step(make_rollout):
  # Row 0 alone has a step 2; the others' mean outcome, 1/2, takes the place.
  rollout = make_rollout([2, 1, 1], [0, 1, 0], room=2)
  rewards = jnp.array([[1.0, 4.0], [2.0, 0.0], [6.0, 0.0]])
  got = credit.group_mean(rollout, rewards, leave_one_out=True)
  np.testing.assert_allclose(got[0], [4.0, 0.5])


def test_deviations_by_hand(rollout):
  # Outcomes 1, 0, 0: variance (4 + 1 + 1) / 9 / 2 = 1/3, or 2/9 over n.
  got = credit.group_deviation(rollout, REWARDS, epsilon=1e-6)
  np.testing.assert_allclose(got, np.full((3, 2), 3**-0.5 + 1e-6), rtol=1e-6)
  got = credit.group_deviation(rollout, REWARDS, ddof=0)
  np.testing.assert_allclose(got, np.full((3, 2), (2 / 9) ** 0.5), rtol=1e-5)
  # Rewards of step 2: 4 and 8, of variance 8.
  got = credit.group_deviation(rollout, REWARDS, of="rewards")
  np.testing.assert_allclose(got[::2, 1], [8**0.5] * 2, rtol=1e-5)


def test_samples_that_are_alike_have_weight_0(make_rollout):
  for outcomes in ([1, 1, 1], [0, 0, 0]):
    weights = credit.grpo(make_rollout([1, 1, 1], outcomes, room=1))
    np.testing.assert_array_equal(weights, 0)


@pytest.mark.parametrize(
  "call, message",
  [
    (functools.partial(credit.group_mean, of="values"), "of is 'values'"),
    (functools.partial(credit.group_deviation, of="x"), "of is 'x'"),
    (functools.partial(credit.group_deviation, epsilon=0.0), "epsilon is 0"),
  ],
)
def test_bad_settings_are_refused(rollout, call, message):
  with pytest.raises(ValueError, match=message):
    call(rollout, REWARDS)


# --- a policy that may stop after one step, and pairs of its samples ----------

# Responses: stop; go and stop; go and go. Scores ∇log π of each step by the
# logits of going at the first and at the second state.
GO = np.array([0.3, 0.6])
CHANCE = np.array([1 - GO[0], GO[0] * (1 - GO[1]), GO[0] * GO[1]])
LENGTH = np.array([1, 2, 2])
OUTCOME = np.array([0.25, 0.0, 1.0])
SCORES = np.array(
  [
    [[-GO[0], 0], [0, 0]],
    [[1 - GO[0], 0], [0, -GO[1]]],
    [[1 - GO[0], 0], [0, 1 - GO[1]]],
  ]
)
# Of V = Σ chance · outcome by the logits, d/d logit = go (1 − go) d/d go.
GRADIENT = np.array(
  [
    GO[0] * (1 - GO[0]) * (GO[1] - OUTCOME[0]),
    GO[0] * GO[1] * (1 - GO[1]),
  ]
)


def expected_gradient(make_rollout, baseline):
  total = np.zeros(2)
  for pair in itertools.product(range(3), repeat=2):
    pair = np.array(pair)
    rollout = make_rollout(LENGTH[pair], OUTCOME[pair], room=2)
    weights = np.asarray(
      credit.Centred(credit.outcome, baseline)(rollout, None)
    )
    scores = (weights[:, :, None] * SCORES[pair]).sum((0, 1)) / 2
    total += CHANCE[pair].prod() * scores
  return total


@pytest.mark.parametrize("of", ["rewards", "outcomes", "responses"])
def test_leaving_a_sample_out_keeps_the_expected_gradient(make_rollout, of):
  # Of responses that may lack the step, too: no factor 1 − (1 − c)^(G − 1).
  baseline = functools.partial(credit.group_mean, of=of, leave_one_out=True)
  got = expected_gradient(make_rollout, baseline)
  np.testing.assert_allclose(got, GRADIENT, rtol=1e-5)


def test_a_sample_in_its_own_mean_scales_the_expected_gradient(make_rollout):
  got = expected_gradient(
    make_rollout, functools.partial(credit.group_mean, of="responses")
  )
  np.testing.assert_allclose(got, GRADIENT / 2, rtol=1e-5)


def test_no_baseline_keeps_it_too(make_rollout):
  got = expected_gradient(make_rollout, None)
  np.testing.assert_allclose(got, GRADIENT, rtol=1e-5)


def test_groups_of_many_samples_are_exact_where_float32_is(make_rollout):
  rollout = make_rollout([1] * 64, [1] * 33 + [0] * 31, room=1)
  rewards = 1 + jnp.arange(64.0)[:, None] / 64
  rollout = dataclasses.replace(rollout, problem_id=jnp.arange(64) % 2)
  got = credit.group_mean(rollout, rewards)
  want = np.asarray(rewards).reshape(32, 2).mean(0)
  np.testing.assert_array_equal(got[:2, 0], want)
