import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import attention
from pav_jax.models.transformer_config import Rotary


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_a_query_sees_its_segment_up_to_itself():
  # Two packed texts of 2 and 3 tokens; positions begin again in the second.
  positions = jnp.array([[0, 1, 0, 1, 2]])
  segments = jnp.array([[1, 1, 2, 2, 2]])
  mask = attention.visible(positions, positions, segments, segments)
  np.testing.assert_array_equal(
    mask[0].astype(int),
    [
      [1, 0, 0, 0, 0],
      [1, 1, 0, 0, 0],
      [0, 0, 1, 0, 0],
      [0, 0, 1, 1, 0],
      [0, 0, 1, 1, 1],
    ],
  )


def test_a_window_counts_the_query_itself():
  # One query at position 5 and keys at 0 … 6: a window of 3 leaves 3, 4, 5.
  mask = attention.visible(
    jnp.array([[5]]),
    jnp.arange(7)[None],
    jnp.zeros((1, 1), int),
    jnp.zeros((1, 7), int),
    3,
  )
  np.testing.assert_array_equal(mask[0, 0], [0, 0, 0, 1, 1, 1, 0])


def test_rotation_multiplies_complex_numbers():
  # Features i and i + H/2 are one complex number, turned by position · f_i.
  x = np.asarray(normal(1, 3, 2, 8), np.float64)
  positions = np.array([[0, 7, 100]])
  frequency = 1000.0 ** (-np.array([0, 2, 4, 6]) / 8)
  turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(
    1j * positions[:, :, None, None] * frequency
  )
  got = attention.rotate(
    jnp.asarray(x, jnp.float32), jnp.asarray(positions), Rotary(1000.0)
  )
  # Angles up to 100 are known to 100 · 2^-24 in float32.
  np.testing.assert_allclose(got[..., :4], turned.real, atol=5e-5)
  np.testing.assert_allclose(got[..., 4:], turned.imag, atol=5e-5)


def test_products_of_rotated_vectors_know_distances_alone():
  x = normal(1, 2, 1, 8)
  products = []
  for start in (0, 3, 40):
    positions = jnp.array([[start, start + 5]])
    a, b = attention.rotate(x, positions, Rotary())[0, :, 0]
    products.append(a @ b)
  np.testing.assert_allclose(products, products[0], rtol=1e-4, atol=1e-4)


def test_attention_is_a_capped_softmax_head_by_head():
  # Float64 NumPy, one query at a time; 6 heads share 2 keys and values by 3.
  query, key, value = normal(2, 3, 6, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)
  mask = np.random.default_rng(1).random((2, 3, 5)) < 0.5
  mask[..., 0] = True
  got = attention.attend(
    query, key, value, jnp.asarray(mask), scale=3.0, softcap=2.0
  )
  q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
  for b, t, n in np.ndindex(2, 3, 6):
    seen = mask[b, t]
    logits = 2 * np.tanh(3 * k[b, seen, n // 3] @ q[b, t, n] / 2)
    weights = np.exp(logits) / np.exp(logits).sum()
    want = weights @ v[b, seen, n // 3]
    np.testing.assert_allclose(got[b, t, n], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softcap", [2.0, 50.0, 400.0, None])
def test_derivatives_are_those_of_the_plain_formula(softcap):
  """Forward and backward, in float32; a cap of 400 lets exponents be large."""
  size = softcap or 400.0
  query, key, value = normal(2, 3, 4, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)
  query *= size / 2
  tolerance = 1e-5 + 1e-6 * size  # logits are as large, and rounded
  mask = np.random.default_rng(1).random((2, 3, 5)) < 0.5
  mask[..., 0] = True

  def attend(query, key, value):
    return attention.attend(
      query, key, value, jnp.asarray(mask), scale=1.0, softcap=softcap
    )

  def plain(query, key, value):
    key, value = (jnp.repeat(x, 2, axis=2) for x in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key)
    if softcap:
      logits = softcap * jnp.tanh(logits / softcap)
    logits = jnp.where(mask[:, None], logits, -jnp.inf)
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits), value)

  at = (query, key, value)
  tangents = tuple(jnp.roll(x, 1, axis=1) for x in at)
  got, want = (jax.jvp(fn, at, tangents) for fn in (attend, plain))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, 1e-4, tolerance)
  weights = normal(2, 3, 4, 4) + 1.0
  got, want = (jax.vjp(fn, *at)[1](weights) for fn in (attend, plain))
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, 1e-4, tolerance)


def test_unseen_keys_and_values_change_nothing_to_the_last_bit():
  query, key, value = normal(1, 2, 2, 4), normal(1, 4, 1, 4), normal(1, 4, 1, 4)
  mask = jnp.array([[[1, 1, 0, 0], [1, 1, 1, 0]]], bool)
  run = jax.jit(
    lambda k, v: attention.attend(query, k, v, mask, scale=1.0, softcap=50.0)
  )
  got = run(key, value)
  np.testing.assert_array_equal(
    got, run(key.at[:, 3].add(100.0), value.at[:, 3].add(100.0))
  )
  changed = run(key.at[:, 2].add(1.0), value)
  np.testing.assert_array_equal(got[:, 0], changed[:, 0])
  assert (got[:, 1] != changed[:, 1]).any()


def test_softmax_is_in_float32_whatever_the_inputs():
  query, key, value = (
    x.astype(jnp.bfloat16)
    for x in (normal(1, 2, 2, 4), normal(1, 2, 1, 4), normal(1, 2, 1, 4))
  )
  mask = jnp.ones((1, 2, 2), bool)
  jaxpr = jax.make_jaxpr(
    lambda: attention.attend(query, key, value, mask, scale=1.0, softcap=50.0)
  )()
  inner = str(jaxpr)
  assert "f32[1,1,4,2] = exp" in inner
  assert "f32[1,1,4,2] = tanh" in inner
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 5])
def test_blocks_of_queries_attend_as_all_do(window, softcap, monkeypatch):
  """Outputs and gradients of packed rows, of a length that blocks do not fill.

  One row is a text behind padding, the other three texts, some of which lie
  across blocks of four.
  """
  length = 19
  query, key, value = (
    normal(2, length, heads, 4, seed=seed)
    for seed, heads in enumerate((6, 3, 3))
  )
  segments = jnp.array([[0] * 3 + [1] * 16, [1] * 7 + [2] * 3 + [3] * 9])
  positions = jnp.array(
    [[*range(3), *range(16)], [*range(7), *range(3), *range(9)]]
  )

  def attend(query, key, value):
    return attention.attend_causal(
      query,
      key,
      value,
      positions,
      segments,
      window=window,
      scale=1.5,
      softcap=softcap,
    )

  at, weights = (query, key, value), normal(2, length, 6, 4, seed=5)
  want, back = jax.vjp(attend, *at)
  want = (want, *back(weights))
  monkeypatch.setattr(attention, "MAX_WHOLE", 8)
  monkeypatch.setattr(attention, "BLOCK", 4)
  got, back = jax.vjp(attend, *at)
  for x, y in zip((got, *back(weights)), want, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  sizes = [
    x.size
    for eqn in jax.make_jaxpr(attend)(*at).eqns
    for x in (v.aval for v in eqn.outvars)
  ]
  assert max(sizes) < 2 * length * length * 3
