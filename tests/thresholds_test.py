import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import thresholds

# Compiled: an operation at a time takes long.
first_error = jax.jit(thresholds.first_error)
first_error_scores = jax.jit(thresholds.first_error_scores)
first_error_threshold = jax.jit(thresholds.first_error_threshold)
outcome_thresholds = jax.jit(thresholds.outcome_thresholds)
outcome_errors = jax.jit(thresholds.outcome_errors)


def test_first_error_by_hand():
  scores = np.array([[0.9, 0.4, 0.1], [0.9, 0.8, 0.1], [0.5, 0.5, 0.5]])
  mask = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
  got = first_error(scores, mask, threshold=0.5)
  assert got.dtype == np.int32
  # The last step of the second does not exist; 0.5 is not below 0.5.
  np.testing.assert_array_equal(got, [1, -1, -1])


def test_f1_by_hand():
  # Erroneous: 1 of 3 found; correct: 1 of 2. 2 (1/3) (1/2) / (5/6) = 2/5.
  scores = first_error_scores(
    np.array([2, 0, -1, -1, 3]), np.array([2, 1, 0, -1, -1])
  )
  np.testing.assert_allclose(scores, [1 / 3, 1 / 2, 2 / 5], rtol=1e-6)
  nothing = first_error_scores(np.array([1, 0]), np.array([0, -1]))
  np.testing.assert_array_equal(nothing, [0, 0, 0])
  one_kind = first_error_scores(np.array([1]), np.array([1]))
  np.testing.assert_array_equal(one_kind, [1, np.nan, np.nan])


def f1_at(scores, mask, labels, threshold):
  """By a loop over samples, as ProcessBench's own evaluation has it."""
  right = {True: [], False: []}
  for row, exists, label in zip(scores, mask, labels, strict=True):
    found = -1
    for h in range(len(row)):
      if exists[h] and row[h] < threshold:
        found = h
        break
    right[label >= 0].append(found == label)
  a, b = np.mean(right[True]), np.mean(right[False])
  return 2 * a * b / (a + b) if a + b else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_does_better(seed):
  rng = np.random.default_rng(seed)
  n, h = 30, 5
  mask = np.arange(h) < rng.integers(1, h + 1, (n, 1))
  labels = np.array([rng.integers(-1, m.sum()) for m in mask])
  # Scores drop after the error; with ties.
  after = (labels[:, None] >= 0) & (np.arange(h) >= labels[:, None])
  scores = np.round(rng.random((n, h)) + 0.5 * ~after, 1).astype(np.float32)
  scores[~mask] = np.nan
  got = first_error_threshold(scores, mask, labels)
  every = np.unique(scores[mask])
  tried = [-1, *every, *(every[1:] + every[:-1]) / 2, 99]
  best = max(f1_at(scores, mask, labels, t) for t in tried)
  assert 0 < best < 1
  np.testing.assert_allclose(f1_at(scores, mask, labels, got), best)
  found = thresholds.first_error(scores, mask, threshold=got)
  f1 = thresholds.first_error_scores(found, labels).f1
  np.testing.assert_allclose(f1, best, rtol=1e-6)


def test_the_threshold_is_in_the_middle():
  # Right for all of (0.2, 0.6]: above the error, not above any step before it
  # or of the correct sample.
  scores = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.7]], np.float32)
  mask = np.ones((2, 3), bool)
  got = first_error_threshold(scores, mask, np.array([1, -1]))
  np.testing.assert_allclose(got, 0.4, rtol=1e-6)
  # An error at the first step has nothing before it.
  scores = np.array([[0.2, 0.1, 0.0], [0.6, 0.8, 0.7]], np.float32)
  got = first_error_threshold(scores, mask, np.array([0, -1]))
  np.testing.assert_allclose(got, 0.4, rtol=1e-6)
  # Neighbouring numbers have none between them: the upper one then.
  low = np.float32(0.5)
  high = np.nextafter(low, np.float32(1))
  scores = np.array([[low], [high]])
  labels = np.array([0, -1])
  got = first_error_threshold(scores, mask[:, :1], labels)
  assert got == high


def test_samples_that_no_threshold_gets_right_do_not_count():
  # Found for (0.4, 0.9]; never found, for 0.3 comes before 0.6; correct up to
  # 0.5 and up to 0.2. Best is (0.4, 0.5], with half of either kind.
  scores = np.array([[0.9, 0.4], [0.3, 0.6], [0.5, 0.5], [0.2, 0.2]])
  mask, labels = np.ones((4, 2), bool), np.array([1, 1, -1, -1])
  got = first_error_threshold(scores, mask, labels)
  np.testing.assert_allclose(got, 0.45, rtol=1e-6)


def test_no_threshold_serves_a_verifier_that_is_upside_down():
  scores, mask = np.array([[0.9], [0.1]], np.float32), np.ones((2, 1), bool)
  labels = np.array([0, -1])
  got = first_error_threshold(scores, mask, labels)
  assert got == -np.inf
  found = first_error(scores, mask, threshold=got)
  np.testing.assert_array_equal(found, [-1, -1])


def test_one_kind_alone_gives_no_threshold():
  got = first_error_threshold(
    np.zeros((2, 3)), np.ones((2, 3), bool), np.array([0, 2])
  )
  assert np.isnan(got)


def errors_at(score, correct, threshold):
  return np.mean((score >= threshold) != (correct == 1))


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_are_predicted_as_well_as_any_threshold_can(seed):
  rng = np.random.default_rng(seed)
  outcome = rng.integers(0, 2, 40).astype(np.float32)
  # Early steps know little, and the last one is there for few.
  know = np.array([0.0, 0.4, 0.8, 0.4])
  scores = rng.random((40, 4)) + know * outcome[:, None]
  scores = np.round(scores, 1).astype(np.float32)
  mask = rng.random((40, 4)) < [1, 1, 0.8, 0.2]
  scores[~mask] = np.nan
  got = outcome_thresholds(scores, outcome, mask)
  errors = outcome_errors(scores, outcome, mask, thresholds=got)
  for h in range(4):
    kept = mask[:, h]
    column = scores[kept, h], outcome[kept]
    every = np.unique(column[0])
    best = min(errors_at(*column, t) for t in (-np.inf, *every, np.inf))
    np.testing.assert_allclose(errors[h], best, rtol=1e-6)
    np.testing.assert_allclose(errors_at(*column, got[h]), best)


def test_outcome_thresholds_by_hand():
  outcome = np.array([0.0, 0.0, 1.0, 1.0])
  scores = np.array([[0.1, 9, 0, 3], [0.2, 8, 0, 2], [0.4, 1, 0, 1], [0.3] * 4])
  mask = np.ones((4, 4), bool)
  mask[:, 2] = False
  mask[:2, 3] = False
  got = outcome_thresholds(scores, outcome, mask)
  # Separable between 0.2 and 0.3; upside down, where all are called correct;
  # no rollout; correct ones alone.
  np.testing.assert_allclose(got, [0.25, -np.inf, np.nan, -np.inf], rtol=1e-6)
  errors = outcome_errors(scores, outcome, mask, thresholds=got)
  np.testing.assert_array_equal(errors, [0, 0.5, np.nan, 0])


def test_equal_scores_are_on_one_side():
  # All or none of three equal scores: calling them wrong errs once.
  scores, mask = np.full((3, 1), 0.5), np.ones((3, 1), bool)
  outcome = np.array([0.0, 1.0, 0.0])
  got = outcome_thresholds(scores, outcome, mask)
  assert got == np.inf
  errors = outcome_errors(scores, outcome, mask, thresholds=got)
  np.testing.assert_allclose(errors, 1 / 3, rtol=1e-6)
  # A score at the threshold says "correct", which errs twice.
  errors = outcome_errors(scores, outcome, mask, thresholds=np.array([0.5]))
  np.testing.assert_allclose(errors, 2 / 3, rtol=1e-6)


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_refused():
  scores, mask = np.zeros((2, 3)), np.ones((2, 3), bool)
  short = np.array([[True, True, False], [True, False, False]])
  for label in (3, -2, 1):
    with pytest.raises(ValueError, match=f"labels hold {label}, expected -1"):
      thresholds.first_error_threshold(scores, short, np.array([0, label]))
  with pytest.raises(ValueError, match="mask has shape"):
    thresholds.first_error(scores, mask[:1], threshold=0.5)
  with pytest.raises(ValueError, match=r"outcome hold 0\.5, expected 0"):
    thresholds.outcome_thresholds(scores, np.full(2, 0.5), mask)
  with pytest.raises(ValueError, match="thresholds has shape"):
    thresholds.outcome_errors(scores, np.zeros(2), mask, thresholds=np.zeros(2))


def test_responses_without_steps_have_no_error():
  scores, mask = jnp.zeros((2, 0)), jnp.zeros((2, 0), bool)
  got = thresholds.first_error(scores, mask, threshold=0.5)
  np.testing.assert_array_equal(got, [-1, -1])
  assert got.dtype == jnp.int32
  labels = np.array([-1, -1])
  threshold = thresholds.first_error_threshold(scores, mask, labels)
  assert jnp.isnan(threshold)  # no sample has an error


@pytest.mark.usefixtures("no_shape_checks")
def test_masks_are_booleans_or_0_and_1():
  scores = jnp.array([[0.1, 0.9]])
  for mask in (np.array([[1, 0]]), np.array([[True, False]]), [[1, 0]]):
    got = thresholds.first_error(scores, mask, threshold=0.5)
    np.testing.assert_array_equal(got, [0])
  for mask, message in (
    (np.array([[2, 0]]), "mask holds 2; expected booleans"),
    (np.array([[1.0, 0.0]]), "mask has dtype float32; expected booleans"),
  ):
    with pytest.raises(ValueError, match=message):
      thresholds.first_error(scores, mask, threshold=0.5)
