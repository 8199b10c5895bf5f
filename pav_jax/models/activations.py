"""Activations with derivatives of their own."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def gated(
  activation: str, gate: Float[Array, "*B"], up: Float[Array, "*B"]
) -> Float[Array, "*B"]:
  """`f(gate) · up`.

  The backward pass keeps two arrays, the factors of the two tangents, where
  automatic differentiation keeps one for each of a dozen operations.

  Args:
    activation: f: "gelu_tanh", the tanh form of GELU (arXiv 1606.08415), or
      "silu", `x · sigmoid(x)`.
    gate: what f is applied to.
    up: what is multiplied.
  """
  return _FORMS[activation](gate)[0] * up


@gated.defjvp
def _gated_jvp(activation, primals, tangents):
  (gate, up), (gate_dot, up_dot) = primals, tangents
  value, slope = _FORMS[activation](gate)
  return value * up, (slope * up) * gate_dot + value * up_dot


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """GELU and its derivative."""
  square = x * x
  tanh = jnp.tanh(_SCALE * x * (1 + _CUBIC * square))
  half = 0.5 * (1 + tanh)
  inner = _SCALE * (1 + 3 * _CUBIC * square)
  return x * half, half + 0.5 * x * (1 - tanh * tanh) * inner


def _silu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """SiLU and its derivative."""
  sigmoid = jax.nn.sigmoid(x)
  return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))


_FORMS = {"gelu_tanh": _gelu, "silu": _silu}
