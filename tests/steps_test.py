import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import steps

# Row 0: a problem of 2 tokens, steps of 3, 1 and 2 tokens, 1 of padding.
# Row 1: a problem of 1 token, a step of 4, then the response has ended.
# Row 2: a problem of 3 tokens and no response at all.
PREFIX_LEN = np.array([[2, 5, 6, 8], [1, 5, 5, 5], [3, 3, 3, 3]], np.int32)
NUM_TOKENS = 9
STEP = np.array(
  [
    [0, 0, 1, 1, 1, 2, 3, 3, 4],
    [0, 1, 1, 1, 1, 4, 4, 4, 4],
    [0, 0, 0, 4, 4, 4, 4, 4, 4],
  ]
)


def test_step_index_by_hand():
  got = steps.step_index(PREFIX_LEN, NUM_TOKENS)
  np.testing.assert_array_equal(got, STEP)
  assert got.dtype == jnp.int32


def test_masks_by_hand():
  np.testing.assert_array_equal(
    steps.step_mask(PREFIX_LEN),
    [[True, True, True], [True, False, False], [False, False, False]],
  )
  np.testing.assert_array_equal(
    steps.response_mask(PREFIX_LEN, NUM_TOKENS), (STEP > 0) & (STEP < 4)
  )


def test_sums_by_hand():
  # Token t holds 2^t, so a sum tells exactly which tokens it took.
  x = jnp.tile(2.0 ** jnp.arange(NUM_TOKENS), (3, 1))
  want = [[4 + 8 + 16, 32, 64 + 128], [2 + 4 + 8 + 16, 0, 0], [0, 0, 0]]
  np.testing.assert_array_equal(steps.sum_over_steps(x, PREFIX_LEN), want)


def test_spread_by_hand():
  w = jnp.array([[10.0, 20, 30], [40, 50, 60], [70, 80, 90]])
  want = [
    [0, 0, 10, 10, 10, 20, 30, 30, 0],
    [0, 40, 40, 40, 40, 0, 0, 0, 0],
    [0] * 9,
  ]
  got = steps.spread_over_tokens(w, PREFIX_LEN, NUM_TOKENS)
  np.testing.assert_array_equal(got, want)


def test_spread_is_the_transpose_of_the_sum():
  # Autodiff transposes the sum; spreading must be the same linear map.
  w = jax.random.normal(jax.random.key(0), (3, 3))
  _, transpose = jax.vjp(
    lambda x: steps.sum_over_steps(x, PREFIX_LEN), jnp.zeros((3, NUM_TOKENS))
  )
  np.testing.assert_array_equal(
    steps.spread_over_tokens(w, PREFIX_LEN, NUM_TOKENS), transpose(w)[0]
  )


def test_masking_equals_cutting_out():
  # Step h's sum is the sum of the slice that prefix_len cuts; what lies outside
  # the response, even NaN and infinity, enters neither values nor gradients.
  x = np.random.default_rng(0).normal(size=(3, NUM_TOKENS)).astype(np.float32)
  cut = [
    [x[b, p[h] : p[h + 1]].sum() for h in range(3)]
    for b, p in enumerate(PREFIX_LEN)
  ]
  poisoned = np.where((STEP == 0) | (STEP == 4), np.nan, x)
  poisoned[0, -1] = -np.inf
  got, vjp = jax.vjp(lambda x: steps.sum_over_steps(x, PREFIX_LEN), poisoned)
  np.testing.assert_allclose(got, cut, rtol=1e-6)
  assert np.isfinite(vjp(jnp.ones((3, 3)))[0]).all()


def test_padding_and_batch_order_change_nothing():
  x = jax.random.normal(jax.random.key(1), (3, NUM_TOKENS))
  sums = steps.sum_over_steps(x, PREFIX_LEN)
  padded = jnp.pad(x, [(0, 0), (0, 5)], constant_values=7.0)
  longer = np.concatenate([PREFIX_LEN, PREFIX_LEN[:, -1:]], axis=1)
  more = steps.sum_over_steps(padded, longer)
  np.testing.assert_array_equal(more[:, :3], sums)
  np.testing.assert_array_equal(more[:, 3], 0)
  order = np.array([2, 0, 1])
  np.testing.assert_array_equal(
    steps.sum_over_steps(x[order], PREFIX_LEN[order]), sums[order]
  )


def test_one_rollout_a_batch_of_batches_and_vmap_agree():
  x = jax.random.normal(jax.random.key(2), (3, NUM_TOKENS))
  sums = steps.sum_over_steps(x, PREFIX_LEN)
  one = steps.sum_over_steps(x[0], PREFIX_LEN[0])
  deep = steps.sum_over_steps(x[:, None], PREFIX_LEN[:, None])
  mapped = jax.jit(jax.vmap(steps.sum_over_steps))(x, PREFIX_LEN)
  np.testing.assert_array_equal(one, sums[0])
  np.testing.assert_array_equal(deep[:, 0], sums)
  np.testing.assert_allclose(mapped, sums, rtol=1e-6)
  np.testing.assert_array_equal(steps.step_index(PREFIX_LEN[0], 9), STEP[0])


def test_bfloat16_sums_are_accumulated_in_float32():
  # 256 is where bfloat16 stops counting by ones: 256 + 1 rounds back to 256.
  x = jnp.ones(512, jnp.bfloat16)
  got = steps.sum_over_steps(x, jnp.array([0, 512]))
  assert got.dtype == jnp.bfloat16
  assert got[0] == 512


def test_no_steps_is_a_legal_number_of_steps():
  prefix_len = jnp.array([[3], [2]])
  np.testing.assert_array_equal(
    steps.step_index(prefix_len, 4), [[0, 0, 0, 1], [0, 0, 1, 1]]
  )
  assert steps.sum_over_steps(jnp.ones((2, 4)), prefix_len).shape == (2, 0)
  spread = steps.spread_over_tokens(jnp.ones((2, 0)), prefix_len, 4)
  np.testing.assert_array_equal(spread, np.zeros((2, 4)))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  "call",
  [
    lambda: steps.step_index(np.int32(3), 4),
    lambda: steps.step_mask(np.zeros((2, 0), np.int32)),
    lambda: steps.sum_over_steps(jnp.ones((1, 9)), PREFIX_LEN),
    lambda: steps.sum_over_steps(jnp.ones(9), PREFIX_LEN),
    lambda: steps.spread_over_tokens(jnp.ones((3, 4)), PREFIX_LEN, 9),
  ],
)
def test_shapes_that_would_broadcast_are_refused(call):
  with pytest.raises(ValueError, match=r"has shape .*expected"):
    call()


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("prefix_len", "message"),
  [
    ([[1, 3, 2]], r"a row \[1, 3, 2\]; expected numbers of tokens, none less"),
    ([[1, 2, 3], [-1, 0, 0]], r"a row \[-1, 0, 0\]"),
    ([[1.0, 2.0, 3.0]], "dtype float32; expected integers"),
    ([[1, 4, 9]], "up to 9; expected at most 5, the number of tokens"),
  ],
)
def test_prefix_lengths_that_make_no_steps_are_refused(prefix_len, message):
  prefix_len = np.array(prefix_len)
  for call in (
    lambda: steps.step_index(prefix_len, 5),
    lambda: steps.response_mask(prefix_len, 5),
    lambda: steps.sum_over_steps(np.zeros((len(prefix_len), 5)), prefix_len),
    lambda: steps.spread_over_tokens(
      np.zeros((len(prefix_len), 2)), prefix_len, 5
    ),
  ):
    with pytest.raises(ValueError, match=message):
      call()
  if "tokens" not in message.split()[-1]:
    with pytest.raises(ValueError, match=message):
      steps.step_mask(prefix_len)
