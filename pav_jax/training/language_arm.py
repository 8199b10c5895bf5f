"""One way to train a language model by reinforcement."""

import dataclasses
from typing import Any

from pav_jax import values
from pav_jax.policies.language_model import LanguageModel
from pav_jax.policies.trunk_value import TrunkValue
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.training.baselines import GroupMean, LearnedBaseline
from pav_jax.training.rewards import Reward


@dataclasses.dataclass(frozen=True)
class LanguageArm:
  """One way to train a language model, in a comparison of several.

  Attributes:
    name: what reports call it, and its directory.
    reward: whose prover's values are those of one sample; None for a prover
      that is not needed. A prover with `with_policy(policy, params)` is made
      of the trained policy's parameters (`OwnCompletions`).
    update: see `training.updates`.
    baseline: see `training.baselines`; "learned" for a value function that
      starts from the policy.
    k: the prover is Best-of-K: a number, or how it is chosen.
    refresh_every: iterations after which a prover that is made of the policy's
      parameters gets the present ones; None to stay with the first.
    num_updates: passes over every batch; from the second on with importance
      ratios.
    num_minibatches: updates of a pass, each from as many problems' responses,
      as in PPO (Schulman et al., 2017); if several, all have importance ratios.
    value_rate: learning rate of a learned baseline.

  Raises:
    ValueError: if a number is out of range, or progress is wanted and there is
      no prover.
  """

  name: str
  reward: Reward
  update: Any
  baseline: Any = dataclasses.field(default_factory=GroupMean)
  k: float | int | AdaptiveK = 1.0
  refresh_every: int | None = 1
  num_updates: int = 1
  num_minibatches: int = 1
  value_rate: float = 3e-4

  def __post_init__(self):
    for name in ("num_updates", "num_minibatches", "refresh_every"):
      number = getattr(self, name)
      if number is not None and number < 1:
        raise ValueError(f"{name} is {number}, expected at least 1")
    if self.reward.prover is None and self.reward.alpha:
      raise ValueError(
        f"alpha is {self.reward.alpha} and there is no prover, expected one"
      )
    if self.reward.num_rollouts:
      raise ValueError(
        f"num_rollouts is {self.reward.num_rollouts}, expected 0: outcomes "
        "stand in for Q^π of language models"
      )
    if isinstance(self.baseline, str) and self.baseline != "learned":
      raise ValueError(
        f"baseline is {self.baseline!r}, expected 'learned' or an object"
      )
    if not isinstance(self.k, AdaptiveK):
      values.check_k(self.k)

  @property
  def ks(self) -> tuple[float, ...]:
    """The K that may be used."""
    return self.k.ks if isinstance(self.k, AdaptiveK) else (float(self.k),)

  def baseline_for(self, policy: LanguageModel) -> Any:
    """The baseline, whose value function has the policy's shape."""
    if self.baseline == "learned":
      value = TrunkValue(policy.config, policy.layout)
      return LearnedBaseline(value, self.value_rate)
    return self.baseline

  @property
  def uses_policy(self) -> bool:
    """Whether the prover is made of the trained policy's parameters."""
    return hasattr(self.reward.prover, "with_policy")
