"""Grouped-query attention with rotary positions and soft-capped logits.

B rows, T queries, S keys, N heads of queries, K of keys and values, H per head.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import TransformerConfig

# Sums of very many exponentials of numbers up to this are finite in float32.
MAX_EXPONENT = 60.0


def visible(
  query_positions: Int[Array, "B T"],
  key_positions: Int[Array, "B S"],
  query_segments: Int[Array, "B T"],
  key_segments: Int[Array, "B S"],
  window: int | None = None,
) -> Bool[Array, "B T S"]:
  """Which keys each query sees: those of its segment that are not later.

  Args:
    query_positions: of the queries.
    key_positions: of the keys.
    query_segments: of the queries.
    key_segments: of the keys.
    window: see only the last `window` positions, the query's own included; None
      for all.
  """
  distance = query_positions[:, :, None] - key_positions[:, None, :]
  mask = (distance >= 0) & (query_segments[:, :, None] == key_segments[:, None])
  return mask if window is None else mask & (distance < window)


def rotate(
  x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float
) -> Float[Array, "B T N H"]:
  """Turns features i and i + H/2 by an angle of `position · theta^(-2i/H)`.

  Computed in float32, so a product of two rotated vectors depends on the
  difference of their positions alone, to rounding.
  """
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[:, :, None, None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  ).astype(x.dtype)


def attend(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B S K H"],
  value: Float[Array, "B S K H"],
  mask: Bool[Array, "B T S"],
  *,
  scale: float,
  softcap: float,
) -> Float[Array, "B T N H"]:
  """Means of values, weighted by a softmax of capped products with keys.

  Args:
    query: rotated; head n uses key and value head `n // (N / K)`.
    key: rotated.
    value: not rotated.
    mask: True where a query sees a key; at least one for each query.
    scale: products are multiplied by it.
    softcap: products x become `softcap · tanh(x / softcap)`.
  """
  batch, length, num_heads, head_dim = query.shape
  groups = num_heads // key.shape[2]
  query = query.reshape(batch, length, -1, groups, head_dim)
  logits = jnp.einsum(
    "btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32
  )
  logits = softcap * jnp.tanh(logits * (scale / softcap))
  lowest = jnp.finfo(jnp.float32).min
  logits = jnp.where(mask[:, None, None], logits, lowest)
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  out = jnp.einsum("bkgts,bskh->btkgh", weights, value)
  return out.reshape(batch, length, num_heads, head_dim)


def attend_shared(
  query: Float[Array, "G R N H"],
  new: tuple[Float[Array, "G R K H"], Float[Array, "G R K H"]],
  shared: tuple[Float[Array, "G K H S"], Float[Array, "G K S H"]],
  own: tuple[Float[Array, "G K R H U"], Float[Array, "G K R U H"]],
  shared_mask: Bool[Array, "G R S"],
  own_mask: Bool[Array, "G R U"],
  *,
  scale: float,
  softcap: float,
) -> Float[Array, "G R N H"]:
  """`attend` for one query per row: to keys of its group, its own, and itself.

  G groups of R rows: the S keys of a group are read by all its rows, as one
  product, and exist once. One softmax runs over all parts.

  Args:
    query: rotated.
    new: key, rotated, and value of the query's own token, which it sees.
    shared: keys, rotated, and values of the group. Positions of keys come last,
      so that neighbours in memory are summed into different logits.
    own: likewise of the row.
    shared_mask: True where a row sees a key of its group.
    own_mask: True where a row sees a key of its own.
    scale: products are multiplied by it.
    softcap: products x become `softcap · tanh(x / softcap)`.
  """
  groups, rows, heads, size = query.shape
  kv_heads = new[0].shape[2]
  dtype = query.dtype

  def by_head(x):
    """[G, R, K·Q, H] to [G, K, R, Q, H]."""
    return x.reshape(groups, rows, kv_heads, -1, size).swapaxes(1, 2)

  def weigh(logits, mask):
    logits = softcap * jnp.tanh(logits * (scale / softcap))
    return jnp.where(mask, logits, jnp.finfo(jnp.float32).min)

  query = by_head(query)
  new_key, new_value = map(by_head, new)
  together = query.reshape(groups, kv_heads, -1, size)
  to_shared = jnp.einsum(
    "gkxh,gkhs->gkxs", together, shared[0], preferred_element_type=jnp.float32
  ).reshape(*query.shape[:4], -1)
  to_shared = weigh(to_shared, shared_mask[:, None, :, None])
  # A product per row and head would be small: sums run over the cache once.
  wide = query.astype(jnp.float32)
  to_own = jnp.sum(
    wide[..., None] * own[0].astype(jnp.float32)[:, :, :, None], axis=-2
  )
  to_own = weigh(to_own, own_mask[:, None, :, None])
  to_new = weigh(
    jnp.sum(wide * new_key.astype(jnp.float32), axis=-1, keepdims=True), True
  )
  # Capped logits cannot overflow, unless the cap is high.
  highest = 0.0
  if softcap > MAX_EXPONENT:
    highest = to_new
    for part in (to_shared, to_own):
      highest = jnp.maximum(highest, jnp.max(part, axis=-1, keepdims=True))
  to_shared, to_own, to_new = (
    jnp.exp(part - highest) for part in (to_shared, to_own, to_new)
  )
  total = to_new
  for part in (to_shared, to_own):
    total = total + jnp.sum(part, axis=-1, keepdims=True)
  out = jnp.einsum(
    "gkxs,gksh->gkxh",
    to_shared.reshape(*together.shape[:3], -1).astype(dtype),
    shared[1],
    preferred_element_type=jnp.float32,
  ).reshape(query.shape)
  out += jnp.sum(
    to_own[..., None] * own[1].astype(jnp.float32)[:, :, :, None], axis=-2
  )
  out += to_new * new_value.astype(jnp.float32)
  out = (out / total).astype(dtype)
  return out.swapaxes(1, 2).reshape(groups, rows, heads, size)


# What a layer does with its queries, keys (both rotated) and values: the values
# that each query gathers, and whatever the caller wants to keep of them.
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


def mix_masked(config: TransformerConfig, mask: Bool[Array, "B T S"]) -> Mix:
  """Attention where `mask` allows it; keeps keys and values."""

  def mix(query, key, value):
    gathered = attend(
      query,
      key,
      value,
      mask,
      scale=config.query_pre_attn_scalar**-0.5,
      softcap=config.attn_softcap,
    )
    return gathered, (key, value)

  return mix


def kernel_init(inputs: int, *axes: str):
  """Normal with variance 1 / inputs, and the logical names of the axes."""
  return nn.with_logical_partitioning(
    nn.initializers.normal(inputs**-0.5), axes
  )


class Attention(nn.Module):
  """Attention of a layer; its parameters and projections."""

  config: TransformerConfig
  layout: Layout | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    mix: Mix,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """What each token gathers through `mix`, and what that keeps."""
    config = self.config

    def project(name: str, heads: int, axis: str) -> jax.Array:
      kernel = self.param(
        name,
        kernel_init(config.width, "embed", axis, "head_dim"),
        (config.width, heads, config.head_dim),
        jnp.dtype(config.param_dtype),
      ).astype(x.dtype)
      y = jnp.einsum("btd,dnh->btnh", x, kernel)
      return constrain(self.layout, y, "sequences", "length", axis, "head_dim")

    query = project("query", config.num_heads, "heads")
    key = project("key", config.num_kv_heads, "kv_heads")
    value = project("value", config.num_kv_heads, "kv_heads")
    gathered, kept = mix(
      rotate(query, positions, config.rope_theta),
      rotate(key, positions, config.rope_theta),
      value,
    )
    gathered = constrain(
      self.layout, gathered, "batch", "length", "heads", "head_dim"
    )
    out = self.param(
      "out",
      kernel_init(
        config.num_heads * config.head_dim, "heads", "head_dim", "embed"
      ),
      (config.num_heads, config.head_dim, config.width),
      jnp.dtype(config.param_dtype),
    ).astype(x.dtype)
    return jnp.einsum("btnh,nhd->btd", gathered, out), kept
