"""Addressed random numbers on the host: a hash of who asks, in numpy.

What `randomness` is to sampled tokens this is to problems and demonstrations:
a number depends on its address alone, so any subset, in any order, on any
host, gets the same. Nothing is compiled, and the bits are the same everywhere.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def bits(*address: ArrayLike) -> UInt64[np.ndarray, "..."]:
  """64 bits for each address, uniform and unrelated between addresses.

  Args:
    *address: integers, outermost first; they broadcast against one another.

  Returns:
    uint64[...] of the broadcast shape.
  """
  shape = np.broadcast_shapes(*(np.shape(part) for part in address))
  state = np.zeros(shape or (1,), np.uint64)
  for part in address:
    part = np.atleast_1d(np.asarray(part).astype(np.int64)).view(np.uint64)
    # The product tells (a, b) from (b, a).
    state = _mix(state * _GOLDEN + _mix(part + _GOLDEN))
  return state.reshape(shape)


def uniforms(*address: ArrayLike) -> Float[np.ndarray, "..."]:
  """A number in [0, 1) for each address, float64; arguments as of `bits`."""
  return (bits(*address) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
  """The finaliser of SplitMix64, a bijection of 64 bits."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
