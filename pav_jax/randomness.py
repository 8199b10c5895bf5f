"""Randomness that is addressed, not consumed.

The random number behind a sampled token is a function of the run's key, the
problem, the sample, the prefix it continues and the token's position, and of
nothing else. So a rollout does not depend on which rows share its batch, on
padding, on the number of hosts, or on where a run was interrupted.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def token_uniforms(
  key: jax.Array,
  address: Sequence[Int[Array, "*B"]],
  num_tokens: int,
) -> Float[Array, "*B T"]:
  """One uniform number in [0, 1) for each token that may be sampled.

  Args:
    key: the run's key.
    address: what identifies each row, outermost first, int32[...] each: the
      problem, which of its samples and, for a completion, which prefix of that
      sample it continues and which completion it is.
    num_tokens: T, positions 0 … T - 1 of the row get a number each.

  Returns:
    float32[..., T]; entry t depends on the row's address and t alone.
  """
  keys = row_keys(key, address)
  return uniforms_at(keys[..., None], jnp.arange(num_tokens))


def row_keys(
  key: jax.Array, address: Sequence[Int[Array, "*B"]]
) -> Key[Array, "*B"]:
  """A key for each row, which its address alone decides.

  Args:
    key: the run's key.
    address: as in `token_uniforms`.
  """
  address = jnp.broadcast_arrays(*address)
  fold = jax.vmap(
    lambda *parts: functools.reduce(jax.random.fold_in, parts, key)
  )
  return fold(*(part.reshape(-1) for part in address)).reshape(address[0].shape)


def uniforms_at(
  keys: Key[Array, "..."], positions: Int[Array, "..."]
) -> Float[Array, "..."]:
  """One uniform number in [0, 1) for a position of each row.

  Args:
    keys: from `row_keys`.
    positions: of tokens in their rows; broadcasts with `keys`.
  """
  shape = jnp.broadcast_shapes(keys.shape, positions.shape)
  keys = jnp.broadcast_to(keys, shape).reshape(-1)
  positions = jnp.broadcast_to(positions, shape).reshape(-1)
  keys = jax.vmap(jax.random.fold_in)(keys, positions)
  return jax.vmap(jax.random.uniform)(keys).reshape(shape)


def categorical_from_uniform(
  uniform: Float[Array, "*B"], logits: Float[Array, "*B V"]
) -> Int[Array, "*B"]:
  """A draw from softmax(logits) by inversion of its distribution function.

  Args:
    uniform: float32[...], in [0, 1).
    logits: float32[..., V]; minus infinity for tokens that cannot be drawn.

  Returns:
    int32[...] in 0 … V - 1, never a token whose probability is 0.
  """
  probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  # Sums over long axes are associated as a tree: rounding may make them grow
  # at a token of probability 0, or shrink. So only possible tokens count.
  cumulative = jnp.where(probs > 0, jnp.cumsum(probs, axis=-1), 0)
  total = jnp.max(cumulative, axis=-1, keepdims=True)
  beyond = cumulative > uniform[..., None] * total
  tokens = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  return jnp.min(jnp.where(beyond, tokens, tokens[-1]), axis=-1)
