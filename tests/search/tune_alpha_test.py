import numpy as np
import pytest

from pav_jax.search.tune_alpha import GRID, best_alpha


def test_takes_the_first_of_the_best():
  correct = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0.0, 0, 0, 0]])
  found = best_alpha((0.0, 0.2, 0.5, 1.0), correct)
  assert found["alpha"] == 0.2
  assert found["accuracy"] == [0.25, 0.5, 0.5, 0.0]
  # The third differs by -1, 1, -1, 1 from the best: 0 ± √(4/3) / 2.
  mean, error = found["to_best"][2]
  assert mean == 0 and error == pytest.approx((4 / 3) ** 0.5 / 2)
  assert found["to_best"][1] == (0.0, 0.0)


def test_the_papers_grid():
  assert GRID == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def test_refuses_rows_of_other_alphas():
  with pytest.raises(ValueError, match="2 alphas and answers to 3"):
    best_alpha((0.0, 1.0), np.zeros((3, 4)))
