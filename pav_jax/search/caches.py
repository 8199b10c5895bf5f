"""Keys and values of beams: who survives keeps its text and its new step.

A cache holds one text for each of G = B · N beams, as `decoding.decode` reads
it; the own caches of candidates hold the new step alone. So sampling C
candidates copies no prefix, and of those that survive each is copied once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pav_jax.models import decoding
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
    return jnp.repeat(jnp.pad(x, room), num_beams, axis=1)

  cache = {
    name: (wide(key, 4), wide(value, 3)) for name, (key, value) in cache.items()
  }
  return decoding.unstack(config, cache)


def select(
  config: TransformerConfig,
  texts: Caches,
  own: Caches,
  parent: Int[Array, "B M"],
  candidate: Int[Array, "B M"],
) -> tuple[Caches, Caches]:
  """The texts [B · M] and steps [B · M, 1] of survivors.

  Args:
    config: the network's shape.
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

  return _by_group(config, take_text, texts), _by_group(config, take_step, own)


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
    """[…, S] and […, 1, U] for axis -1, [G, K, S, H] and so on for -2."""
    step = step.reshape(*step.shape[:-3], *step.shape[-2:])
    room, num = text.shape[axis], step.shape[axis]
    at = jnp.arange(room) - prefix_len[:, None]
    inside = (at >= 0) & (at < count[:, None])
    shape = (len(at), 1, 1, room) if axis == -1 else (len(at), 1, room, 1)
    at = jnp.clip(at, 0, num - 1).reshape(shape)
    if text.ndim == 5:
      at = at[None]
    moved = jnp.take_along_axis(step, at, axis=axis)
    return jnp.where(inside.reshape(shape), moved, text)

  def of_pair(texts, own):
    return {
      name: (put(key, own[name][0], -1), put(value, own[name][1], -2))
      for name, (key, value) in texts.items()
    }

  if isinstance(texts, tuple):
    return tuple(map(of_pair, texts, own))
  return of_pair(texts, own)


def _by_group(
  config: TransformerConfig, take: Callable, caches: Caches
) -> Caches:
  """Applies to leaves [G, …]; those of deep networks are stacked over pairs."""
  if not decoding.is_shallow(config):
    take = jax.vmap(take)
  return jax.tree.map(take, caches)
