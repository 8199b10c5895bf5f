import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import attention, decoding, transformer
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
  shapes = jax.eval_shape(lambda: transformer.init(CONFIG, jax.random.key(0)))
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


# Suffixes of 20 are read in parts of 16, and of the rest.
@pytest.mark.parametrize("length", [5, 20])
def test_decoding_gives_the_logits_of_full_passes(length, params):
  # Two texts; rows continue prefixes of 9, 2 and 4 and of 1, 8 and 8 tokens:
  # shorter and longer than the window, and suffixes that outgrow it.
  texts = random_tokens(2, 9)
  prefix_len = np.array([[9, 2, 4], [1, 8, 8]], np.int32)
  suffixes = random_tokens(2, 3, length, seed=2)
  _, shared = prefill(CONFIG, params, texts, prefix_len - 1)
  own = decoding.empty_suffixes(CONFIG, 2, 3, length)
  # What a cache holds beyond its tokens is not seen.
  own = jax.tree.map(lambda x: x + 7, own)
  got = []
  for index in range(length):
    logits, own = decode(
      CONFIG,
      params,
      suffixes[:, :, index],
      np.int32(index),
      prefix_len,
      shared,
      own,
    )
    got.append(logits)
  rows = np.zeros((2, 3, 9 + length), np.int32)
  for g, r in np.ndindex(2, 3):
    n = prefix_len[g, r]
    rows[g, r, :n] = texts[g, :n]
    rows[g, r, n : n + length] = suffixes[g, r]
  want = np.asarray(apply(CONFIG, params, rows.reshape(6, -1)))
  want = want.reshape(2, 3, 9 + length, -1)
  for g, r in np.ndindex(2, 3):
    n = prefix_len[g, r]
    np.testing.assert_allclose(
      np.stack(got)[:, g, r], want[g, r, n : n + length], rtol=1e-5, atol=2e-5
    )


def test_one_softmax_runs_over_shared_and_own_keys():
  # Beside `attend` on keys that are copied for each row and joined.
  query = normal(2, 3, 4, 8)
  shared = normal(2, 2, 5, 8, seed=1), normal(2, 2, 5, 8, seed=2)
  own = normal(2, 3, 2, 4, 8, seed=3), normal(2, 3, 2, 4, 8, seed=4)
  # The last row sees nothing of what is shared, as when a window has passed.
  seen = np.array([5, 2, 0, 1, 4, 0]).reshape(2, 3, 1)
  shared_mask = jnp.arange(5) < seen
  own_mask = jnp.array([False, True, True, False])
  settings = {"scale": 2.0, "softcap": 3.0}
  got = attention.attend_shared(
    query, shared, own, shared_mask, own_mask, **settings
  )

  def joined(shared, own):
    copies = jnp.broadcast_to(shared[:, None], (2, 3, *shared.shape[1:]))
    keys = jnp.concatenate([copies, own], axis=3).reshape(6, 2, 9, 8)
    return keys.swapaxes(1, 2)

  mask = jnp.concatenate(
    [shared_mask, jnp.broadcast_to(own_mask, (2, 3, 4))], axis=2
  )
  want = attention.attend(
    query.reshape(6, 1, 4, 8),
    joined(shared[0], own[0]),
    joined(shared[1], own[1]),
    mask.reshape(6, 1, 9),
    **settings,
  )
  np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-5, atol=1e-6)


def test_depth_does_not_enlarge_the_program():
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
    lowered = decode.lower(config, shapes, at, np.int32(0), at, shared, own)
    sizes.append(len(lowered.as_text().splitlines()))
  assert sizes[0] == sizes[1]
