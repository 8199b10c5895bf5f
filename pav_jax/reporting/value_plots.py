"""Figures of values and verifiers. Each function writes one PNG file.

Correct rollouts are blue and wrong ones orange, as in `inspect`, and differ in
more than colour. Arrays are of B rollouts and P = H + 1 prefixes; a mask says
which prefixes exist (`verification.prefix_mask`).
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int
from matplotlib import ticker

from pav_jax.reporting import drawing

CORRECT, WRONG = "#1f5fa8", "#c25a08"


def _steps_axis(axes, num_prefixes: int) -> None:
  axes.set(xlabel="step (0: the bare problem)", xlim=(-0.4, num_prefixes - 0.6))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def value_traces(
  workdir: str | os.PathLike,
  q_hat: Float[ArrayLike, "B P"],
  outcome: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B P"],
  *,
  most_traces: int = 40,
  title: str = "",
) -> pathlib.Path:
  """Values along rollouts, and their means, by outcome; `value_traces.png`.

  Args:
    workdir: where the file goes.
    q_hat: values.
    outcome: 1 for correct rollouts, 0 for wrong ones.
    mask: which prefixes exist.
    most_traces: of each outcome; the first ones are drawn.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / "value_traces.png"
  q_hat, outcome, mask = (np.asarray(x) for x in (q_hat, outcome, mask))
  with drawing.figure(path, 7.4, 4.4) as figure:
    axes = figure.subplots()
    shown, faded = [], False
    for correct, color, style in ((0, WRONG, "--"), (1, CORRECT, "-")):
      rows = np.flatnonzero(outcome == correct)
      drawn = rows[:most_traces]
      for row in drawn:
        at = np.flatnonzero(mask[row])
        axes.plot(at, q_hat[row, at], color=color, alpha=0.25, linewidth=0.8)
        axes.plot(at[-1], q_hat[row, at[-1]], ".", color=color, alpha=0.5)
      number = mask[rows].sum(0)
      mean = np.where(mask[rows], q_hat[rows], 0).sum(0) / np.maximum(number, 1)
      mean = np.where(number > 0, mean, np.nan)
      look = {"color": color, "linestyle": style}
      name = "right" if correct else "wrong"
      faded |= drawing.line(
        axes,
        f"{name}: mean of {len(rows)}",
        np.arange(len(mean)),
        mean,
        look,
        number=number,
        linewidth=3,
      )
      shown.append(f"{len(drawn)} {name}")
    _steps_axis(axes, q_hat.shape[1])
    axes.set(ylabel="value, a probability", ylim=(-0.02, 1.02))
    drawing.say(
      figure,
      title,
      "Values along responses that end right, and that end wrong",
      f"thin: {' and '.join(shown)} ones, each up to a dot where it ends",
      drawing.FADED_SAYS * faded,
    )
  return path


def value_distribution(
  workdir: str | os.PathLike,
  q: Float[ArrayLike, "B P"],
  outcome: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B P"],
  *,
  num_bins: int = 20,
  title: str = "",
) -> pathlib.Path:
  """How values are spread, over all and by step; `value_distribution.png`.

  Above, the share in each bin of the prefixes of correct rollouts, and of those
  of wrong ones. Below, each step's median, middle half and middle four fifths.

  Args:
    workdir: where the file goes.
    q: values, predicted or Monte-Carlo.
    outcome: 1 for correct rollouts, 0 for wrong ones.
    mask: which prefixes exist.
    num_bins: of the histogram.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / "value_distribution.png"
  q, outcome, mask = (np.asarray(x) for x in (q, outcome, mask))
  kinds = (("right", 1, CORRECT, "", "-"), ("wrong", 0, WRONG, "////", "--"))
  with drawing.figure(path, 7.4, 7) as figure:
    top, bottom = figure.subplots(2, 1, height_ratios=(2, 3))
    chosen = [mask & (outcome == kind[1])[:, None] for kind in kinds]
    edges = np.linspace(0, 1, num_bins + 1)
    for i, ((name, _, color, hatch, _), kept) in enumerate(
      zip(kinds, chosen, strict=True)
    ):
      number = int(kept.sum())
      top.bar(
        edges[:-1] + i / (2 * num_bins),
        np.histogram(q[kept], edges)[0] / max(1, number),
        0.5 / num_bins,
        align="edge",
        facecolor=color,
        edgecolor="white",
        hatch=hatch,
        linewidth=0.5,
        label=f"that end {name}: {number} prefixes",
      )
    top.set(xlabel="value, a probability", ylabel="share of prefixes")
    top.set(xlim=(0, 1), title="Values of the prefixes of responses")
    drawing.percent(top.yaxis)
    top.legend(loc="lower left", bbox_to_anchor=(1, 0), fontsize="small")
    faded = False
    for (name, _, color, _, style), kept in zip(kinds, chosen, strict=True):
      steps = np.flatnonzero(kept.any(0))
      if not len(steps):
        continue
      quantiles = np.array(
        [
          np.quantile(q[kept[:, h], h], (0.1, 0.25, 0.5, 0.75, 0.9))
          for h in steps
        ]
      ).T
      number = kept.sum(0)[steps]
      few = number < drawing.FEW_TRACES
      # A band is faded up to the first step of enough traces.
      for where, share in (
        (~few, 1.0),
        (few | np.roll(few, 1) | np.roll(few, -1), drawing.FADED),
      ):
        for low, high, alpha in ((0, 4, 0.13), (1, 3, 0.25)):
          bottom.fill_between(
            steps,
            quantiles[low],
            quantiles[high],
            where=where,
            color=color,
            alpha=alpha * share,
            linewidth=0,
          )
        if not few.any():
          break
      look = {"color": color, "linestyle": style}
      faded |= drawing.line(
        bottom,
        f"{name}: median",
        steps,
        quantiles[2],
        look,
        number=number,
        linewidth=2,
      )
    _steps_axis(bottom, q.shape[1])
    bottom.set(ylabel="value, a probability", ylim=(-0.02, 1.02))
    said = "By step: median, middle half (dark) and middle four fifths (light)"
    bottom.set_title(said + f"\n{drawing.FADED_SAYS}" * faded)
    figure.suptitle(title)
  return path


def by_step(
  workdir: str | os.PathLike,
  name: str,
  curves: Mapping[str, Float[ArrayLike, "P"]],
  *,
  ylabel: str,
  number: Int[np.ndarray, "P"] | None = None,
  title: str = "",
) -> pathlib.Path:
  """Measures against steps, such as calibration errors; `{name}.png`.

  Args:
    workdir: where the file goes.
    name: of the file.
    curves: name -> one number per prefix, NaN where there is none.
    ylabel: what the numbers are.
    number: traces that have each prefix; those of few are faded.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / f"{name}.png"
  with drawing.figure(path, 7.4, 4.0) as figure:
    axes = figure.subplots()
    faded = _draw_curves(axes, curves, number)
    _steps_axis(axes, len(next(iter(curves.values()))))
    axes.set(ylabel=ylabel)
    what = f"{ylabel[0].upper()}{ylabel[1:]} by step"
    drawing.say(figure, title, what, drawing.FADED_SAYS * faded)
  return path


def auc_by_step(
  workdir: str | os.PathLike,
  pooled: Mapping[str, Float[ArrayLike, "P"]],
  within: Mapping[str, Mapping[str, Float[ArrayLike, "P"]]] | None = None,
  *,
  number: Int[np.ndarray, "P"] | None = None,
) -> pathlib.Path:
  """AUC against steps, pooled and within groups; `auc_by_step.png`.

  Args:
    workdir: where the file goes.
    pooled: verifier -> `verification.auc` with `axis=0`.
    within: verifier -> group -> the same of the group's entries alone; a panel
      for each verifier.
    number: traces that have each prefix; those of few are faded.
  """
  path = pathlib.Path(workdir) / "auc_by_step.png"
  panels = ["pooled"] + (list(within) if within else [])
  with drawing.figure(path, max(4.6 * len(panels), 7), 4.2) as figure:
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    faded = False
    for axes, panel in zip(grid, panels, strict=True):
      first = panel == "pooled"
      curves = pooled if first else within[panel]
      faded |= _draw_curves(axes, curves, number)
      if not first and panel in pooled:
        y, look = np.asarray(pooled[panel]), {"color": "0.6"}
        at = np.arange(len(y))
        drawing.line(axes, "all kinds", at, y, look, lw=4, zorder=1)
      axes.axhline(0.5, color="0.5", linewidth=1, zorder=0)
      _steps_axis(axes, len(next(iter(curves.values()))))
      axes.set_title("all prefixes" if first else f"{panel}: each kind of step")
    low = min(0.45, *(ax.dataLim.y0 - 0.02 for ax in grid))
    grid[0].set(ylabel="AUC (0.5: chance)", ylim=(low, 1.02))
    drawing.say(
      figure,
      "How well values tell prefixes apart, by step (AUC)",
      drawing.FADED_SAYS * faded,
    )
  return path


def _draw_curves(
  axes, curves: Mapping[str, ArrayLike], number: drawing.Numbers | None
) -> bool:
  """Curves with their names; whether steps are faded."""
  faded = False
  for name, look in drawing.looks(curves, marks=True).items():
    y = np.asarray(curves[name])
    faded |= drawing.line(
      axes, name, np.arange(len(y)), y, look, number=number, markersize=4
    )
  return faded
