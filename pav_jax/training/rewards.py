"""The per-step reward of a policy update (Eq. 5)."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax import advantages
from pav_jax.checks import Leaf
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
    if isinstance(self.alpha, int | float) and not math.isfinite(self.alpha):
      raise ValueError(f"alpha is {self.alpha}, expected a finite number")
    weight = self.negative_weight
    if isinstance(weight, int | float) and not 0 <= weight < math.inf:
      raise ValueError(f"negative_weight is {weight}, expected a number >= 0")
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
    term = (
      advantages.step_advantages(q_prover)
      if self.kind == "advantage"
      else q_prover[..., 1:]
    )
    term = jnp.where(term < 0, self.negative_weight * term, term)
    return advantages.effective_reward(q_policy, term, alpha=self.alpha)
