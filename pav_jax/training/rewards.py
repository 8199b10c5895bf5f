"""The per-step reward of a policy update (Eq. 5)."""

import dataclasses
import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from pav_jax.checks import Leaf
from pav_jax.credit import EffectiveReward
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["prover", "alpha", "negative_weight"],
  meta_fields=["kind", "num_rollouts"],
)
@dataclasses.dataclass(frozen=True)
class Reward:
  """Q^π + α A^μ, or its ablations.

  Attributes:
    prover: `(key, rollout) -> q_prover [B, H+1]`. Where values come from the
      host, a trainer calls it, or what it makes of it, and hands the values to
      `of_values`; it may be None then.
    alpha: weight of the prover's term; 0 is outcome-only RL.
    kind: `"advantage"` for Q^π + α A^μ; `"value"` for Q^π + α Q^μ, the
      ablation that degenerates (App. G). Static.
    num_rollouts: how Q^π is obtained. 0: one sampled outcome stands in for it
      (Sec. 3.2). R > 0: R completions of each prefix. Static.
    negative_weight: of advantages below 0, >= 0: 1 for the paper's reward; 0
      follows steps that gain, and does not push off those that lose. These are
      mostly unlikely already, where log-probabilities are steep.
  """

  prover: Any
  alpha: Leaf = 1.0
  kind: str = "advantage"
  num_rollouts: int = 0
  negative_weight: Leaf = 1.0

  def __post_init__(self):
    if self.kind not in ("advantage", "value"):
      raise ValueError(
        f"reward kind is {self.kind!r}, expected 'advantage' or 'value'"
      )
    _ = self._credit  # refuses other numbers
    if self.num_rollouts < 0:
      raise ValueError(
        f"num_rollouts is {self.num_rollouts}, expected 0 or more"
      )

  def __call__(
    self, key: jax.Array, rollout: Rollout, q_policy: Float[Array, "B H"]
  ) -> Float[Array, "B H"]:
    """The reward of every step; `q_policy` is Q^π(s_h, a_h) or the outcome."""
    return self.of_values(q_policy, self.prover(key, rollout))

  def of_values(
    self, q_policy: Float[Array, "B H"], q_prover: Float[Array, "B P"]
  ) -> Float[Array, "B H"]:
    """The reward of every step, from the prover's values of all prefixes."""
    return self._credit.of_values(q_policy, q_prover)

  @property
  def _credit(self) -> EffectiveReward:
    return EffectiveReward(self.alpha, self.negative_weight, self.kind)
