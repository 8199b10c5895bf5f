import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import beam_caches, decoding, layers
from pav_jax.models.transformer_config import TransformerConfig

# A period of two layers, and one more.
CONFIG = TransformerConfig(
  vocab_size=11,
  width=8,
  num_layers=5,
  num_heads=2,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=8,
)
PARENT, CANDIDATE = jnp.array([[1, 1], [0, 1]]), jnp.array([[0, 2], [1, 1]])


def random(*shape, seed):
  """Keys [..., H, S] and values [..., S, H] of a layer."""
  rng = np.random.default_rng(seed)
  key = jnp.asarray(rng.normal(size=shape), jnp.float32)
  return key, jnp.asarray(rng.normal(size=shape), jnp.float32).swapaxes(-1, -2)


def through(texts, steps, of_text):
  """All that a round of a beam search does to caches."""
  beams = beam_caches.of_beams(CONFIG, of_text, 2, 9)
  texts = jax.tree.map(jnp.add, texts, beams)
  texts, step = beam_caches.select(texts, steps, PARENT, CANDIDATE)
  longer = decoding.longer_suffixes(steps, 6)
  joined = decoding.join(texts, 2)
  count, length = jnp.array([3, 1, 0, 2]), jnp.array([4, 6, 2, 5])
  return beam_caches.append(texts, step, length, count), step, longer, joined


def test_stacked_layers_are_treated_as_each_is(monkeypatch):
  texts = [random(4, 2, 4, 9, seed=i) for i in range(5)]
  steps = [random(4, 2, 3, 4, 3, seed=9 + i) for i in range(5)]
  of_text = [random(2, 2, 4, 7, seed=20 + i) for i in range(5)]
  stack = layers.stack(CONFIG, of_text)
  want = through(tuple(texts), tuple(steps), stack)
  monkeypatch.setattr(layers, "is_unrolled", lambda config: False)
  got = through(layers.stack(CONFIG, texts), layers.stack(CONFIG, steps), stack)
  for x, y in zip(got, want, strict=True):
    jax.tree.map(np.testing.assert_array_equal, layers.layers_of(CONFIG, x), y)


@pytest.mark.parametrize("beam", range(4))
def test_a_survivor_has_its_beams_text_and_its_step(beam):
  """By indices, one at a time."""
  texts = random(4, 2, 4, 9, seed=1)
  steps = random(4, 2, 3, 4, 3, seed=2)
  (chosen,), (step,) = beam_caches.select((texts,), (steps,), PARENT, CANDIDATE)
  count, length = np.array([3, 1, 0, 2]), np.array([4, 6, 2, 5])
  ((key, value),) = beam_caches.append(
    (chosen,), (step,), jnp.asarray(length), jnp.asarray(count)
  )
  row, place = divmod(beam, 2)
  source = 2 * row + int(PARENT[row, place])
  candidate = int(CANDIDATE[row, place])
  want = [np.array(x[source]) for x in texts]
  for i in range(count[beam]):
    want[0][:, :, length[beam] + i] = steps[0][source, :, candidate, :, i]
    want[1][:, length[beam] + i] = steps[1][source, :, candidate, i]
  np.testing.assert_array_equal(key[beam], want[0])
  np.testing.assert_array_equal(value[beam], want[1])
