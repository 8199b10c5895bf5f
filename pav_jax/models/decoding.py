"""Decoding with keys and values kept: prefixes shared, suffixes each row's own.

G groups of R rows. The rows of a group continue prefixes of its texts, whose
keys and values are computed once and read by all of them, each in its own text
and up to the length of its own prefix. What a row adds is its suffix. S tokens
of a group's texts, U of suffixes, V vocabulary.

Rows need not be equally far. The tokens that all rows add at one time lie at
one place of the suffixes' caches, and the next ones at the next place, in a
ring: a row that has added n tokens sees the last n places, and a row that
begins anew sees none, whatever they hold.

These are functions over the parameters of `transformer`, whose layers they use.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import layers, transformer
from pav_jax.models.attention import attend_shared, mix_causal
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import TransformerConfig

# For each layer: keys, rotated, and values, in one of the forms of
# `models.layers`. Of a text [G, K, H, S] and [G, K, S, H], of suffixes
# [G, K, R, H, U] and [G, K, R, U, H].
Cache = dict
Caches = Cache | tuple


def prefill(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G S"],
  at: Int[Array, "G Q"],
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G Q V"], Cache]:
  """Next-token logits after some tokens of each text, and the text's cache.

  Args:
    config: the network's shape.
    params: from `transformer.init`.
    tokens: texts from position 0 on; what comes after them changes nothing.
    at: indices of tokens, each in 0 … S - 1; their logits are those of the next
      token.
    layout: where arrays lie; None to leave that to the compiler.
  """
  hidden, cache = prefill_hidden(config, params, tokens, at, layout=layout)
  return _logits(config, params, hidden, layout), cache


def prefill_hidden(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G S"],
  at: Int[Array, "G Q"],
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G Q D"], Cache]:
  """The backbone's output at some tokens of each text, and the text's cache.

  Args:
    config: the network's shape.
    params: from `transformer.init`.
    tokens: texts from position 0 on.
    at: indices of tokens whose output is returned, each in 0 … S - 1.
    layout: where arrays lie; None to leave that to the compiler.
  """
  x = transformer.embed(config, params, tokens, layout=layout)
  return prefill_stream(config, params, x, at, layout=layout)


def prefill_stream(
  config: TransformerConfig,
  params: dict,
  x: Float[Array, "G S D"],
  at: Int[Array, "G Q"],
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G Q D"], Cache]:
  """`prefill_hidden` from the residual stream before the first layer.

  Args:
    config: the network's shape.
    params: from `transformer.init`; the embedding is not read.
    x: the stream of texts from position 0 on.
    at: indices of tokens whose output is returned, each in 0 … S - 1.
    layout: where arrays lie; None to leave that to the compiler.
  """
  positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])

  def body(spec, x, params):
    mix = mix_causal(config, spec, positions, None, layout)
    x, (key, value) = layers.Layer(config, spec, layout).apply(
      {"params": params}, x, positions, mix
    )
    key = constrain(
      layout,
      key.transpose(0, 2, 3, 1),
      *("sequences", "kv_heads", "head_dim", "length"),
    )
    value = constrain(
      layout,
      value.swapaxes(1, 2),
      *("sequences", "kv_heads", "length", "head_dim"),
    )
    return x, (key, value)

  x, cache = layers.run(config, x, body, params["layers"])
  x = jnp.take_along_axis(x, at[:, :, None], axis=1)
  return layers.final_norm(config, params, x), cache


def join(cache: Caches, num: int) -> Caches:
  """The cache of groups with `num` texts each, one after the other.

  Args:
    cache: of texts, from `prefill`.
    num: every so many of them become one group.
  """
  if num == 1:
    return cache

  def joined(x, axis):
    """Moves texts before the axis of their tokens, and makes one of both."""
    x = jnp.moveaxis(x.reshape(-1, num, *x.shape[1:]), 1, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

  return layers.map_layers(
    lambda parts: (joined(parts[0], 3), joined(parts[1], 2)), cache
  )


def empty_suffixes(
  config: TransformerConfig,
  num_groups: int,
  num_rows: int,
  length: int,
  *,
  layout: Layout | None = None,
) -> Caches:
  """Rings of `length` tokens, for `num_rows` rows of each group."""
  sizes = (num_groups, config.num_kv_heads, num_rows, config.head_dim, length)
  axes = ("sequences", "kv_heads", "length", "head_dim", "length")

  def empty():
    key = constrain(layout, jnp.zeros(sizes, config.dtype), *axes)
    value = constrain(layout, jnp.zeros_like(key.swapaxes(3, 4)), *axes)
    return key, value

  if layers.is_unrolled(config):
    return tuple(empty() for _ in config.layers)
  return layers.repeated(config, empty())


def longer_suffixes(suffixes: Caches, length: int) -> Caches:
  """Rings of more tokens; what has been added lies where it lay.

  Args:
    suffixes: of which `decode` has filled the places from the first one on.
    length: of the new rings, at least that of the old ones.
  """

  def pad(x, axis):
    room = [(0, 0)] * x.ndim
    room[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, room)

  return layers.map_layers(
    lambda parts: (pad(parts[0], 4), pad(parts[1], 3)), suffixes
  )


def decode(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G R"],
  index: Int[Array, "G R"],
  place: Int[Array, ""],
  prefix_len: Int[Array, "G R"],
  offset: Int[Array, "G R"],
  shared: Caches,
  suffixes: Caches,
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G R V"], Caches]:
  """Adds a token to every suffix.

  Args:
    config: the network's shape.
    params: from `transformer.init`, with layers from `layers.unstack`.
    tokens: to add.
    index: how many tokens each suffix has before, less than U.
    place: where in the suffixes' caches all rows put their tokens, in
      0 … U - 1; the one after that of the last call, in a ring.
    prefix_len: how many tokens of its text each row continues.
    offset: where in its group's texts that of each row begins.
    shared: from `prefill`, perhaps `join`, and `layers.unstack`.
    suffixes: from `empty_suffixes` or the last call.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    Logits of the tokens that follow, and the suffixes with these tokens.
  """
  layout = layout and layout.decoding
  unrolled = layers.is_unrolled(config)
  positions = prefix_len + index
  length, room = (jax.tree.leaves(x)[0].shape[-1] for x in (shared, suffixes))
  key_position = jnp.arange(length) - offset[:, :, None]
  sees_shared = (key_position >= 0) & (key_position < prefix_len[:, :, None])
  distance = positions[:, :, None] - key_position
  # 0 is the token itself, which is in the ring before it is read, or not yet.
  age = (place - jnp.arange(room)) % room
  sees_own = age <= index[:, :, None]
  if not unrolled:
    sees_own &= age > 0
  masks = window_masks(config, (sees_shared, distance), (sees_own, age))

  def grow(suffixes, key, value):
    """Puts keys [..., H] and values at their place in [..., H, U]."""
    put = jax.lax.dynamic_update_slice_in_dim
    return (
      put(suffixes[0], key[..., None], place, axis=key.ndim),
      put(suffixes[1], value[..., None, :], place, axis=value.ndim - 1),
    )

  def body(spec, x, params, shared, suffixes):
    def mix(query, key, value):
      new, own = (key, value), suffixes
      added = key.swapaxes(1, 2), value.swapaxes(1, 2)
      if unrolled:
        new, own = None, grow(own, *added)
      gathered = attend_shared(
        query,
        new,
        shared,
        own,
        *masks[spec.window],
        scale=config.query_pre_attn_scalar**-0.5,
        softcap=config.attn_softcap,
      )
      return gathered, own if unrolled else added

    return layers.Layer(config, spec, layout).apply(
      {"params": params}, x, positions, mix
    )

  x = transformer.embed(config, params, tokens, layout=layout)
  x, kept = layers.run(config, x, body, params["layers"], shared, suffixes)
  if not unrolled:
    # A scan would copy what it changes: it gives what is added, for all layers.
    kept = layers.map_layers(lambda own, new: grow(own, *new), suffixes, kept)
  x = layers.final_norm(config, params, x)
  return _logits(config, params, x, layout), kept


def window_masks(
  config: TransformerConfig, *parts: tuple[jax.Array, jax.Array]
) -> dict[int | None, tuple[jax.Array, ...]]:
  """For each size of window, which keys are seen.

  Args:
    config: the network's shape.
    *parts: of the keys: whether they are seen without a window, and how many
      tokens before the query they are.
  """
  return {
    window: tuple(
      sees if window is None else sees & (distance < window)
      for sees, distance in parts
    )
    for window in dict.fromkeys(spec.window for spec in config.layers)
  }


def _logits(config, params: dict, hidden: jax.Array, layout: Layout | None):
  logits = transformer.logits(config, params, hidden)
  return constrain(layout, logits, "sequences", "length", "vocab")
