"""Reading several tokens at once behind kept keys and values.

What `decoding.decode` does for one token of every row, for a block of them: a
verifier that has read a prefix reads a step behind it. G groups of R rows with
T new tokens each. Rows continue their group's text, as far as it goes for them,
and what they have added themselves, which lies in order: entry u of the own
cache is the row's token u.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax.models import decoding, layers, transformer
from pav_jax.models.attention import scaled
from pav_jax.models.decoding import Caches
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig


def extend(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G R T"],
  index: Int[Array, "G R"],
  prefix_len: Int[Array, "G R"],
  shared: Caches,
  own: Caches,
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G R T D"], Caches]:
  """Adds a block of tokens to every row.

  A token sees its text's prefix, the row's own tokens before it, and itself. So
  what follows a row's last token, if rows are not equally long, changes nothing
  that is before it, and the next block may overwrite it.

  Args:
    config: the network's shape.
    params: from `transformer.init`, with layers from `layers.unstack`.
    tokens: to add.
    index: how many own tokens each row has before.
    prefix_len: how many tokens of its group's text it continues.
    shared: keys and values of texts, as of `decoding.decode`.
    own: of rows, from `decoding.empty_suffixes` or the last call. What has no
      room there is read and not kept.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    The trunk's output at the new tokens, after its last norm, and the rows with
    these tokens.
  """
  layout = layout and layout.decoding
  groups, rows, num = tokens.shape
  flat = tokens.reshape(groups, rows * num)
  x = transformer.embed(config, params, flat, layout=layout)
  return extend_stream(
    config,
    params,
    x.reshape(groups, rows, num, -1),
    index,
    prefix_len,
    shared,
    own,
    layout=layout,
  )


def extend_stream(
  config: TransformerConfig,
  params: dict,
  x: Float[Array, "G R T D"],
  index: Int[Array, "G R"],
  prefix_len: Int[Array, "G R"],
  shared: Caches,
  own: Caches,
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G R T D"], Caches]:
  """`extend` from the residual stream before the first layer.

  Args:
    config: the network's shape.
    params: the network's; the embedding is not read.
    x: the stream at the new tokens.
    index: tokens that each row has had behind its prefix, see `extend`.
    prefix_len: tokens of each row's prefix, see `extend`.
    shared: caches of the groups' prefixes.
    own: caches of what each row has had behind its prefix.
    layout: where arrays lie; None to leave that to the compiler.
  """
  layout = layout and layout.decoding
  groups, rows, num = x.shape[:3]
  length, room = (jax.tree.leaves(x)[0].shape[-1] for x in (shared, own))
  at = index[:, :, None] + jnp.arange(num)
  position = prefix_len[:, :, None] + at
  key_position = jnp.arange(length)
  sees_shared = key_position < prefix_len[:, :, None, None]
  distance = position[..., None] - key_position
  age = at[..., None] - jnp.arange(room)
  masks = decoding.window_masks(
    config,
    (jnp.broadcast_to(sees_shared, distance.shape), distance),
    (age >= 0, age),
  )
  flat = position.reshape(groups, rows * num)

  def body(spec, x, params, shared, own):
    def mix(query, key, value):
      block = (
        _by_row(key, rows).transpose(0, 3, 1, 4, 2),
        _by_row(value, rows).transpose(0, 3, 1, 2, 4),
      )
      grown = tuple(
        _insert(old, new, index, axis)
        for old, new, axis in zip(own, block, (-1, -2), strict=True)
      )
      gathered = attend_blocks(
        _by_row(query, rows),
        shared,
        grown,
        *masks[spec.window],
        scale=config.query_pre_attn_scalar**-0.5,
        softcap=config.attn_softcap,
      )
      return gathered.reshape(query.shape), grown

    return layers.Layer(config, spec, layout).apply(
      {"params": params}, x, flat, mix
    )

  x = x.reshape(groups, rows * num, -1)
  x, own = layers.run(config, x, body, params["layers"], shared, own)
  x = layers.final_norm(config, params, x)
  return x.reshape(groups, rows, num, -1), own


def attend_blocks(
  query: Float[Array, "G R T N H"],
  shared: tuple[Float[Array, "G K H S"], Float[Array, "G K S H"]],
  own: tuple[Float[Array, "G K R H U"], Float[Array, "G K R U H"]],
  shared_mask: Bool[Array, "G R T S"],
  own_mask: Bool[Array, "G R T U"],
  *,
  scale: float,
  softcap: float | None,
) -> Float[Array, "G R T N H"]:
  """`attention.attend_shared` for several queries of a row.

  Args:
    query: rotated.
    shared: keys, rotated, and values of the group.
    own: keys, rotated, and values of the row, its queries' own tokens among
      them.
    shared_mask: True where a query sees a key of its group.
    own_mask: True where it sees a key of its row.
    scale: products are multiplied by it.
    softcap: as of `attention.attend`.
  """
  kv_heads = own[0].shape[1]
  split = query.reshape(*query.shape[:3], kv_heads, -1, query.shape[-1])

  def weigh(logits, mask):
    logits = scaled(logits, scale, softcap)
    # [G, R, T, S] to [G, K, R, T, Q, S].
    return jnp.where(
      mask[:, None, :, :, None], logits, jnp.finfo(jnp.float32).min
    )

  to_shared = jnp.einsum(
    "grtkqh,gkhs->gkrtqs", split, shared[0], preferred_element_type=jnp.float32
  )
  to_own = jnp.einsum(
    "grtkqh,gkrhu->gkrtqu", split, own[0], preferred_element_type=jnp.float32
  )
  logits = jnp.concatenate(
    [weigh(to_shared, shared_mask), weigh(to_own, own_mask)], axis=-1
  )
  weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
  length = shared[0].shape[-1]
  out = jnp.einsum("gkrtqs,gksh->grtkqh", weights[..., :length], shared[1])
  out += jnp.einsum("gkrtqu,gkruh->grtkqh", weights[..., length:], own[1])
  return out.reshape(query.shape)


def _by_row(x: Array, rows: int) -> Array:
  """[G, R·T, N, H] to [G, R, T, N, H]."""
  return x.reshape(x.shape[0], rows, -1, *x.shape[2:])


def _insert(old: Array, block: Array, index: Array, axis: int) -> Array:
  """Puts a block [G, K, R, …] at each row's place along an axis."""
  room, num = old.shape[axis], block.shape[axis]
  at = jnp.arange(room) - index[:, :, None]
  inside = (at >= 0) & (at < num)
  at, inside = (
    jnp.expand_dims(x[:, None], 3 if axis == -1 else 4) for x in (at, inside)
  )
  at = jnp.clip(at, 0, num - 1)
  return jnp.where(inside, jnp.take_along_axis(block, at, axis=axis), old)
