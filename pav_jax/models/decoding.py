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

import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models import transformer
from pav_jax.models.attention import attend_shared, mix_masked, visible
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import TransformerConfig

# For "local" and "global" layers: keys, rotated, and values, stacked over pairs
# of layers. Of a text [pairs, G, K, H, S] and [pairs, G, K, S, H], of suffixes
# [pairs, G, K, R, H, U] and [pairs, G, K, R, U, H].
Cache = dict[str, tuple[jax.Array, jax.Array]]

# Layers of networks with so few are unrolled, and their caches a tuple over
# pairs: slices of stacked caches and parameters would be copied for each token.
# Deeper networks are scanned, so that programs stay small.
MAX_UNROLLED = 8
Caches = Cache | tuple[Cache, ...]


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
  """The trunk's output at some tokens of each text, and the text's cache.

  Args:
    config: as of `prefill`, like the other arguments.
    params: likewise.
    tokens: likewise.
    at: likewise.
    layout: likewise.
  """
  return prefill_stream(
    config, params, embed(config, params, tokens, layout), at, layout=layout
  )


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
    config: as of `prefill`, like the other arguments.
    params: likewise; the embedding is not read.
    x: of texts from position 0 on.
    at: likewise.
    layout: likewise.
  """
  positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
  segments = jnp.zeros_like(positions)

  def pair(x, params):
    cache = {}
    for name, window in windows(config):
      mask = visible(positions, positions, segments, segments, window)
      x, (key, value) = transformer.Layer(config, layout).apply(
        {"params": params[name]}, x, positions, mix_masked(config, mask)
      )
      cache[name] = (
        constrain(
          layout,
          key.transpose(0, 2, 3, 1),
          *("sequences", "kv_heads", "head_dim", "length"),
        ),
        constrain(
          layout,
          value.swapaxes(1, 2),
          *("sequences", "kv_heads", "length", "head_dim"),
        ),
      )
    return x, cache

  x, cache = jax.lax.scan(pair, x, params["layers"])
  x = jnp.take_along_axis(x, at[:, :, None], axis=1)
  return final_norm(config, params, x), cache


def join(cache: Cache, num: int) -> Cache:
  """The cache of groups with `num` texts each, one after the other.

  Args:
    cache: of texts, from `prefill`.
    num: every so many of them become one group.
  """
  if num == 1:
    return cache

  def joined(x, axis):
    x = x.reshape(x.shape[0], -1, num, *x.shape[2:])
    x = jnp.moveaxis(x, 2, axis - 1)
    return x.reshape(*x.shape[: axis - 1], -1, *x.shape[axis + 1 :])

  return {
    name: (joined(key, 5), joined(value, 4))
    for name, (key, value) in cache.items()
  }


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
  num_pairs = config.num_layers // 2

  def pair():
    key = constrain(layout, jnp.zeros(sizes, config.dtype), *axes)
    value = constrain(layout, jnp.zeros_like(key.swapaxes(3, 4)), *axes)
    return {name: (key, value) for name, _ in windows(config)}

  if is_shallow(config):
    return tuple(pair() for _ in range(num_pairs))
  return jax.tree.map(lambda x: jnp.repeat(x[None], num_pairs, axis=0), pair())


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

  def pair(cache):
    return {
      name: (pad(key, key.ndim - 1), pad(value, value.ndim - 2))
      for name, (key, value) in cache.items()
    }

  return (
    pair(suffixes)
    if isinstance(suffixes, dict)
    else (tuple(map(pair, suffixes)))
  )


def unstack(config: TransformerConfig, stacked: PyTree) -> PyTree:
  """What is stacked over pairs of layers, as `decode` wants it.

  Args:
    config: the network's shape.
    stacked: a cache, or `params["layers"]`.

  Returns:
    A tuple over pairs if layers are unrolled, and else `stacked`.
  """
  if not is_shallow(config):
    return stacked
  return tuple(
    jax.tree.map(operator.itemgetter(i), stacked)
    for i in range(config.num_layers // 2)
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
    params: from `transformer.init`, with layers from `unstack`.
    tokens: to add.
    index: how many tokens each suffix has before, less than U.
    place: where in the suffixes' caches all rows put their tokens, in
      0 … U - 1; the one after that of the last call, in a ring.
    prefix_len: how many tokens of its text each row continues.
    offset: where in its group's texts that of each row begins.
    shared: from `prefill`, perhaps `join`, and `unstack`.
    suffixes: from `empty_suffixes` or the last call.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    Logits of the tokens that follow, and the suffixes with these tokens.
  """
  layout = layout and layout.decoding
  unrolled = is_shallow(config)
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
  masks = {}
  for name, window in windows(config):
    near = (distance < window, age < window) if window else (True, True)
    masks[name] = (sees_shared & near[0], sees_own & near[1])

  def grow(suffixes, key, value):
    """Puts keys [..., H] and values at their place in [..., H, U]."""
    put = jax.lax.dynamic_update_slice_in_dim
    return (
      put(suffixes[0], key[..., None], place, axis=key.ndim),
      put(suffixes[1], value[..., None, :], place, axis=value.ndim - 1),
    )

  def pair(x, xs):
    params, shared, suffixes = xs
    kept = {}
    for name, _ in windows(config):

      def mix(query, key, value, name=name):
        new, own = (key, value), suffixes[name]
        added = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if unrolled:
          new, own = None, grow(own, *added)
        gathered = attend_shared(
          query,
          new,
          shared[name],
          own,
          *masks[name],
          scale=config.query_pre_attn_scalar**-0.5,
          softcap=config.attn_softcap,
        )
        return gathered, own if unrolled else added

      x, kept[name] = transformer.Layer(config, layout).apply(
        {"params": params[name]}, x, positions, mix
      )
    return x, kept

  x = embed(config, params, tokens, layout)
  xs = (params["layers"], shared, suffixes)
  if unrolled:
    grown = []
    for of_pair in zip(*xs, strict=True):
      x, own = pair(x, of_pair)
      grown.append(own)
    suffixes = tuple(grown)
  else:
    # A scan would copy what it changes: it gives what is added, for all layers.
    x, added = jax.lax.scan(pair, x, xs)
    suffixes = {name: grow(suffixes[name], *new) for name, new in added.items()}
  x = final_norm(config, params, x)
  return _logits(config, params, x, layout), suffixes


def is_shallow(config: TransformerConfig) -> bool:
  """Whether decoding's layers are unrolled."""
  return config.num_layers <= MAX_UNROLLED


def windows(config: TransformerConfig) -> tuple[tuple[str, int | None], ...]:
  """The layers of a pair, and how many tokens each sees; None for all."""
  return (("local", config.sliding_window), ("global", None))


def embed(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  layout: Layout | None,
) -> Float[Array, "B T D"]:
  """The residual stream before the first layer."""
  x = transformer.Transformer(config).apply(
    {"params": params}, tokens, method="embed"
  )
  return constrain(layout, x, "batch", "length", "residual")


def final_norm(
  config: TransformerConfig, params: dict, x: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  """The trunk's output from the residual stream after its last layer."""
  norm = transformer.RMSNorm(config)
  return norm.apply({"params": params["final_norm"]}, x)


def _logits(config, params: dict, hidden: jax.Array, layout: Layout | None):
  logits = transformer.logits(config, params, hidden)
  return constrain(layout, logits, "sequences", "length", "vocab")
