from matplotlib import pyplot as plt
from matplotlib.colors import same_color

from pav_jax.reporting import rl_plots


def test_an_arm_has_one_colour_though_others_lack_a_metric(
  tmp_path, monkeypatch
):
  figures = []
  monkeypatch.setattr(plt, "close", figures.append)
  arms = {
    "outcome": {"curves": {"length": [[1.0, 2.0]]}},
    "pav": {"curves": {"length": [[1.0, 3.0]], "score_gap": [[0.0, 0.1]]}},
  }
  path = rl_plots.curves(tmp_path, arms, ("length", "score_gap"), "some.png")
  monkeypatch.undo()
  [figure] = figures
  length, gap = (panel.get_lines() for panel in figure.axes)
  assert [line.get_label() for line in gap] == ["pav"]
  assert same_color(gap[0].get_color(), length[1].get_color())
  assert not same_color(gap[0].get_color(), length[0].get_color())
  # The legend has both, though the last panel lacks one.
  [legend] = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == list(arms)
  assert path.stat().st_size > 1000
  plt.close(figure)
