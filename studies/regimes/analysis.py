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

from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config, write_report
from studies.regimes import figure


def compare(report: Mapping[str, Any], first: str) -> dict[str, Any]:
  """One comparison's arms beside its first.

  A ratio is the first arm's median iterations to an accuracy over a seed's.
  Where the first arm's median seed does not get there it is taken to do so as
  the run ends: the ratio is then a bound from below.

  Args:
    report: as `runs.reinforce.reinforce` writes it.
    first: the arm that others are compared with, outcomes alone.

  Returns:
    `start`, the accuracy before training, and for each arm `levels`, `points`,
    by how many percentage points the accuracy at the end is higher than the
    first arm's mean, and `ahead`, by how many that on validation problems is
    after as many iterations, means of seeds. `levels` has, for each accuracy
    counted that is 1.5 times the start or more and that the arm's median seed
    reaches, `ratios`, `median`, and `is_bound`. Seeds that never reach it have
    ratio 0.
  """
  arms, start = report["arms"], report["start"]["accuracy"]
  length = len(arms[first]["curves"]["accuracy"][0])

  def counts(name, level):
    found = arms[name]["iterations_to"][level]
    return np.array([math.inf if c is None else c for c in found], float)

  mean = float(np.mean(arms[first]["accuracy"]))
  out = {"start": start, "arms": {}}
  for name, found in arms.items():
    if name == first:
      continue
    levels = {}
    for level in found["iterations_to"]:
      own, base = counts(name, level), float(np.median(counts(first, level)))
      if float(level) <= 1.5 * start or not math.isfinite(np.median(own)):
        continue
      ratios = min(base, length) / own
      levels[level] = {
        "ratios": ratios.tolist(),
        "median": float(np.median(ratios)),
        "is_bound": not math.isfinite(base),
      }
    out["arms"][name] = {
      "levels": levels,
      "points": [100 * (a - mean) for a in found["accuracy"]],
      "ahead": _ahead(arms[first]["validation"], found["validation"]),
    }
  return out


def _ahead(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict:
  """Percentage points after each number of iterations that both were judged."""

  def means(found):
    accuracy = np.mean(found["accuracy"], axis=0)
    return dict(zip(map(int, found["iteration"][0]), accuracy, strict=True))

  base, own = means(first), means(other)
  return {
    str(at): float(100 * (own[at] - base[at]))
    for at in sorted(own)
    if at > 0 and at in base
  }


@gin.register
def regime_map(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  reports: Sequence[str],
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
  drawn = figure.regimes(workdir, ordered, names)
  write_report(
    workdir / "report.json", experiment=experiment, arms=found, seconds=0.0
  )
  for name in names:
    shown = [regime for regime in ordered if name in regime["arms"]]
    found_of = [regime["arms"][name] for regime in shown]
    starts = [f"from {regime['start']:.2%}" for regime in shown]
    levels = sorted({x for of in found_of for x in of["levels"]}, key=float)
    progress.table(
      f"{experiment}: iterations of {first} over those of {name}, median of "
      "seeds (> where only a bound is known)",
      ["to", *starts],
      [
        [
          f"{100 * float(level):g} %",
          *(_cell(of["levels"].get(level)) for of in found_of),
        ]
        for level in levels
      ],
    )
    after = sorted({at for of in found_of for at in of["ahead"]}, key=int)
    progress.table(
      f"{experiment}: percentage points by which {name} is ahead of {first}, "
      "means of seeds",
      ["after", *starts],
      [
        *(
          [at, *(_points(of["ahead"].get(at)) for of in found_of)]
          for at in after
        ),
        ["all, test", *(_points(np.mean(of["points"])) for of in found_of)],
      ],
    )
  progress.say(f"wrote {drawn}")
  return found


def _cell(level: Mapping[str, Any] | None) -> str:
  if level is None:
    return "–"
  return f"{'>' if level['is_bound'] else ''}{level['median']:.1f}×"


def _points(points: float | None) -> str:
  return "–" if points is None else f"{points:+.1f}"
