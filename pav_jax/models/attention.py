"""Grouped-query attention with rotary positions and, perhaps, capped logits.

B rows, T queries, S keys, N heads of queries, K of keys and values, H per head.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models import attention_kernels
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import (
  LayerSpec,
  Rotary,
  TransformerConfig,
)

# Sums of very many exponentials of numbers up to this are finite in float32.
MAX_EXPONENT = 60.0

# Texts of more tokens are attended to from blocks of so many queries at a time:
# then no array has tokens along two axes.
MAX_WHOLE, BLOCK = 512, 128


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
  x: Float[Array, "B T N H"], positions: Int[Array, "B T"], rotary: Rotary
) -> Float[Array, "B T N H"]:
  """Turns features i and i + H/2 by an angle of `position · frequency[i]`.

  Computed in float32, so a product of two rotated vectors depends on the
  difference of their positions alone, to rounding.
  """
  frequency = jnp.asarray(rotary.frequencies(x.shape[-1]))
  angle = positions[:, :, None, None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  ).astype(x.dtype)


def scaled(logits: jax.Array, scale: float, softcap: float | None) -> jax.Array:
  """Products with keys as attention logits: times a scale, and capped."""
  if softcap is None:
    return logits * scale
  return softcap * jnp.tanh(logits * (scale / softcap))


def may_overflow(softcap: float | None) -> bool:
  """Whether a sum of exponentials needs the highest logit taken off."""
  return softcap is None or softcap > MAX_EXPONENT


def attend(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B S K H"],
  value: Float[Array, "B S K H"],
  mask: Bool[Array, "B T S"],
  *,
  scale: float,
  softcap: float | None,
) -> Float[Array, "B T N H"]:
  """Means of values, weighted by a softmax of products with keys.

  Args:
    query: rotated; head n uses key and value head `n // (N / K)`.
    key: rotated.
    value: not rotated.
    mask: True where a query sees a key; at least one for each query.
    scale: products are multiplied by it.
    softcap: products x become `softcap · tanh(x / softcap)`; None for x.
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
  softcap: float | None,
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
  """What is gathered; weights before they are normalised, logits, and norm."""
  logits = scaled(_products(query, key), scale, softcap)
  mask = jnp.tile(mask, (1, query.shape[2] // mask.shape[1], 1))[:, None]
  highest = 0.0
  if may_overflow(softcap):
    seen = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    highest = jnp.max(seen, axis=-1, keepdims=True)
  weights = jnp.where(mask, jnp.exp(logits - highest), 0.0)
  norm = 1 / jnp.sum(weights, axis=-1, keepdims=True)
  out = norm * _sums(weights, value)
  return out.astype(value.dtype), weights, logits, norm


@_attend.defjvp
def _attend_jvp(scale, softcap, primals, tangents):
  query, key, value, mask = primals
  query_dot, key_dot, value_dot, _ = tangents
  out, weights, logits, norm = _weigh(scale, softcap, query, key, value, mask)
  slope = weights * scale
  if softcap is not None:
    slope *= 1 - (logits / softcap) ** 2
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
  softcap: float | None,
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
    own: keys, rotated, and values of the row.
    shared_mask: True where a row sees a key of its group.
    own_mask: True where a row sees a key of its own.
    scale: products are multiplied by it.
    softcap: as of `attend`.
  """
  groups, rows, heads, size = query.shape
  kv_heads = own[0].shape[1]
  dtype = query.dtype

  def by_head(x):
    """[G, R, K·Q, H] to [G, K, R, Q, H]."""
    return x.reshape(groups, rows, kv_heads, -1, size).swapaxes(1, 2)

  def weigh(logits, mask):
    logits = scaled(logits, scale, softcap)
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
  highest = 0.0
  if may_overflow(softcap):
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


def mix_causal(
  config: TransformerConfig,
  spec: LayerSpec,
  positions: Int[Array, "B T"],
  segments: Int[Array, "B T"] | None,
  layout: Layout | None = None,
) -> Mix:
  """Attention to what is `visible` in a layer's window; keeps keys, values.

  Args:
    config: the network's shape; its `attention` says by which way.
    spec: of the layer.
    positions: of tokens in their text.
    segments: as of `attend_causal`; None where each row is one text.
    layout: where arrays lie; None to leave that to the compiler.
  """
  softcap = config.attn_softcap
  settings = {
    "window": spec.window,
    "scale": config.query_pre_attn_scalar**-0.5,
  }
  platform = "cpu"
  if config.attention == "kernel":
    platform = attention_kernels.platform(layout)
  is_one_text = segments is None
  if is_one_text:
    segments = jnp.zeros_like(positions)

  def mix(query, key, value):
    texts = query, key, value
    if platform == "tpu":
      gathered = attention_kernels.splash(
        *texts, segments, softcap=softcap, layout=layout, **settings
      )
    elif (
      platform == "gpu"
      and is_one_text
      and attention_kernels.cudnn_allows(softcap, query.dtype)
    ):
      gathered = attention_kernels.cudnn(*texts, **settings)
    else:
      gathered = attend_causal(
        *texts, positions, segments, softcap=softcap, **settings
      )
    return gathered, (key, value)

  return mix


def attend_causal(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B T K H"],
  value: Float[Array, "B T K H"],
  positions: Int[Array, "B T"],
  segments: Int[Array, "B T"],
  *,
  window: int | None,
  scale: float,
  softcap: float | None,
) -> Float[Array, "B T N H"]:
  """`attend` of a text to itself, in memory that is linear in its length.

  Of a text of more than `MAX_WHOLE` tokens, blocks of `BLOCK` queries attend
  one after the other, and are computed again for the gradient.

  Args:
    query: rotated.
    key: rotated.
    value: not rotated.
    positions: of tokens in their text, rising along a row in each segment.
    segments: equal for tokens that belong together, which lie side by side.
    window: see `visible`.
    scale: see `attend`.
    softcap: see `attend`.
  """
  length = query.shape[1]
  attention = functools.partial(attend, scale=scale, softcap=softcap)
  if length <= MAX_WHOLE:
    mask = visible(positions, positions, segments, segments, window)
    return attention(query, key, value, mask)
  # A window's keys lie within as many places before a block.
  reach = BLOCK + (length if window is None else window - 1)

  @jax.checkpoint
  def attend_block(start, query, query_positions, query_segments):
    keys = (key, value, positions, segments)
    if reach < length:
      first = jnp.clip(start + BLOCK - reach, 0, length - reach)
      keys = (
        jax.lax.dynamic_slice_in_dim(x, first, reach, axis=1) for x in keys
      )
    key_block, value_block, key_positions, key_segments = keys
    mask = visible(
      query_positions, key_positions, query_segments, key_segments, window
    )
    return attention(query, key_block, value_block, mask)

  def blocks(x):
    # What fills the last block repeats the last token, which sees itself.
    missing = -length % BLOCK
    rest = [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, [(0, 0), (0, missing), *rest], mode="edge")
    return x.reshape(len(x), -1, BLOCK, *x.shape[2:]).swapaxes(0, 1)

  queries = tuple(map(blocks, (query, positions, segments)))
  starts = BLOCK * jnp.arange(len(queries[0]))
  _, out = jax.lax.scan(
    lambda _, block: (None, attend_block(*block)), None, (starts, *queries)
  )
  out = out.swapaxes(0, 1).reshape(len(query), -1, *query.shape[2:])
  return out[:, :length]
