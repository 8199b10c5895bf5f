import json

import numpy as np
import pytest

from studies.regimes import analysis


def arm(counts, accuracy, validation=((0.04, 0.1), (0.04, 0.2))):
  return {
    "accuracy": accuracy,
    "iterations_to": counts,
    "curves": {"accuracy": [[0.0] * 100] * 2},
    "validation": {
      "iteration": [[0.0, 50.0]] * 2,
      "accuracy": [list(row) for row in validation],
    },
  }


REPORT = {
  "start": {"accuracy": 0.04},
  "arms": {
    "outcome": arm(
      {"0.05": [1, 1], "0.1": [40, 60], "0.2": [None, 90]}, [0.2, 0.1]
    ),
    "pav": arm(
      {"0.05": [1, 1], "0.1": [10, 25], "0.2": [30, 40]},
      [0.5, 0.3],
      [(0.04, 0.4), (0.04, 0.5)],
    ),
  },
}


def test_ratios_are_of_medians_to_levels_well_above_the_start():
  # 0.05 is within 1.5 times the start. At 0.1 the first arm's median is 50:
  # 50 / 10 and 50 / 25. At 0.2 one seed of two gets there, so its median does
  # not, and it counts as 100, the run's length. Its mean is 15 %.
  found = analysis.compare(REPORT, "outcome")
  assert found["start"] == 0.04
  pav = found["arms"]["pav"]
  assert list(pav["levels"]) == ["0.1", "0.2"]
  tenth, fifth = pav["levels"].values()
  assert tenth == {"ratios": [5, 2], "median": 3.5, "is_bound": False}
  np.testing.assert_allclose(fifth["ratios"], [100 / 30, 100 / 40])
  assert fifth["is_bound"]
  np.testing.assert_allclose(pav["points"], [35, 15])


def test_points_ahead_are_of_means_after_as_many_iterations():
  # (.4 + .5) / 2 - (.1 + .2) / 2; nothing before training.
  found = analysis.compare(REPORT, "outcome")["arms"]["pav"]["ahead"]
  assert found == {"50": pytest.approx(30)}
  # Judged after 25 and 50, and the other after 50 alone.
  often = REPORT["arms"]["pav"] | {
    "validation": {
      "iteration": [[0.0, 25.0, 50.0]],
      "accuracy": [[0.0, 0.2, 0.3]],
    }
  }
  report = REPORT | {"arms": REPORT["arms"] | {"pav": often}}
  found = analysis.compare(report, "outcome")["arms"]["pav"]["ahead"]
  assert found == {"50": pytest.approx(15)}


def test_levels_that_half_of_the_seeds_miss_are_left_out():
  some = arm({"0.05": [1, 1], "0.1": [10, None], "0.2": [None] * 2}, [0.1, 0])
  report = REPORT | {"arms": REPORT["arms"] | {"pav": some}}
  assert not analysis.compare(report, "outcome")["arms"]["pav"]["levels"]
  three = arm({"0.1": [10, None, 20]}, [0.1, 0, 0.1])
  report = REPORT | {"arms": REPORT["arms"] | {"pav": three}}
  [level] = analysis.compare(report, "outcome")["arms"]["pav"][
    "levels"
  ].values()
  assert level == {"ratios": [5, 0, 2.5], "median": 2.5, "is_bound": False}


def test_the_map_is_drawn_and_written(tmp_path):
  path = tmp_path / "h10_rl" / "report.json"
  path.parent.mkdir()
  path.write_text(json.dumps(REPORT))
  found = analysis.regime_map(tmp_path / "map", "map", reports=[str(path)])
  report = json.loads((tmp_path / "map/report.json").read_text())
  assert (
    report["arms"] == found == {"h10_rl": analysis.compare(REPORT, "outcome")}
  )
  assert (tmp_path / "map/regimes.png").stat().st_size > 1000
  with pytest.raises(ValueError, match=r"has the arms .*, expected chance"):
    analysis.regime_map(tmp_path, "map", reports=[str(path)], first="chance")
  with pytest.raises(ValueError, match="there are no reports"):
    analysis.regime_map(tmp_path, "map", reports=[])
