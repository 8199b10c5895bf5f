"""Grouped-query attention with rotary positions and soft-capped logits.

B rows, T queries, S keys, N heads of queries, K of keys and values, H per head.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models.dense import dense
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
  kv_heads = key.shape[2]
  # Queries that share a key are rows of one product.
  query = query.reshape(batch, length, kv_heads, -1, head_dim)
  query = query.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, head_dim)
  key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
  out = _attend(scale, softcap, query, key, value, mask)
  out = out.reshape(batch, kv_heads, -1, length, head_dim)
  return out.transpose(0, 3, 1, 2, 4).reshape(
    batch, length, num_heads, head_dim
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attend(
  scale: float,
  softcap: float,
  query: Float[Array, "B K X H"],
  key: Float[Array, "B K S H"],
  value: Float[Array, "B K S H"],
  mask: Bool[Array, "B T S"],
) -> Float[Array, "B K X H"]:
  """`attend` with the X = Q · T queries of a key's head in one axis.

  The backward pass keeps two arrays of the logits' size, where automatic
  differentiation keeps one for each of several operations.
  """
  return _weigh(scale, softcap, query, key, value, mask)[0]


def _weigh(scale, softcap, query, key, value, mask):
  """What is gathered; weights before they are normalised, tanh, and norm."""
  tanh = jnp.tanh(_products(query, key) * (scale / softcap))
  logits = softcap * tanh
  mask = jnp.tile(mask, (1, query.shape[2] // mask.shape[1], 1))[:, None]
  # Capped logits cannot overflow, unless the cap is high.
  if softcap > MAX_EXPONENT:
    seen = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    logits -= jnp.max(seen, axis=-1, keepdims=True)
  weights = jnp.where(mask, jnp.exp(logits), 0.0)
  norm = 1 / jnp.sum(weights, axis=-1, keepdims=True)
  out = norm * _sums(weights, value)
  return out.astype(value.dtype), weights, tanh, norm


@_attend.defjvp
def _attend_jvp(scale, softcap, primals, tangents):
  query, key, value, mask = primals
  query_dot, key_dot, value_dot, _ = tangents
  out, weights, tanh, norm = _weigh(scale, softcap, query, key, value, mask)
  slope = weights * (scale * (1 - tanh * tanh))
  change = slope * (_products(query_dot, key) + _products(query, key_dot))
  out_dot = _sums(weights, value_dot) + _sums(change, value)
  out_dot -= out * jnp.sum(change, axis=-1, keepdims=True)
  return out, (norm * out_dot).astype(out.dtype)


def _products(query, key):
  return jnp.einsum(
    "bkxh,bksh->bkxs", query, key, preferred_element_type=jnp.float32
  )


def _sums(weights, value):
  return jnp.einsum(
    "bkxs,bksh->bkxh",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )


def attend_shared(
  query: Float[Array, "G R N H"],
  new: tuple[Float[Array, "G R K H"], Float[Array, "G R K H"]] | None,
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
    new: key, rotated, and value of the query's own token, which it sees; None
      if they are among those of the row.
    shared: keys, rotated, and values of the group. Positions of keys come last,
      so that neighbours in memory are summed into different logits.
    own: likewise of the row.
    shared_mask: True where a row sees a key of its group.
    own_mask: True where a row sees a key of its own.
    scale: products are multiplied by it.
    softcap: products x become `softcap · tanh(x / softcap)`.
  """
  groups, rows, heads, size = query.shape
  kv_heads = own[0].shape[1]
  dtype = query.dtype

  def by_head(x):
    """[G, R, K·Q, H] to [G, K, R, Q, H]."""
    return x.reshape(groups, rows, kv_heads, -1, size).swapaxes(1, 2)

  def weigh(logits, mask):
    logits = softcap * jnp.tanh(logits * (scale / softcap))
    return jnp.where(mask, logits, jnp.finfo(jnp.float32).min)

  query = by_head(query)
  together = query.reshape(groups, kv_heads, -1, size)
  to_shared = jnp.einsum(
    "gkxh,gkhs->gkxs", together, shared[0], preferred_element_type=jnp.float32
  ).reshape(*query.shape[:4], -1)
  logits = [weigh(to_shared, shared_mask[:, None, :, None])]
  # A product per row and head would be small: sums run over the cache once.
  wide = query.astype(jnp.float32)
  to_own = jnp.sum(
    wide[..., None] * own[0].astype(jnp.float32)[:, :, :, None], axis=-2
  )
  logits.append(weigh(to_own, own_mask[:, None, :, None]))
  if new is not None:
    new_key, new_value = map(by_head, new)
    to_new = wide * new_key.astype(jnp.float32)
    logits.append(weigh(jnp.sum(to_new, axis=-1, keepdims=True), True))
  # Capped logits cannot overflow, unless the cap is high.
  highest = 0.0
  if softcap > MAX_EXPONENT:
    highest = functools.reduce(
      jnp.maximum, (jnp.max(part, axis=-1, keepdims=True) for part in logits)
    )
  weights = [jnp.exp(part - highest) for part in logits]
  total = sum(jnp.sum(part, axis=-1, keepdims=True) for part in weights)
  out = jnp.einsum(
    "gkxs,gksh->gkxh",
    weights[0].reshape(*together.shape[:3], -1).astype(dtype),
    shared[1],
    preferred_element_type=jnp.float32,
  ).reshape(query.shape)
  out += jnp.sum(
    weights[1][..., None] * own[1].astype(jnp.float32)[:, :, :, None], axis=-2
  )
  if new is not None:
    out += weights[2] * new_value.astype(jnp.float32)
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
      )
      y = dense(x, kernel)
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
    )
    return dense(gathered, out, axes=2), kept
