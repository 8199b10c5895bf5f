import numpy as np
import pytest

from pav_jax.reporting import drawing
from studies.prover_strength import figure
from tests.reporting import looking


def test_a_line_of_means_and_a_point_for_every_seed(tmp_path, drawn):
  path = figure.prover_strengths(
    tmp_path,
    [1.0, 10.0, 100.0],
    {"sgd": np.array([[0.1, 0.2], [0.5, 0.6], [0.0, 1.0]])},
    {"distinguishability": np.array([[1.0, 3.0], [2.0, 2.0], [5.0, 7.0]])},
  )
  assert path.name == "provers.png"
  top, bottom = drawn[0].axes
  first, second, mean = top.get_lines()
  assert first.get_ydata().tolist() == [0.1, 0.5, 0.0]
  assert second.get_ydata().tolist() == [0.2, 0.6, 1.0]
  # At the last strength one seed is lost: no mean is between the two.
  assert mean.get_ydata().tolist() == pytest.approx(
    [0.15, 0.55, np.nan], nan_ok=True
  )
  assert looking.names(top)["sgd: 1 of 2 seeds above 50 %"].xy == (100, 1.0)
  assert bottom.get_lines()[-1].get_ydata().tolist() == [2.0, 2.0, 6.0]
  assert looking.names(bottom)["distinguishability"].xy == (100, 6)
  assert mean.get_color() == drawing.colour("sgd")
  assert "dots: seeds" in looking.words(drawn[0])
