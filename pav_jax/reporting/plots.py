"""Figures. Each function writes one PNG file and returns its path."""

import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt

STYLE = {
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.grid": True,
  "grid.alpha": 0.3,
  "figure.constrained_layout.use": True,
  "legend.frameon": False,
  "savefig.dpi": 130,
}


# Of Okabe and Ito, which differ to colour-blind eyes too. What is compared
# everywhere has its colour everywhere.
_COLOURS = {
  "best of N": "#0072B2",
  "outcome": "#0072B2",
  "beam": "#D55E00",
  "pav": "#D55E00",
  "progress": "#D55E00",
  "majority": "#009E73",
  "greedy": "#666666",
  "start": "#000000",
}
_OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#5E4FA2", "#B2ABD2")


def colours(names: Iterable[str]) -> dict[str, str]:
  """A colour for each name, the same in every figure of the same names.

  Those that are compared everywhere have their own; so has an arm `beam, …`
  or `progress, …`, as long as it is the first of its kind.
  """
  out: dict[str, str] = {}
  others = itertools.cycle(_OTHERS)
  for name in names:
    colour = _COLOURS.get(name) or _COLOURS.get(name.split(",")[0])
    if colour is None or colour in out.values():
      colour = next(others)
    out[name] = colour
  return out


def label_lines(panel: Any, labels: Mapping[str, Sequence[Any]]) -> None:
  """Writes names beside the ends of lines, one above another, in their colours.

  Args:
    panel: whose limits are final.
    labels: name -> x and y of its line's end, and its colour.
  """
  low, high = panel.get_ylim()
  gap, below = 0.055 * (high - low), -np.inf
  for name, (x, y, colour) in sorted(
    labels.items(), key=lambda item: item[1][1]
  ):
    below = max(y, below + gap)
    panel.annotate(
      name,
      (x, y),
      xytext=(1.02, (below - low) / (high - low)),
      textcoords="axes fraction",
      color=colour,
      fontsize="small",
      va="center",
      annotation_clip=False,
    )


def spread(axes, x, values: np.ndarray, label: str, color=None) -> None:
  """A line of means over seeds (the last axis) in a band of least and most."""
  (line,) = axes.plot(x, values.mean(-1), label=label, color=color)
  axes.fill_between(
    x, values.min(-1), values.max(-1), alpha=0.2, color=line.get_color()
  )


def points(axes, x, values: np.ndarray, label: str) -> None:
  """A line of means over seeds (the last axis), and a point for every seed."""
  (line,) = axes.plot(x, values.mean(-1), label=label)
  axes.plot(x, values, ".", color=line.get_color(), alpha=0.4, markersize=4)


def trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Trailing means over the first axis; fewer entries at its start."""
  total = np.cumsum(values, axis=0)
  total[window:] = total[window:] - total[:-window].copy()
  count = np.minimum(np.arange(1, len(values) + 1), window)
  return total / count[:, None]


def learning_curves(
  workdir: str | os.PathLike,
  accuracy: Mapping[str, np.ndarray],
  *,
  window: int = 10,
) -> pathlib.Path:
  """Accuracy against iterations, `accuracy.png`.

  Args:
    workdir: where the file goes.
    accuracy: arm -> float[iterations, seeds].
    window: batches averaged.
  """
  path = pathlib.Path(workdir) / "accuracy.png"
  with plt.rc_context(STYLE):
    figure, axes = plt.subplots(figsize=(6.4, 4))
    many = len(accuracy) > 8
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(accuracy)))
    own, ends = colours(accuracy), {}
    for (arm, values), shade in zip(accuracy.items(), shades, strict=True):
      means = trailing_mean(np.array(values, np.float64), window)
      x = np.arange(1, len(means) + 1)
      if many:
        axes.plot(x, means.mean(-1), label=arm, color=shade, linewidth=1)
      else:
        spread(axes, x, means, arm, own[arm])
        ends[arm] = (x[-1], means[-1].mean(), own[arm])
    axes.set(
      xlabel="iteration",
      ylabel=f"accuracy (mean of {window} batches)",
      ylim=(-0.02, 1.02),
    )
    seeds = next(iter(accuracy.values())).shape[1]
    axes.set_title(
      f"mean over {seeds} seeds" + ("" if many else ", band: least to most"),
      fontsize="medium",
    )
    if many:
      figure.legend(loc="outside right upper", fontsize="x-small")
    label_lines(axes, ends)
    figure.savefig(path)
    plt.close(figure)
  return path


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
  with plt.rc_context(STYLE):
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name, values in curves.items():
      points(axes, ns, values, name)
    # The first curve is what the others are held against, and may be covered.
    axes.lines[0].set(linestyle="--", color="black", zorder=3)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="N", ylabel="Pass@N", ylim=(-0.02, 1.02))
    axes.set_title(title, fontsize="medium")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
  return path
