"""Tokens and steps: which step a token belongs to, sums and spreads.

Here and below `T` counts tokens, `H` steps and `P = H + 1` prefixes. Everything
follows from `prefix_len` (`rollout.Rollout`): the step of 0-based index h owns
the tokens t with `prefix_len[h] <= t < prefix_len[h + 1]`. All functions
compare positions instead of scattering, which suits TPUs, and take arbitrary
leading dimensions, equal in all arguments.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax import checks


def step_index(
  prefix_len: Int[ArrayLike, "*B P"], num_tokens: int
) -> Int[Array, "*B T"]:
  """The step of each token: 0 on the problem, h in 1 … H, H + 1 past the end.

  `step_index[t] = #{h in 0 … H : prefix_len[h] <= t}`. Steps of zero length, as
  those past the end of a response are, own no token.

  Args:
    prefix_len: non-decreasing prefix lengths, in tokens.
    num_tokens: T, the number of positions to label.

  Returns:
    int32 in 0 … H + 1. Numbers steps from 1, as the paper does; subtract 1 for
    an index into an array over steps.

  Raises:
    ValueError: `prefix_len` has no axis of prefixes, or an empty one.
  """
  prefix_len = _checked(prefix_len, num_tokens)
  ended = prefix_len[..., None, :] <= jnp.arange(num_tokens)[:, None]
  return jnp.sum(ended, axis=-1, dtype=jnp.int32)


def step_mask(prefix_len: Int[ArrayLike, "*B P"]) -> Bool[Array, "*B P-1"]:
  """Whether each step exists, that is, whether its prefix grew: bool[..., H].

  Raises:
    ValueError: `prefix_len` has no axis of prefixes, or an empty one.
  """
  prefix_len = _checked(prefix_len)
  return prefix_len[..., 1:] > prefix_len[..., :-1]


def response_mask(
  prefix_len: Int[ArrayLike, "*B P"], num_tokens: int
) -> Bool[Array, "*B T"]:
  """Whether each token belongs to the response, and so to some step.

  Raises:
    ValueError: `prefix_len` has no axis of prefixes, or an empty one.
  """
  prefix_len = _checked(prefix_len, num_tokens)
  position = jnp.arange(num_tokens)
  return (prefix_len[..., :1] <= position) & (position < prefix_len[..., -1:])


def sum_over_steps(
  x: Float[ArrayLike, "*B T"], prefix_len: Int[ArrayLike, "*B P"]
) -> Float[Array, "*B P-1"]:
  """Sums a quantity of tokens over each step: `[..., T] -> [..., H]`.

  With token log-probabilities this is log π(a_h | s_h) (Sec. 2), in nats.
  Tokens outside the response do not enter, whatever they hold (NaN and infinity
  included); a step without tokens sums to 0.

  Args:
    x: one number per token.
    prefix_len: non-decreasing prefix lengths, in tokens.

  Returns:
    The sums, accumulated in float32, in `x`'s dtype.

  Raises:
    ValueError: leading dimensions differ, or `prefix_len` has no prefixes.
  """
  prefix_len = _checked(prefix_len)
  checks.check_shape("x", x, (*prefix_len.shape[:-1], None), "[..., T]")
  _checked(prefix_len, np.shape(x)[-1])
  owned = _owned(prefix_len, np.shape(x)[-1])
  sums = jnp.sum(jnp.where(owned, checks.widen(x)[..., None, :], 0), axis=-1)
  return sums.astype(checks.float_dtype(x))


def spread_over_tokens(
  w: Float[ArrayLike, "*B H"],
  prefix_len: Int[ArrayLike, "*B P"],
  num_tokens: int,
) -> Float[Array, "*B T"]:
  """Gives every token its step's weight: `[..., H] -> [..., T]`.

  The transpose of `sum_over_steps`: `Σ_t spread(w)_t x_t = Σ_h w_h sum(x)_h`.

  Args:
    w: one number per step.
    prefix_len: non-decreasing prefix lengths, in tokens.
    num_tokens: T, the number of tokens to give weights to.

  Returns:
    The weights, in `w`'s dtype; exactly 0 outside the response.

  Raises:
    ValueError: `w` does not have one entry per step, leading dimensions differ,
      or `prefix_len` has no prefixes.
  """
  prefix_len = _checked(prefix_len, num_tokens)
  *batch, num_prefixes = prefix_len.shape
  checks.check_shape("w", w, (*batch, num_prefixes - 1), "[..., H]")
  owned = _owned(prefix_len, num_tokens)
  spread = jnp.sum(jnp.where(owned, checks.widen(w)[..., None], 0), axis=-2)
  return spread.astype(checks.float_dtype(w))


def _owned(prefix_len: Array, num_tokens: int) -> Array:
  """Whether step h owns token t: bool[..., H, T]."""
  position = jnp.arange(num_tokens)
  start, end = prefix_len[..., :-1, None], prefix_len[..., 1:, None]
  return (start <= position) & (position < end)


def _checked(prefix_len: ArrayLike, num_tokens: int | None = None) -> Array:
  """`prefix_len`, refused where what is known of it makes no steps."""
  shape = np.shape(prefix_len)
  if not shape or shape[-1] < 1:
    raise ValueError(
      f"prefix_len has shape {shape}; expected [..., H + 1] with H >= 0"
    )
  array = jnp.asarray(prefix_len)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise ValueError(f"prefix_len has dtype {array.dtype}; expected integers")
  known = checks.concrete_value(prefix_len)
  if known is not None and known.size:
    if known.min() < 0 or (known[..., 1:] < known[..., :-1]).any():
      row = known.reshape(-1, shape[-1])
      wrong = (row[:, :1] < 0).any(-1) | (row[:, 1:] < row[:, :-1]).any(-1)
      raise ValueError(
        f"prefix_len has a row {row[wrong][0].tolist()}; expected numbers of "
        "tokens, none less than the one before it"
      )
    if num_tokens is not None and known.max() > num_tokens:
      raise ValueError(
        f"prefix_len is up to {known.max()}; expected at most {num_tokens}, "
        "the number of tokens"
      )
  return array
