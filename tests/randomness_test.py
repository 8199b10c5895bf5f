import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pav_jax import randomness


@jax.jit
def categorical(keys, logits):
  return randomness.categorical(keys, logits)[0]


@jax.jit
def categorical_from_uniform(uniform, logits):
  return randomness.categorical_from_uniform(uniform, logits)[0]


KEY = jax.random.key(7)
LARGEST = np.nextafter(np.float32(1), np.float32(0))


@functools.partial(jax.jit, static_argnums=2)
def token_uniforms(key, address, num_tokens):
  """A number in [0, 1) drawn with each token's key."""
  return randomness.uniforms(randomness.token_keys(key, address, num_tokens))


def test_a_key_is_the_run_key_folded_with_address_and_position():
  # The documented derivation, one fold at a time.
  got = token_uniforms(KEY, (jnp.array([5]), jnp.array([2])), 4)
  row = jax.random.fold_in(jax.random.fold_in(KEY, 5), 2)
  want = [jax.random.uniform(jax.random.fold_in(row, t)) for t in range(4)]
  np.testing.assert_array_equal(got[0], want)


def test_numbers_depend_on_address_and_position_alone():
  problem, sample = np.array([[0, 0, 1, 4], [0, 1, 0, 9]], np.int32)
  whole = np.asarray(token_uniforms(KEY, (problem, sample), 6))
  # Order of rows, fewer rows, fewer tokens, another shape of batch.
  order = np.array([2, 0, 3, 1])
  mixed = token_uniforms(KEY, (problem[order], sample[order]), 6)
  np.testing.assert_array_equal(mixed, whole[order])
  fewer = token_uniforms(KEY, (problem[3:], sample[3:]), 3)
  np.testing.assert_array_equal(fewer, whole[3:, :3])
  square = (problem.reshape(2, 2), sample.reshape(2, 2))
  np.testing.assert_array_equal(
    token_uniforms(KEY, square, 6), whole.reshape(2, 2, 6)
  )
  np.testing.assert_array_equal(
    token_uniforms(KEY, (problem[3], sample[3]), 6), whole[3]
  )
  mapped = jax.vmap(lambda p, s: token_uniforms(KEY, (p, s), 6))
  np.testing.assert_array_equal(mapped(problem, sample), whole)


def test_different_addresses_get_different_numbers_whatever_their_depth():
  # 64 rows of 8 numbers among 2^23: two of the 512 numbers may coincide by
  # chance, but no two rows in even two positions.
  a, b = np.indices((4, 4), np.int32).reshape(2, -1)
  rows = [token_uniforms(KEY, (a, b), 8)]
  rows += [token_uniforms(KEY, (a, b, np.full_like(a, c)), 8) for c in (0, 2)]
  rows += [token_uniforms(jax.random.key(8), (a, b), 8)]
  rows = np.concatenate(rows)
  same = (rows[:, None] == rows[None]).sum(-1)
  assert same[~np.eye(len(rows), dtype=bool)].max() <= 1
  assert len(np.unique(rows)) > rows.size - 5


def test_numbers_are_uniform():
  u = np.asarray(
    token_uniforms(KEY, (np.zeros(2000, np.int32), np.arange(2000)), 5)
  )
  assert (u >= 0).all()
  assert (u < 1).all()
  # Standard deviation of a uniform number is 1/√12, of a mean of n 1/√(12 n).
  assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size)
  # Positions and neighbouring rows are uncorrelated: the mean of the product
  # of two centred uniforms has standard deviation 1 / (12 √n).
  centred = u - 0.5
  for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
    assert abs(product.mean()) < 4 / (12 * np.sqrt(product.size))


def test_inversion_by_hand():
  # Probabilities 1/2, 1/8, 3/8: boundaries 0.5 and 0.625, exact in binary.
  logits = np.log([4.0, 1.0, 3.0]).astype(np.float32)
  cases = {0.0: 0, 0.499: 0, 0.501: 1, 0.624: 1, 0.626: 2, LARGEST: 2}
  uniform = np.array(list(cases), np.float32)
  got = categorical_from_uniform(uniform, np.tile(logits, (6, 1)))
  np.testing.assert_array_equal(got, list(cases.values()))
  assert got.dtype == jnp.int32


@pytest.mark.parametrize("vocab", [2, 15, 1000])
def test_a_grid_of_uniforms_hits_every_token_in_proportion(vocab):
  # n equidistant numbers put n·p ± 1 into an interval of length p; rounding of
  # the boundaries moves at most n·V·2^-24 more.
  n = 4096
  logits = 2 * np.random.default_rng(0).normal(size=vocab).astype(np.float32)
  uniform = ((np.arange(n) + 0.5) / n).astype(np.float32)
  tokens = categorical_from_uniform(uniform, np.tile(logits, (n, 1)))
  counts = np.bincount(tokens, minlength=vocab)
  p = np.exp(logits.astype(np.float64))
  slack = 1 + n * vocab * 2.0**-24
  assert np.abs(counts - n * p / p.sum()).max() <= slack
  assert (np.diff(tokens) >= 0).all()


@pytest.mark.parametrize(
  "possible", [[0], [4], [2], [1, 2], [0, 4], [0, 1, 2, 3, 4]]
)
def test_impossible_tokens_are_never_drawn_at_the_ends(possible):
  # The ends of [0, 1) belong to the first and the last possible token.
  logits = np.full((3, 5), -np.inf, np.float32)
  logits[:, possible] = 0.3
  uniform = np.array([0.0, LARGEST, 0.5], np.float32)
  first, last, any_other = categorical_from_uniform(uniform, logits)
  assert (first, last) == (possible[0], possible[-1])
  assert any_other in possible


def test_impossible_tokens_are_not_drawn_by_rounding_of_long_sums():
  # A tree of additions gives neighbouring prefix sums different roundings, so
  # that they may differ where the token between them has probability 0. Every
  # float32 that is such a sum, and its neighbours, is tried as the uniform.
  rng = np.random.default_rng(0)
  logits = rng.normal(size=1000).astype(np.float32)
  impossible = rng.random(1000) < 0.5
  logits[impossible] = -np.inf
  cumulative = jax.jit(lambda x: jnp.cumsum(jax.nn.softmax(x)))
  sums = np.asarray(cumulative(logits))
  u = np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, 2)])
  u = u[u < 1].astype(np.float32)
  drawn = categorical_from_uniform(u, np.tile(logits, (len(u), 1)))
  assert not impossible[np.asarray(drawn)].any()
  assert len(np.unique(drawn)) > 400


def test_draws_do_not_depend_on_the_batch_and_bfloat16_is_widened():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(2, 3, 6)).astype(jnp.bfloat16)
  uniform = rng.random(size=(2, 3)).astype(np.float32)
  got = categorical_from_uniform(uniform, logits)
  wide = logits.astype(np.float32)
  for index in np.ndindex(2, 3):
    assert got[index] == categorical_from_uniform(uniform[index], wide[index])


def test_a_key_draws_what_its_64_bits_do():
  # And so what 23 of them do, but between two of its numbers.
  logits = jax.random.normal(KEY, (200, 50))
  keys = jax.random.split(jax.random.key(5), 200)
  bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
  got = categorical(keys, logits)
  np.testing.assert_array_equal(got, categorical_from_uniform(bits, logits))
  uniform = randomness.uniforms(keys)
  upper = np.asarray(bits[:, 0], np.float64) / 2**32
  np.testing.assert_allclose(upper, uniform, rtol=0, atol=2**-23)
  np.testing.assert_array_equal(got, categorical_from_uniform(uniform, logits))


def test_bits_after_the_point_are_the_float_they_spell():
  # u = 5/8 is 0.101 in binary; and 2^-33 is below all of the upper word.
  logits = np.log([4.0, 1.0, 3.0]).astype(np.float32)
  floats = np.array([0.0, 0.625, 0.375, LARGEST, 2.0**-33], np.float32)
  words = [[0, 0], [5 << 29, 0], [3 << 29, 0], [0xFFFFFF00, 0], [0, 1 << 31]]
  np.testing.assert_array_equal(
    categorical_from_uniform(
      np.array(words, np.uint32), np.tile(logits, (5, 1))
    ),
    categorical_from_uniform(floats, np.tile(logits, (5, 1))),
  )


def middles(logits):
  """The middle of each token's interval of the exact F, 64 bits in two words.

  In Python's integers: probabilities to 2^-52 of the largest.
  """
  weights = np.exp(np.float64(logits) - np.float64(logits).max()) * 2**52
  weights = [int(w) for w in weights]
  total, before, out = sum(weights), 0, []
  for w in weights:
    u = ((2 * before + w) << 63) // total
    out.append((u >> 32, u & 0xFFFFFFFF))
    before += w
  return np.array(out, np.uint32)


@pytest.mark.parametrize("peak", [0, 100_000, 262_143])
def test_tokens_of_a_large_vocabulary_are_drawn_at_their_place(peak):
  # One token has 99.6 % and 262,143 others 1.5e-8 each: less than float32 can
  # add to a sum near 1, and far less than 2^-23 apart. Every 67th is tried, of
  # all places in a block.
  logits = np.zeros(262_144, np.float32)
  logits[peak] = 18.0
  tried = np.arange(0, 262_144, 67)
  drawn = jax.jit(jax.vmap(categorical_from_uniform, (0, None)))(
    middles(logits)[tried], logits
  )
  np.testing.assert_array_equal(drawn, tried)


def test_tokens_a_trillion_times_less_likely_are_drawn_at_their_place():
  # In more than one block of tokens, the least likely first: what rounding of
  # float32 the others' probabilities have is then no more than their own.
  logits = np.linspace(-27, 0, 3000).astype(np.float32)
  words = middles(logits)
  drawn = jax.jit(jax.vmap(categorical_from_uniform, (0, None)))(words, logits)
  np.testing.assert_array_equal(drawn, np.arange(3000))


def test_no_token_of_a_block_is_lost_where_its_sum_is_rounded():
  # Beside a token of probability near 1, float32 rounds what the block's 511
  # others of 4e-8 have in sum; the last of them are still drawn at their place.
  logits = np.full(1024, -30.0, np.float32)
  logits[:512] = -17.0
  logits[3] = 0.0
  drawn = jax.jit(jax.vmap(categorical_from_uniform, (0, None)))(
    middles(logits)[:512], logits
  )
  np.testing.assert_array_equal(drawn, np.arange(512))


def test_log_probabilities_are_those_of_the_drawn_tokens():
  logits = 3 * jax.random.normal(KEY, (40, 1300))
  logits = logits.at[:, 7].set(-jnp.inf)
  keys = jax.random.split(jax.random.key(6), 40)
  token, logp = jax.jit(randomness.categorical)(keys, logits)
  want = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
  want = np.take_along_axis(want, np.asarray(token)[:, None], axis=-1)[:, 0]
  np.testing.assert_allclose(logp, want, rtol=0, atol=1e-5)
