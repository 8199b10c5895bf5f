import dataclasses
from typing import Any

import numpy as np
import pytest

from pav_jax import credit
from pav_jax.credit import EffectiveReward
from pav_jax.problems.chain import Chain
from pav_jax.provers import base as provers
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm, WellFormed
from pav_jax.runs import rl_arms
from pav_jax.training.baselines import GroupMean, less_baseline
from pav_jax.training.rl import Arm
from pav_jax.training.updates import Gradient, NaturalGradient


def arm(update, alpha=0.0, prover=None):
  reward = EffectiveReward(alpha)
  estimator = less_baseline(reward=reward, baseline=GroupMean())
  return Arm("arm", estimator, update, prover)


def test_a_grid_has_all_combinations():
  adam = Gradient("adam", 1e-3, clip_norm=1.0)
  found = rl_arms.grid(
    arm(adam, 2.0, ClosedForm(Chain().teacher_values)),
    rates=(1e-4, 2e-4),
    alphas=(1.0, 4.0),
  )
  assert found.name == "arm"
  settings = [
    (x.update.learning_rate, x.credit.reward.alpha) for x in found.arms
  ]
  assert settings == [(1e-4, 1.0), (1e-4, 4.0), (2e-4, 1.0), (2e-4, 4.0)]
  assert all(x.update.clip_norm == 1.0 for x in found.arms)
  assert len({x.name for x in found.arms}) == 4


def test_a_grid_of_another_setting():
  natural = arm(NaturalGradient(step_size=1e4))
  found = rl_arms.grid(natural, rates=(0.1, 0.3), setting="max_kl")
  assert [x.update.max_kl for x in found.arms] == [0.1, 0.3]
  assert {x.update.step_size for x in found.arms} == {1e4}
  # No weight of progress is tried but the arm's own.
  assert {x.credit.reward.alpha for x in found.arms} == {0.0}
  with pytest.raises(ValueError, match="has no learning_rate"):
    rl_arms.grid(natural, rates=(0.1,))


def test_functions_are_described_without_their_addresses():
  one = Arm("a", credit.grpo, Gradient())
  assert "function grpo>" in rl_arms.described(one)
  assert "0x" not in rl_arms.described(one)


def test_candidates_have_different_names():
  one = arm(Gradient())
  for arms in ([], [one, one]):
    with pytest.raises(ValueError, match="candidates of a are named"):
      rl_arms.Candidates("a", arms)


def test_arms_are_described_by_the_digest_of_their_verifier():
  """Also of one within another prover; runs of other verifiers are others."""

  @dataclasses.dataclass(frozen=True)
  class Fake(provers.FixedProver):
    params: Any
    placement = "device"
    networks = ()
    layout = None

    def with_params(self, params, layout):
      return Fake(params)

    def __call__(self, key, rollout):
      raise AssertionError("not called")

  one, other = (Fake({"w": np.full(3, x)}) for x in (0.0, 1.0))
  described = [
    rl_arms.described(arm(Gradient(), 1.0, prover))
    for prover in (
      one,
      other,
      WellFormed(one, None),
      WellFormed(other, None),
      BestOfK(one, 2.0),
      BestOfK(one, 3.0),
    )
  ]
  assert len(set(described)) == 6
  assert all("array" not in text for text in described)
  outcome = arm(Gradient())
  assert rl_arms.described(outcome) == repr(outcome)
