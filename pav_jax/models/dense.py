"""Products of activations and kernels."""

import math

import jax
from jaxtyping import Array, Float


def dense(
  x: Float[Array, "..."], kernel: jax.Array, axes: int = 1
) -> jax.Array:
  """Sums over the last axes of `x` and the first ones of a kernel.

  As a product of two matrices. With more axes XLA for CPU takes several times
  as long for the gradient of the kernel.

  Args:
    x: [*B, *I].
    kernel: [*I, *O], taken in `x`'s type.
    axes: how many axes I are.

  Returns:
    [*B, *O].
  """
  batch, inputs = x.shape[:-axes], x.shape[-axes:]
  size = math.prod(inputs)
  matrix = kernel.astype(x.dtype).reshape(size, -1)
  return (x.reshape(-1, size) @ matrix).reshape(*batch, *kernel.shape[axes:])
