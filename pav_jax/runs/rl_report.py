"""What a run of reinforcement learning reports of its arms."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from pav_jax.reporting import progress
from pav_jax.reporting.metrics import MetricsLog
from pav_jax.training import rl
from pav_jax.training.probes import Thresholds

# Accuracies of training batches to which iterations are counted.
LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WINDOW = 10
# Successes by which batches tell an accuracy: enough for a fifth of it.
_SUCCESSES = 25


@dataclasses.dataclass(frozen=True)
class Lane:
  """One arm and seed, trained.

  Attributes:
    params: at the end.
    seconds: of wall time, in all of the lane's runs.
    curves: metric -> float[iterations], of training batches.
    validation: metric -> float[evaluations]; `iteration` among them.
    warnings: probe -> iteration at which it warned first, and what it said.
  """

  params: PyTree
  seconds: float
  curves: dict[str, np.ndarray]
  validation: dict[str, np.ndarray]
  warnings: dict[str, dict[str, Any]]


def series(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
  """Rows of one seed as float64, NaN for null."""
  return np.array([row[0] for row in rows], np.float64)


def window(level: float, batch_size: int) -> int:
  """How many batches are averaged to tell that an accuracy is reached.

  As many as hold 25 successes at that accuracy, whose standard error is a fifth
  of it; at least two, and at most ten.

  Args:
    level: an accuracy, in (0, 1].
    batch_size: responses in a batch.
  """
  return min(WINDOW, max(2, math.ceil(_SUCCESSES / (level * batch_size))))


def iterations_to(
  accuracy: np.ndarray, level: float, batch_size: int
) -> int | None:
  """Iterations after which the last batches tell that a level is reached.

  Their mean accuracy is the level's or more, and they hold 25 successes, or are
  `window` many. So a policy that is far above a low level is not asked for more
  batches than it takes to see that.

  Args:
    accuracy: float[iterations], of batches.
    level: an accuracy, in (0, 1].
    batch_size: responses in a batch.

  Returns:
    Counted from 1; None if it never was.
  """
  most = window(level, batch_size)
  counts = []
  for wide in range(2, most + 1):
    means = rl.trailing_mean(accuracy, window=wide)
    enough = wide == most or wide * batch_size * means >= _SUCCESSES
    counts.append(rl.first_reaching(np.where(enough, means, np.nan), level))
  return min((count for count in counts if count), default=None)


def accuracy_over_run(validation: Mapping[str, np.ndarray]) -> float:
  """Validation accuracy, averaged over a run's iterations.

  The area under the curve of accuracies against iterations, by trapezoids, over
  its length: high if a run learns early and ends well. Where a run was judged
  at its beginning and at its end alone, the end decides.

  Args:
    validation: with `iteration` and `accuracy`, of two evaluations or more.
  """
  at, accuracy = validation["iteration"], validation["accuracy"]
  return float(np.trapezoid(accuracy, at) / (at[-1] - at[0]))


def warnings(
  curves: Mapping[str, list], thresholds: Thresholds
) -> dict[str, dict[str, Any]]:
  """First warning of each probe, in means of the last ten batches."""
  probes = ("no_progress", "empty", "length", "distinct", "score_gap")
  known = {name: series(curves[name]) for name in probes if name in curves}
  first = {name: float(x[0]) for name, x in known.items()}
  known["accuracy"] = series(curves["accuracy"])
  found, best = {}, 0.0
  for at in range(len(known["length"])):
    begin = max(0, at + 1 - WINDOW)
    now = {name: float(x[begin : at + 1].mean()) for name, x in known.items()}
    if at + 1 >= WINDOW:
      best = max(best, now["accuracy"])
    for name, text in thresholds.exceeded(now, first, best).items():
      found.setdefault(name, {"iteration": at + 1, "says": text})
  return found


def warn(
  label: str, log: MetricsLog, thresholds: Thresholds, warned: dict[str, Any]
) -> None:
  """Says which thresholds a run has crossed since it was last asked.

  Args:
    label: of the run.
    log: its metrics.
    thresholds: from where on to warn.
    warned: what was said before; gets what is said now.
  """
  for name, found in warnings(log.rows("train"), thresholds).items():
    if name not in warned:
      warned[name] = found
      progress.say(
        f"warning: {label}: {found['says']} at iteration {found['iteration']}"
      )


def summary(
  lanes: Sequence[Lane], tested: Sequence[Mapping[str, Any]], batch_size: int
) -> dict[str, Any]:
  """An arm's part of the report; lists have a value, or curve, per seed.

  Args:
    lanes: of the arm, one for each seed.
    tested: `rl_evaluation.report` of each.
    batch_size: responses in a batch, see `window`.
  """

  def listed(x):
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in x]

  return {
    "accuracy": [found["accuracy"] for found in tested],
    "pass_at_k": {
      k: [found["pass_at_k"][k] for found in tested]
      for k in tested[0]["pass_at_k"]
    },
    "hard_problems_solved": [
      found.get("hard_problems_solved") for found in tested
    ],
    "iterations_to": {
      f"{level:g}": [
        iterations_to(lane.curves["accuracy"], level, batch_size)
        for lane in lanes
      ]
      for level in LEVELS
    },
    "seconds": [lane.seconds for lane in lanes],
    "warnings": [lane.warnings for lane in lanes],
    "curves": {
      name: [listed(lane.curves[name]) for lane in lanes]
      for name in lanes[0].curves
    },
    "validation": {
      name: [listed(lane.validation[name]) for lane in lanes]
      for name in lanes[0].validation
    },
  }


def ratios(
  first: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any]:
  """Median iterations of the first arm over the other's, by accuracy."""

  def median(values):
    ordered = sorted(math.inf if v is None else v for v in values)
    return float(np.median(ordered))

  out = {}
  for level, counts in other["iterations_to"].items():
    a, b = median(first["iterations_to"][level]), median(counts)
    out[level] = a / b if math.isfinite(a) and math.isfinite(b) else None
  return out


def print_table(
  experiment: str, report: dict, started: dict, num_seeds: int
) -> None:
  """The start and all arms as a table: means over seeds, with extremes."""

  def spread(values):
    return f"{np.mean(values):.3f} [{min(values):.3f}–{max(values):.3f}]"

  ks = list(started["pass_at_k"])
  shown = sorted({ks[-1], ks[len(ks) // 2]}, key=int)
  rows = [
    [
      "start",
      f"{started['accuracy']:.3f}",
      *(f"{started['pass_at_k'][k]:.3f}" for k in shown),
      "–",
      "–",
    ]
  ]
  for name, found in report.items():
    warned = sorted({probe for lane in found["warnings"] for probe in lane})
    rows.append(
      [
        name,
        spread(found["accuracy"]),
        *(spread(found["pass_at_k"][k]) for k in shown),
        f"{np.mean(found['seconds']):.0f}",
        ", ".join(warned) or "none",
      ]
    )
  progress.table(
    f"{experiment}: {num_seeds} seeds, test problems, mean [least–most]",
    ["arm", "accuracy", *(f"Pass@{k}" for k in shown), "seconds", "warnings"],
    rows,
  )
