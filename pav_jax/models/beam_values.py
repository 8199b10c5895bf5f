"""A verifier that reads the steps of beams behind their prefix caches.

B problems have N beams each, G = B · N in all; each beam has C candidates for
its next step, whose values are asked for, and few of which survive.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import beam_caches, cached_values, heads
from pav_jax.models.decoding import Caches
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig

# Tokens that are read at once, and for which there is room at least.
BLOCK = 8


class PrefixCache(NamedTuple):
  """What a verifier has read of G beams.

  Attributes:
    caches: keys and values, of each of its networks.
    last: its trunk's output at the last token.
  """

  caches: tuple[Caches, ...]
  last: Float[Array, "G D"]


class StepCache(NamedTuple):
  """What a verifier has read of the steps of candidates.

  Attributes:
    caches: keys and values, of each of its networks.
    last: its trunk's output at their last tokens.
  """

  caches: tuple[Caches, ...]
  last: Float[Array, "G C D"]


def start(
  config: VerifierConfig,
  params: dict,
  prompts: Int[Array, "B S"],
  prompt_len: Int[Array, "B"],
  *,
  num_beams: int,
  length: int,
  layout: Layout | None = None,
) -> tuple[PrefixCache, Float[Array, "B"]]:
  """Reads problems: the cache of all their beams, and the problems' logits.

  Args:
    config: the network's shape.
    params: from `value_network.init`.
    prompts: problems' tokens, then anything.
    prompt_len: how many.
    num_beams: N.
    length: tokens for which the cache has room.
    layout: where arrays lie; None to leave that to the compiler.
  """
  last, read, caches = cached_values.prefill(
    config, params, prompts, prompt_len, layout=layout
  )
  zero = jnp.zeros((len(prompts), 1), jnp.int32)
  logits = heads.read(params["head"], read[:, None], zero)[:, 0]
  caches = tuple(
    beam_caches.of_beams(part, cache, num_beams, length)
    for part, cache in zip(cached_values.networks(config), caches, strict=True)
  )
  return PrefixCache(caches, jnp.repeat(last, num_beams, axis=0)), logits


def read_steps(
  config: VerifierConfig,
  params: dict,
  cache: PrefixCache,
  tokens: Int[Array, "G C U"],
  count: Int[Array, "G C"],
  prefix_len: Int[Array, "G"],
  *,
  layout: Layout | None = None,
) -> tuple[StepCache, Float[Array, "G C"]]:
  """Reads the steps of candidates: what to keep of them, and their logits.

  Args:
    config: the network's shape.
    params: from `value_network.init`.
    cache: of the beams.
    tokens: of candidates.
    count: how many; the logits of those with none mean nothing.
    prefix_len: tokens of the beams.
    layout: where arrays lie; None to leave that to the compiler.
  """
  groups, num, room = tokens.shape
  block = min(BLOCK, room)
  blocks = -(-room // block)
  tokens = jnp.pad(tokens, ((0, 0), (0, 0), (0, blocks * block - room)))
  prefix_len = jnp.broadcast_to(prefix_len[:, None], (groups, num))
  unstacked = cached_values.unstack(config, params)

  def body(carry):
    at, before, last, steps = carry
    trunk, read, steps = cached_values.extend(
      config,
      unstacked,
      jax.lax.dynamic_slice_in_dim(tokens, at, block, axis=2),
      jnp.full((groups, num), at),
      prefix_len,
      before,
      cache.caches,
      steps,
      layout=layout,
    )
    within = count - 1 - at
    here = ((within >= 0) & (within < block))[..., None]
    within = jnp.clip(within, 0, block - 1)[:, :, None, None]
    last = tuple(
      jnp.where(here, jnp.take_along_axis(x, within, axis=2)[:, :, 0], old)
      for x, old in zip((trunk, read), last, strict=True)
    )
    return at + block, trunk[:, :, -1], last, steps

  before = jnp.broadcast_to(
    cache.last[:, None], (groups, num, cache.last.shape[-1])
  )
  empty = cached_values.empty(config, groups, num, room, layout=layout)
  _, _, (trunk, read), steps = jax.lax.while_loop(
    lambda carry: carry[0] < jnp.max(count),
    body,
    (jnp.int32(0), before, (before, before), empty),
  )
  every = jnp.broadcast_to(jnp.arange(num), (groups, num))
  return StepCache(steps, trunk), heads.read(params["head"], read, every)


def keep_steps(
  cache: PrefixCache,
  steps: StepCache,
  parent: Int[Array, "B M"],
  candidate: Int[Array, "B M"],
  prefix_len: Int[Array, "G"],
  count: Int[Array, "G"],
) -> PrefixCache:
  """The cache of survivors.

  Args:
    cache: of the beams before.
    steps: of their candidates, from `read_steps`.
    parent: the beam of its problem that a survivor continues.
    candidate: which of that beam's candidates it is.
    prefix_len: tokens that the survivors had before, G = B · M.
    count: tokens of their steps.
  """
  rows = jnp.arange(len(parent))[:, None]
  caches = []
  for old, new in zip(cache.caches, steps.caches, strict=True):
    old, new = beam_caches.select(old, new, parent, candidate)
    caches.append(beam_caches.append(old, new, prefix_len, count))
  last = steps.last.reshape(len(parent), -1, *steps.last.shape[1:])
  last = last[rows, parent, candidate].reshape(-1, last.shape[-1])
  return PrefixCache(tuple(caches), last)
