"""What a run of reinforcement learning reports of its arms."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.policies.base import Policy
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import MetricsLog
from pav_jax.runs import rl_held_out
from pav_jax.runs.rl_held_out import EvaluationConfig
from pav_jax.runs.rl_loop import Replica
from pav_jax.training import processes, rl
from pav_jax.training.probes import Thresholds
from pav_jax.training.rl import Arm
from pav_jax.training.rl_replicas import Stream

# Accuracies of training batches to which iterations are counted.
LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WINDOW = 10
# Successes by which batches tell an accuracy: enough for a fifth of it.
_SUCCESSES = 25


class Reporter:
  """Tests the start and what was trained from it, and reports on both.

  Attributes:
    tunes: whether there are validation problems to tune arms on.
  """

  tunes = True

  def __init__(self, run: Any):
    """Of a `reinforce.Run` whose evaluation is an `EvaluationConfig`."""
    self._run = run
    self._config: EvaluationConfig = run.settings.evaluation
    self._key = jax.random.key(run.settings.seed)
    self._replicas: dict[str, list[Replica]] = {}
    self._tested: dict[str, list[dict[str, Any]]] = {}

  def judge_start(self) -> None:
    """Tests the start, and looks for problems that are too hard for it."""
    start = self._to_sample(self._run.params_of(self._run.seeds[0]))
    problem = self._run.settings.problem
    self._hard = rl_held_out.hard_problems(
      *start, Stream.HARD.of(self._key), problem, self._config
    )
    self._started = self._test(*start)

  def add(self, name: str, replicas: Sequence[Replica]) -> None:
    """Tests replicas of an arm; their parameters are let go."""
    for replica in replicas:
      tested = self._test(*self._to_sample(replica.params))
      self._tested.setdefault(name, []).append(tested)
      self._replicas.setdefault(name, []).append(
        dataclasses.replace(replica, params=None)
      )

  def report(
    self, arms: Sequence[Arm]
  ) -> tuple[dict[str, Any], dict[str, Any], list[pathlib.Path]]:
    """The report's `arms`, what else is in it, and figures."""
    from pav_jax.reporting import rl_plots

    settings = self._run.settings
    report = {
      arm.name: summary(
        self._replicas[arm.name],
        self._tested[arm.name],
        settings.num_problems * settings.num_samples,
        settings.thresholds,
      )
      for arm in arms
    }
    if not processes.is_first():
      return report, {}, []
    first = next(iter(report))
    more = {
      "start": self._started,
      "fewer_iterations_than": first,
      "ratios": {
        name: ratios(report[first], of_arm)
        for name, of_arm in report.items()
        if name != first
      },
    }
    figures = rl_plots.write_all(self._run.workdir, report, self._started)
    return report, more, figures

  def print_table(self, experiment: str, report: dict[str, Any]) -> None:
    """The start and all arms."""
    number = self._run.settings.num_seeds
    print_table(experiment, report, self._started, number)

  def _to_sample(self, params: PyTree) -> tuple[Policy, PyTree]:
    return self._run.place.to_sample(self._run.start.policy, params)

  def _test(self, policy: Policy, params: PyTree) -> dict[str, Any]:
    problem, key = self._run.settings.problem, Stream.TEST.of(self._key)
    tested = rl_held_out.test(policy, params, key, problem, self._config)
    return rl_held_out.summary(tested, self._config, self._hard)


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


def warnings(
  curves: Mapping[str, np.ndarray], thresholds: Thresholds
) -> dict[str, dict[str, Any]]:
  """First warning of each probe, in means of the last ten batches.

  Args:
    curves: metric -> float[iterations].
    thresholds: from where on to warn.
  """
  probes = ("no_progress", "empty", "length", "distinct", "score_gap")
  series = {name: curves[name] for name in probes if name in curves}
  first = {name: float(x[0]) for name, x in series.items()}
  series["accuracy"] = curves["accuracy"]
  out, best = {}, 0.0
  for at in range(len(series["length"])):
    begin = max(0, at + 1 - WINDOW)
    now = {name: float(x[begin : at + 1].mean()) for name, x in series.items()}
    if at + 1 >= WINDOW:
      best = max(best, now["accuracy"])
    for name, text in thresholds.exceeded(now, first, best).items():
      out.setdefault(name, {"iteration": at + 1, "says": text})
  return out


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
  curves = {
    name: np.array([seeds[0] for seeds in column], np.float64)
    for name, column in log.rows("train").items()
    if name != "iteration"
  }
  for name, warning in warnings(curves, thresholds).items():
    if name not in warned:
      warned[name] = warning
      says, at = warning["says"], warning["iteration"]
      progress.say(f"warning: {label}: {says} at iteration {at}")


def summary(
  replicas: Sequence[Replica],
  tested: Sequence[Mapping[str, Any]],
  batch_size: int,
  thresholds: Thresholds,
) -> dict[str, Any]:
  """An arm's part of the report; lists have a value, or curve, per seed.

  Args:
    replicas: of the arm, one for each seed.
    tested: `rl_held_out.summary` of each.
    batch_size: responses in a batch, see `window`.
    thresholds: from where on probes warn.
  """

  def listed(x):
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in x]

  return {
    "accuracy": [judged["accuracy"] for judged in tested],
    "pass_at_k": {
      k: [judged["pass_at_k"][k] for judged in tested]
      for k in tested[0]["pass_at_k"]
    },
    "hard_problems_solved": [
      judged.get("hard_problems_solved") for judged in tested
    ],
    "iterations_to": {
      f"{level:g}": [
        iterations_to(replica.curves["accuracy"], level, batch_size)
        for replica in replicas
      ]
      for level in LEVELS
    },
    "seconds": [replica.seconds for replica in replicas],
    "warnings": [warnings(x.curves, thresholds) for x in replicas],
    "curves": {
      name: [listed(replica.curves[name]) for replica in replicas]
      for name in replicas[0].curves
    },
    "validation": {
      name: [listed(replica.validation[name]) for replica in replicas]
      for name in replicas[0].validation
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
