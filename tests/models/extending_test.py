import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import decoding, extending, layers, transformer
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = TransformerConfig(
  vocab_size=11,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=24,
  sliding_window=3,
  max_length=32,
)


@pytest.fixture(scope="module")
def params():
  shapes = transformer.shapes(CONFIG)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )


@pytest.mark.parametrize("unrolled", [True, False])
def test_blocks_are_read_as_in_one_pass(params, unrolled, monkeypatch):
  """Rows with texts and own tokens of several lengths, two blocks."""
  monkeypatch.setattr(layers, "is_unrolled", lambda config: unrolled)
  groups, rows, room, block = 2, 3, 8, 4
  rng = np.random.default_rng(1)
  texts = rng.integers(11, size=(groups, 6)).astype(np.int32)
  own = rng.integers(11, size=(groups, rows, 2 * block)).astype(np.int32)
  prefix_len = np.array([[6, 2, 4], [1, 5, 3]])
  first = np.array([[4, 1, 3], [2, 4, 0]])  # tokens of the first block

  @jax.jit
  def read(own, first):
    _, cache = decoding.prefill_hidden(
      CONFIG, params, jnp.asarray(texts), jnp.zeros((groups, 1), jnp.int32)
    )
    extend = functools.partial(
      extending.extend,
      CONFIG,
      params | {"layers": layers.unstack(CONFIG, params["layers"])},
      prefix_len=jnp.asarray(prefix_len),
      shared=layers.unstack(CONFIG, cache),
    )
    kept = decoding.empty_suffixes(CONFIG, groups, rows, room)
    hidden, kept = extend(own[..., :block], jnp.zeros_like(first), own=kept)
    # The second block begins where the first one's tokens end, which are
    # followed by others that do not count.
    at = first[..., None] + jnp.arange(block)
    later, _ = extend(jnp.take_along_axis(own, at, -1), first, own=kept)
    return hidden, later

  hidden, later = read(jnp.asarray(own), jnp.asarray(first))
  whole = np.zeros((groups * rows, 16), np.int32)
  for g, r in np.ndindex(groups, rows):
    row = [*texts[g, : prefix_len[g, r]], *own[g, r]]
    whole[g * rows + r, : len(row)] = row
  want = transformer.hidden_states(CONFIG, params, jnp.asarray(whole))
  want = np.asarray(want).reshape(groups, rows, 16, -1)
  for g, r in np.ndindex(groups, rows):
    start, split = prefix_len[g, r], first[g, r]
    for found, begin in (hidden[g, r], start), (later[g, r], start + split):
      np.testing.assert_allclose(
        found, want[g, r, begin : begin + block], atol=2e-5
      )
