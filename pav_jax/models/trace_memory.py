"""What a verifier has read of some traces, so that it can read on in them.

M traces of up to L tokens each. A trace that goes on costs its new tokens; one
that goes on otherwise from a common beginning costs the tokens from there, and
takes the place of another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import cached_values, layers
from pav_jax.models.decoding import Caches
from pav_jax.models.value_network import VerifierConfig

# Tokens that are read at once: what they see is held for all of them.
BLOCK = 128


class TraceMemory(NamedTuple):
  """What is kept of M traces.

  Attributes:
    caches: keys and values, of each network, as `cached_values.empty` has them.
    trunk: the trunk's output, by which the next token's surprise is measured;
      of no tokens where the verifier has no reader.
  """

  caches: cached_values.Memory
  trunk: Float[Array, "M L D"]


def empty(config: VerifierConfig, num_traces: int, length: int) -> TraceMemory:
  """Memory of traces of which nothing is read yet.

  Args:
    config: the network's shape.
    num_traces: M.
    length: L.
  """
  trunk = config.trunk
  kept = length if config.reader_layers else 0
  return TraceMemory(
    cached_values.empty(config, num_traces, 1, length),
    jnp.zeros((num_traces, kept, trunk.width), trunk.dtype),
  )


def read_on(
  config: VerifierConfig,
  params: dict,
  memory: TraceMemory,
  source: Int[Array, "B"],
  target: Int[Array, "B"],
  tokens: Int[Array, "B T"],
  start: Int[Array, "B"],
  *,
  room: int,
) -> tuple[Float[Array, "B T D"], TraceMemory]:
  """Reads new tokens of some traces behind what is kept of them.

  Sources are looked at before anything is written, so a trace may be both the
  source of one row and the target of another.

  Args:
    config: the network's shape.
    params: as of `cached_values.extend`, layers as `unstack` leaves them.
    memory: of M traces.
    source: the trace whose beginning each row continues, in 0 … M − 1.
    target: the trace that each row becomes, no two alike; M to keep nothing.
    tokens: from `start` on, then anything.
    start: tokens of the beginning; those of the source that follow are
      forgotten.
    room: that is looked at: at least the tokens of the longest row, at most L.

  Returns:
    What the head reads at the new tokens, and the memory with them.
  """
  num, length = tokens.shape
  block = min(BLOCK, length)
  blocks = -(-length // block)
  tokens = jnp.pad(tokens, ((0, 0), (0, blocks * block - length)))
  nothing = tuple(
    layers.map_layers(lambda part: (part[0][:, :, 0], part[1][:, :, 0]), caches)
    for caches in cached_values.empty(config, num, 1, 0)
  )
  no_prefix = jnp.zeros((num, 1), jnp.int32)
  caches = tuple(_taken(caches, source, room) for caches in memory.caches)
  # The token before each row's first; at the first of a text it is not used.
  before = jnp.zeros((num, config.trunk.width), memory.trunk.dtype)
  if config.reader_layers:
    before = memory.trunk[source, jnp.maximum(start - 1, 0)]

  def body(carry, tokens):
    at, before, caches = carry
    trunk, read, caches = cached_values.extend(
      config,
      params,
      tokens[:, None],
      at[:, None],
      no_prefix,
      before[:, None],
      nothing,
      caches,
    )
    trunk, read = trunk[:, 0], read[:, 0]
    kept = trunk if config.reader_layers else trunk[:, :0]
    return (at + block, trunk[:, -1], caches), (kept, read)

  by_block = tokens.reshape(num, blocks, block).swapaxes(0, 1)
  (_, _, caches), (trunk, read) = jax.lax.scan(
    body, (start, before, caches), by_block
  )
  trunk, read = (
    x.swapaxes(0, 1).reshape(num, -1, x.shape[-1]) for x in (trunk, read)
  )
  at = start[:, None] + jnp.arange(trunk.shape[1])
  beginning = memory.trunk[source]
  beginning = beginning.at[jnp.arange(num)[:, None], at].set(trunk, mode="drop")
  kept = TraceMemory(
    tuple(
      _put(old, new, target, room)
      for old, new in zip(memory.caches, caches, strict=True)
    ),
    memory.trunk.at[target].set(beginning, mode="drop"),
  )
  return read[:, :length], kept


def _taken(caches: Caches, source: Int[Array, "B"], room: int) -> Caches:
  """The first tokens of some traces."""
  return layers.map_layers(
    lambda part: (part[0][source, ..., :room], part[1][source, ..., :room, :]),
    caches,
  )


def _put(
  caches: Caches, rows: Caches, target: Int[Array, "B"], room: int
) -> Caches:
  """Traces with the first tokens of some of them replaced."""

  def put(old, new):
    key = old[0].at[target, ..., :room].set(new[0], mode="drop")
    value = old[1].at[target, ..., :room, :].set(new[1], mode="drop")
    return key, value

  return layers.map_layers(put, caches, rows)
