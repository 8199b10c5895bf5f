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
from jaxtyping import Array, Float, Int, Key, UInt32


def token_keys(
  key: jax.Array,
  address: Sequence[Int[Array, "*B"]],
  num_tokens: int,
) -> Key[Array, "*B T"]:
  """A key for each token that may be sampled.

  Args:
    key: the run's key.
    address: what identifies each row, outermost first, int32[...] each: the
      problem, which of its samples and, for a completion, which prefix of that
      sample it continues and which completion it is.
    num_tokens: T, positions 0 … T - 1 of the row get a key each.

  Returns:
    Keys [..., T]; entry t depends on the row's address and t alone.
  """
  keys = row_keys(key, address)
  return keys_at(keys[..., None], jnp.arange(num_tokens))


def row_keys(
  key: jax.Array, address: Sequence[Int[Array, "*B"]]
) -> Key[Array, "*B"]:
  """A key for each row, which its address alone decides.

  Args:
    key: the run's key.
    address: as in `token_keys`.
  """
  address = jnp.broadcast_arrays(*address)
  fold = jax.vmap(
    lambda *parts: functools.reduce(jax.random.fold_in, parts, key)
  )
  return fold(*(part.reshape(-1) for part in address)).reshape(address[0].shape)


def keys_at(
  keys: Key[Array, "..."], positions: Int[Array, "..."]
) -> Key[Array, "..."]:
  """A key for a position of each row.

  Args:
    keys: from `row_keys`.
    positions: of tokens in their rows; broadcasts with `keys`.
  """
  shape = jnp.broadcast_shapes(keys.shape, positions.shape)
  keys = jnp.broadcast_to(keys, shape).reshape(-1)
  positions = jnp.broadcast_to(positions, shape).reshape(-1)
  return jax.vmap(jax.random.fold_in)(keys, positions).reshape(shape)


def uniforms(keys: Key[Array, "..."]) -> Float[Array, "..."]:
  """One uniform number in [0, 1) for each key, a multiple of 2^-23."""
  drawn = jax.vmap(jax.random.uniform)(keys.reshape(-1))
  return drawn.reshape(keys.shape)


def categorical(
  keys: Key[Array, "*B"], logits: Float[Array, "*B V"]
) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
  """A draw from softmax(logits) for each key, see `categorical_from_uniform`.

  64 random bits decide it, so that tokens of small probability are drawn as
  often as they should be. The first 23 are those of `uniforms`.

  Args:
    keys: one for each draw.
    logits: float32[..., V]; minus infinity for tokens that cannot be drawn.

  Returns:
    Tokens, in 0 … V - 1, and their log-probabilities, in nats.
  """
  bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))
  words = bits(keys.reshape(-1)).reshape(*keys.shape, 2)
  return categorical_from_uniform(words, logits)


# Tokens whose sums of 21 bits fit into 32.
_BLOCK = 512


def categorical_from_uniform(
  uniform: Float[Array, "*B"] | UInt32[Array, "*B 2"],
  logits: Float[Array, "*B V"],
) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
  """A draw from softmax(logits) by inversion of its distribution function.

  Token t is drawn iff `F_{t−1} <= u < F_t`, where F is a sum of integers, in
  units of about 2^-63: float32 would add nothing to a sum near 1 where tokens
  have less than 2^-25, and in a peaked distribution over 262,144 tokens most
  never came. First a block of 512 tokens is drawn, by sums that float32 rounds
  to 2^-22 of themselves, which is how well it knows `exp`; then a token of it,
  by shares of the block that are not rounded. So only the chosen block is
  looked at more closely, and no token is lost to the rounding of others.

  Args:
    uniform: in [0, 1): float32, or 64 bits after the binary point, the upper 32
      first.
    logits: float32[..., V]; minus infinity for tokens that cannot be drawn.

  Returns:
    Tokens, int32[...] in 0 … V - 1, never one whose probability is 0; and their
    log-probabilities, float32[...].
  """
  if jnp.issubdtype(uniform.dtype, jnp.floating):
    upper = uniform.astype(jnp.float32) * 2**16
    digits = []
    for _ in range(4):
      digits.append(jnp.floor(upper).astype(jnp.uint32))
      upper = (upper - jnp.floor(upper)) * 2**16
    uniform = jnp.stack(_joined(digits[::-1]), axis=-1)
  logits = logits.astype(jnp.float32)
  size = logits.shape[-1]
  width = min(size, _BLOCK)
  most = jnp.max(logits, axis=-1, keepdims=True)
  # Computed on its own: inside a sum, `exp` is several times slower on CPUs.
  share = jax.lax.optimization_barrier(jnp.exp(logits - most))
  share = jnp.pad(share, [(0, 0)] * (share.ndim - 1) + [(0, -size % width)])
  sums = jnp.sum(share.reshape(*share.shape[:-1], -1, width), axis=-1)
  total = jnp.sum(sums, axis=-1, keepdims=True)
  # It becomes a number from 1/2 to 1 by a power of 2, which rounds nothing.
  _, exponent = jnp.frexp(total)
  of_block = _words(*_parts(jnp.ldexp(sums, -exponent)))
  up_to = jax.lax.associative_scan(_add, of_block, axis=-1)
  target = _upper_half(
    (uniform[..., 0], uniform[..., 1]), tuple(x[..., -1] for x in up_to)
  )
  block = _count_up_to(up_to, target)
  before = tuple(
    jnp.where(block > 0, _at(x, jnp.maximum(block, 1) - 1), 0) for x in up_to
  )
  rest = _subtract(target, before)

  place = block[..., None] * width + jnp.arange(width)
  near = jnp.take_along_axis(
    logits, place, axis=-1, mode="fill", fill_value=-jnp.inf
  )
  share = jnp.ldexp(jnp.exp(near - most), -exponent)
  in_block = _words(*(jnp.cumsum(x, -1, jnp.uint32) for x in _parts(share)))
  rest = _stretched(
    rest,
    tuple(_at(x, block) for x in of_block),
    tuple(x[..., -1] for x in in_block),
  )
  last = width - 1 - jnp.argmax(share[..., ::-1] > 0, axis=-1)
  token = jnp.minimum(_count_up_to(in_block, rest), last)
  logp = _at(near, token) - most[..., 0] - jnp.log(total[..., 0])
  return (block * width + token).astype(jnp.int32), logp


# Numbers of 64 bits are pairs of uint32, the upper half first.


def _parts(share):
  """The three digits of 21 bits after the binary point."""
  digits = []
  for _ in range(3):
    share = share * 2**21
    digits.append(jnp.floor(share).astype(jnp.uint32))
    share = share - jnp.floor(share)
  return digits


def _words(first, second, third):
  """Sums of such digits as numbers of 63 bits."""
  nothing = jnp.zeros_like(first)
  upper = _add((first << 10, nothing), (second >> 11, second << 21))
  return _add(upper, (nothing, third))


def _add(a, b):
  lower = a[1] + b[1]
  return a[0] + b[0] + (lower < a[1]).astype(jnp.uint32), lower


def _subtract(a, b):
  return a[0] - b[0] - (a[1] < b[1]).astype(jnp.uint32), a[1] - b[1]


def _stretched(x, old, new):
  """`x · new / old` where `new` is nearly `old`, and `x` is less than it."""
  longer = (new[0] > old[0]) | ((new[0] == old[0]) & (new[1] >= old[1]))
  change = tuple(
    jnp.where(longer, a, b)
    for a, b in zip(_subtract(new, old), _subtract(old, new), strict=True)
  )
  x_float, change, old = (a[0] * 2.0**32 + a[1] for a in (x, change, old))
  change *= x_float / jnp.maximum(old, 1)
  upper = jnp.floor(change / 2.0**32)
  lower = change - upper * 2.0**32
  change = upper.astype(jnp.uint32), lower.astype(jnp.uint32)
  return tuple(
    jnp.where(longer, a, b)
    for a, b in zip(_add(x, change), _subtract(x, change), strict=True)
  )


def _upper_half(a, b):
  """The upper 64 of the 128 bits of a product, from digits of 16 bits."""
  a, b = (
    [word >> shift & 0xFFFF for word in x[::-1] for shift in (0, 16)]
    for x in (a, b)
  )
  columns = [jnp.zeros_like(a[0])] * 8
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      columns[i + j] += x * y & 0xFFFF
      columns[i + j + 1] += x * y >> 16
  for i in range(7):
    columns[i + 1] += columns[i] >> 16
  return _joined([x & 0xFFFF for x in columns[4:]])


def _joined(digits):
  """Two words of four digits of 16 bits, the lowest first."""
  return digits[3] << 16 | digits[2], digits[1] << 16 | digits[0]


def _count_up_to(sums, target):
  """How many of increasing sums [..., N] are at most the target [...]."""
  upper, lower = (x[..., None] for x in target)
  up_to = (sums[0] < upper) | ((sums[0] == upper) & (sums[1] <= lower))
  return jnp.minimum(jnp.sum(up_to, -1, jnp.int32), sums[0].shape[-1] - 1)


def _at(x, index):
  return jnp.take_along_axis(x, index[..., None], axis=-1)[..., 0]
