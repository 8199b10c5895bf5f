import numpy as np
import pytest

from pav_jax.search import efficiency

COST = np.array([[1.0, 4, 16], [3, 4, 16]])  # means 2, 4, 16
ACCURACY = np.array([[0.0, 0.5, 1.0], [0.2, 0.5, 0.6]])  # means 0.1, 0.5, 0.8


def test_equal_costs_are_found_between_sizes():
  # 8 is half way from 4 to 16 on a logarithmic scale.
  found = efficiency.at_cost(ACCURACY, COST, 8.0)
  np.testing.assert_allclose(found, [0.75, 0.55])
  np.testing.assert_allclose(efficiency.at_cost(ACCURACY, COST, 4.0), [0.5] * 2)
  np.testing.assert_allclose(efficiency.at_cost(ACCURACY, COST, 16.0), [1, 0.6])
  np.testing.assert_allclose(efficiency.at_cost(ACCURACY, COST, 1.0), [0, 0.2])
  assert efficiency.at_cost(ACCURACY, COST, 17.0) is None
  one = efficiency.at_cost(ACCURACY[:, :1], COST[:, :1], 1.5)
  np.testing.assert_allclose(one, [0.0, 0.2])


def test_the_cost_of_an_accuracy():
  accuracy, cost = ACCURACY.mean(0), COST.mean(0)
  assert efficiency.cost_of(accuracy, cost, 0.65) == pytest.approx(8.0)
  assert efficiency.cost_of(accuracy, cost, 0.05) == 2.0
  assert efficiency.cost_of(accuracy, cost, 0.9) is None
  # The first crossing counts, also of a curve that falls again.
  assert efficiency.cost_of(np.array([0.0, 0.6, 0.4]), cost, 0.6) == 4.0


def test_compute_efficiency():
  found = efficiency.compute_efficiency(
    ACCURACY, COST, np.array([0.8, 0.5]), np.array([30.0, 34.0])
  )
  assert found.value == pytest.approx(32 / 8)
  assert found.low <= found.value <= found.high
  # Both problems alike: no resampling changes anything.
  alike = [np.repeat(x[:1], 50, axis=0) for x in (ACCURACY, COST)]
  found = efficiency.compute_efficiency(
    *alike, np.full(50, 0.75), np.full(50, 32.0), num_resamples=50
  )
  assert (found.value, found.low, found.high) == (pytest.approx(4.0),) * 3
  never = efficiency.compute_efficiency(
    alike[0] / 2, alike[1], np.full(50, 0.75), np.full(50, 32.0)
  )
  assert (never.value, never.low, never.high) == (None, None, None)


def test_the_interval_covers_the_truth():
  # Accuracy p + noise of problems at two costs; the truth is at their middle.
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(40):
    draws = rng.random((400, 3)) < [0.3, 0.7, 0.5]
    accuracy = draws[:, :2].astype(float)
    cost = np.tile([1.0, 100.0], (400, 1))
    found = efficiency.compute_efficiency(
      accuracy, cost, draws[:, 2] * 1.0, np.full(400, 10.0), num_resamples=100
    )
    inside += found.low <= 1.0 <= found.high
  assert inside >= 33  # 38 expected; four deviations of 1.4 less


def test_paired_errors():
  mean, error = efficiency.mean_and_error(np.array([1.0, 0.0, 0.0, 1.0]))
  assert mean == 0.5 and error == pytest.approx((1 / 3) ** 0.5 / 2)
