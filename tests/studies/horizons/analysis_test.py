import json

import pytest

from studies.horizons import analysis


def report(beam, best):
  """Accuracies at N = 1, 2; gains of equal N by subtraction."""
  arms = {
    name: {
      "n": [1, 2],
      "accuracy": list(accuracy),
      "standard_error": [0.01, 0.01],
      "generated": [30.0, 60.0],
      "equal_n": [[a - b, 0.02] for a, b in zip(accuracy, best, strict=True)],
      "equal_tokens": [[0.1, 0.02], None],
    }
    for name, accuracy in (("beam", beam), ("best of N", best))
  }
  return {"arms": arms}


def test_horizons_are_compared_in_order(tmp_path):
  for horizon, accuracies in (
    (20, ((0.5, 0.6), (0.1, 0.2))),
    (6, ((0.7, 0.8), (0.3, 0.5))),
  ):
    path = tmp_path / f"{horizon}.json"
    path.write_text(json.dumps(report(*accuracies)))
  found = analysis.horizon_curve(
    tmp_path / "curve",
    "curve",
    reports={h: str(tmp_path / f"{h}.json") for h in (20, 6)},
    method="beam",
    sizes=(1, 2),
  )
  assert list(found) == ["6", "20"]
  # 0.5 - 0.1 at H = 20, N = 1, and 0.8 - 0.5 at H = 6, N = 2.
  assert found["20"]["1"]["equal_n"] == pytest.approx([0.4, 0.02])
  assert found["6"]["2"]["equal_n"] == pytest.approx([0.3, 0.02])
  assert found["6"]["2"]["equal_tokens"] is None
  assert (found["20"]["2"]["accuracy"], found["20"]["2"]["best_of_n"]) == (
    0.6,
    0.2,
  )
  written = json.loads((tmp_path / "curve/report.json").read_text())
  assert written["arms"] == found
  assert (tmp_path / "curve/horizons.png").stat().st_size > 1000


def test_bad_input(tmp_path):
  one = report((0.5, 0.6), (0.1, 0.2))
  with pytest.raises(ValueError, match="not 'tree'"):
    analysis.compare(one, "tree", (1,))
  with pytest.raises(ValueError, match=r"not \[4\]"):
    analysis.compare(one, "beam", (1, 4))
  with pytest.raises(ValueError, match="one or more of each"):
    analysis.horizon_curve(tmp_path, "curve", reports={})
