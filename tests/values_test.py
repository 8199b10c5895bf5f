import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import values

EPS = np.finfo(np.float32).eps
KS = np.array([1, 1.5, 2, 4, 32, 1000], np.float32)[:, None]
# Probabilities crowded towards both ends, and the ends themselves.
SMALL = np.logspace(-37, -0.31, 400).astype(np.float32)
QS = np.concatenate([[0, 1], SMALL, 1 - SMALL]).astype(np.float32)


def best_of_k_in_float64(q, k):
  with np.errstate(divide="ignore"):
    return -np.expm1(np.float64(k) * np.log1p(-np.float64(q)))


def test_best_of_k_has_relative_error_of_a_few_ulp_everywhere():
  got = jax.jit(values.best_of_k)(QS, KS)
  want = best_of_k_in_float64(QS, KS)
  np.testing.assert_allclose(got, want, rtol=4 * EPS, atol=0)


def test_best_of_k_from_logit_has_relative_error_of_a_few_ulp_everywhere():
  logit = np.linspace(-80, 80, 801, dtype=np.float32)
  got = jax.jit(values.best_of_k_from_logit)(logit, KS)
  want = -np.expm1(-np.float64(KS) * np.logaddexp(0, np.float64(logit)))
  np.testing.assert_allclose(got, want, rtol=6 * EPS, atol=0)


def test_best_of_1_is_the_policy():
  np.testing.assert_allclose(values.best_of_k(QS, 1), QS, rtol=2 * EPS, atol=0)
  logit = jnp.linspace(-20, 20, 41)
  np.testing.assert_allclose(
    values.best_of_k_from_logit(logit, 1), jax.nn.sigmoid(logit), rtol=8 * EPS
  )


def test_best_of_k_by_hand():
  # 1 − (1/2)^3 = 7/8; 1 − (3/4)^2 = 7/16; 1 − (1/4)^(3/2) = 7/8.
  got = values.best_of_k(jnp.array([0.5, 0.25, 0.75]), np.array([3, 2, 1.5]))
  np.testing.assert_allclose(got, [7 / 8, 7 / 16, 7 / 8], rtol=2 * EPS)


def test_best_of_j_of_best_of_k_is_best_of_jk():
  # Keeping the best of j groups of k samples keeps the best of jk samples.
  q = jnp.linspace(0, 1, 21)
  nested = values.best_of_k(values.best_of_k(q, 2), 3)
  np.testing.assert_allclose(nested, values.best_of_k(q, 6), rtol=1e-6)


@pytest.mark.parametrize(
  # d/dq = K (1 − q)^(K−1), also at the ends.
  ("k", "at_0", "at_half", "at_1"),
  [(1, 1, 1, 1), (1.5, 1.5, 1.5 * 0.5**0.5, 0), (4, 4, 0.5, 0), (64, 64, 0, 0)],
)
def test_gradient_by_q_is_right_at_the_ends(k, at_0, at_half, at_1):
  grad = jax.vmap(jax.grad(values.best_of_k), in_axes=(0, None))
  got = grad(jnp.array([0, 0.5, 1]), jnp.float32(k))
  np.testing.assert_allclose(got, [at_0, at_half, at_1], rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_second_and_third_derivatives_by_q_are_right_at_the_ends(k):
  # −K (K − 1) (1 − q)^(K−2) and K (K − 1) (K − 2) (1 − q)^(K−3).
  second = jax.grad(jax.grad(values.best_of_k))
  third = jax.grad(second)
  for q in (0.0, 0.5, 1.0):
    want = -k * (k - 1) * (1 - q) ** (k - 2) if k > 1 else 0
    np.testing.assert_allclose(second(q, float(k)), want, rtol=1e-6, atol=1e-9)
    want = k * (k - 1) * (k - 2) * (1 - q) ** (k - 3) if k > 2 else 0
    np.testing.assert_allclose(third(q, float(k)), want, rtol=1e-6, atol=1e-9)


def test_mixed_second_derivative_at_the_lower_end():
  # d/dK K (1 − q)^(K−1) is 1 at q = 0, either way round.
  for by in ((0, 1), (1, 0)):
    got = jax.grad(jax.grad(values.best_of_k, by[0]), by[1])(0.0, 3.0)
    np.testing.assert_allclose(got, 1.0, rtol=1e-6)


def test_infinitely_many_samples_find_what_is_possible():
  q = jnp.array([0.0, 1e-30, 0.5, 1.0])
  for k in (np.inf, jnp.float32(np.inf)):
    np.testing.assert_array_equal(values.best_of_k(q, k), [0, 1, 1, 1])
  grad = jax.vmap(jax.grad(values.best_of_k), in_axes=(0, None))
  np.testing.assert_array_equal(grad(q, jnp.inf), [np.inf, 0, 0, 0])
  logit = jnp.array([-jnp.inf, -50.0, 0.0, jnp.inf])
  got = values.best_of_k_from_logit(logit, np.inf)
  np.testing.assert_array_equal(got, [0, 1, 1, 1])


def test_unknown_values_stay_unknown():
  assert jnp.isnan(values.best_of_k(jnp.nan, 3))
  assert jnp.isnan(values.best_of_k_from_logit(jnp.nan, 3))


@pytest.mark.usefixtures("no_shape_checks")
def test_lists_are_arrays():
  # 1 − (1/2)^2 and 1 − (3/4)^2.
  got = values.best_of_k([0.5, 0.25], [2, 2])
  np.testing.assert_allclose(got, [0.75, 0.4375], rtol=1e-6)
  np.testing.assert_allclose(values.best_of_k_from_logit([0.0], 2), [0.75])
  np.testing.assert_allclose(values.pass_at_k([1, 2], [2, 2], 1), [0.5, 1])


def test_gradient_by_k_is_right_at_the_ends():
  # d/dK = −(1 − q)^K log(1 − q): ln(2)/8 at q = 1/2, K = 3; 0 at both ends.
  grad = jax.grad(values.best_of_k, argnums=1)
  for k in (1.0, 3.0):
    for q, want in ((0.0, 0), (0.5, math.log(2) * 0.5**k), (1.0, 0)):
      np.testing.assert_allclose(grad(q, k), want, rtol=1e-6)


def test_gradients_agree_in_forward_mode_and_with_the_logits():
  # Chain rule: d/dl = K (1 − q)^(K−1) q (1 − q) with q = σ(l).
  logit = jnp.array([-30.0, -3.0, 0.5, 4.0, 30.0])
  q = jax.nn.sigmoid(logit)
  grad = jax.vmap(jax.grad(values.best_of_k_from_logit), in_axes=(0, None))
  want = 4 * jax.nn.sigmoid(-logit) ** 4 * q
  np.testing.assert_allclose(grad(logit, 4.0), want, rtol=1e-5)
  _, tangent = jax.jvp(lambda q: values.best_of_k(q, 4), (q,), (q * (1 - q),))
  np.testing.assert_allclose(tangent[:4], want[:4], rtol=1e-5)


def test_rounding_outside_the_unit_interval_counts_as_the_nearest_end():
  q = jnp.array([-1e-7, 1 + 1.2e-7])
  assert q[1] > 1
  np.testing.assert_array_equal(values.best_of_k(q, 3), [0, 1])


def test_bfloat16_in_bfloat16_out_with_arithmetic_in_float32():
  # 1 − 2^−8 and 2^−9 are exact in bfloat16; 1 − (1 − 2^−9) in bfloat16 is 0.
  q = jnp.array([2.0**-9, 1 - 2.0**-8], jnp.bfloat16)
  got = values.best_of_k(q, 2)
  assert got.dtype == jnp.bfloat16
  want = jnp.asarray(best_of_k_in_float64(np.float64(q), 2), jnp.bfloat16)
  np.testing.assert_array_equal(got, want)
  logit = jnp.array([-8.0, 0.0, 8.0], jnp.bfloat16)
  assert values.best_of_k_from_logit(logit, 2).dtype == jnp.bfloat16


def pass_at_k_by_counting(c, n, k):
  failing = fractions.Fraction(math.comb(n - c, k), math.comb(n, k))
  return float(1 - failing)


def test_pass_at_k_equals_binomial_coefficients():
  cases = [
    (c, n, k)
    for n in (1, 2, 7, 20)
    for c in range(n + 1)
    for k in range(1, n + 1)
  ]
  cases += [(1, 10000, 1), (3, 10000, 100), (5000, 10000, 8), (9, 1000, 991)]
  c, n, k = np.array(cases).T
  want = [pass_at_k_by_counting(*case) for case in cases]
  np.testing.assert_allclose(
    jax.jit(values.pass_at_k)(c, n, k), want, rtol=8 * EPS, atol=0
  )


def test_pass_at_k_is_unbiased_for_best_of_k():
  # E over c ~ Binomial(n, q) is best_of_k(q, k), whatever n >= k.
  n, q = 9, 0.23
  c = np.arange(n + 1)
  weight = np.array([math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in c])
  for k in (1, 3, 9):
    mean = weight @ np.asarray(values.pass_at_k(c, n, k))
    np.testing.assert_allclose(mean, best_of_k_in_float64(q, k), rtol=1e-6)


def test_pass_at_k_of_traced_arguments_out_of_range_is_nan():
  got = jax.jit(values.pass_at_k)(
    jnp.array([1, 5, -1, 1]), jnp.array([4, 4, 4, 4]), jnp.array([5, 2, 2, 0])
  )
  assert np.isnan(got).all()


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((1, 4, 5), "k is 5 with 4 samples; expected k <= num_samples"),
    ((1, 4, 0), "k is 0; expected .* K >= 1"),
    ((5, 4, 2), "num_correct is 5 of 4"),
    ((-1, 4, 2), "num_correct is -1"),
    ((np.array([0, 1]), np.array([4, 2]), 3), "expected k <= num_samples"),
  ],
)
def test_pass_at_k_refuses_counts_that_cannot_be(args, message):
  with pytest.raises(ValueError, match=message):
    values.pass_at_k(*args)


@pytest.mark.parametrize("k", [0, 0.99, -3, math.nan, np.array([1, 0.5])])
def test_fewer_than_one_sample_is_refused_inside_jit_too(k):
  for fn in (values.best_of_k, values.best_of_k_from_logit):
    with pytest.raises(ValueError, match="expected a number of samples K >= 1"):
      jax.jit(lambda q, fn=fn: fn(q, k))(jnp.zeros(2))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_counts_in_small_and_unsigned_integers(dtype):
  # 100 + 100 is beyond int8, and 3 − 100 below 0.
  for c, n, k in ((100, 100, 100), (3, 120, 100), (100, 120, 3), (0, 100, 7)):
    got = values.pass_at_k(dtype(c), dtype(n), dtype(k))
    np.testing.assert_allclose(got, pass_at_k_by_counting(c, n, k), rtol=1e-5)


def test_counts_may_be_whole_floats_and_nothing_between():
  # As of `StepTargets.num_correct`.
  got = values.pass_at_k(np.float32(3), np.float32(10), np.float32(4))
  np.testing.assert_allclose(got, pass_at_k_by_counting(3, 10, 4), rtol=1e-6)
  for args in ((2.5, 10, 4), (3, 10.5, 4), (3, 10, 1.5), (np.nan, 10, 4)):
    with pytest.raises(ValueError, match="expected whole numbers"):
      values.pass_at_k(*args)
    traced = jax.jit(values.pass_at_k)(*map(jnp.float32, args))
    assert jnp.isnan(traced)
