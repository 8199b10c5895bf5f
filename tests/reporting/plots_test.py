import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import drawing, plots
from tests.reporting import looking


def test_learning_curves_are_named_at_their_ends(tmp_path, drawn):
  learns = np.linspace(0, 1, 20)[:, None] * np.ones((20, 3))
  arms = {"outcome": np.zeros((20, 3)), "pav": learns, "exact": learns}
  path = plots.learning_curves(tmp_path, arms, window=1)
  assert path.name == "accuracy.png"
  (figure,) = drawn
  (axes,) = figure.axes
  named = looking.names(axes)
  assert {name: text.xy for name, text in named.items()} == {
    "outcome": (20, 0),
    "pav": (20, 1),
    "exact": (20, 1),
  }
  for line, arm in zip(axes.lines, arms, strict=True):
    assert line.get_color() == named[arm].get_color() == drawing.colour(arm)
  assert not looking.overlapping(figure)
  assert not figure.legends and axes.get_legend() is None
  said = looking.words(figure)
  for words in ("iteration", "100 %", "means of 3 seeds", "least to most"):
    assert words in said


def test_more_than_eight_arms_have_a_panel_each(tmp_path, drawn):
  rng = np.random.default_rng(0)
  arms = {f"arm {i}": 0.1 * rng.random((12, 4)) for i in range(11)}
  arms["lost"] = np.tile([0.0, 0.0, 1.0, 1.0], (12, 1))
  plots.learning_curves(tmp_path, arms)
  (figure,) = drawn
  titles = [axes.get_title() for axes in figure.axes]
  assert titles == [
    *list(arms)[:-1],
    "lost:\n2 of 4 seeds above 50 %",
  ]
  for axes, arm in zip(figure.axes, arms, strict=True):
    coloured = [x for x in axes.lines if x.get_color() == drawing.colour(arm)]
    assert len(coloured) == (4 if arm == "lost" else 1)
    # The others are grey; of one that parts there is no mean here either.
    assert len(axes.lines) == len(arms) + 3 + len(coloured)
  assert "grey: the other arms" in looking.words(figure)
  assert not figure.legends


def test_smoothing_is_a_trailing_mean():
  # Window 2 over 1, 3, 5, 7: 1, then (1+3)/2, (3+5)/2, (5+7)/2.
  values = np.array([[1.0], [3.0], [5.0], [7.0]])
  np.testing.assert_allclose(
    plots.trailing_mean(values, 2)[:, 0], [1.0, 2.0, 4.0, 6.0]
  )
  np.testing.assert_allclose(
    plots.trailing_mean(values, 10)[:, 0], [1, 2, 3, 4]
  )
  # One that is missing is left out, and does not spoil what follows.
  values[1] = np.nan
  np.testing.assert_allclose(
    plots.trailing_mean(values, 2)[:, 0], [1.0, 1.0, 5.0, 6.0]
  )
  np.testing.assert_allclose(
    plots.trailing_mean(values, 1)[:, 0], [1.0, np.nan, 5.0, 7.0]
  )


def test_pass_at_n_has_the_start_dashed_and_every_seed(tmp_path, drawn):
  curves = {
    "start": np.array([[0.1], [0.2], [0.3]]),
    "pav": np.array([[0.8, 0.9], [0.9, 1.0], [1.0, 1.0]]),
  }
  plots.pass_at_n(tmp_path, [1, 2, 4], curves, title="test problems")
  (figure,) = drawn
  (axes,) = figure.axes
  means = [line for line in axes.lines if line.get_linestyle() != "None"]
  assert [line.get_linestyle() for line in means] == ["--", "-"]
  np.testing.assert_allclose(
    looking.data(means[1]), [[1, 0.85], [2, 0.95], [4, 1]]
  )
  assert {n: x.xy for n, x in looking.names(axes).items()} == {
    "start": (4, 0.3),
    "pav": (4, 1.0),
  }
  said = looking.words(figure)
  assert "test problems" in said and "dots: seeds" in said
  assert "samples of a problem" in said


def test_a_file_is_written_and_no_figure_stays(tmp_path):
  path = plots.learning_curves(tmp_path, {"pav": np.ones((3, 1))})
  assert matplotlib.image.imread(path).shape[0] > 300
  assert plt.get_fignums() == []
