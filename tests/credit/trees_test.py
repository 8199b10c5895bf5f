import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit

# One problem. Rows 0 and 1 share steps 1 and 2; row 2 shares step 1 with them
# and ends after its step 2; row 3 is on its own. Outcomes 1, 0, 0, 1.
TOKENS = [[5, 6, 7], [5, 6, 8], [5, 9, 0], [4, 6, 7]]


@pytest.fixture
def rollout(make_rollout):
  return make_rollout([3, 3, 2, 3], [1, 0, 0, 1], tokens=TOKENS)


def test_shared_prefixes_by_hand(rollout):
  share = np.asarray(credit.shared_prefixes(rollout))
  assert share[..., 0].all()
  one = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
  two = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
  three = np.diag([1, 1, 0, 1])  # row 2 has no third step
  np.testing.assert_array_equal(share[..., 1], one)
  np.testing.assert_array_equal(share[..., 2], two)
  np.testing.assert_array_equal(share[..., 3], three)


def test_equal_tokens_in_other_steps_are_other_prefixes(make_rollout):
  # The same three tokens as one step of two and one of one, and reversed.
  rollout = make_rollout([2, 2], [1, 0], tokens=[[5, 6, 7]] * 2)
  rollout = type(rollout)(
    **{**vars(rollout), "prefix_len": jnp.array([[1, 3, 4, 4], [1, 2, 4, 4]])}
  )
  share = np.asarray(credit.shared_prefixes(rollout))
  np.testing.assert_array_equal(share[0, 1], [True, False, False, False])


def test_other_problems_share_nothing(rollout):
  groups = jnp.arange(4)
  share = np.asarray(credit.shared_prefixes(rollout, groups))
  assert not share[~np.eye(4, dtype=bool)].any()


def test_tree_values_are_mean_outcomes_below(rollout):
  want = [
    [1 / 2, 1 / 3, 1 / 2, 1],
    [1 / 2, 1 / 3, 1 / 2, 0],
    [1 / 2, 1 / 3, 0, 0],
    [1 / 2, 1, 1, 1],
  ]
  np.testing.assert_allclose(credit.tree_values(rollout), want, rtol=1e-6)


def test_spo_tree_is_vine_with_the_trees_values(rollout):
  want = [
    [-1 / 6, 1 / 6, 1 / 2],
    [-1 / 6, 1 / 6, -1 / 2],
    [-1 / 6, -1 / 3, 0],
    [1 / 2, 0, 0],
  ]
  got = credit.spo_tree(rollout)
  np.testing.assert_allclose(got, want, atol=1e-6)
  values = credit.tree_values(rollout)
  np.testing.assert_array_equal(credit.spo_tree(rollout, values), got)
  np.testing.assert_array_equal(credit.vine(rollout, values), got)


def test_tree_rl_by_hand(rollout):
  # Row 0: global −1/6, 0, 1/2 and local −1/6, 1/6, 1/2; shared by 3, 2 and 1.
  want = [-1 / 3 / 3**0.5, 1 / 6 / 2**0.5, 1.0]
  np.testing.assert_allclose(credit.tree_rl(rollout)[0], want, atol=1e-6)
  plain = credit.tree_rl(rollout, reweight=False)
  np.testing.assert_allclose(plain[0], [-1 / 3, 1 / 6, 1], atol=1e-6)
  # Row 2: global −1/6, −1/2; local −1/6, −1/3; and no third step.
  np.testing.assert_allclose(plain[2], [-1 / 3, -5 / 6, 0], atol=1e-6)


def test_tree_rl_of_a_step_is_twice_the_advantage(make_rollout):
  # One step: what is ahead of the problem is ahead of the last prefix.
  rollout = make_rollout([1, 1], [1, 0], tokens=[[5], [6]], room=1)
  got = credit.tree_rl(rollout)
  np.testing.assert_allclose(got, 2 * credit.spo_tree(rollout), rtol=1e-6)


def test_gigpo_by_hand(rollout):
  # Episode: ±1/2. Returns with γ = 1/2: 1/4, 1/2, 1 in rows 0 and 3, else 0.
  # Step 1, all four: mean 1/8. Step 2, rows 0 to 2: mean 1/6; row 3 alone.
  # Step 3: rows 0 and 1, mean 1/2; row 3 alone.
  got = credit.gigpo(rollout, discount=0.5)
  want = [
    [1 / 2 + 1 / 8, 1 / 2 + 1 / 3, 1],
    [-1 / 2 - 1 / 8, -1 / 2 - 1 / 6, -1],
    [-1 / 2 - 1 / 8, -1 / 2 - 1 / 6, 0],
    [1 / 2 + 1 / 8, 1 / 2, 1 / 2],
  ]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_gigpo_with_deviations(rollout):
  # Step 3 of rows 0 and 1: returns 1 and 0, deviation √(1/2); episodes √(1/3).
  got = credit.gigpo(rollout, discount=0.5, normalize=True)
  episode = 0.5 / 3**-0.5
  np.testing.assert_allclose(got[0, 2], episode + 0.5 / 0.5**0.5, rtol=1e-5)
  np.testing.assert_allclose(got[3, 2], episode, rtol=1e-5)


def test_gigpo_without_step_groups_is_group_relative(rollout):
  np.testing.assert_allclose(
    credit.gigpo(rollout, step_weight=0.0), credit.dr_grpo(rollout)
  )
  np.testing.assert_allclose(
    credit.gigpo(rollout, step_weight=0.0, normalize=True),
    credit.grpo(rollout),
  )
