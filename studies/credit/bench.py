"""How good credit estimators are, against exact policy gradients.

  python -m studies.credit.bench --out=DIR

On three processes whose values are known (`processes`): bias, variance and
cosine to the exact gradient of every arm (`arms`), at policies of several
success rates, by sampled tokens; learning curves at equal sampled tokens, with
learning rates chosen alike on other seeds; and curves from a start that all but
never succeeds. A run that was interrupted goes on with what is missing.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

from pav_jax import files
from studies.credit import figure, measure, processes, train
from studies.credit.arms import ARMS, HARD, TRAINED, Arm, Context


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of a run.

  Attributes:
    arms: whose gradients are measured.
    trained: whose curves are.
    hard_arms: that start at the hard problem.
    problems: names in `processes.PROCESSES`.
    rates: success rates of the policies at which gradients are measured.
    prover_rate: that of the fixed prover.
    num_rollouts: of a cell and seed.
    seeds: of the gradients.
    start: the success rate at which learning begins.
    hard_start: that of the hard problem, which is planted.
    batch: tokens of an update, in mean lengths of a response at the start.
    num_updates: of a curve.
    learning_rates: of Adam, each tried for every arm.
    tuning_seeds: that choose one of them.
    curve_seeds: that are reported.
  """

  arms: tuple[Arm, ...] = dataclasses.field(default=ARMS, repr=False)
  trained: tuple[Arm, ...] = dataclasses.field(default=TRAINED, repr=False)
  hard_arms: tuple[Arm, ...] = dataclasses.field(default=HARD, repr=False)
  problems: tuple[str, ...] = tuple(processes.PROCESSES)
  rates: tuple[float, ...] = (0.01, 0.1, 0.5)
  prover_rate: float = 0.3
  num_rollouts: int = 2048
  seeds: tuple[int, ...] = (0, 1, 2, 3)
  start: float = 0.01
  hard_start: float = 0.0003
  batch: int = 96
  num_updates: int = 80
  learning_rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
  tuning_seeds: tuple[int, ...] = tuple(range(100, 108))
  curve_seeds: tuple[int, ...] = tuple(range(8))


class Results:
  """What was measured, in one file, by cell."""

  def __init__(self, path: pathlib.Path, settings: Settings):
    self._path = path
    empty = {"settings": repr(settings), "cells": {}}
    self._data = json.loads(path.read_text()) if path.exists() else empty
    if self._data["settings"] != empty["settings"]:
      raise ValueError(
        f"{path} was measured with other settings, expected {settings}"
      )

  @property
  def cells(self) -> dict[str, Any]:
    """`gradients` or `learning` / problem / rate / arm -> numbers."""
    return self._data["cells"]

  def get(self, make, arm, problem, rate, settings) -> dict[str, Any]:
    """What `make` gives for a cell, now or before; kept on the disk."""
    name = "/".join([make.__name__, problem, str(rate), arm.name])
    if name not in self.cells:
      self.cells[name] = make(arm, problem, rate, settings)
      with files.whole_file(self._path, "w") as file:
        json.dump(self._data, file)
      print("measured", name, flush=True)
    return self.cells[name]


@functools.cache
def start(problem: str, rate: float, settings: Settings) -> Context:
  """A policy of a success rate, and the fixed prover beside it."""
  process = processes.PROCESSES[problem]()
  return measure.context_of(
    process,
    processes.strength_for(process, rate),
    processes.strength_for(process, settings.prover_rate),
  )


def gradients(arm: Arm, problem: str, rate: float, settings: Settings) -> dict:
  """Moments of an arm's gradients at one policy: of each, a list for seeds."""
  got = measure.moments(
    arm,
    start(problem, rate, settings),
    num_units=settings.num_rollouts // arm.num_rollouts,
    seeds=settings.seeds,
  )
  return {name: x.tolist() for name, x in got._asdict().items()}


def learning(arm: Arm, problem: str, rate: float, settings: Settings) -> dict:
  """Curves of an arm from a success rate; tokens in lengths of a response."""
  context = start(problem, rate, settings)
  length = float(processes.tokens_left(context.process, context.logits)[0, 0])
  budget = settings.batch * length
  drawn = measure.draws(arm, context, 64, seed=0)
  unit_tokens = float(np.mean(drawn.num_tokens))
  got = train.curves(
    arm,
    context,
    num_units=max(1, round(budget / unit_tokens)),
    num_updates=settings.num_updates,
    learning_rates=settings.learning_rates,
    tuning_seeds=settings.tuning_seeds,
    seeds=settings.curve_seeds,
  )
  return {
    "success": np.round(got.success, 5).tolist(),
    "learning_rate": got.learning_rate,
    "tokens": got.tokens / length,
    "area": got.area.tolist(),
  }


def run(settings: Settings, out: pathlib.Path) -> dict[str, Any]:
  """Measures what is missing; all cells.

  Args:
    settings: what to measure.
    out: a folder; gets results.json.
  """
  results = Results(out / "results.json", settings)
  for arm in settings.arms:
    for problem in settings.problems:
      for rate in settings.rates:
        results.get(gradients, arm, problem, rate, settings)
  for problem in settings.problems:
    for arm in settings.trained:
      results.get(learning, arm, problem, settings.start, settings)
  for arm in settings.hard_arms:
    results.get(learning, arm, "planted", settings.hard_start, settings)
  return results.cells


def main() -> None:
  """Measures, prints tables, draws."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  arguments.out.mkdir(parents=True, exist_ok=True)
  settings = Settings()
  cells = run(settings, arguments.out)
  print(figure.tables(settings, cells))
  figure.draw(arguments.out / "credit.png", settings, cells)


if __name__ == "__main__":
  main()
