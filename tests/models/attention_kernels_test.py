"""Kernels beside the plain way, on a CPU: interpreted, or by XLA's form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import attention, attention_kernels, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

SCALE = 0.3
# Not a multiple of the kernel's 128, and more than a block of it.
LENGTH = 200


def texts(rows=1, heads=4, kv_heads=2, size=16):
  rng = np.random.default_rng(0)
  query, key, value = (
    jnp.asarray(rng.normal(size=(rows, LENGTH, n, size)), jnp.float32)
    for n in (heads, kv_heads, kv_heads)
  )
  # Two texts in a row, whose positions begin anew, and what fills it up.
  cuts = np.array([0, 70, 180])
  segments = np.searchsorted(cuts, np.arange(LENGTH), side="right")
  positions = np.arange(LENGTH) - cuts[segments - 1]
  spread = (rows, LENGTH)
  return (
    (query, key, value),
    jnp.broadcast_to(positions, spread),
    jnp.broadcast_to(segments, spread),
  )


def both(window, softcap, layout=None, **sizes):
  """Values gathered and gradients, by the kernel and plainly."""
  arrays, positions, segments = texts(**sizes)
  settings = {"window": window, "scale": SCALE, "softcap": softcap}
  weight = jnp.cos(jnp.arange(arrays[0].size)).reshape(arrays[0].shape)

  def kernel(*arrays):
    return attention_kernels.splash(
      *arrays, segments, layout=layout, interpret=True, **settings
    )

  def plain(*arrays):
    return attention.attend_causal(*arrays, positions, segments, **settings)

  def of(way):
    def loss(*arrays):
      out = way(*arrays)
      return jnp.sum(out * weight), out

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

  return of(kernel), of(plain)


@pytest.mark.parametrize("window, softcap", [(None, None), (30, 2.0)])
def test_splash_attends_as_the_plain_way(window, softcap):
  ((_, out), grads), ((_, want), want_grads) = both(window, softcap)
  np.testing.assert_allclose(out, want, atol=2e-5)
  for got, plain in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, plain, atol=2e-4)


def test_each_device_attends_to_its_rows_and_heads():
  mesh = partitioning.make_mesh(2, 1, 2, devices=jax.devices()[:4])
  ((_, out), grads), ((_, want), want_grads) = both(
    None, None, Layout(mesh), rows=2
  )
  np.testing.assert_allclose(out, want, atol=2e-5)
  for got, plain in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, plain, atol=2e-4)


@pytest.mark.parametrize("window", [None, 30])
def test_cudnns_arguments_mean_the_plain_way(window):
  arrays, _, _ = texts()
  at = jnp.arange(LENGTH)[None]
  settings = {"window": window, "scale": SCALE}
  want = attention.attend_causal(
    *arrays, at, jnp.zeros_like(at), softcap=None, **settings
  )
  got = attention_kernels.cudnn(*arrays, implementation="xla", **settings)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize(
  "platform, softcap, dtype, packed, way",
  [
    ("tpu", 50.0, "float32", True, "splash"),
    ("tpu", None, "bfloat16", False, "splash"),
    ("gpu", None, "bfloat16", False, "cudnn"),
    ("gpu", None, "bfloat16", True, "plain"),
    ("gpu", None, "float32", False, "plain"),
    ("gpu", 50.0, "bfloat16", False, "plain"),
    ("cpu", None, "bfloat16", False, "plain"),
  ],
)
def test_the_platform_chooses(
  monkeypatch, platform, softcap, dtype, packed, way
):
  config = TransformerConfig(
    *(32, 32, 2, 4, 2, 16, 32), attn_softcap=softcap, attention="kernel"
  )
  called = []

  def stand_in(name):
    return lambda query, *_, **__: called.append(name) or query

  monkeypatch.setattr(attention_kernels, "platform", lambda _: platform)
  monkeypatch.setattr(attention_kernels, "splash", stand_in("splash"))
  monkeypatch.setattr(attention_kernels, "cudnn", stand_in("cudnn"))
  monkeypatch.setattr(attention, "attend_causal", stand_in("plain"))
  arrays, positions, segments = texts()
  arrays = tuple(x.astype(dtype) for x in arrays)
  segments = segments if packed else None
  mix = functools.partial(
    attention.mix_causal, config, config.layers[0], positions, segments
  )
  mix()(*arrays)
  assert called == [way]


def test_another_way_is_refused():
  with pytest.raises(
    ValueError, match=r"attention is 'flash', expected one of"
  ):
    TransformerConfig(32, 32, 2, 4, 2, 16, 32, attention="flash")
