"""What the reinforcement learning experiments on chain bind."""

import pathlib

import gin
import pytest

from pav_jax.cli import bindings, configuration
from pav_jax.provers import base as provers
from pav_jax.training.baselines import GroupMean, NoBaseline

ROOT = pathlib.Path(__file__).parents[2]


class Values(provers.FixedProver):
  """In the place of what is read from checkpoints."""

  def __init__(self, name):
    self.name = name

  placement = "host"

  def __call__(self, key, rollout):
    raise AssertionError("not called")


@pytest.fixture
def settings():
  """`(file, *bindings) -> RlSettings`."""

  def resolve(file, *more):
    gin.clear_config()
    configuration.parse_gin([str(ROOT / "gin" / "experiments" / file)], more)
    stand_ins = {
      "fixed_verifier": lambda path, problem: Values(path),
      "measured_values": lambda problem, policy: Values(policy),
    }
    return bindings.bound("reinforce", stand_ins)["settings"]

  yield resolve
  gin.clear_config()


def by_name(settings):
  return {arm.name: arm for arm in settings.arms}


def test_the_comparison_of_rewards(settings):
  found = settings("chain_rl_arms.gin")
  arms = by_name(found)
  assert list(arms) == [
    "outcome",
    "exact",
    "verifier",
    "adaptive",
    "advantage",
    "value",
  ]
  assert (found.num_iterations, found.num_problems) == (20, 16)
  for arm in arms.values():
    assert (arm.num_updates, arm.num_minibatches) == (4, 16)
    assert (arm.update.optimizer, arm.update.learning_rate) == ("adam", 2.5e-4)
    assert arm.update.kl_weight == 0.001
  assert arms["outcome"].prover is None
  assert arms["outcome"].credit.reward.alpha == 0
  # Of progress the gains alone, and no baseline; but for the ablation and the
  # arm beside it.
  for name in ("exact", "verifier", "adaptive"):
    assert arms[name].credit.reward.negative_weight == 0
    assert arms[name].credit.reward.alpha == 1
    assert arms[name].credit.baseline == NoBaseline()
  for name in ("advantage", "value"):
    assert arms[name].credit.reward.negative_weight == 1
    assert arms[name].credit.reward.of == name
    assert arms[name].credit.baseline == GroupMean()
    assert arms[name].prover.k == 64
  assert arms["exact"].prover.k == arms["verifier"].prover.k == 4
  assert arms["adaptive"].prover.ks == (1, 2, 4, 8, 16, 32)
  assert arms["adaptive"].prover.by == "progress"
  innermost = {
    name: provers.split(arm.prover)[0]
    for name, arm in arms.items()
    if arm.prover
  }
  for name in ("verifier", "adaptive"):
    assert innermost[name].name == "out/chain_verifier/verifier"
  for name in ("exact", "advantage", "value"):
    assert innermost[name].values.name == "out/chain_sft/policy"


def test_other_arms_and_macros(settings):
  found = settings(
    "chain_rl_arms.gin",
    "ARMS=[@own/Arm(), @bound/Arm(), @natural_exact/Arm()]",
    "ALPHA=2.0",
    "K=8.0",
  )
  arms = by_name(found)
  own = arms["own_completions"]
  assert provers.follows_policy(own.prover) and own.prover.k == 8
  assert arms["adaptive_by_bound"].prover.by == "bound"
  assert arms["natural_exact"].update.step_size == 100
  assert {arm.credit.reward.alpha for arm in arms.values()} == {2.0}


def test_one_update_takes_losses_too(settings):
  arms = by_name(settings("chain_rl_one_update.gin"))
  for arm in arms.values():
    assert (arm.num_updates, arm.num_minibatches) == (1, 1)
    assert arm.credit.baseline == GroupMean()
    assert arm.credit.reward.negative_weight == 1


def test_tuned_arms_choose_k_and_try_four_settings(settings):
  found = settings("chain_rl_tuned.gin")
  assert found.tuning_iterations == 40 and found.evaluation.every == 5
  names = [candidates.name for candidates in found.arms]
  assert names == ["outcome", "exact", "verifier"]
  for candidates in found.arms:
    assert len(candidates.arms) == 4
    for arm in candidates.arms[:1]:
      if candidates.name != "outcome":
        assert arm.prover.ks == (1, 4, 16, 64, 256, 1024)


@pytest.mark.parametrize(
  "file", ["chain_rl_natural.gin", "chain_rl_provers.gin", "countdown_rl.gin"]
)
def test_the_others_can_be_built(settings, file):
  assert len(settings(file).arms) >= 2
