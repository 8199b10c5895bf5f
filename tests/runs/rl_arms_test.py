import pytest

from pav_jax.problems.chain import Chain
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.runs import rl_arms
from pav_jax.training.baselines import GroupMean
from pav_jax.training.language_arm import LanguageArm
from pav_jax.training.rewards import Reward
from pav_jax.training.updates import Gradient, NaturalGradient

OUTCOME = Reward(None, 0.0)


def arm(update, reward=OUTCOME):
  return LanguageArm("arm", reward, update, GroupMean())


def test_a_grid_has_all_combinations():
  adam = Gradient("adam", 1e-3, clip_norm=1.0)
  found = rl_arms.grid(
    arm(adam, Reward(ClosedForm(Chain().teacher_values), 2.0)),
    rates=(1e-4, 2e-4),
    alphas=(1.0, 4.0),
  )
  assert found.name == "arm"
  settings = [(x.update.learning_rate, x.reward.alpha) for x in found.arms]
  assert settings == [(1e-4, 1.0), (1e-4, 4.0), (2e-4, 1.0), (2e-4, 4.0)]
  assert all(x.update.clip_norm == 1.0 for x in found.arms)
  assert len({x.name for x in found.arms}) == 4


def test_a_grid_of_another_setting():
  natural = arm(NaturalGradient(step_size=1e4))
  found = rl_arms.grid(natural, rates=(0.1, 0.3), setting="max_kl")
  assert [x.update.max_kl for x in found.arms] == [0.1, 0.3]
  assert {x.update.step_size for x in found.arms} == {1e4}
  # No weight of progress is tried but the arm's own.
  assert {x.reward.alpha for x in found.arms} == {0.0}
  with pytest.raises(ValueError, match="has no learning_rate"):
    rl_arms.grid(natural, rates=(0.1,))
