import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pav_jax import verification as v

# Compiled: an operation at a time takes long.
auc = jax.jit(v.auc, static_argnames="axis")
auc_by_group = jax.jit(v.auc_by_group, static_argnames=("num_groups", "axis"))
correlation = jax.jit(v.correlation, static_argnames="axis")
error_correlation = jax.jit(v.error_correlation, static_argnames="axis")
mean_squared_error = jax.jit(v.mean_squared_error, static_argnames="axis")
reliability_curve, expected_calibration_error = (
  jax.jit(
    fn, static_argnames=("axis", "num_bins", "low", "high", "equal_mass")[k:]
  )
  for fn, k in ((v.reliability_curve, 1), (v.expected_calibration_error, 0))
)


def pairs_auc(scores, labels, groups=None):
  """By the definition: every pair of a positive and a negative in a group."""
  won = count = 0
  groups = np.zeros(len(scores)) if groups is None else groups
  for i in np.flatnonzero(labels):
    for j in np.flatnonzero(~labels & (groups == groups[i])):
      won += (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
      count += 1
  return won / count if count else np.nan


def made(seed, shape, *, ties=6):
  """Scores with ties, labels, a mask, and three groups of unlike difficulty."""
  rng = np.random.default_rng(seed)
  groups = rng.integers(0, 3, shape)
  labels = rng.random(shape) < (0.2 + 0.3 * groups)
  scores = np.round(ties * rng.random(shape)) / ties + 0.3 * groups
  mask = rng.random(shape) < 0.7
  return scores.astype(np.float32), labels, mask, groups


def test_prefix_mask_by_hand():
  got = v.prefix_mask(jnp.array([[4, 6, 9, 9], [4, 4, 4, 4], [0, 1, 2, 3]]))
  np.testing.assert_array_equal(got, [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
  ("scores", "labels", "want"),
  [
    ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),  # 3 of 4 pairs
    ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),  # ties count half
    ([0.5, 0.5, 0.9], [0, 1, 1], 0.75),  # (1/2 + 1) / 2
    ([3.0, -2.0], [1, 0], 1.0),
    ([-2.0, 3.0], [1, 0], 0.0),
    ([0.2, 0.3], [1, 1], np.nan),
    ([0.2, 0.3], [0, 0], np.nan),
    ([np.nan, 0.3], [0, 1], np.nan),
  ],
)
def test_auc_by_hand(scores, labels, want):
  np.testing.assert_allclose(auc(np.array(scores), np.array(labels)), want)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_and_mann_whitneys_u(seed):
  scores, labels, mask, groups = made(seed, (60,))
  got = auc(scores, labels, mask)
  np.testing.assert_allclose(got, pairs_auc(scores[mask], labels[mask]), 1e-6)
  a, b = scores[mask & labels], scores[mask & ~labels]
  u = scipy.stats.mannwhitneyu(a, b).statistic
  np.testing.assert_allclose(got, u / (len(a) * len(b)), rtol=1e-6)

  kept = [x[mask] for x in (scores, labels, groups)]
  within = v.auc(scores, labels, mask, groups=groups)
  np.testing.assert_allclose(within, pairs_auc(*kept), rtol=1e-6)
  assert within < got  # the groups' difficulty helps across groups alone
  by_group = v.auc_by_group(scores, labels, groups, mask, num_groups=3)
  want = [pairs_auc(kept[0][i], kept[1][i]) for i in kept[2] == np.c_[:3]]
  np.testing.assert_allclose(by_group, want, rtol=1e-6)


def test_auc_by_step_is_that_of_each_column():
  scores, labels, mask, groups = made(5, (40, 4))
  mask[:, 2] = False
  got = auc(scores, labels, mask, axis=0)
  by_group = auc_by_group(scores, labels, groups, mask, num_groups=4, axis=0)
  assert by_group.shape == (4, 4)
  for h in range(4):
    column = [x[:, h][mask[:, h]] for x in (scores, labels, groups)]
    np.testing.assert_allclose(got[h], pairs_auc(*column[:2]), rtol=1e-6)
    for g in range(4):  # no entry is in the last one
      of_group = [x[column[2] == g] for x in column[:2]]
      want = pairs_auc(*of_group)
      np.testing.assert_allclose(by_group[h, g], want, rtol=1e-6)


def test_groups_may_be_numbers_that_float32_cannot_tell_apart():
  # Within both groups the ranking is perfect, across them it is not.
  groups = np.array([2**31 - 1, 2**31 - 1, 2**31 - 2, 2**31 - 2], np.int32)
  scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 0, 1])
  assert auc(scores, labels, groups=groups) == 1
  assert auc(scores, labels) == 0.75


def test_equal_scores_in_two_groups_are_no_ties():
  groups, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
  got = auc_by_group(np.full(4, 0.5), labels, groups, num_groups=2)
  np.testing.assert_array_equal(got, [0.5, 0.5])


def test_auc_of_many_pairs():
  # 10^10 pairs are more than int32 counts: a shift by one standard deviation
  # of normal scores has AUC Φ(1 / √2).
  rng = np.random.default_rng(0)
  scores = rng.standard_normal(200_000).astype(np.float32)
  labels = np.arange(200_000) % 2
  got = auc(scores + labels, labels)
  want = scipy.stats.norm.cdf(0.5**0.5)
  assert abs(got - want) < 4 * (0.25 / 100_000) ** 0.5
  ranks = scipy.stats.rankdata(scores + labels)[labels == 1]
  exact = (ranks.sum() - 1e5 * (1e5 + 1) / 2) / 1e10
  np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_correlation_and_errors_agree_with_scipy_and_numpy():
  rng = np.random.default_rng(1)
  x = rng.random((30, 3)).astype(np.float32)
  y = (x + rng.random((30, 3))).astype(np.float32)
  mask = rng.random((30, 3)) < 0.6
  hidden = np.where(mask, x, np.nan)  # what is left out may be anything
  got = correlation(hidden, y, mask, axis=0)
  mse = mean_squared_error(hidden, y, mask, axis=0)
  for h in range(3):
    a, b = x[mask[:, h], h], y[mask[:, h], h]
    np.testing.assert_allclose(
      got[h], scipy.stats.pearsonr(a, b).statistic, rtol=1e-5
    )
    np.testing.assert_allclose(mse[h], np.mean((a - b) ** 2), rtol=1e-5)
  pooled = scipy.stats.pearsonr(x[mask], y[mask]).statistic
  np.testing.assert_allclose(correlation(x, y, mask), pooled, rtol=1e-5)


def test_correlation_by_hand():
  x = np.array([0.0, 1.0, 2.0])
  assert correlation(x, 5 - 2 * x) == -1
  # Deviations (−1, 0, 1) and (−1, 2, −1)/3: their product sums to 0.
  assert abs(correlation(x, np.array([0.0, 1.0, 0.0]))) < 1e-7
  # Tiny values, whose squares vanish in float32: (−1, 0, 1) · (−1, 1, 0) is 1,
  # of 2 at most.
  y = np.array([0.0, 2.0, 1.0])
  np.testing.assert_allclose(correlation(1e-30 * x, y), 0.5, rtol=1e-6)


def test_correlation_with_a_constant_is_nan():
  # The mean of n times 0.1 is not always 0.1 in floating point; the difference
  # is no variation. Column n has n + 1 rows.
  constant = np.full((40, 40), 0.1, np.float32)
  other = np.arange(1600.0).reshape(40, 40)
  mask = np.arange(40)[:, None] <= np.arange(40)
  assert np.isnan(correlation(constant, other, mask, axis=0)).all()
  assert np.isnan(correlation(other, constant, mask, axis=0)).all()
  got = correlation(other, other, mask, axis=0)
  assert np.isnan(got[0]) and (got[1:] > 0.999).all()


def steps_of_lengths(lengths, num_steps):
  """Offsets of responses of one token a step, after a problem of three."""
  return 3 + np.minimum(np.arange(num_steps + 1), np.asarray(lengths)[:, None])


def test_errors_before_and_after_steps_are_correlated_as_by_scipy():
  rng = np.random.default_rng(2)
  exact = rng.random((30, 4)).astype(np.float32)
  bias = rng.normal(size=(30, 1))
  q_hat = (exact + bias + rng.normal(size=(30, 4))).astype(np.float32)
  lengths = rng.integers(0, 4, 30)
  prefix_len = steps_of_lengths(lengths, 3)
  past = np.arange(4) > lengths[:, None]
  hidden = np.where(past, np.nan, q_hat)  # past the end anything may be
  mask = rng.random((30, 3)) < 0.8
  error = (q_hat - exact).astype(np.float64)
  got = error_correlation(hidden, exact, prefix_len, mask, axis=0)
  pairs = []
  for h in range(3):
    counts = (lengths > h) & mask[:, h]
    pairs.append(error[counts, h : h + 2])
    want = scipy.stats.pearsonr(*pairs[-1].T).statistic
    np.testing.assert_allclose(got[h], want, rtol=1e-5)
  want = scipy.stats.pearsonr(*np.concatenate(pairs).T).statistic
  got = error_correlation(hidden, exact, prefix_len, mask)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_errors_common_to_a_group_are_no_correlation():
  # Persistent errors of variance 1 and fresh ones of 2: ρ = 1 / 3. What all
  # rows of a group share at a step is added, and must not count.
  rng = np.random.default_rng(3)
  num = 6000
  groups = rng.integers(0, 1000, num) * 1000
  shared = 5 * rng.normal(size=(1000, 1)) + rng.normal(size=(1000, 3))
  error = rng.normal(size=(num, 1)) + 2**0.5 * rng.normal(size=(num, 3))
  exact = rng.random((num, 3))
  prefix_len = steps_of_lengths(np.full(num, 2), 2)

  def measured(error, **settings):
    q_hat = (exact + error).astype(np.float32)
    return error_correlation(
      q_hat, exact.astype(np.float32), prefix_len, **settings
    )

  within = 4 / (num * 2) ** 0.5
  assert abs(measured(error) - 1 / 3) < within
  error += shared[groups // 1000]
  assert measured(error) > 0.8
  assert abs(measured(error, groups=groups) - 1 / 3) < within
  # By the definition, on some groups.
  few = groups < 40_000
  deviations = error[few].copy()
  for group in np.unique(groups[few]):
    member = groups[few] == group
    deviations[member] -= deviations[member].mean(0)
  before, after = deviations[:, :-1].ravel(), deviations[:, 1:].ravel()
  want = scipy.stats.pearsonr(before, after).statistic
  got = error_correlation(
    (exact + error)[few].astype(np.float32),
    exact[few].astype(np.float32),
    prefix_len[few],
    groups=groups[few],
  )
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_errors_that_never_vary_have_no_correlation(no_shape_checks):
  q = np.full((3, 3), 0.5, np.float32)
  prefix_len = steps_of_lengths([2, 2, 2], 2)
  assert np.isnan(v.error_correlation(q, q, prefix_len))
  noisy = q + np.arange(9, dtype=np.float32).reshape(3, 3) ** 2
  every_row_alone = np.arange(3)
  assert np.isnan(
    v.error_correlation(noisy, q, prefix_len, groups=every_row_alone)
  )
  with pytest.raises(ValueError, match="q_exact has shape"):
    v.error_correlation(q, q[:, :2], prefix_len)
  with pytest.raises(ValueError, match="groups has shape"):
    v.error_correlation(q, q, prefix_len, groups=np.zeros(2, int))
  with pytest.raises(ValueError, match="mask has shape"):
    v.error_correlation(q, q, prefix_len, np.ones((3, 3), bool))


def test_brier_score_by_hand_with_outcomes_of_rollouts():
  # (0.2² + 0.4² + 0.7²) / 3; the last prefix does not exist.
  q = np.array([[0.2, 0.4], [0.3, 0.9]])
  mask = np.array([[True, True], [True, False]])
  outcome = np.array([0.0, 1.0])
  got = mean_squared_error(q, outcome[:, None], mask)
  np.testing.assert_allclose(got, (0.04 + 0.16 + 0.49) / 3, rtol=1e-6)
  assert np.isnan(mean_squared_error(q, outcome[:, None], mask & False))


def test_reliability_by_hand():
  q = np.array([0.0, 0.05, 0.3, 0.35, 0.5, 1.0, 0.9], np.float32)
  outcome = np.array([0, 1, 0, 0, 1, 1, 0])
  mask = np.array([1, 1, 1, 1, 1, 1, 0], bool)
  curve = reliability_curve(q, outcome, mask, num_bins=4)
  # Bins [0, .25), [.25, .5), [.5, .75), [.75, 1]; the last entry is left out.
  np.testing.assert_array_equal(curve.count, [2, 2, 1, 1])
  np.testing.assert_allclose(curve.value, [0.025, 0.325, 0.5, 1], rtol=1e-6)
  np.testing.assert_allclose(curve.frequency, [0.5, 0, 1, 1])
  ece = expected_calibration_error(q, outcome, mask, num_bins=4)
  want = (2 * 0.475 + 2 * 0.325 + 1 * 0.5 + 0) / 6
  np.testing.assert_allclose(ece, want, rtol=1e-6)
  # Of equal mass: ranks 0 … 5 in 3 bins.
  curve = reliability_curve(q, outcome, mask, num_bins=3, equal_mass=True)
  np.testing.assert_array_equal(curve.count, [2, 2, 2])
  np.testing.assert_allclose(curve.value, [0.025, 0.325, 0.75], rtol=1e-6)
  ece = expected_calibration_error(
    q, outcome, mask, num_bins=3, equal_mass=True
  )
  np.testing.assert_allclose(ece, (0.475 + 0.325 + 0.25) / 3, rtol=1e-6)
  # ⌊3 r / 5⌋ is 0, 0, 1, 1, 2.
  five = reliability_curve(
    q[:5], outcome[:5], num_bins=3, equal_mass=True
  ).count
  np.testing.assert_array_equal(five, [2, 2, 1])


def test_edges_belong_to_the_upper_bin_and_ends_to_the_outer_ones():
  edges = np.linspace(0, 1, 11).astype(np.float32)
  count = reliability_curve(edges, edges).count
  np.testing.assert_array_equal(count, [1] * 9 + [2])
  q = np.array([-1.0, -0.1, 0.1, 7.0])
  count = reliability_curve(q, q, num_bins=2, low=-1, high=1).count
  np.testing.assert_array_equal(count, [2, 2])


def test_equal_values_share_a_bin_and_order_does_not_matter():
  rng = np.random.default_rng(0)
  q = rng.choice([0.1, 0.2, 0.7], 50, p=[0.7, 0.2, 0.1]).astype(np.float32)
  y, mask = rng.integers(0, 2, 50), rng.random(50) < 0.8
  curve = reliability_curve(q, y, mask, num_bins=5, equal_mass=True)
  order = rng.permutation(50)
  other = reliability_curve(
    q[order], y[order], mask[order], num_bins=5, equal_mass=True
  )
  np.testing.assert_array_equal(curve.count, other.count)
  # From the definition, with scipy's mean ranks (counted from 1).
  rank = scipy.stats.rankdata(q[mask]) - 1
  index = np.floor(5 * rank / mask.sum()).astype(int)
  assert len(np.unique(index)) == 3  # as many as there are values
  np.testing.assert_array_equal(curve.count, np.bincount(index, minlength=5))


def test_calibration_by_step_is_that_of_each_column():
  scores, labels, mask, _ = made(2, (50, 3))
  got = expected_calibration_error(
    scores, labels, mask, axis=0, equal_mass=True
  )
  for h in range(3):
    kept = mask[:, h]
    alone = expected_calibration_error(
      scores[kept, h], labels[kept, h], equal_mass=True
    )
    np.testing.assert_allclose(got[h], alone, rtol=1e-5)


def test_calibrated_values_have_an_error_of_noise_alone():
  # 20,000 outcomes drawn with their values: each bin's gap has a deviation of
  # at most √(.25 / 2000), and a mean of √(2/π) of that.
  rng = np.random.default_rng(3)
  q = rng.random(20_000)
  y = rng.random(20_000) < q
  assert expected_calibration_error(q, y) < 0.011
  assert expected_calibration_error(q**2, y) > 0.1


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_refused():
  q = np.zeros((2, 3))
  with pytest.raises(ValueError, match=r"labels hold 0\.5, expected 0"):
    v.auc(q, np.full((2, 3), 0.5))
  with pytest.raises(ValueError, match=r"shape \(2,\), expected one that"):
    v.mean_squared_error(q, np.zeros(2))
  with pytest.raises(ValueError, match="num_bins is 0, expected"):
    v.reliability_curve(q, q, num_bins=0)
  with pytest.raises(ValueError, match="expected low < high"):
    v.expected_calibration_error(q, q, low=1, high=1)
