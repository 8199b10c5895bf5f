import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.activations import gated_gelu

X = jnp.linspace(-12.0, 12.0, 97)
UP = jnp.cos(X)


def reference(gate, up):
  return jax.nn.gelu(gate, approximate=True) * up


def test_equals_the_product_of_gelu_and_up():
  np.testing.assert_allclose(gated_gelu(X, UP), reference(X, UP), atol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_derivatives_equal_those_of_automatic_differentiation(mode):
  # Natural gradients need both modes of the policy's network.
  def derivatives(fn):
    if mode == "reverse":
      return jax.vjp(fn, X, UP)[1](jnp.sin(X))
    return jax.jvp(fn, (X, UP), (jnp.sin(X), jnp.ones_like(X)))[1:]

  for ours, theirs in zip(
    derivatives(gated_gelu), derivatives(reference), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_keeps_the_type_of_its_input():
  out = jax.grad(lambda x: gated_gelu(x, x).astype(jnp.float32).sum())(
    X.astype(jnp.bfloat16)
  )
  assert out.dtype == jnp.bfloat16
