import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import (
  heads,
  next_token,
  partitioning,
  transformer,
  value_network,
)
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig

TRUNK = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  sliding_window=3,
)
CONFIG = VerifierConfig(TRUNK, reader_layers=2)
TOKENS = jnp.asarray(np.random.default_rng(2).integers(48, size=(4, 9)))
EVERY = jnp.broadcast_to(jnp.arange(9), (4, 9))

values = jax.jit(value_network.values, static_argnums=0)


def random_like(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), tree
  )


def init(config):
  key = jax.random.key(0)
  return value_network.init(config, transformer.init(config.trunk, key), key)


PARAMS = random_like(value_network.shapes(CONFIG))


def test_a_new_verifier_says_one_half():
  np.testing.assert_array_equal(
    values(CONFIG, init(CONFIG), TOKENS, EVERY), np.zeros((4, 9))
  )


@pytest.mark.parametrize("layers", [0, 2])
def test_shapes_are_those_of_init_and_the_callers_own(layers):
  config = VerifierConfig(TRUNK, layers)
  expected = jax.eval_shape(lambda: init(config))
  for _ in range(2):
    shapes = value_network.shapes(config)
    assert shapes == expected
    shapes["trunk"].clear()
    shapes.get("reader", {}).clear()


def test_without_reader_it_is_a_head_on_the_trunk():
  config = VerifierConfig(TRUNK)
  params = {name: PARAMS[name] for name in ("trunk", "head")}
  assert init(config).keys() == params.keys()
  want = heads.values(TRUNK, params["trunk"], params["head"], TOKENS, EVERY)
  got = value_network.values(config, params, TOKENS, EVERY)
  np.testing.assert_array_equal(got, want)


def test_one_pass_scores_every_prefix_as_if_it_stood_alone():
  together = values(CONFIG, PARAMS, TOKENS, EVERY)
  for length in (1, 4, 7):
    # What follows a prefix is replaced; what is read in it stays.
    alone = TOKENS.at[:, length:].set(7)
    got = values(CONFIG, PARAMS, alone, EVERY)[:, :length]
    np.testing.assert_allclose(got, together[:, :length], atol=2e-6)
    assert not np.allclose(
      values(CONFIG, PARAMS, alone, EVERY)[:, length:], together[:, length:]
    )


def test_surprise_of_a_token():
  # Probabilities 1/2, 1/4, 1/4; entropy 1/2 ln 2 + 1/2 ln 4 = 1.5 ln 2.
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]] * 2)) + 3.0
  ln2 = np.log(2)
  np.testing.assert_allclose(
    value_network.surprise(logits, jnp.array([0, 2])),
    [
      [-ln2 / 4, 0.5, 1.5 * ln2, 0.0],
      [-2 * ln2 / 4, 0.25, 1.5 * ln2, -ln2 / 4],
    ],
    rtol=1e-6,
    atol=1e-7,
  )


def test_surprise_is_of_the_trunks_own_prediction(monkeypatch):
  hidden = transformer.hidden_states(TRUNK, PARAMS["trunk"], TOKENS)
  logits = transformer.apply(TRUNK, PARAMS["trunk"], TOKENS)
  want = value_network.surprise(logits[:, :-1], TOKENS[:, 1:])
  for size in (next_token.MAX_LOGITS, 4 * 3 * 48):  # at once; 3 positions each
    monkeypatch.setattr(next_token, "MAX_LOGITS", size)
    got = value_network.surprise_of_next(
      CONFIG, PARAMS["trunk"], hidden[:, :-1], TOKENS[:, 1:]
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_surprise_passes_no_gradient_to_the_trunk():
  # The reader's residual stream is the trunk's plus what it makes of surprise.
  # Without attention to the former, that is with a stream of surprise alone,
  # nothing of the trunk has a gradient.
  def loss(trunk):
    hidden = transformer.hidden_states(TRUNK, trunk, TOKENS)
    features = value_network.surprise_of_next(
      CONFIG, trunk, hidden[:, :-1], TOKENS[:, 1:]
    )
    hidden = jnp.zeros_like(hidden)[:, 1:]
    return jnp.sum(
      value_network.reader_input(PARAMS["reader"], hidden, features)
    )

  gradient = jax.grad(loss)(PARAMS["trunk"])
  assert all(not np.any(x) for x in jax.tree.leaves(gradient))


def test_a_sharded_verifier_says_the_same():
  layout = Layout(partitioning.make_mesh(data=2, fsdp=2, tensor=2))
  params = jax.device_put(PARAMS, value_network.shardings(CONFIG, layout))
  kernel = params["reader"]["surprise"]["back"]
  assert kernel.addressable_shards[0].data.shape == (32, 12)  # fsdp halves D
  got = jax.jit(
    value_network.values, static_argnums=0, static_argnames="layout"
  )(CONFIG, params, TOKENS, EVERY, layout=layout)
  np.testing.assert_allclose(
    got, values(CONFIG, PARAMS, TOKENS, EVERY), atol=2e-5
  )


def test_a_negative_number_of_layers_is_refused():
  with pytest.raises(ValueError, match="reader_layers is -2, expected >= 0"):
    VerifierConfig(TRUNK, reader_layers=-2)
  with pytest.raises(ValueError, match="there is no reader"):
    VerifierConfig(TRUNK).reader  # noqa: B018


def test_a_readers_last_layer_is_the_last_of_a_period():
  pattern = ("local", "local", "global")
  config = VerifierConfig(dataclasses.replace(TRUNK, pattern=pattern), 2)
  windows = [spec.window for spec in config.reader.layers]
  assert windows == [TRUNK.sliding_window, None]
