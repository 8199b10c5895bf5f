"""How much progress rewards help, against the accuracy that training starts at.

Reads the reports of comparisons that differ in the policy they start from.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from pav_jax.reporting import progress, rl_plots
from pav_jax.reporting.metrics import write_config, write_report


def compare(report: Mapping[str, Any], first: str) -> dict[str, Any]:
  """One comparison's arms beside its first.

  The level is the highest of those counted that the first arm's median seed
  reaches, if the start is not above it already. If there is none, the first arm
  is taken to reach each arm's own level when the run ends: ratios are then
  bounds from below.

  Args:
    report: as `runs.rl.reinforce` writes it.
    first: the arm that others are compared with, outcomes alone.

  Returns:
    `start`, the accuracy before training, and for each arm `level`, `ratios`,
    the first arm's median iterations to it over each seed's, empty for seeds
    that never reach it, `is_bound`, and `points`, by how many percentage points
    the accuracy at the end is higher than the first arm's mean.
  """
  arms, start = report["arms"], report["start"]["accuracy"]
  length = len(arms[first]["curves"]["accuracy"][0])

  def median(name, level):
    counts = arms[name]["iterations_to"][level]
    return float(np.median([math.inf if c is None else c for c in counts]))

  levels = [x for x in arms[first]["iterations_to"] if float(x) > 1.5 * start]
  reached = [x for x in levels if math.isfinite(median(first, x))]
  out = {"start": start, "arms": {}}
  mean = float(np.mean(arms[first]["accuracy"]))
  for name, found in arms.items():
    if name == first:
      continue
    own = [x for x in levels if math.isfinite(median(name, x))]
    level = reached[-1] if reached else (own[-1] if own else None)
    ratios = []
    if level is not None:
      base = median(first, level) if reached else float(length)
      counts = found["iterations_to"][level]
      ratios = [base / c for c in counts if c is not None]
    out["arms"][name] = {
      "level": None if level is None else float(level),
      "ratios": ratios,
      "is_bound": not reached,
      "points": [100 * (a - mean) for a in found["accuracy"]],
    }
  return out


@gin.register
def regime_map(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  reports: Sequence[str] = gin.REQUIRED,
  first: str = "outcome",
) -> dict[str, Any]:
  """Draws the map of regimes and writes its numbers.

  Args:
    workdir: gets report.json and regimes.png.
    experiment: its name, for the report.
    reports: report.json of each comparison.
    first: the arm that others are compared with.

  Returns:
    For each report what `compare` found.

  Raises:
    ValueError: if there is no report, or one lacks the arm.
  """
  if not reports:
    raise ValueError("there are no reports, expected at least one")
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  found = {}
  for path in reports:
    report = json.loads(pathlib.Path(path).read_text())
    if first not in report["arms"]:
      raise ValueError(
        f"{path} has the arms {list(report['arms'])}, expected {first}"
      )
    found[pathlib.Path(path).parent.name] = compare(report, first)
  ordered = sorted(found.values(), key=lambda regime: regime["start"])
  names = list(dict.fromkeys(n for regime in ordered for n in regime["arms"]))
  figure = rl_plots.regimes(
    workdir,
    [regime["start"] for regime in ordered],
    {
      name: [
        regime["arms"].get(name, {}).get("ratios", []) for regime in ordered
      ]
      for name in names
    },
  )
  write_report(
    workdir / "report.json", experiment=experiment, arms=found, seconds=0.0
  )
  progress.table(
    f"{experiment}: iterations of {first} over the arm's, median of seeds "
    "(> where only a bound is known)",
    ["start", *names],
    [
      [f"{regime['start']:.2%}", *(_cell(regime["arms"].get(n)) for n in names)]
      for regime in ordered
    ],
  )
  progress.say(f"wrote {figure}")
  return found


def _cell(arm: Mapping[str, Any] | None) -> str:
  if not arm or not arm["ratios"]:
    return "–"
  sign = ">" if arm["is_bound"] else ""
  return f"{sign}{np.median(arm['ratios']):.1f}× at {arm['level']:.0%}"
