"""Figures of arms. Each function writes one PNG file and returns its path."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from pav_jax.reporting import drawing, seed_plots

_MOST_TOGETHER = 8


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Trailing means over the first axis; fewer entries at its start.

  Of what is finite; NaN where nothing is.
  """
  finite = np.isfinite(values)
  total = np.cumsum(np.where(finite, values, 0), axis=0)
  count = np.cumsum(finite, axis=0)
  for x in total, count:
    x[window:] = x[window:] - x[:-window]
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def learning_curves(
  workdir: str | os.PathLike,
  accuracy: Mapping[str, np.ndarray],
  *,
  window: int = 10,
) -> pathlib.Path:
  """Accuracy against iterations, `accuracy.png`.

  More than eight arms have a panel each.

  Args:
    workdir: where the file goes.
    accuracy: arm -> float[iterations, seeds].
    window: batches averaged.
  """
  path = pathlib.Path(workdir) / "accuracy.png"
  curves = {
    arm: trailing_mean(np.array(values, np.float64), window)
    for arm, values in accuracy.items()
  }
  together = len(curves) <= _MOST_TOGETHER
  side = 1 if together else int(np.ceil(len(curves) ** 0.5))
  rows = 1 if together else -(-len(curves) // side)
  size = (7.6, 4.2) if together else (1.8 * side + 0.6, 1.6 * rows + 0.9)
  with drawing.figure(path, *size) as figure:
    grid = figure.subplots(rows, side, sharex=True, sharey=True, squeeze=False)
    first = grid[0, 0]
    if together:
      look, parted = drawing.looks(curves), seed_plots.parted_arms(curves)
      said = seed_plots.arms(first, curves, look, parted, shares=True)
    else:
      said = _in_panels(list(grid.flat), curves)
    first.set(ylim=(-0.02, 1.02))
    drawing.percent(first.yaxis)
    figure.supxlabel("iteration", fontsize="medium")
    figure.supylabel("right responses", fontsize="medium")
    what = f"Right responses in training batches, means of the last {window}"
    drawing.say(figure, what, said)
  return path


def _in_panels(grid: Sequence[Any], curves: Mapping[str, np.ndarray]) -> str:
  """A panel for each arm, the others grey; what its lines are."""
  parted, said = seed_plots.parted_arms(curves), ""
  for axes in grid[len(curves) :]:
    axes.set_axis_off()
  for axes, (arm, means) in zip(grid, curves.items(), strict=False):
    for other, values in curves.items():
      x = np.arange(1, len(values) + 1)
      y = values if parted[other] else seed_plots.mean_of_seeds(values)
      axes.plot(x, y, color="0.85", linewidth=0.5)
    look = drawing.looks([arm])
    lines = seed_plots.arms(axes, {arm: means}, look, parted, named=False)
    said = max(said, lines, key=len)
    name = arm + seed_plots.seeds_above(means[-1])
    axes.set_title(name, fontsize="x-small", color=drawing.colour(arm))
  return f"{said}; grey: the other arms"


def pass_at_n(
  workdir: str | os.PathLike,
  ns: Sequence[int],
  curves: Mapping[str, np.ndarray],
  *,
  title: str,
) -> pathlib.Path:
  """Pass@N against N, `pass_at_n.png`.

  Args:
    workdir: where the file goes.
    ns: numbers of samples.
    curves: policy -> float[N, seeds]; the first is drawn dashed.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / "pass_at_n.png"
  look = drawing.looks(curves)
  # The first curve is what the others are held against, and may be covered.
  look[next(iter(curves))] |= {"linestyle": "--", "zorder": 3}
  with drawing.figure(path, 7.6, 4.4) as figure:
    axes = figure.subplots()
    for name, values in curves.items():
      seed_plots.points(axes, name, ns, values, look[name], shares=True)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    axes.set(xlabel="N, samples of a problem", ylim=(-0.02, 1.02))
    axes.set(ylabel="Pass@N: problems with a right one among N")
    drawing.percent(axes.yaxis)
    what = f"How often one of N samples is right: {title}"
    drawing.say(figure, what, seed_plots.POINTS_SAY)
  return path


def losses(
  panel: Any,
  loss: np.ndarray,
  at: drawing.Numbers,
  held_out: drawing.Numbers,
  window: int,
) -> None:
  """Losses of training and validation, named at their ends.

  Args:
    panel: to draw in.
    loss: float[steps], of training batches.
    at: train steps after which it was validated.
    held_out: losses then.
    window: train steps averaged.
  """
  smooth = trailing_mean(np.asarray(loss, np.float64)[:, None], window)[:, 0]
  steps = np.arange(1, len(smooth) + 1)
  for name, look in drawing.looks(["training", "validation"]).items():
    if name == "training":
      drawing.line(panel, name, steps, smooth, look)
    else:
      dots = {"marker": "o", "markersize": 3}
      drawing.line(panel, name, at, held_out, look, **dots)
