import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import heads, transformer, value_network
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers import public
from pav_jax.provers.trace_reader import TraceReader

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "prms"
TOKENS = {"good": 7, "bad": 9}
RNG = np.random.default_rng(0)


def one(reader, source, target, tokens, start, mark):
  """The score of a step of one trace; its tokens fill a row of 16."""
  row = np.zeros((1, 16), np.int32)
  row[0, : len(tokens) - start] = tokens[start:]
  scores = reader.scores(
    *(np.array([x], np.int32) for x in (source, target)),
    row,
    np.array([start], np.int32),
    np.array([[mark]], np.int32),
    room=32,
  )
  return scores[0, 0]


@pytest.mark.parametrize("name", public.FORMATS)
def test_steps_read_one_by_one_score_as_in_one_pass(name):
  options = TOKENS if name in ("plus_minus", "assistant_plus") else {}
  model = public.load(GOLDEN / name, format=name, **options)
  with np.load(GOLDEN / name / "expected.npz") as want:
    tokens, marks, scores = want["tokens"], want["mark"], want["score"]
  reader = model.trace_reader(num_traces=2, max_length=32)
  for row in range(2):
    start = 0
    for mark, want in zip(marks[row], scores[row], strict=True):
      if mark >= 0:
        # What is read for a mark is the token before it in some formats.
        start = min(start, mark + reader.offset)
        got = one(reader, row, row, tokens[row, : mark + 1], start, mark)
        np.testing.assert_allclose(got, want, atol=1e-5)
        start = mark + 1


TRUNK = TransformerConfig(
  vocab_size=32,
  width=16,
  num_layers=3,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=24,
  sliding_window=3,
  max_length=32,
)


@pytest.fixture(scope="module", params=[0, 2])
def ours(request):
  """A verifier that reads surprises or not, and its values of a trace."""
  config = VerifierConfig(TRUNK, request.param)

  def init():
    key = jax.random.key(0)
    return value_network.init(config, transformer.init(TRUNK, key), key)

  params = jax.tree.map(
    lambda x: jnp.asarray(0.3 * RNG.normal(size=x.shape), x.dtype),
    jax.eval_shape(init),
  )
  every = jnp.arange(12)[None]
  values = jax.jit(functools.partial(value_network.values, config))

  def whole(tokens):
    padded = jnp.zeros((1, 12), jnp.int32).at[0, : len(tokens)].set(tokens)
    return np.asarray(jax.nn.sigmoid(values(params, padded, every)))[0]

  make = functools.partial(
    TraceReader, config, params, params["head"], heads.read, max_length=32
  )
  return whole, make


def test_our_verifiers_read_on_and_branch(ours):
  whole, make = ours
  stem = RNG.integers(32, size=5)
  left, right = (np.append(stem, RNG.integers(32, size=4)) for _ in range(2))
  right[7:] = (left[7:] + 1) % 32
  right[5:7] = left[5:7]  # both have 7 tokens in common
  reader = make(num_traces=3)

  def scores(source, target, tokens, start):
    return one(reader, source, target, tokens, start, len(tokens) - 1)

  want = whole(left)
  np.testing.assert_allclose(scores(0, 0, left[:1], 0), want[0], atol=2e-5)
  np.testing.assert_allclose(scores(0, 0, left[:5], 1), want[4], atol=2e-5)
  np.testing.assert_allclose(scores(0, 0, left, 5), want[8], atol=2e-5)
  # Another that leaves it in its middle, and it goes on.
  np.testing.assert_allclose(scores(0, 1, right, 7), whole(right)[8], atol=2e-5)
  longer = np.append(left, [3, 4])
  np.testing.assert_allclose(
    scores(0, 0, longer, 9), whole(longer)[10], atol=2e-5
  )
  assert abs(whole(right)[8] - want[8]) > 1e-3


def test_rows_that_only_fill_up_change_nothing(ours):
  whole, make = ours
  reader = make(num_traces=2)
  tokens = RNG.integers(32, size=8)
  one(reader, 0, 0, tokens, 0, 7)
  one(reader, 0, 2, (tokens + 1) % 32, 0, 7)  # trace 2 is none
  longer = np.append(tokens, 9)
  np.testing.assert_allclose(
    one(reader, 0, 0, longer, 8, 8), whole(longer)[8], atol=2e-5
  )
  reader.forget()
  assert reader.num_bytes > 0
