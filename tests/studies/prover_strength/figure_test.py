import numpy as np
import pytest
from matplotlib import pyplot as plt

from studies.prover_strength import figure


def test_a_line_of_means_and_a_point_for_every_seed(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(plt, "close", drawn.append)
  path = figure.prover_strengths(
    tmp_path,
    [1.0, 10.0, 100.0],
    {"sgd": np.array([[0.0, 0.2], [0.4, 0.6], [1.0, 1.0]])},
    {"distinguishability": np.array([[1.0, 3.0], [2.0, 2.0], [5.0, 7.0]])},
  )
  monkeypatch.undo()
  assert path.name == "provers.png" and path.stat().st_size > 1000
  top, bottom = drawn[0].axes
  mean, first, second = top.get_lines()
  assert mean.get_ydata().tolist() == pytest.approx([0.1, 0.5, 1.0])
  assert first.get_ydata().tolist() == [0.0, 0.4, 1.0]
  assert second.get_ydata().tolist() == [0.2, 0.6, 1.0]
  assert bottom.get_lines()[0].get_ydata().tolist() == [2.0, 2.0, 6.0]
  plt.close(drawn[0])
