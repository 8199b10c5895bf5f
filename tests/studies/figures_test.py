"""Words, names and colours of the studies' figures."""

import numpy as np

from pav_jax.reporting import drawing
from studies.horizons import figure as horizons
from studies.regimes import figure as regimes
from studies.scaling import figure as scaling
from tests.reporting import looking


def test_beams_and_best_of_n_are_named_at_each_size(tmp_path, drawn):
  def numbers(accuracy):
    return {
      "accuracy": accuracy,
      "standard_error": 0.01,
      "best_of_n": accuracy - 0.3,
      "best_of_n_standard_error": 0.01,
      "equal_n": [0.3, 0.02],
      "equal_tokens": None if accuracy > 0.7 else [0.1, 0.02],
    }

  found = {
    h: {"1": numbers(0.5 - of), "4": numbers(0.8 - of)}
    for h, of in (("6", 0.0), ("20", 0.05))
  }
  horizons.horizons(tmp_path, found)
  (figure,) = drawn
  left, right = figure.axes
  assert {name: text.xy for name, text in looking.names(left).items()} == {
    "beam, N = 1": (20, 0.45),
    "beam, N = 4": (20, 0.75),
    "best of N, N = 1": (20, 0.45 - 0.3),
    "best of N, N = 4": (20, 0.75 - 0.3),
  }
  # The gain at equal tokens that is not known has no name.
  assert set(looking.names(right)) == {
    *("equal N, N = 1", "equal N, N = 4", "equal tokens, N = 1")
  }
  # The largest size has the arm's own colour, smaller ones a lighter one.
  names = looking.names(left)
  for arm in "beam", "best of N":
    own = looking.colour(names[f"{arm}, N = 4"])
    assert own == drawing.colour(arm).lower()
    assert looking.colour(names[f"{arm}, N = 1"]) != own
  said = looking.words(figure)
  assert "bars: standard errors" in said and "percentage points" in said
  assert not looking.overlapping(figure)
  assert not any(axes.get_legend() for axes in figure.axes)


def test_starts_are_named_at_their_lines_and_triangles_in_words(
  tmp_path, drawn
):
  def regime(start, is_bound):
    level = {"ratios": [2.0, 3.0, 0.0], "median": 2.0, "is_bound": is_bound}
    arm = {"levels": {"0.5": level, "0.9": level}, "ahead": {"5": 9.0}}
    return {"start": start, "arms": {"exact": arm}}

  starts = [regime(0.001, True), regime(0.13, False)]
  regimes.regimes(tmp_path, starts, ["exact", "verifier"])
  (figure,) = drawn
  above, other, below, _ = figure.axes
  for panel, end in (above, (0.9, 2)), (below, (5, 9)):
    named = looking.names(panel)
    assert {name: text.xy for name, text in named.items()} == {
      "from 0.1 %": end,
      "from 13 %": end,
    }
  assert not looking.names(other)  # no verifier was compared
  marks = [x.get_marker() for x in above.lines if x.get_linestyle() == "None"]
  assert marks == ["^", "^", ".", "."]
  said = looking.words(figure)
  assert "triangles: seeds, where outcomes alone did not get there" in said
  assert "dots: seeds" in said and not looking.overlapping(figure)


def test_designs_have_a_dot_for_every_seed(tmp_path, drawn):
  table = {"30,000": {"8 × 1": {"corr_exact": [0.8, 0.9]}}}
  scaling.spread_of_designs(tmp_path, table)
  (axes,) = drawn[0].axes
  dots, mean = axes.lines
  np.testing.assert_allclose(dots.get_ydata(), [0.8, 0.9])
  np.testing.assert_allclose(mean.get_ydata(), [0.85])
  assert axes.get_ylabel().startswith("correlation with exact values")
  assert "dots: seeds" in looking.words(drawn[0])
