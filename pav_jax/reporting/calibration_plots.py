"""Whether values are frequencies: the figure of their calibration."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from matplotlib import lines

from pav_jax import verification
from pav_jax.reporting import drawing


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
  looks = drawing.looks(q_hat, marks=True)
  number = mask.sum(0)
  steps = np.flatnonzero(number)
  if len(steps) > most_panels:
    at = np.linspace(0, len(steps) - 1, most_panels).round().astype(int)
    steps = steps[at]
  columns = min(4, len(steps))
  rows = -(-len(steps) // columns)
  size = (max(2.1 * columns + 0.4, 6), 2.1 * rows + 1.4)
  with drawing.figure(path, *size) as figure:
    grid = figure.subplots(
      rows, columns, sharex=True, sharey=True, squeeze=False
    )
    for axes in grid.flat[len(steps) :]:
      axes.set_axis_off()
    for axes, step in zip(grid.flat, steps, strict=False):
      axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, zorder=0)
      few = number[step] < drawing.FEW_TRACES
      errors = []
      for name, q in q_hat.items():
        arguments = (q[:, step], targets[:, step], mask[:, step])
        curve = verification.reliability_curve(
          *arguments, num_bins=num_bins, equal_mass=True
        )
        ece = verification.expected_calibration_error(
          *arguments, num_bins=num_bins, equal_mass=True
        )
        errors.append(f"{ece:.3f}")
        alpha = drawing.FADED if few else 1.0
        _reliability_points(axes, curve, {**looks[name], "alpha": alpha})
      name = f"step {step}" if step else "problem"
      axes.set_title(f"{name} · ECE {', '.join(errors)}", fontsize="small")
      axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
      axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axes in grid.flat[max(0, len(steps) - columns) : len(steps)]:
      axes.set_xlabel("predicted value", fontsize="small")
    for axes in grid[:, 0]:
      axes.set_ylabel("what came", fontsize="small")
    drawing.say(
      figure,
      "Do values say how often responses end right? On the grey line they do",
      "marks: bins of prefixes, larger with more of them, with two standard "
      "errors; ECE: expected calibration error",
      drawing.FADED_SAYS * bool((number[steps] < drawing.FEW_TRACES).any()),
    )
    # Lines of several verifiers end in one corner: their names are below.
    handles = [
      lines.Line2D([], [], label=name, **look) for name, look in looks.items()
    ]
    if len(handles) > 1:
      figure.legend(handles=handles, loc="outside lower center", ncols=3)
  return path


def _reliability_points(axes, curve: verification.ReliabilityCurve, look):
  value, frequency, count = (np.asarray(x) for x in curve)
  filled = count > 0
  value, frequency, count = value[filled], frequency[filled], count[filled]
  error = 2 * np.sqrt(np.clip(frequency * (1 - frequency), 0, 1) / count)
  below = frequency - np.maximum(frequency - error, 0)
  above = np.minimum(frequency + error, 1) - frequency
  look = {name: look[name] for name in ("color", "marker", "alpha")}
  marker = look.pop("marker")
  axes.errorbar(
    value,
    frequency,
    (np.maximum(below, 0), np.maximum(above, 0)),
    linewidth=1,
    elinewidth=0.8,
    **look,
  )
  size = 8 + 40 * count / max(1, count.max())
  axes.scatter(value, frequency, s=size, marker=marker, zorder=2, **look)


def _arrays(q_hat: Mapping, targets: ArrayLike, mask: ArrayLike):
  """All as numpy arrays, targets and mask of the values' shape."""
  q_hat = {name: np.asarray(q, np.float64) for name, q in q_hat.items()}
  if not q_hat:
    raise ValueError("q_hat is empty, expected at least one array of values")
  shape = next(iter(q_hat.values())).shape
  targets = np.broadcast_to(np.asarray(targets, np.float64), shape)
  return q_hat, targets, np.broadcast_to(np.asarray(mask), shape)
