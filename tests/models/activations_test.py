import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.activations import gated

X = jnp.linspace(-12.0, 12.0, 97)
UP = jnp.cos(X)
FORMS = {
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "silu": jax.nn.silu,
}


@pytest.fixture(params=FORMS)
def forms(request):
  """The function, and what it is by automatic differentiation."""
  activation = FORMS[request.param]
  return (
    functools.partial(gated, request.param),
    lambda gate, up: activation(gate) * up,
  )


def test_equals_the_product_of_activation_and_up(forms):
  ours, reference = forms
  np.testing.assert_allclose(ours(X, UP), reference(X, UP), atol=1e-6)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_derivatives_equal_those_of_automatic_differentiation(mode, forms):
  # Natural gradients need both modes of the policy's network.
  def derivatives(fn):
    if mode == "reverse":
      return jax.vjp(fn, X, UP)[1](jnp.sin(X))
    return jax.jvp(fn, (X, UP), (jnp.sin(X), jnp.ones_like(X)))[1:]

  for got, want in zip(*map(derivatives, forms), strict=True):
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_keeps_the_type_of_its_input(forms):
  out = jax.grad(lambda x: forms[0](x, x).astype(jnp.float32).sum())(
    X.astype(jnp.bfloat16)
  )
  assert out.dtype == jnp.bfloat16
