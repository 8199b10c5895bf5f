import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import advantages


def test_step_advantages_by_hand():
  q = jnp.array([[0.25, 0.5, 0.5, 1.0], [0.75, 0.25, 0.0, 0.0]])
  want = [[0.25, 0, 0.5], [-0.5, -0.25, 0]]
  np.testing.assert_array_equal(advantages.step_advantages(q), want)


def test_advantages_telescope_to_last_minus_first():
  q = jax.random.uniform(jax.random.key(0), (3, 4, 9))
  total = jax.jit(advantages.step_advantages)(q).sum(-1)
  np.testing.assert_allclose(total, q[..., -1] - q[..., 0], atol=1e-6)


def test_steps_past_the_end_have_advantage_exactly_0():
  q = jnp.array([0.1, 0.3, 0.7, 0.7, 0.7], jnp.bfloat16)
  np.testing.assert_array_equal(advantages.step_advantages(q)[2:], 0)


def test_a_rollout_without_steps_has_no_advantages():
  assert advantages.step_advantages(jnp.ones((2, 1))).shape == (2, 0)


def test_effective_reward_by_hand():
  # Eq. 5: [0.5, 1] + 3 · [0.25, −0.5] = [1.25, −0.5].
  got = advantages.effective_reward(
    jnp.array([0.5, 1.0]), jnp.array([0.25, -0.5]), alpha=3
  )
  np.testing.assert_array_equal(got, [1.25, -0.5])


def test_alpha_0_is_the_outcome_alone():
  outcome = jnp.array([1.0, 0.0])
  adv = jnp.array([[0.3, -0.2, 0.1], [0.5, -0.5, 0.0]])
  got = advantages.effective_reward(outcome[:, None], adv, alpha=0.0)
  np.testing.assert_array_equal(got, [[1, 1, 1], [0, 0, 0]])


def test_alpha_may_be_traced_and_is_differentiated_to_the_advantages():
  adv = jnp.array([[0.3, -0.2]])
  grad = jax.jacobian(
    lambda alpha: advantages.effective_reward(
      jnp.ones((1, 2)), adv, alpha=alpha
    )
  )
  np.testing.assert_array_equal(grad(2.0), adv)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, np.ones(2)])
@pytest.mark.usefixtures("no_shape_checks")
def test_alpha_must_be_one_finite_number_inside_jit_too(alpha):
  f = jax.jit(lambda q: advantages.effective_reward(q, q, alpha=alpha))
  with pytest.raises(ValueError, match="expected one finite number"):
    f(jnp.zeros((3, 2)))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("outcome_shape", [(3,), (4, 3), (3, 4)])
def test_outcomes_without_an_axis_of_steps_are_refused(outcome_shape):
  # With B = H = 3, an outcome [B] would otherwise be taken for one per step.
  with pytest.raises(ValueError, match=r"outcome\[..., None\]"):
    advantages.effective_reward(
      jnp.zeros(outcome_shape), jnp.zeros((3, 3)), alpha=1.0
    )


@pytest.mark.parametrize(
  ("q", "outcome", "want", "why"),
  [
    ([0.2, 0.6, 0.3, 0, 0], 0, 2, "first zero after a high prefix"),
    ([0.2, 0.6, 0.3, 0, 0], 1, -1, "a correct rollout has no pit"),
    ([0.2, 0.4, 0.3, 0, 0], 0, -1, "was never high"),
    ([0.0, 0.0, 0.6, 0, 0.1], 0, 2, "zeros before the high prefix are no pit"),
    ([0.5, 0.0, 0.6, 0, 0.0], 0, 0, "just high is high enough"),
    ([0.2, 0.6, 0.3, 0.1, 0.1], 0, -1, "never zero"),
    ([0.0, 0.0, 0.0, 0.0, 0.9], 0, -1, "high only at the end"),
    ([0.0, 0.0, 0.0, 0.9, 0.0], 0, 3, "the last step"),
  ],
)
def test_first_pit_by_hand(q, outcome, want, why):
  del why
  got = advantages.first_pit(jnp.array(q), jnp.float32(outcome), high=0.5)
  assert got.dtype == jnp.int32
  assert got == want


def test_first_pit_agrees_with_a_loop_over_random_values():
  rng = np.random.default_rng(0)
  q = rng.choice([0, 0.25, 0.5, 0.75], size=(40, 5, 7), p=[0.4, 0.3, 0.2, 0.1])
  outcome = rng.integers(0, 2, size=(40, 5)).astype(np.float32)

  def loop(q, outcome):
    for h in range(len(q) - 1):
      if outcome == 0 and q[h + 1] == 0 and max(q[: h + 1]) >= 0.75:
        return h
    return -1

  want = np.vectorize(loop, signature="(p),()->()")(q, outcome)
  got = jax.jit(lambda q, o: advantages.first_pit(q, o, high=0.75))(q, outcome)
  np.testing.assert_array_equal(got, want)
  assert set(np.unique(want)) == {-1, 0, 1, 2, 3, 4, 5}


def test_first_pit_compares_high_in_the_values_dtype():
  # 0.7 in bfloat16 is 0.69921875 < 0.7, and still as high as 0.7 is there.
  q = jnp.array([0.7, 0.0], jnp.bfloat16)
  for high in (0.7, jnp.float32(0.7)):
    assert advantages.first_pit(q, jnp.zeros(()), high=high) == 0


@pytest.mark.usefixtures("no_shape_checks")
def test_first_pit_refuses_bad_input():
  q, outcome = jnp.zeros((2, 4)), jnp.zeros(2)
  for high in (0, -0.1, 1.5, math.nan, jnp.ones(2)):
    with pytest.raises(ValueError, match=r"expected one value in \(0, 1\]"):
      advantages.first_pit(q, outcome, high=high)
  with pytest.raises(ValueError, match="outcome has shape"):
    advantages.first_pit(q, jnp.zeros(4), high=0.5)
  with pytest.raises(ValueError, match="q has shape"):
    advantages.step_advantages(jnp.zeros((2, 0)))


@pytest.mark.usefixtures("no_shape_checks")
def test_values_that_are_no_probabilities_are_refused():
  for q in ([[1.5, 3.0]], np.array([[0.5, -0.1]]), jnp.array([0.5, jnp.inf])):
    with pytest.raises(ValueError, match="; expected probabilities"):
      advantages.step_advantages(q)
    with pytest.raises(ValueError, match="; expected probabilities"):
      advantages.first_pit(q, np.zeros(np.shape(q)[:-1]), high=0.5)
  # Rounding is no error, and what is not known stays unknown.
  got = advantages.step_advantages(
    np.float32([0.5, np.nextafter(1, 2), np.nan])
  )
  np.testing.assert_array_equal(np.isnan(got), [False, True])


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("ours", "theirs"),
  [((1, 3), (3, 3)), ((1, 3), (3, 1)), ((3, 3), (3, 1)), ((3,), (3, 3))],
)
def test_only_one_outcome_a_rollout_is_broadcast(ours, theirs):
  # outcome[None] in place of outcome[:, None] fits where B is H.
  with pytest.raises(ValueError, match="q_policy has shape"):
    advantages.effective_reward(jnp.ones(ours), jnp.ones(theirs), alpha=1.0)
  got = advantages.effective_reward(
    jnp.ones((3, 1)), jnp.zeros((3, 3)), alpha=1.0
  )
  np.testing.assert_array_equal(got, jnp.ones((3, 3)))
