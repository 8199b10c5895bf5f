"""How arms of several seeds are drawn.

Seeds that part into two groups, such as learned and never learned, have no
mean: none of them would be near it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pav_jax.reporting import drawing

# Bands of more lines than these would hide one another.
MOST_BANDS = 4


def parting(values: drawing.Numbers, *, least: float = 0.2) -> float | None:
  """Where seeds part in two groups, such as learned and never learned.

  They do at the largest gap between neighbours, if that is at least `least` and
  more than half of the whole range.

  Args:
    values: a number for each seed; NaN for none.
    least: the smallest gap that counts, of shares.

  Returns:
    The middle of the gap; None if they are one group.
  """
  values = np.sort(np.asarray(values, np.float64))
  values = values[np.isfinite(values)]
  if len(values) < 2:
    return None
  gaps = np.diff(values)
  at = int(gaps.argmax())
  if gaps[at] < least or gaps[at] <= np.ptp(values) / 2:
    return None
  return float(values[at : at + 2].mean())


def seeds_above(values: drawing.Numbers) -> str:
  """How many seeds' shares are above the gap, if they part; else nothing."""
  values = np.asarray(values, np.float64)
  middle = parting(values)
  if middle is None:
    return ""
  number = np.sum(values > middle)
  return f":\n{number} of {len(values)} seeds above {100 * middle:.0f} %"


def mean_of_seeds(values: drawing.Numbers) -> np.ndarray:
  """Means over the last axis of what is finite; NaN where nothing is."""
  values = np.ma.masked_invalid(np.asarray(values, np.float64))
  return np.ma.filled(values.mean(-1), np.nan)


def parted_arms(curves: Mapping[str, np.ndarray]) -> dict[str, bool]:
  """Of each arm whether its seeds part at the end of their curves."""
  return {
    arm: parting(values[-1]) is not None for arm, values in curves.items()
  }


def arms(
  panel: Any,
  curves: Mapping[str, np.ndarray],
  look: Mapping[str, Mapping[str, Any]],
  parted: Mapping[str, bool],
  x: drawing.Numbers | None = None,
  *,
  shares: bool = False,
  named: bool = True,
) -> str:
  """Lines of arms, means over seeds, in bands of least and most.

  Seeds that part in two groups have a thin line each, and no mean, which none
  of them would be near.

  Args:
    panel: to draw in.
    curves: arm -> float[iterations, seeds].
    look: colour and dashes of each, from `looks`.
    parted: of each arm whether its seeds part.
    x: iterations, from 1 on if not given.
    shares: they are shares of successes; the name of an arm whose seeds part
      says how many are above.
    named: whether names stand at the ends.

  Returns:
    What the lines are, in words.
  """
  band = len(curves) <= MOST_BANDS
  for arm, values in curves.items():
    at = np.arange(1, len(values) + 1) if x is None else np.asarray(x)
    least, most = np.fmin.reduce(values, -1), np.fmax.reduce(values, -1)
    middle = mean_of_seeds(values)
    if parted[arm]:
      panel.plot(at, values, linewidth=0.8, **look[arm])
      middle = most
    else:
      panel.plot(at, middle, **look[arm])
      if band and values.shape[-1] > 1:
        shade = {"color": look[arm]["color"], "alpha": 0.2, "linewidth": 0}
        panel.fill_between(at, least, most, **shade)
    if named:
      said = arm + (seeds_above(values[-1]) if shares else "")
      drawing.name(panel, said, drawing.last(at, middle), look[arm])
  number = max(values.shape[-1] for values in curves.values())
  if number == 1:
    return "one seed"
  thin = any(parted[arm] for arm in curves)
  return (
    f"lines: means of {number} seeds"
    + ", bands: least to most" * band
    + "; thin lines: seeds of arms that part in two groups" * thin
  )


def points(
  panel: Any,
  said: str,
  x: drawing.Numbers,
  values: np.ndarray,
  look: Mapping[str, Any],
  *,
  shares: bool = False,
) -> None:
  """A line of means over seeds (the last axis), and a dot for every seed.

  Of shares the line is left out where seeds part in two groups, and above the
  upper one stands how many of them it has; see `POINTS_SAY`.
  """
  panel.plot(x, values, ".", color=look["color"], alpha=0.5, markersize=4)
  means = mean_of_seeds(values)
  ends = means.copy()
  for i, (at, row) in enumerate(zip(x, values, strict=True)):
    middle = parting(row) if shares else None
    if middle is not None:
      means[i], ends[i] = np.nan, np.nanmax(row)
      panel.annotate(
        f"{np.sum(row > middle)} of {len(row)}",
        (at, ends[i]),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=6,
        ha="center",
        color=look["color"],
      )
  panel.plot(x, means, **look)
  said += seeds_above(values[-1]) if shares else ""
  drawing.name(panel, said, drawing.last(x, ends), look)


POINTS_SAY = (
  "lines: means of seeds, dots: seeds; where they part in two groups there is "
  "no mean, and a number says how many are in the upper one"
)
