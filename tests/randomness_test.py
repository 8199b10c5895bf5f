import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import randomness

token_uniforms = jax.jit(randomness.token_uniforms, static_argnums=2)
categorical_from_uniform = jax.jit(randomness.categorical_from_uniform)

KEY = jax.random.key(7)
LARGEST = np.nextafter(np.float32(1), np.float32(0))


def test_a_number_is_the_run_key_folded_with_address_and_position():
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
