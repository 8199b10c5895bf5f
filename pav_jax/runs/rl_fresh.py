"""Policies judged by fresh samples of a problem that is pure JAX."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from pav_jax.policies.base import Policy
from pav_jax.problems.base import Problem
from pav_jax.reporting import progress
from pav_jax.runs.rl_loop import Replica
from pav_jax.training import rl
from pav_jax.training.rl import Arm
from pav_jax.training.rl_replicas import count_correct
from pav_jax.training.state import sha256

_LEVELS = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class Trained:
  """What an analysis may look at once training is over.

  Attributes:
    workdir: where it may write figures.
    policy: as trained.
    problem: as trained on.
    arms: all of them.
    keys: [S], one per seed.
    initial_params: leaves [S, …], where every arm started.
    params: arm name -> leaves [S, …], where it ended.
    accuracy: arm name -> float[iterations, S], of training batches.
  """

  workdir: pathlib.Path
  policy: Policy
  problem: Problem
  arms: Sequence[Arm]
  keys: jax.Array
  initial_params: PyTree
  params: dict[str, PyTree]
  accuracy: dict[str, np.ndarray]


Analysis = Callable[[Trained], tuple[dict[str, Any], list[pathlib.Path]]]


@dataclasses.dataclass(frozen=True)
class FreshSamples:
  """How policies are judged where there is nothing to hold out.

  Attributes:
    num_samples: fresh responses of each policy, for `initial_accuracy` and
      `final_accuracy`; at least 1.
    analyses: called in the end, each gives a part of the report and figures.
  """

  num_samples: int = 4096
  analyses: Sequence[Analysis] = ()

  def __post_init__(self):
    if self.num_samples < 1:
      raise ValueError(
        f"num_samples is {self.num_samples}, expected at least 1"
      )

  identity = "fresh samples"


class Reporter:
  """Reports on arms and seeds by training batches and fresh samples.

  Attributes:
    tunes: whether there are validation problems to tune arms on.
  """

  tunes = False

  def __init__(self, run: Any):
    """Of a `reinforce.Run` whose evaluation is `FreshSamples`."""
    self._run = run
    self._replicas: dict[str, list[Replica]] = {}

  def judge_start(self) -> None:
    """Nothing yet: the start is sampled with what was trained from it."""

  def add(self, name: str, replicas: Sequence[Replica]) -> None:
    """Keeps replicas of an arm."""
    self._replicas.setdefault(name, []).extend(replicas)

  def report(
    self, arms: Sequence[Arm]
  ) -> tuple[dict[str, Any], dict[str, Any], list[pathlib.Path]]:
    """The report's `arms`, what else is in it, and figures."""
    from pav_jax.reporting import plots

    run, settings = self._run, self._run.settings
    names = [arm.name for arm in arms]

    def stacked(arm):
      params = [replica.params for replica in self._replicas[arm]]
      return jax.tree.map(lambda *x: jnp.stack(x), *params)

    trained = Trained(
      workdir=run.workdir,
      policy=run.start.policy,
      problem=settings.problem,
      arms=arms,
      keys=jax.vmap(jax.random.key)(np.asarray(run.seeds)),
      initial_params=run.start.params,
      params={name: stacked(name) for name in names},
      accuracy={
        name: np.stack(
          [replica.curves["accuracy"] for replica in self._replicas[name]], -1
        )
        for name in names
      },
    )
    progress.say("evaluating …")
    report = evaluate(trained, settings.evaluation.num_samples)
    figures, more = [plots.learning_curves(run.workdir, trained.accuracy)], {}
    for analysis in settings.evaluation.analyses:
      part, paths = analysis(trained)
      more |= part
      figures += paths
    return report, more, figures

  def print_table(self, experiment: str, report: dict[str, Any]) -> None:
    """All arms, if they are few."""
    if len(report) > 20:
      progress.say(f"{experiment}: the metrics of {len(report)} arms are in")
    else:
      _print_table(experiment, report, self._run.settings.num_seeds)


def evaluate(trained: Trained, num_samples: int) -> dict[str, dict[str, list]]:
  """Metrics of every arm, a value per seed.

  `it_50`, `it_90`, `it_99` are the first iterations at which the last ten
  batches' mean accuracy reaches 0.5, 0.9, 0.99, and `lowest_since_99` is the
  least that this mean has been from then on (None for never);
  `mean_accuracy` is the mean over all training batches, `initial_accuracy` and
  `final_accuracy` are fractions of `num_samples` fresh responses, and
  `params_sha256` are digests of the final parameters' bytes.
  """

  def accuracy(params):
    lanes = jax.tree.map(lambda x: x[None], params)
    correct = count_correct(
      trained.policy, trained.problem, lanes, trained.keys, num_samples
    )
    return [int(count) / num_samples for count in correct[0]]

  initial_accuracy = accuracy(trained.initial_params)
  report = {}
  for name, params in trained.params.items():
    means = [rl.trailing_mean(seed) for seed in trained.accuracy[name].T]
    reached = {
      p: [rl.first_reaching(m, p / 100) for m in means] for p in _LEVELS
    }
    report[name] = {f"it_{p}": reached[p] for p in _LEVELS} | {
      "lowest_since_99": [
        None if first is None else float(np.min(mean[first - 1 :]))
        for mean, first in zip(means, reached[99], strict=True)
      ],
      "mean_accuracy": np.mean(trained.accuracy[name], axis=0).tolist(),
      "initial_accuracy": initial_accuracy,
      "final_accuracy": accuracy(params),
      "params_sha256": [
        sha256(jax.tree.map(lambda x, i=index: x[i], params))
        for index in range(len(means))
      ],
    }
  return report


def _print_table(experiment: str, report: dict, num_seeds: int) -> None:
  def iterations(values):
    """Median and range over seeds; never is later than any iteration."""
    ordered = sorted(np.inf if v is None else v for v in values)
    text = [
      f"{v:g}" if np.isfinite(v) else "never"
      for v in (np.median(ordered), ordered[0], ordered[-1])
    ]
    return text[0] if text[1] == "never" else "{} [{}–{}]".format(*text)

  def accuracy(values):
    """Mean and range over seeds."""
    return f"{np.mean(values):.3f} [{min(values):.3f}–{max(values):.3f}]"

  def lowest(values):
    reached = [value for value in values if value is not None]
    return f"{min(reached):.3f}" if reached else "–"

  initial = np.mean([m["initial_accuracy"] for m in report.values()])
  progress.table(
    f"{experiment}: {num_seeds} seeds, median or mean [least–most]; accuracy "
    f"at the start {initial:.1e}",
    ["arm", "it-50", "it-90", "it-99", "least since", "accuracy at the end"],
    [
      [
        name,
        *(iterations(metrics[f"it_{level}"]) for level in _LEVELS),
        lowest(metrics["lowest_since_99"]),
        accuracy(metrics["final_accuracy"]),
      ]
      for name, metrics in report.items()
    ],
  )
