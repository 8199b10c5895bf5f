import json

import numpy as np
import pytest

from pav_jax.runs import rl_regimes


def arm(counts, accuracy):
  return {
    "accuracy": accuracy,
    "iterations_to": counts,
    "curves": {"accuracy": [[0.0] * 100] * 2},
  }


REPORT = {
  "start": {"accuracy": 0.04},
  "arms": {
    "outcome": arm(
      {"0.05": [1, 1], "0.1": [40, 60], "0.2": [None, 90]}, [0.2, 0.1]
    ),
    "pav": arm({"0.05": [1, 1], "0.1": [10, 25], "0.2": [30, 40]}, [0.5, 0.3]),
  },
}


def test_ratios_are_at_the_highest_level_the_first_arm_reaches():
  # 0.05 is within 1.5 times the start; 0.2 is reached by one seed of two only.
  # At 0.1 the first arm's median is 50: 50 / 10 and 50 / 25. Its mean is 15 %.
  found = rl_regimes.compare(REPORT, "outcome")
  assert found["start"] == 0.04
  pav = found["arms"]["pav"]
  assert (pav["level"], pav["ratios"], pav["is_bound"]) == (0.1, [5, 2], False)
  np.testing.assert_allclose(pav["points"], [35, 15])


def test_ratios_are_bounds_where_the_first_arm_reaches_nothing():
  # It has had 100 iterations; 0.2 is the highest that the other reaches.
  never = {level: [None, None] for level in ("0.05", "0.1", "0.2")}
  report = REPORT | {"arms": REPORT["arms"] | {"outcome": arm(never, [0, 0])}}
  pav = rl_regimes.compare(report, "outcome")["arms"]["pav"]
  assert pav["is_bound"] and pav["level"] == 0.2
  np.testing.assert_allclose(pav["ratios"], [100 / 30, 100 / 40])


def test_the_map_is_drawn_and_written(tmp_path):
  path = tmp_path / "h10_rl" / "report.json"
  path.parent.mkdir()
  path.write_text(json.dumps(REPORT))
  found = rl_regimes.regime_map(tmp_path / "map", "map", reports=[str(path)])
  report = json.loads((tmp_path / "map/report.json").read_text())
  assert (
    report["arms"] == found == {"h10_rl": rl_regimes.compare(REPORT, "outcome")}
  )
  assert (tmp_path / "map/regimes.png").stat().st_size > 1000
  with pytest.raises(ValueError, match=r"has the arms .*, expected chance"):
    rl_regimes.regime_map(tmp_path, "map", reports=[str(path)], first="chance")
  with pytest.raises(ValueError, match="there are no reports"):
    rl_regimes.regime_map(tmp_path, "map", reports=[])
