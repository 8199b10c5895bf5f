import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import attention, decoding, layers, transformer
from pav_jax.models.transformer_config import TransformerConfig

# A window of 3, which texts of 9 tokens and suffixes of 5 exceed.
CONFIG = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  sliding_window=3,
  max_length=32,
)

apply = jax.jit(transformer.apply, static_argnums=0)
prefill = jax.jit(decoding.prefill, static_argnums=0)
decode = jax.jit(decoding.decode, static_argnums=0)


@pytest.fixture(scope="module")
def params():
  """Far from the start, where scales are 0 and would hide mistakes."""
  shapes = transformer.shapes(CONFIG)
  rng = np.random.default_rng(0)

  def leaf(path, x):
    std = 0.3 if path[-1].key == "scale" else CONFIG.width**-0.5
    return jnp.asarray(std * rng.normal(size=x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_tokens(*shape, seed=1):
  rng = np.random.default_rng(seed)
  return rng.integers(CONFIG.vocab_size, size=shape).astype(np.int32)


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_prefill_gives_the_full_pass_at_the_tokens_asked_for(params):
  tokens = random_tokens(2, 9)
  at = np.array([[8, 0, 3], [5, 5, 1]], np.int32)
  got, _ = prefill(CONFIG, params, tokens, at)
  want = np.take_along_axis(
    np.asarray(apply(CONFIG, params, tokens)), at[:, :, None], axis=1
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# Four layers are unrolled, or scanned as those of deeper networks.
@pytest.mark.parametrize("unrolled", [True, False])
def test_rows_that_begin_at_different_times_get_the_logits_of_full_passes(
  unrolled, params, monkeypatch
):
  # Two groups of two texts; rows continue prefixes of 9, 2, 4 and of 1, 8, 8
  # tokens, of the first or the second text: shorter and longer than the window.
  # A row of a slot ends after 3 to 7 tokens, when another begins there, so the
  # ring of 7 goes round more than once and holds what others have left.
  texts = random_tokens(2, 2, 9)
  which = np.array([[0, 1, 1], [1, 0, 1]])
  prefix_len = np.array([[9, 2, 4], [1, 8, 8]], np.int32)
  lengths = np.array([[3, 7, 4], [5, 3, 6]])
  num_decodes, ring = 17, 7
  added = random_tokens(2, 3, num_decodes, seed=2)
  index = np.arange(num_decodes) % lengths[..., None]
  _, cache = prefill(CONFIG, params, texts.reshape(4, 9), np.zeros((4, 1), int))
  monkeypatch.setattr(layers, "is_unrolled", lambda config: unrolled)
  shared = layers.unstack(CONFIG, decoding.join(cache, 2))
  unstacked = layers.unstack(CONFIG, params["layers"])
  params_there = {**params, "layers": unstacked}
  own = decoding.empty_suffixes(CONFIG, 2, 3, ring)
  # What a cache holds beyond its tokens is not seen.
  own = jax.tree.map(lambda x: x + 7, own)
  got = []
  for time in range(num_decodes):
    logits, own = decode(
      CONFIG,
      params_there,
      added[:, :, time],
      index[:, :, time].astype(np.int32),
      np.int32(time % ring),
      prefix_len,
      (9 * which).astype(np.int32),
      shared,
      own,
    )
    got.append(logits)
  # A full pass for each token of each slot.
  rows = np.zeros((2, 3, num_decodes, 9 + ring), np.int32)
  last = prefix_len[..., None] + index
  for g, r, time in np.ndindex(2, 3, num_decodes):
    n, i = prefix_len[g, r], index[g, r, time]
    rows[g, r, time, :n] = texts[g, which[g, r], :n]
    rows[g, r, time, n : n + i + 1] = added[g, r, time - i : time + 1]
  want = np.asarray(apply(CONFIG, params, rows.reshape(-1, 9 + ring)))
  want = np.take_along_axis(want, last.reshape(-1, 1, 1), axis=1)
  want = want.reshape(2, 3, num_decodes, -1)
  np.testing.assert_allclose(np.stack(got, axis=2), want, rtol=1e-5, atol=2e-5)


# Exponentials of logits up to 200, unlike those up to 3, overflow unless the
# highest is taken off.
@pytest.mark.parametrize("softcap", [3.0, 200.0, None])
def test_one_softmax_runs_over_shared_and_own_keys(softcap):
  # Beside `attend` on keys that are copied for each row and joined.
  query = normal(2, 3, 4, 8)
  new = normal(2, 3, 2, 8, seed=5), normal(2, 3, 2, 8, seed=6)
  shared = normal(2, 2, 8, 5, seed=1), normal(2, 2, 5, 8, seed=2)
  own = normal(2, 2, 3, 8, 4, seed=3), normal(2, 2, 3, 4, 8, seed=4)
  # The last row sees nothing of what is shared, as when a window has passed.
  seen = np.array([5, 2, 0, 1, 4, 0]).reshape(2, 3, 1)
  shared_mask = jnp.arange(5) < seen
  own_mask = jnp.arange(4) < np.array([4, 0, 1, 2, 3, 4]).reshape(2, 3, 1)
  settings = {"scale": 20.0, "softcap": softcap}
  got = attention.attend_shared(
    query, new, shared, own, shared_mask, own_mask, **settings
  )

  def joined(shared, own, new):
    """Each [G, R, positions, K, H]."""
    shared = jnp.broadcast_to(shared[:, None], (2, 3, *shared.shape[1:]))
    return jnp.concatenate([shared, own, new], axis=2).reshape(6, 10, 2, 8)

  keys = joined(
    shared[0].transpose(0, 3, 1, 2),
    own[0].transpose(0, 2, 4, 1, 3),
    new[0][:, :, None],
  )
  values = joined(
    shared[1].transpose(0, 2, 1, 3),
    own[1].transpose(0, 2, 3, 1, 4),
    new[1][:, :, None],
  )
  mask = jnp.concatenate(
    [shared_mask, own_mask, jnp.ones((2, 3, 1), bool)], axis=2
  )
  want = attention.attend(
    query.reshape(6, 1, 4, 8), keys, values, mask.reshape(6, 1, 10), **settings
  )
  # Logits are known to a few times softcap · 2^-24, and so are values' weights.
  error = 1e-6 * (softcap or 200.0)
  np.testing.assert_allclose(got, want.reshape(got.shape), rtol=0, atol=error)


def test_depth_does_not_enlarge_the_program(monkeypatch):
  monkeypatch.setattr(layers, "is_unrolled", lambda config: False)
  sizes = []
  for num_layers in (4, 8):
    config = dataclasses.replace(CONFIG, num_layers=num_layers)
    shapes = jax.eval_shape(
      functools.partial(transformer.init, config), jax.random.key(0)
    )
    tokens = jax.ShapeDtypeStruct((2, 9), jnp.int32)
    at = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    shared = jax.eval_shape(
      functools.partial(decoding.prefill, config), shapes, tokens, at
    )[1]
    own = decoding.empty_suffixes(config, 2, 3, 5)
    lowered = decode.lower(
      config, shapes, at, at, np.int32(0), at, at, shared, own
    )
    sizes.append(len(lowered.as_text().splitlines()))
  assert sizes[0] == sizes[1]
