import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.randomness import categorical_from_uniform, token_uniforms

KEY = jax.random.key(7)
LARGEST = np.nextafter(np.float32(1), np.float32(0))


def test_a_number_is_the_run_key_folded_with_address_and_position():
  # The documented derivation, one fold at a time.
  got = token_uniforms(KEY, (jnp.array([5]), jnp.array([2])), 4)
  row = jax.random.fold_in(jax.random.fold_in(KEY, 5), 2)
  want = [jax.random.uniform(jax.random.fold_in(row, t)) for t in range(4)]
  np.testing.assert_array_equal(got[0], want)


def test_numbers_depend_on_address_and_position_alone():
  problem = jnp.array([0, 0, 1, 4])
  sample = jnp.array([0, 1, 0, 9])
  whole = token_uniforms(KEY, (problem, sample), 6)
  # Order of rows, fewer rows, fewer tokens, another shape of batch.
  order = jnp.array([2, 0, 3, 1])
  mixed = token_uniforms(KEY, (problem[order], sample[order]), 6)
  np.testing.assert_array_equal(mixed, whole[order])
  fewer = token_uniforms(KEY, (problem[3:], sample[3:]), 3)
  np.testing.assert_array_equal(fewer, whole[3:, :3])
  square = (problem.reshape(2, 2), sample.reshape(2, 2))
  np.testing.assert_array_equal(
    token_uniforms(KEY, square, 6), whole.reshape(2, 2, 6)
  )
  np.testing.assert_array_equal(
    token_uniforms(KEY, (jnp.int32(4), jnp.int32(9)), 6), whole[3]
  )
  mapped = jax.vmap(lambda p, s: token_uniforms(KEY, (p, s), 6))
  np.testing.assert_array_equal(mapped(problem, sample), whole)


def test_different_addresses_get_different_numbers_whatever_their_depth():
  # 2·(4·4 + 4·4·3) rows of 8 numbers: with 2^23 values there may be collisions
  # of single numbers, but no two rows can agree in even two positions.
  a, b = (x.ravel() for x in jnp.meshgrid(jnp.arange(4), jnp.arange(4)))
  rows = [token_uniforms(KEY, (a, b), 8)]
  rows += [token_uniforms(KEY, (a, b, jnp.full_like(a, c)), 8) for c in (0, 2)]
  rows += [token_uniforms(jax.random.key(8), (a, b), 8)]
  rows = np.concatenate(rows)
  same = (rows[:, None] == rows[None]).sum(-1)
  assert same[~np.eye(len(rows), dtype=bool)].max() <= 1
  assert len(np.unique(rows)) > rows.size - 5


def test_numbers_are_uniform():
  u = np.asarray(
    token_uniforms(KEY, (jnp.zeros(2000, jnp.int32), jnp.arange(2000)), 5)
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
  logits = jnp.log(jnp.array([4.0, 1.0, 3.0]))
  cases = {0.0: 0, 0.499: 0, 0.501: 1, 0.624: 1, 0.626: 2, LARGEST: 2}
  uniform = jnp.array(list(cases), jnp.float32)
  got = categorical_from_uniform(uniform, jnp.tile(logits, (6, 1)))
  np.testing.assert_array_equal(got, list(cases.values()))
  assert got.dtype == jnp.int32


@pytest.mark.parametrize("vocab", [2, 15, 1000])
def test_a_grid_of_uniforms_hits_every_token_in_proportion(vocab):
  # n equidistant numbers put n·p ± 1 into an interval of length p; rounding of
  # the boundaries moves at most n·V·2^-24 more.
  n = 4096
  logits = jax.random.normal(jax.random.key(vocab), (vocab,)) * 2
  uniform = (jnp.arange(n) + 0.5) / n
  tokens = categorical_from_uniform(uniform, jnp.tile(logits, (n, 1)))
  counts = np.bincount(np.asarray(tokens), minlength=vocab)
  p = np.exp(np.asarray(logits, np.float64))
  slack = 1 + n * vocab * 2.0**-24
  assert np.abs(counts - n * p / p.sum()).max() <= slack
  assert (np.diff(np.asarray(tokens)) >= 0).all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, LARGEST])
@pytest.mark.parametrize(
  "possible", [[0], [4], [2], [1, 2], [0, 4], [0, 1, 2, 3, 4]]
)
def test_impossible_tokens_are_never_drawn_at_the_ends(possible, uniform):
  # The ends of [0, 1) belong to the first and the last possible token.
  logits = np.full(5, -np.inf, np.float32)
  logits[possible] = 0.3
  got = categorical_from_uniform(jnp.float32(uniform), jnp.asarray(logits))
  assert got in possible
  if uniform == 0:
    assert got == possible[0]
  if uniform == LARGEST:
    assert got == possible[-1]


def test_impossible_tokens_are_not_drawn_by_rounding_of_long_sums():
  # A tree of additions gives neighbouring prefix sums different roundings, so
  # that they may differ where the token between them has probability 0. Every
  # float32 that is such a sum, and its neighbours, is tried as the uniform.
  rng = np.random.default_rng(0)
  logits = rng.normal(size=1000).astype(np.float32)
  impossible = rng.random(1000) < 0.5
  logits[impossible] = -np.inf
  sums = np.asarray(jnp.cumsum(jax.nn.softmax(jnp.asarray(logits))))
  u = np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, 2)])
  u = jnp.asarray(u[u < 1], jnp.float32)
  drawn = categorical_from_uniform(u, jnp.tile(logits, (u.shape[0], 1)))
  assert not impossible[np.asarray(drawn)].any()
  assert len(np.unique(drawn)) > 400


def test_draws_do_not_depend_on_the_batch_and_bfloat16_is_widened():
  logits = jax.random.normal(jax.random.key(3), (2, 3, 6), jnp.bfloat16)
  uniform = jax.random.uniform(jax.random.key(4), (2, 3))
  got = categorical_from_uniform(uniform, logits)
  wide = logits.astype(jnp.float32)
  for index in np.ndindex(2, 3):
    one = categorical_from_uniform(uniform[index], wide[index])
    assert got[index] == one
