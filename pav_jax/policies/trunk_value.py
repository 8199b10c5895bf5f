"""A value function that starts from a language model policy (App. E)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax.models import heads
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class TrunkValue:
  """A head on a copy of the policy's trunk, for learned baselines.

  Attributes:
    config: of the trunk.
    layout: where activations lie; None to leave that to the compiler.
  """

  config: TransformerConfig
  layout: Layout | None = None

  def init(self, key: jax.Array, params: dict) -> dict:
    """The policy's parameters and a head that reads 0; `key` has no part."""
    del key
    return {"trunk": params, "head": heads.init(self.config)}

  def values(self, params: dict, rollout: Rollout) -> Float[Array, "B H"]:
    """A number for the state before each step, read at its last token."""
    before = jnp.asarray(rollout.prefix_len)[:, :-1]
    return heads.values(
      self.config,
      params["trunk"],
      params["head"],
      jnp.asarray(rollout.tokens),
      jnp.maximum(before - 1, 0),
      layout=self.layout,
    )
