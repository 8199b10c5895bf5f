"""Figures of values and verifiers. Each function writes one PNG file.

Correct rollouts are blue and wrong ones orange, as in `inspect`, and differ in
more than colour. Arrays are of B rollouts and P = H + 1 prefixes; a mask says
which prefixes exist (`verification.prefix_mask`).
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping

import matplotlib
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int
from matplotlib import figure as mpl_figure
from matplotlib import lines, patches, ticker

from pav_jax import verification
from pav_jax.reporting import plots

CORRECT, WRONG = "#1f5fa8", "#c25a08"
# Okabe and Ito's, which differ to colour-blind eyes too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP"


@contextlib.contextmanager
def _figure(
  path: pathlib.Path, width: float, height: float
) -> Iterator[mpl_figure.Figure]:
  """A figure that belongs to no global state, written when the block ends."""
  with matplotlib.rc_context(plots.STYLE):
    figure = mpl_figure.Figure(figsize=(width, height))
    yield figure
    figure.savefig(path)


def _steps_axis(axes, num_prefixes: int) -> None:
  axes.set(xlabel="step (0: the bare problem)", xlim=(-0.4, num_prefixes - 0.6))
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _arrays(q_hat: Mapping, targets: ArrayLike, mask: ArrayLike):
  """All as numpy arrays, targets and mask of the values' shape."""
  q_hat = {name: np.asarray(q, np.float64) for name, q in q_hat.items()}
  if not q_hat:
    raise ValueError("q_hat is empty, expected at least one array of values")
  shape = next(iter(q_hat.values())).shape
  targets = np.broadcast_to(np.asarray(targets, np.float64), shape)
  return q_hat, targets, np.broadcast_to(np.asarray(mask), shape)


def reliability(
  workdir: str | os.PathLike,
  q_hat: Mapping[str, Float[ArrayLike, "B P"]],
  targets: Float[ArrayLike, "#B #P"],
  mask: Bool[ArrayLike, "#B P"],
  *,
  num_bins: int = 10,
  most_panels: int = 12,
) -> pathlib.Path:
  """Frequency against value, a panel per step; `reliability.png`.

  A point's area tells how many prefixes it stands for, its bar two standard
  errors of the frequency.

  Args:
    workdir: where the file goes.
    q_hat: verifier -> values.
    targets: outcomes, `outcome[:, None]`, or values.
    mask: which prefixes exist.
    num_bins: of equal mass.
    most_panels: steps are left out evenly where there are more.
  """
  path = pathlib.Path(workdir) / "reliability.png"
  q_hat, targets, mask = _arrays(q_hat, targets, mask)
  steps = np.flatnonzero(mask.any(0))
  if len(steps) > most_panels:
    at = np.linspace(0, len(steps) - 1, most_panels).round().astype(int)
    steps = steps[at]
  columns = min(4, len(steps))
  rows = -(-len(steps) // columns)
  with _figure(path, 2.1 * columns + 0.4, 2.1 * rows + 0.6) as figure:
    grid = figure.subplots(
      rows, columns, sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(steps) :]:
      axes.set_axis_off()
    for axes, step in zip(grid.flat, steps, strict=False):
      axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, zorder=0)
      errors = []
      for i, q in enumerate(q_hat.values()):
        arguments = (q[:, step], targets[:, step], mask[:, step])
        curve = verification.reliability_curve(
          *arguments, num_bins=num_bins, equal_mass=True
        )
        ece = verification.expected_calibration_error(
          *arguments, num_bins=num_bins, equal_mass=True
        )
        errors.append(f"{ece:.3f}")
        _reliability_points(axes, curve, i)
      name = f"step {step}" if step else "problem"
      axes.set_title(f"{name} · ECE {', '.join(errors)}", fontsize="small")
      axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
      axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    figure.supxlabel("value", fontsize="medium")
    figure.supylabel("frequency", fontsize="medium")
    handles = [
      lines.Line2D(
        [],
        [],
        color=_COLOURS[i % len(_COLOURS)],
        marker=_MARKERS[i % len(_MARKERS)],
        label=name,
      )
      for i, name in enumerate(q_hat)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
  return path


def _reliability_points(axes, curve: verification.ReliabilityCurve, i: int):
  value, frequency, count = (np.asarray(x) for x in curve)
  color = _COLOURS[i % len(_COLOURS)]
  filled = count > 0
  value, frequency, count = value[filled], frequency[filled], count[filled]
  error = 2 * np.sqrt(np.clip(frequency * (1 - frequency), 0, 1) / count)
  below = frequency - np.maximum(frequency - error, 0)
  above = np.minimum(frequency + error, 1) - frequency
  axes.errorbar(
    value,
    frequency,
    (np.maximum(below, 0), np.maximum(above, 0)),
    color=color,
    linewidth=1,
    elinewidth=0.8,
  )
  size = 8 + 40 * count / max(1, count.max())
  marker = _MARKERS[i % len(_MARKERS)]
  axes.scatter(value, frequency, s=size, color=color, marker=marker, zorder=2)


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
  with _figure(path, 6.4, 4.0) as figure:
    axes = figure.subplots()
    for correct, color, style in ((0, WRONG, "--"), (1, CORRECT, "-")):
      rows = np.flatnonzero(outcome == correct)
      drawn = rows[:most_traces]
      for row in drawn:
        at = np.flatnonzero(mask[row])
        axes.plot(at, q_hat[row, at], color=color, alpha=0.25, linewidth=0.8)
        axes.plot(at[-1], q_hat[row, at[-1]], ".", color=color, alpha=0.5)
      number = mask[rows].sum(0)
      mean = np.where(mask[rows], q_hat[rows], 0).sum(0) / np.maximum(number, 1)
      name = "correct" if correct else "wrong"
      axes.plot(
        np.where(number > 0, mean, np.nan),
        color=color,
        linestyle=style,
        linewidth=3,
        label=f"{name}: {len(drawn)} of {len(rows)}, mean of all",
      )
    _steps_axis(axes, q_hat.shape[1])
    axes.set(ylabel="value", ylim=(-0.02, 1.02))
    axes.set_title(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2)
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
  kinds = (("correct", 1, CORRECT, "", "-"), ("wrong", 0, WRONG, "////", "--"))
  with _figure(path, 6.4, 6.4) as figure:
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
        label=f"{name}: {number} prefixes",
      )
    top.set(xlabel="value", ylabel="share of prefixes")
    top.set(xlim=(0, 1))
    top.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    top.set_title(title, fontsize="medium")
    top.legend()
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
      for low, high, alpha in ((0, 4, 0.13), (1, 3, 0.25)):
        bottom.fill_between(
          steps,
          quantiles[low],
          quantiles[high],
          color=color,
          alpha=alpha,
          linewidth=0,
        )
      bottom.plot(
        steps,
        quantiles[2],
        color=color,
        linestyle=style,
        linewidth=2,
        label=f"{name}: median",
      )
    handles, _ = bottom.get_legend_handles_labels()
    for alpha, label in ((0.35, "middle half"), (0.13, "middle four fifths")):
      handles.append(patches.Patch(color="black", alpha=alpha, label=label))
    bottom.legend(handles=handles, fontsize="small", ncols=2)
    _steps_axis(bottom, q.shape[1])
    bottom.set(ylabel="value", ylim=(-0.02, 1.02))
  return path


def by_step(
  workdir: str | os.PathLike,
  name: str,
  curves: Mapping[str, Float[ArrayLike, "P"]],
  *,
  ylabel: str,
  reference: float | int | None = None,
  title: str = "",
) -> pathlib.Path:
  """Measures against steps, such as calibration errors; `{name}.png`.

  Args:
    workdir: where the file goes.
    name: of the file.
    curves: legend -> one number per prefix, NaN where there is none.
    ylabel: what the numbers are.
    reference: drawn as a horizontal line.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / f"{name}.png"
  with _figure(path, 6.4, 4.0) as figure:
    axes = figure.subplots()
    _draw_curves(axes, curves)
    if reference is not None:
      axes.axhline(reference, color="0.5", linewidth=1, zorder=0)
    _steps_axis(axes, len(next(iter(curves.values()))))
    axes.set(ylabel=ylabel)
    axes.set_title(title, fontsize="medium")
    axes.legend()
  return path


def auc_by_step(
  workdir: str | os.PathLike,
  pooled: Mapping[str, Float[ArrayLike, "P"]],
  within: Mapping[str, Mapping[str, Float[ArrayLike, "P"]]] | None = None,
) -> pathlib.Path:
  """AUC against steps, pooled and within groups; `auc_by_step.png`.

  Args:
    workdir: where the file goes.
    pooled: verifier -> `verification.auc` with `axis=0`.
    within: verifier -> group -> the same of the group's entries alone; a panel
      for each verifier.
  """
  path = pathlib.Path(workdir) / "auc_by_step.png"
  panels = ["pooled"] + (list(within) if within else [])
  with _figure(path, 3.6 * len(panels) + 0.8, 3.8) as figure:
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
      first = panel == "pooled"
      curves = pooled if first else within[panel]
      if not first and panel in pooled:
        label = "all, pooled"
        axes.plot(np.asarray(pooled[panel]), color="0.6", lw=4, label=label)
      _draw_curves(axes, curves)
      axes.axhline(0.5, color="0.5", linewidth=1, zorder=0)
      _steps_axis(axes, len(next(iter(curves.values()))))
      title = "all prefixes, pooled" if first else f"{panel}, within groups"
      axes.set_title(title, fontsize="medium")
      axes.legend(fontsize="small")
    low = min(0.45, *(ax.dataLim.y0 - 0.02 for ax in grid))
    grid[0].set(ylabel="AUC (0.5: chance)", ylim=(low, 1.02))
  return path


def _draw_curves(axes, curves: Mapping[str, ArrayLike]) -> None:
  for i, (label, values) in enumerate(curves.items()):
    axes.plot(
      np.asarray(values),
      color=_COLOURS[i % len(_COLOURS)],
      linestyle=_DASHES[i // len(_COLOURS) % len(_DASHES)],
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=4,
      label=label,
    )


def first_pits(
  workdir: str | os.PathLike,
  pit: Int[ArrayLike, "B"],
  outcome: Float[ArrayLike, "B"],
  *,
  num_steps: int,
  title: str = "",
) -> pathlib.Path:
  """Where wrong rollouts have their first pit; `first_pits.png`.

  Args:
    workdir: where the file goes.
    pit: from `advantages.first_pit`, −1 for none.
    outcome: 1 for correct rollouts, 0 for wrong ones.
    num_steps: H.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / "first_pits.png"
  pit, outcome = np.asarray(pit), np.asarray(outcome)
  found, wrong = pit[pit >= 0], int((outcome == 0).sum())
  with _figure(path, 6.4, 3.4) as figure:
    axes = figure.subplots()
    count = np.bincount(found, minlength=num_steps)
    bars = axes.bar(np.arange(1, num_steps + 1), count, color=WRONG)
    if num_steps <= 30:
      axes.bar_label(bars, fontsize="small", color="0.3")
    axes.set(xlabel="step of the first pit", ylabel="rollouts")
    axes.set(xlim=(0.4, num_steps + 0.6), axisbelow=True)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    said = (
      f"{len(pit)} rollouts, {wrong} of them wrong, {len(found)} with a pit"
    )
    axes.set_title(f"{title}\n{said}" if title else said, fontsize="medium")
  return path
