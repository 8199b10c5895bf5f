"""Accuracy and gain of a search, by the number of steps."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colors

from pav_jax.reporting import drawing

# Report's name -> in words, colour as of the arm everywhere, and its dashes.
_ACCURACY = (
  ("accuracy", "standard_error", "beam", "-"),
  ("best_of_n", "best_of_n_standard_error", "best of N", "--"),
)
_GAINS = (("equal_n", "equal N", "-"), ("equal_tokens", "equal tokens", ":"))


def horizons(
  workdir: str | os.PathLike, found: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
  """Accuracy and gain against the horizon, `horizons.png`.

  Args:
    workdir: where the file goes.
    found: horizon -> N -> numbers, from `analysis.compare`.
  """
  path = pathlib.Path(workdir) / "horizons.png"
  steps = [int(horizon) for horizon in found]
  sizes = list(next(iter(found.values())))
  shades = np.linspace(0.55, 1, len(sizes))
  with drawing.figure(path, 12, 4.8) as figure:
    left, right = figure.subplots(1, 2)

    def line(panel, label, look, pairs):
      y, error = np.array(pairs, np.float64).T
      dots = {"marker": "o", "markersize": 3, "elinewidth": 0.8}
      panel.errorbar(steps, y, yerr=error, **dots, **look)
      drawing.line(panel, label, steps, y, look, linewidth=0)

    for n, shade in zip(sizes, shades, strict=True):
      numbers = [of_horizon[n] for of_horizon in found.values()]
      for name, error, arm, dashes in _ACCURACY:
        look = {"color": _lighter(arm, shade), "linestyle": dashes}
        pairs = [(x[name], x[error]) for x in numbers]
        line(left, f"{arm}, N = {n}", look, pairs)
      for name, words, dashes in _GAINS:
        look = {"color": _lighter("beam", shade), "linestyle": dashes}
        pairs = [100 * np.array(x[name] or (np.nan, np.nan)) for x in numbers]
        line(right, f"{words}, N = {n}", look, pairs)
    for panel in left, right:
      panel.set_xlabel("horizon H, steps of a problem")
      panel.set_xticks(steps)
    left.set(ylabel="problems answered right", ylim=(-0.02, 1.02))
    left.set_title("accuracy")
    drawing.percent(left.yaxis)
    right.set(ylabel="percentage points")
    right.set_title("the beam's gain over best-of-N")
    right.axhline(0, color="black", linewidth=0.6)
    drawing.say(
      figure,
      "Beams and best-of-N as problems get longer",
      "dots: horizons that were tried, bars: standard errors",
    )
  return path


def _lighter(arm: str, shade: float) -> tuple[float, ...]:
  """An arm's colour, mixed with white."""
  return tuple(1 - shade * (1 - np.array(colors.to_rgb(drawing.colour(arm)))))
