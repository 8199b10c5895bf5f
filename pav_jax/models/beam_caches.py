"""Keys and values of beams: who survives keeps its text and its new step.

A cache holds one text for each of G = B · N beams, as `decoding.decode` reads
it; the own caches of candidates hold the new step alone. So sampling C
candidates copies no prefix, and of those that survive each is copied once.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from pav_jax.models import layers
from pav_jax.models.decoding import Cache, Caches
from pav_jax.models.transformer_config import TransformerConfig


def of_beams(
  config: TransformerConfig, cache: Cache, num_beams: int, length: int
) -> Caches:
  """The texts of problems for all their beams, with room for more tokens.

  Args:
    config: the network's shape.
    cache: of B texts, from `decoding.prefill`.
    num_beams: N.
    length: tokens that there is to be room for.
  """

  def wide(x, axis):
    room = [(0, 0)] * x.ndim
    room[axis] = (0, length - x.shape[axis])
    return jnp.repeat(jnp.pad(x, room), num_beams, axis=0)

  cache = layers.map_layers(
    lambda parts: (wide(parts[0], 3), wide(parts[1], 2)), cache
  )
  return layers.unstack(config, cache)


def select(
  texts: Caches,
  own: Caches,
  parent: Int[Array, "B M"],
  candidate: Int[Array, "B M"],
) -> tuple[Caches, Caches]:
  """The texts [B · M] and steps [B · M, 1] of survivors.

  Args:
    texts: of B · N beams.
    own: of their candidates.
    parent: which beam of its problem a survivor continues.
    candidate: which of that beam's candidates it is.
  """
  batch = len(parent)
  rows = jnp.arange(batch)[:, None]

  def take_text(x):
    x = x.reshape(batch, -1, *x.shape[1:])
    return x[rows, parent].reshape(-1, *x.shape[2:])

  def take_step(x):
    x = x.reshape(batch, -1, *x.shape[1:])
    x = x[rows, parent, :, candidate]
    return x.reshape(-1, *x.shape[2:])[:, :, None]

  return (
    layers.map_layers(lambda parts: tuple(map(take_text, parts)), texts),
    layers.map_layers(lambda parts: tuple(map(take_step, parts)), own),
  )


def append(
  texts: Caches,
  own: Caches,
  prefix_len: Int[Array, "G"],
  count: Int[Array, "G"],
) -> Caches:
  """Texts with the first `count` tokens of a step behind their prefix.

  Args:
    texts: of G beams.
    own: of their one row each.
    prefix_len: tokens of the texts.
    count: tokens of the steps.
  """

  def put(text, step, axis):
    """Puts [G, K, 1, …] into [G, K, …], along the last axis or that before."""
    step = step[:, :, 0]
    room, num = text.shape[axis], step.shape[axis]
    at = jnp.arange(room) - prefix_len[:, None]
    inside = (at >= 0) & (at < count[:, None])
    shape = (len(at), 1, 1, room) if axis == -1 else (len(at), 1, room, 1)
    at = jnp.clip(at, 0, num - 1).reshape(shape)
    moved = jnp.take_along_axis(step, at, axis=axis)
    return jnp.where(inside.reshape(shape), moved, text)

  return layers.map_layers(
    lambda text, step: (put(text[0], step[0], -1), put(text[1], step[1], -2)),
    texts,
    own,
  )
