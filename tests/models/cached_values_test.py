import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import (
  cached_values,
  layers,
  transformer,
  value_network,
)
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig

TRUNK = TransformerConfig(
  vocab_size=32,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=24,
  sliding_window=3,
)
RNG = np.random.default_rng(0)
TEXTS = RNG.integers(32, size=(2, 6))
LENGTH = jnp.array([6, 4])
STEPS = RNG.integers(32, size=(2, 3, 5))  # of 3 rows of each text


def whole_pass(config, params, group, row):
  """What is read of a text and a row's tokens behind it, in one pass."""
  text = TEXTS[group, : LENGTH[group]]
  tokens = jnp.asarray(np.concatenate([text, STEPS[group, row]]))[None]
  return value_network.hidden_states(config, params, tokens)


@pytest.mark.parametrize("reader_layers", [0, 2])
def test_reading_on_equals_reading_all_at_once(reader_layers):
  config = VerifierConfig(TRUNK, reader_layers)

  def init():
    key = jax.random.key(0)
    return value_network.init(config, transformer.init(TRUNK, key), key)

  params = jax.tree.map(
    lambda x: jnp.asarray(0.3 * RNG.normal(size=x.shape), x.dtype),
    jax.eval_shape(init),
  )

  @jax.jit
  def in_parts(params):
    trunk, read, cache = cached_values.prefill(
      config, params, jnp.asarray(TEXTS), LENGTH
    )
    shared = tuple(map(layers.unstack, cached_values.networks(config), cache))
    own = cached_values.empty(config, 2, 3, 5)
    unstacked = cached_values.unstack(config, params)
    before = jnp.broadcast_to(trunk[:, None], (2, 3, 16))
    blocks = []
    for begin, end in ((0, 2), (2, 5)):
      index = jnp.full((2, 3), begin)
      prefix_len = jnp.broadcast_to(LENGTH[:, None], (2, 3))
      hidden, block, own = cached_values.extend(
        config,
        unstacked,
        jnp.asarray(STEPS[:, :, begin:end]),
        index,
        prefix_len,
        before,
        shared,
        own,
      )
      before = hidden[:, :, -1]
      blocks.append(block)
    return trunk, read, jnp.concatenate(blocks, axis=2), before

  trunk, read, steps, last = in_parts(params)
  for group in range(2):
    for row in range(3):
      hidden, want = whole_pass(config, params, group, row)
      end = int(LENGTH[group])
      np.testing.assert_allclose(trunk[group], hidden[0, end - 1], atol=2e-5)
      np.testing.assert_allclose(read[group], want[0, end - 1], atol=2e-5)
      np.testing.assert_allclose(steps[group, row], want[0, end:], atol=2e-5)
      np.testing.assert_allclose(last[group, row], hidden[0, -1], atol=2e-5)
