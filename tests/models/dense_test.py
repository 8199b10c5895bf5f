import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.dense import dense


@pytest.mark.parametrize(
  ("x", "kernel", "axes", "sums"),
  [
    ((2, 3, 4), (4, 5), 1, "abi,io->abo"),
    ((2, 3, 4), (4, 5, 6), 1, "abi,iop->abop"),
    ((2, 3, 4, 5), (4, 5, 6), 2, "abij,ijo->abo"),
    ((4,), (4, 5), 1, "i,io->o"),
  ],
)
def test_sums_and_their_gradients_are_einsums(x, kernel, axes, sums):
  rng = np.random.default_rng(0)
  x, kernel = (
    jnp.asarray(rng.normal(size=s), jnp.float32) for s in (x, kernel)
  )
  found = dense(x, kernel, axes)
  np.testing.assert_allclose(found, jnp.einsum(sums, x, kernel), 1e-5, 1e-5)

  def gradient(product):
    return jax.grad(lambda x, k: jnp.sum(product(x, k) ** 2), (0, 1))(x, kernel)

  got = gradient(lambda x, k: dense(x, k, axes))
  want = gradient(lambda x, k: jnp.einsum(sums, x, k))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, 1e-4, 1e-4)


def test_the_kernel_is_taken_in_the_type_of_the_activations():
  x, kernel = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.float32)
  assert dense(x, kernel).dtype == jnp.bfloat16
