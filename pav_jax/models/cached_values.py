"""A verifier that keeps what it has read, and reads on behind it.

Trunk and reader each keep keys and values, as `decoding` and `extending` have
them, and the trunk's last output is kept: the next token's surprise is measured
by it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import decoding, extending, layers, value_network
from pav_jax.models.decoding import Caches
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig

# Caches of the trunk and, if there is one, of the reader.
Memory = tuple[Caches, ...]


def prefill(
  config: VerifierConfig,
  params: dict,
  tokens: Int[Array, "G S"],
  length: Int[Array, "G"],
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G D"], Float[Array, "G D"], tuple]:
  """Reads texts.

  Args:
    config: the network's shape.
    params: from `verifier.init`.
    tokens: texts, then anything.
    length: of each, in 1 … S.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    `(trunk, read, caches)`: the trunk's output and what the head reads, both
    after the last token, and the caches as of `decoding.prefill`.
  """
  every = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  trunk, cache = decoding.prefill_hidden(
    config.trunk, params["trunk"], tokens, every, layout=layout
  )
  last = length[:, None] - 1
  of_last = jnp.take_along_axis(trunk, last[..., None], axis=1)[:, 0]
  if not config.reader_layers:
    return of_last, of_last, (cache,)
  features = value_network.surprise_of_next(
    config, params["trunk"], trunk[:, :-1], tokens[:, 1:], layout=layout
  )
  features = jnp.pad(features, ((0, 0), (1, 0), (0, 0)))
  read, reader_cache = decoding.prefill_stream(
    config.reader,
    params["reader"],
    value_network.reader_input(params["reader"], trunk, features),
    last,
    layout=layout,
  )
  return of_last, read[:, 0], (cache, reader_cache)


def empty(
  config: VerifierConfig,
  num_groups: int,
  num_rows: int,
  length: int,
  *,
  layout: Layout | None = None,
) -> Memory:
  """The memory of rows that have read nothing yet, `length` tokens wide."""
  return tuple(
    decoding.empty_suffixes(part, num_groups, num_rows, length, layout=layout)
    for part in networks(config)
  )


def networks(config: VerifierConfig) -> tuple:
  """The shapes of trunk and reader, one for each of a memory's caches."""
  if config.reader_layers:
    return config.trunk, config.reader
  return (config.trunk,)


def extend(
  config: VerifierConfig,
  params: dict,
  tokens: Int[Array, "G R T"],
  index: Int[Array, "G R"],
  prefix_len: Int[Array, "G R"],
  before: Float[Array, "G R D"],
  shared: Memory,
  own: Memory,
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "G R T D"], Float[Array, "G R T D"], Memory]:
  """Reads a block of tokens behind each row.

  Args:
    config: the network's shape.
    params: from `verifier.init`, layers as `unstack` leaves them.
    tokens: to read.
    index: how many own tokens each row has before.
    prefix_len: how many tokens of its group's text it continues.
    before: the trunk's output at the token before the block; anything where
      the block is the first of a text.
    shared: of texts, from `prefill`, each as `layers.unstack` leaves them.
    own: of rows, from `empty` or the last call.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    `(trunk, read, own)`: the trunk's outputs and what the head reads, at the
    new tokens, and the rows' memory with them.
  """
  trunk, of_trunk = extending.extend(
    config.trunk,
    params["trunk"],
    tokens,
    index,
    prefix_len,
    shared[0],
    own[0],
    layout=layout,
  )
  if not config.reader_layers:
    return trunk, trunk, (of_trunk,)
  groups, rows, num, width = trunk.shape
  previous = jnp.concatenate([before[:, :, None], trunk[:, :, :-1]], axis=2)
  is_first = (prefix_len + index)[..., None] + jnp.arange(num) == 0
  features = value_network.surprise_of_next(
    config,
    params["trunk"],
    previous.reshape(groups * rows, num, width),
    tokens.reshape(groups * rows, num),
    layout=layout,
  ).reshape(groups, rows, num, -1)
  features = jnp.where(is_first[..., None], 0, features)
  read, of_reader = extending.extend_stream(
    config.reader,
    params["reader"],
    value_network.reader_input(params["reader"], trunk, features),
    index,
    prefix_len,
    shared[1],
    own[1],
    layout=layout,
  )
  return trunk, read, (of_trunk, of_reader)


def unstack(config: VerifierConfig, params: dict) -> dict:
  """Parameters as `extend` wants them."""

  def unstacked(part, params):
    return params | {"layers": layers.unstack(part, params["layers"])}

  params = params | {"trunk": unstacked(config.trunk, params["trunk"])}
  if config.reader_layers:
    params["reader"] = unstacked(config.reader, params["reader"])
  return params
