"""A value function that starts from a language model policy (App. E)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from pav_jax.models import adapters, heads
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class TrunkValue:
  """A head on a copy of the policy's trunk, for learned baselines.

  Of a policy with adapters these are copied, and the base is shared.

  Attributes:
    config: of the trunk.
    layout: where activations lie; None to leave that to the compiler.
    base: parameters of the trunk that are not trained, see `with_base`.
  """

  config: TransformerConfig
  layout: Layout | None = None
  base: Any = dataclasses.field(default=None, compare=False, repr=False)

  def with_base(self, base: PyTree) -> "TrunkValue":
    """The same over the base that the policy has, {} for none."""
    return dataclasses.replace(self, base=base)

  def init(self, key: jax.Array, params: dict) -> dict:
    """What the policy trains, and a head that reads 0; no key is used."""
    del key
    trained, _ = adapters.split(params)
    return {"trunk": trained, "head": heads.init(self.config)}

  def values(self, params: dict, rollout: Rollout) -> Float[Array, "B H"]:
    """A number for the state before each step, read at its last token."""
    before = jnp.asarray(rollout.prefix_len)[:, :-1]
    return heads.values(
      self.config,
      adapters.join(params["trunk"], self.base),
      params["head"],
      jnp.asarray(rollout.tokens),
      jnp.maximum(before - 1, 0),
      layout=self.layout,
    )
