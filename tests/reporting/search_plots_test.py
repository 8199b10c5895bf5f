import matplotlib.pyplot as plt
import numpy as np
import pytest

from pav_jax.reporting import search_plots


@pytest.fixture
def drawn(monkeypatch):
  """Figures that were closed, to look at."""
  figures = []
  monkeypatch.setattr(plt, "close", figures.append)
  yield figures
  monkeypatch.undo()
  plt.close("all")


def method(n, accuracy, generated):
  return {
    "n": n,
    "accuracy": accuracy,
    "standard_error": [0.01] * len(n),
    "pass_at_n": [x + 0.1 for x in accuracy],
    "generated": generated,
    "flops": [1e6 * x for x in generated],
  }


REPORT = {
  "best of N": method([1, 2], [0.1, 0.2], [60, 120]),
  "majority": method([1, 2], [0.1, 0.2], [60, 120]),
  "greedy": method([1], [0.3], [60]),
  "beam": method([2], [0.5], [340]),
}


def lines(panel):
  return {
    line.get_label(): line.get_xydata().tolist()
    for line in panel.get_lines()
    if not line.get_label().startswith("_")
  }


def test_accuracy_is_drawn_against_every_cost(tmp_path, drawn):
  path = search_plots.all_methods(tmp_path, REPORT)
  assert path.stat().st_size > 1000
  by_n, by_tokens, by_flops = drawn[0].axes
  labels = {text.get_text() for text in drawn[0].legends[0].get_texts()}
  # Every method is named; the two that are equal share a line.
  assert labels == {"best of N\n= majority", "greedy", "beam"}
  drawn_once = [REPORT[name] for name in ("best of N", "greedy", "beam")]
  for panel, cost in (by_n, "n"), (by_tokens, "generated"), (by_flops, "flops"):
    points = [
      container.lines[0].get_xydata().tolist() for container in panel.containers
    ]
    assert points == [
      [list(x) for x in zip(found[cost], found["accuracy"], strict=True)]
      for found in drawn_once
    ]


def test_the_first_figure_has_few_methods_named_at_their_lines(tmp_path, drawn):
  more = {
    "weighted majority": method([1, 2], [0.1, 0.3], [60, 120]),
    "beam, Bo4": REPORT["beam"],
    "beam, Q alone": method([2], [0.4], [340]),
  }
  search_plots.accuracy(tmp_path, REPORT | more)
  by_n, by_tokens = drawn[0].axes
  named = {text.get_text(): text for text in by_tokens.texts}
  # Equal beams share a name; best-of-N and majority do not, equal or not.
  assert set(named) == {
    "best of N",
    "majority",
    "greedy",
    "beam = beam, Bo4",
    "beam, Q alone",
  }
  assert not by_n.texts
  heights = sorted(text.xyann[1] for text in named.values())
  assert min(np.diff(heights)) > 0.05  # one above another
  curves = [
    container.lines[0].get_xydata().tolist() for container in by_n.containers
  ]
  assert curves == [
    [[1, 0.1], [2, 0.2]],
    [[1, 0.1], [2, 0.2]],
    [[2, 0.5]],
    [[2, 0.4]],
  ]
  assert [0.3, 0.3] in [list(line.get_ydata()) for line in by_n.lines]


def test_methods_that_rank_the_same_samples_share_a_line(tmp_path, drawn):
  search_plots.pass_at_n(tmp_path, REPORT)
  by_n, by_tokens = drawn[0].axes
  assert set(lines(by_n)) == {"samples", "greedy", "beam"}
  assert lines(by_tokens)["beam"] == [[340, 0.6]]


def test_other_figures(tmp_path, drawn):
  errors = {
    "step": [1, 2],
    "q_policy": [0.4, None],
    "effective_reward": [0.3, 0.2],
  }
  tuned = {
    "alpha": 0.5,
    "alphas": [0.0, 0.5],
    "accuracy": [0.1, 0.2],
    "standard_error": [0.01, 0.01],
  }
  more = {"alpha": tuned, "outcome_error": errors}
  paths = search_plots.every(tmp_path, REPORT, more)
  names = ["accuracy", "all_methods", "pass_at_n", "alpha", "outcome_error"]
  assert [path.stem for path in paths] == names
  error = lines(drawn[-1].axes[0])
  assert list(error.values())[1] == [[1, 0.3], [2, 0.2]]
  assert len(search_plots.every(tmp_path, REPORT, {})) == 3
