"""Activations with derivatives of their own."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def gated_gelu(
  gate: Float[Array, "*B"], up: Float[Array, "*B"]
) -> Float[Array, "*B"]:
  """`gelu(gate) · up` with the tanh form of GELU (arXiv 1606.08415).

  The backward pass keeps two arrays, the factors of the two tangents, where
  automatic differentiation keeps one for each of a dozen operations.
  """
  return _gelu(gate)[0] * up


@gated_gelu.defjvp
def _gated_gelu_jvp(primals, tangents):
  (gate, up), (gate_dot, up_dot) = primals, tangents
  gelu, slope = _gelu(gate)
  return gelu * up, (slope * up) * gate_dot + gelu * up_dot


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """GELU and its derivative."""
  square = x * x
  tanh = jnp.tanh(_SCALE * x * (1 + _CUBIC * square))
  half = 0.5 * (1 + tanh)
  inner = _SCALE * (1 + 3 * _CUBIC * square)
  return x * half, half + 0.5 * x * (1 - tanh * tanh) * inner
