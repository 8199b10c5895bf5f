"""The run that asks provers which steps are wrong, of public benchmarks."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from pav_jax import steps, thresholds
from pav_jax.checks import check_positive
from pav_jax.data import prm_bench, process_bench
from pav_jax.files import describe
from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_report
from pav_jax.rollout import Rollout
from pav_jax.runs import hosts
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training.state import sha256
from pav_jax.training.value_evaluation import plain

_AVERAGE = "average"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
  """Settings of `step_benchmarks`.

  A step is taken for wrong if the value after it is below the threshold. What
  values are is the prover's own matter: of a public reward model those of the
  rule `last` are its scores, and those of `minimum` find the same first error.

  Attributes:
    problem: that encodes problems and steps for the provers, as
      `data.step_labels.EncodesText`.
    provers: name -> any prover.
    process_bench: subset -> file in ProcessBench's format; {} for none.
    prm_bench: file or folder in PRMBench's format; None for none.
    threshold: in [0, 1]; 0.5 is that of models with two labels.
    tune_on: a subset of `process_bench`, on which each prover's threshold is
      chosen for the best F1, as ProcessBench's authors do on gsm8k for models
      without labels; that subset's own score is then too good. None for
      `threshold`.
    without_numbers: as of `prm_bench.read`.
    rows_per_call: solutions whose values are asked for at a time.
    seed: of provers that sample.

  Raises:
    ValueError: if there is no prover or no file, or a number is out of range.
  """

  problem: Any
  provers: Mapping[str, Prover]
  process_bench: Mapping[str, str | os.PathLike] = dataclasses.field(
    default_factory=dict
  )
  prm_bench: str | os.PathLike | None = None
  threshold: float = 0.5
  tune_on: str | None = None
  without_numbers: bool = True
  rows_per_call: int = 64
  seed: int = 0

  def __post_init__(self):
    check_positive(rows_per_call=self.rows_per_call)
    if not self.provers or not (self.process_bench or self.prm_bench):
      raise ValueError(
        f"provers are {list(self.provers)}, files {dict(self.process_bench)} "
        f"and {self.prm_bench}, expected a prover and a file"
      )
    if not 0 <= self.threshold <= 1:
      raise ValueError(f"threshold is {self.threshold}, expected 0 … 1")
    if self.tune_on is not None and self.tune_on not in self.process_bench:
      raise ValueError(
        f"tune_on is {self.tune_on!r}, expected a subset of process_bench, one "
        f"of {list(self.process_bench)}"
      )
    if _AVERAGE in self.process_bench:
      raise ValueError(f"a subset is named {_AVERAGE!r}, expected another name")


@exclusive
def step_benchmarks(
  workdir: str | os.PathLike, experiment: str, settings: BenchmarkSettings
) -> dict[str, Any]:
  """Scores provers on ProcessBench and PRMBench.

  Args:
    workdir: gets report.json.
    experiment: its name.
    settings: of the run.

  Returns:
    For each prover `threshold`; `process_bench`, of each subset `erroneous`,
    `correct` and `f1` (`thresholds.FirstErrorScores`), and their mean F1 as
    `average`; and `prm_bench`, see `data.prm_bench.scores`.

  Raises:
    ValueError: if a file is not of its format, or the workdir is of another
      run.
  """
  hosts.require_one_process("step_benchmarks")
  began, workdir = time.monotonic(), pathlib.Path(workdir)
  problem = settings.problem
  subsets = {
    name: process_bench.read(file)
    for name, file in settings.process_bench.items()
  }
  samples = []
  if settings.prm_bench is not None:
    samples = prm_bench.read(
      settings.prm_bench, without_numbers=settings.without_numbers
    )
  accept(workdir, experiment, _identity(settings))
  traces = {
    name: process_bench.rollout(of, problem) for name, of in subsets.items()
  }
  changed = prm_bench.rollout(samples, problem) if samples else None
  report = {}
  for name, prover in settings.provers.items():
    progress.say(f"{name} …")
    judgements = {
      subset: (
        *_judgements(prover, rollout, settings),
        _labels(subsets[subset]),
      )
      for subset, rollout in traces.items()
    }
    threshold = settings.threshold
    if settings.tune_on is not None:
      threshold = float(
        thresholds.first_error_threshold(*judgements[settings.tune_on])
      )
    report[name] = {"threshold": threshold}
    if judgements:
      report[name]["process_bench"] = _first_errors(judgements, threshold)
    if changed is not None:
      q, mask = _judgements(prover, changed, settings)
      report[name]["prm_bench"] = prm_bench.scores(
        samples, (q >= threshold) & mask
      )
  report = plain(report)
  _show(experiment, report)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=time.monotonic() - began,
  )
  progress.say(f"wrote {workdir / 'report.json'}")
  return report


def _judgements(
  prover: Prover, rollout: Rollout, settings: BenchmarkSettings
) -> tuple[Float[np.ndarray, "N H"], Bool[np.ndarray, "N H"]]:
  """Values after steps, and which steps there are."""
  key, number = jax.random.key(settings.seed), len(rollout.tokens)
  parts = []
  for first in range(0, number, settings.rows_per_call):
    # The last call is filled up, so that all have one shape.
    rows = np.arange(first, first + settings.rows_per_call)
    part = jax.tree.map(
      lambda x, rows=rows: x[np.minimum(rows, number - 1)], rollout
    )
    q = np.asarray(base.values(prover, key, part))
    parts.append(q[: number - first, 1:])
  mask = np.asarray(steps.step_mask(rollout.prefix_len))
  return np.concatenate(parts), mask


def _labels(samples: list[process_bench.Sample]) -> np.ndarray:
  return np.array([sample.label for sample in samples], np.int32)


def _first_errors(judgements: Mapping[str, Any], threshold: float) -> dict:
  """ProcessBench's scores of each subset, and their mean F1."""
  out = {}
  for subset, (q, mask, labels) in judgements.items():
    predicted = thresholds.first_error(q, mask, threshold=threshold)
    out[subset] = thresholds.first_error_scores(predicted, labels)._asdict()
  f1 = [float(scores["f1"]) for scores in out.values()]
  return out | {_AVERAGE: float(np.mean(f1))}


def _identity(settings: BenchmarkSettings) -> dict[str, str]:
  """What the report depends on."""
  provers = {
    name: base.described(prover, sha256)
    for name, prover in settings.provers.items()
  }
  rest = {
    x.name: getattr(settings, x.name)
    for x in dataclasses.fields(settings)
    if x.name not in ("provers", "rows_per_call")
  }
  return {"run": "step_benchmarks"} | {
    name: describe(value) for name, value in (provers | rest).items()
  }


def _show(title: str, report: Mapping[str, Any]) -> None:
  """A table for each benchmark, a row for each prover; per cent."""

  def text(value):
    return "" if value is None else f"{100 * value:.1f}"

  first = next(iter(report.values()))
  if subsets := [*first.get("process_bench", ())]:
    progress.table(
      f"{title}: F1 on ProcessBench (right on erroneous / correct solutions)",
      ["prover", "threshold", *subsets],
      [
        [
          name,
          "" if row["threshold"] is None else f"{row['threshold']:.3f}",
          *(
            f"{text(scores['f1'])} ({text(scores['erroneous'])} / "
            f"{text(scores['correct'])})"
            if isinstance(scores, dict)
            else text(scores)
            for scores in row["process_bench"].values()
          ),
        ]
        for name, row in report.items()
      ],
    )
  if "prm_bench" in first:
    progress.table(
      f"{title}: PRMBench",
      ["prover", "PRMScore", "F1", "negative F1", *prm_bench.CATEGORIES],
      [
        [
          name,
          *(
            text(row["prm_bench"][key])
            for key in ("prm_score", "f1", "negative_f1")
          ),
          *map(text, row["prm_bench"]["categories"].values()),
        ]
        for name, row in report.items()
      ],
    )
