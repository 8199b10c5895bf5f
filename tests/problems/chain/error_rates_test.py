import dataclasses
import json

import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.problems.chain.error_rates import ErrorRateValues, measured_values

PROBLEM = Chain(horizon=4)
TEACHER = {o.symbol: o.error for o in PROBLEM.operations}
RATES = {"+": 0.1, "-": 0.2, "*": 0.3, "~": 0.4}
IDS = PROBLEM.problem_ids("test", 0, 50)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))


def test_the_teachers_rates_give_the_teachers_values():
  np.testing.assert_allclose(
    ErrorRateValues(PROBLEM, TEACHER)(ROLLOUT), PROBLEM.teacher_values(ROLLOUT)
  )


def test_bare_problems_have_the_success_rates_of_the_rates():
  q = ErrorRateValues(PROBLEM, RATES, illegal=0.19)(ROLLOUT)
  # Four operations; 0.81 of all responses are legal throughout.
  expected = 0.81 * PROBLEM.success_rates(IDS, RATES)
  np.testing.assert_allclose(q[:, 0], expected)
  # Whole responses have their outcomes, whatever the rates.
  np.testing.assert_array_equal(q[:, -1], ROLLOUT.outcome)


def test_rates_come_from_the_report_beside_the_policy(tmp_path):
  mistakes = {
    "error_rates": {s: {"policy": e, "teacher": 0} for s, e in RATES.items()},
    "illegal": 0.19,
  }
  report = tmp_path / "report.json"
  report.write_text(json.dumps({"arms": {"policy": {"mistakes": mistakes}}}))
  found = measured_values(PROBLEM, tmp_path / "policy")
  assert found == ErrorRateValues(PROBLEM, RATES, 0.19)
  report.write_text(json.dumps({"arms": {"policy": {}}}))
  with pytest.raises(ValueError, match=r"report.json gives no error rates"):
    measured_values(PROBLEM, tmp_path / "policy")


@pytest.mark.parametrize(
  "change, message",
  [
    ({"error_rates": {"+": 0.1}}, r"error_rates are of \['\+'\]"),
    ({"error_rates": RATES | {"+": 2.0}}, "error_rates are .* in"),
    ({"illegal": -0.1}, "illegal is -0.1"),
  ],
)
def test_bad_rates(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(ErrorRateValues(PROBLEM, RATES), **change)
