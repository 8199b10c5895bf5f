from pav_jax.reporting import drawing, search_plots
from tests.reporting import looking


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


def curves(panel):
  """Points of the lines of a panel that have error bars."""
  return [box.lines[0].get_xydata().tolist() for box in panel.containers]


def test_accuracy_is_drawn_against_every_cost(tmp_path, drawn):
  search_plots.all_methods(tmp_path, REPORT)
  by_n, by_tokens, by_flops = drawn[0].axes
  # Every method is named at its end; the two that are equal share a line.
  assert set(looking.names(by_flops)) == {
    "best of N = majority",
    "greedy",
    "beam",
  }
  assert not by_n.texts and not drawn[0].legends
  lines = [REPORT[name] for name in ("best of N", "beam")]
  for panel, cost in (by_n, "n"), (by_tokens, "generated"), (by_flops, "flops"):
    assert curves(panel) == [
      [list(x) for x in zip(found[cost], found["accuracy"], strict=True)]
      for found in lines
    ]
    # Greedy decoding is a line across.
    assert [0.3, 0.3] in [list(line.get_ydata()) for line in panel.lines]
  said = looking.words(drawn[0])
  for words in ("bars: standard errors", "dashed: greedy", "dots:", "100 %"):
    assert words in said


def test_the_first_figure_has_few_methods_named_at_their_lines(tmp_path, drawn):
  more = {
    "weighted majority": method([1, 2], [0.1, 0.3], [60, 120]),
    "beam, Bo4": REPORT["beam"],
    "beam, Q alone": method([2], [0.4], [340]),
  }
  search_plots.accuracy(tmp_path, REPORT | more)
  by_n, by_tokens = drawn[0].axes
  # Equal beams share a name; best-of-N and majority do not, equal or not.
  assert set(looking.names(by_tokens)) == {
    "best of N",
    "majority",
    "greedy",
    "beam = beam, Bo4",
    "beam, Q alone",
  }
  assert not by_n.texts and not looking.overlapping(drawn[0])
  assert curves(by_n) == [
    [[1, 0.1], [2, 0.2]],
    [[1, 0.1], [2, 0.2]],
    [[2, 0.5]],
    [[2, 0.4]],
  ]


def test_a_method_has_one_colour_in_every_figure(tmp_path, drawn):
  search_plots.every(tmp_path, REPORT, {})
  for figure in drawn:
    for name, text in looking.names(figure.axes[-1]).items():
      assert text.get_color() == drawing.colour(name.split(" =")[0])


def test_many_methods_of_equal_ends_are_all_legible(tmp_path, drawn):
  report = {
    f"best of N, scored in way {i}": method(
      [1, 2], [0.1, 0.9 + i / 1e3], [60, 120]
    )
    for i in range(20)
  }
  search_plots.every(tmp_path, report | REPORT, {})
  for figure in drawn:
    assert not looking.overlapping(figure)
    assert len(looking.names(figure.axes[-1])) == len(report) * (
      figure is not drawn[0]
    ) + (4 if figure is drawn[0] else 3)


def test_bands_are_named(tmp_path, drawn):
  banded = method([1, 2], [0.1, 0.2], [60, 120])
  banded |= {"least": [0.0, 0.1], "most": [0.2, 0.3]}
  search_plots.accuracy(tmp_path, {"beam": banded}, title="three seeds")
  said = looking.words(drawn[0])
  assert "bands: least to most" in said and "three seeds" in said
  assert "standard errors" not in said and "greedy" not in said


def test_methods_that_rank_the_same_samples_share_a_line(tmp_path, drawn):
  search_plots.pass_at_n(tmp_path, REPORT)
  _, by_tokens = drawn[0].axes
  assert set(looking.names(by_tokens)) == {"samples", "greedy", "beam"}
  assert [[340, 0.6]] in curves(by_tokens)


def test_other_figures(tmp_path, drawn):
  errors = {
    "step": [1, 2, 3],
    "rollouts": [200, 50, 19],
    "q_policy": [0.4, 0.3, None],
    "effective_reward": [0.3, 0.2, 0.1],
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
  alpha, (axes,) = drawn[3], drawn[4].axes
  said = looking.words(alpha)
  assert "dotted: the α taken" in said and "standard errors" in said
  # The third step has few traces: of the rewards' line, that reaches it.
  values, faded, clear = axes.lines
  assert looking.data(values) == [[1, 0.4], [2, 0.3]]
  assert faded.get_alpha() == drawing.FADED
  assert looking.data(faded) == [[1, 0.3], [2, 0.2], [3, 0.1]]
  assert looking.data(clear) == [[1, 0.3], [2, 0.2]]
  assert set(looking.names(axes)) == {"values alone", "effective rewards"}
  assert drawing.FADED_SAYS in looking.words(drawn[4])
