import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import growing, partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  sliding_window=4,
  max_length=16,
)
PARAMS = transformer.init(CONFIG, jax.random.key(0))
TOKENS = jax.random.randint(jax.random.key(1), (2, 9), 0, 24)


def grown(num_layers=6, **kwargs):
  return growing.grow(CONFIG, PARAMS, num_layers, jax.random.key(2), **kwargs)


def test_a_deeper_network_computes_the_same_bits():
  config, params = grown()
  assert config == dataclasses.replace(CONFIG, num_layers=6)
  shapes = transformer.shapes(config)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  logits = jax.jit(transformer.apply, static_argnums=0)
  np.testing.assert_array_equal(
    logits(config, params, TOKENS), logits(CONFIG, PARAMS, TOKENS)
  )


def test_all_of_the_new_layers_learns():
  config, params = grown()

  @jax.jit
  @jax.grad
  def gradient(params):
    logits = transformer.apply(config, params, TOKENS)
    return -jax.nn.log_softmax(logits)[..., 3].mean()

  # Scales of −1 hide kernels from the first gradient; once they have moved,
  # every parameter of the new pair has one.
  first = gradient(params)
  moved = jax.tree.map(lambda x, g: x - 0.1 * g, params, first)
  for layer in gradient(moved)["layers"].values():
    for path, leaf in jax.tree_util.tree_leaves_with_path(layer):
      assert np.abs(leaf[2]).max() > 1e-8, path
  scales = first["layers"]["local"]["post_mlp_norm"]["scale"]
  assert np.abs(scales[2]).max() > 1e-6


def test_lies_as_the_layout_says():
  layout = Layout(partitioning.make_mesh(data=2, fsdp=2, tensor=2))
  _, params = grown(layout=layout)
  gate = params["layers"]["local"]["mlp"]["gate"]
  assert gate.shape[0] == 3
  assert gate.addressable_shards[0].data.size == gate.size // 4
  plain = grown()[1]["layers"]["local"]["mlp"]["gate"]
  np.testing.assert_array_equal(gate, plain)


def test_as_many_layers_as_there_are_is_the_network_itself():
  assert grown(4) == (CONFIG, PARAMS)


def test_fewer_layers_are_refused():
  with pytest.raises(ValueError, match="num_layers is 2, expected at least 4"):
    grown(2)
