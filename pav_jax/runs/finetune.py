"""The run that fine-tunes a policy: training, validation, keeping the best."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.for_problem import export
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems import base
from pav_jax.reporting import progress
from pav_jax.runs import fit_loop
from pav_jax.runs.fit_loop import FitSettings, Fitted, Job
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training import processes, sft, validation
from pav_jax.training.initial import random_params
from pav_jax.training.state import sha256
from pav_jax.training.validation import FinetuneEvaluationConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings(FitSettings):
  """Settings of `finetune`, besides those of all `FitSettings`.

  Attributes:
    policy: what is trained; evaluated as it samples.
    problem: a text problem, see `problems.text.GeneratedProblem`.
    stages: trained one after another; all batches have one shape.
    evaluation: how the policy is evaluated, and which is kept.
    optimizer: `learning_rate -> optax.GradientTransformation`.
    init_params: `(policy, key, layout) -> params` to start from, as
      `training.initial` has them.

  Raises:
    ValueError: if there are no stages, or a number is out of its range.
  """

  policy: LanguageModel
  problem: Any
  stages: Sequence[sft.Stage]
  evaluation: FinetuneEvaluationConfig
  optimizer: Callable = dataclasses.field(default_factory=sft.AdamW)
  init_params: Callable[[LanguageModel, jax.Array, Layout], PyTree] = (
    random_params
  )

  def __post_init__(self):
    super().__post_init__()
    if not self.stages:
      raise ValueError("there are no stages, expected at least one")


@exclusive
def finetune(
  workdir: str | os.PathLike, experiment: str, settings: FinetuneSettings
) -> dict[str, Any]:
  """Trains a policy; continues if the workdir holds the run's beginning.

  In several processes it ends as in one with the same mesh. The number of
  processes, and the mesh, may differ when a run is continued.

  Args:
    workdir: gets metrics.jsonl, event files, report.json, a figure,
      checkpoints, and `policy/`, the kept policy in Hugging Face's format.
    experiment: its name, for the report.
    settings: of the run.

  Returns:
    The `policy` arm of report.json.

  Raises:
    ValueError: for a workdir of another run, or see `fit_loop.train`.
    FloatingPointError: if a loss is not finite; the last checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the step it stopped at.
  """
  job, layout, keys = _job(pathlib.Path(workdir), experiment, settings)
  policy, problem = settings.policy, settings.problem
  params = settings.init_params(policy, keys["params"], layout)
  start, state = sha256(params), job.fitter.init(params)
  del params
  fitted = fit_loop.train(job, state)
  progress.say(f"testing the policy of step {fitted.step} …")
  sampler, params = processes.to_sample(policy, fitted.params, layout)
  tested = processes.agree(
    validation.report(
      sampler, params, keys["test"], problem, settings.evaluation
    )
  )
  export(job.workdir / "policy", policy, params, problem, start=start)
  if processes.is_first():
    _write(job, fitted, tested)
  return tested


def _job(
  workdir: pathlib.Path, experiment: str, settings: FinetuneSettings
) -> tuple[Job, Layout, dict[str, jax.Array]]:
  """What is fitted, where, and the keys of random numbers."""
  began, layout = time.monotonic(), _layout(settings)
  accept(workdir, experiment, {"run": "finetune"} | settings.identity())
  policy, stages = settings.policy, settings.stages
  evaluation = settings.evaluation
  split = jax.random.split(jax.random.key(settings.seed), 3)
  keys = dict(zip(("params", "validation", "test"), split, strict=True))

  def validate(params):
    return validation.validate(
      *processes.to_sample(policy, params, layout),
      keys["validation"],
      settings.problem,
      evaluation,
    )

  before_last = sum(stage.num_steps for stage in stages[:-1])
  job = Job(
    experiment=experiment,
    workdir=workdir,
    config=settings.identity(),
    fingerprint=settings.problem.fingerprint,
    fitter=sft.fitter(
      policy.config, settings.optimizer(sft.schedule(stages)), layout
    ),
    stages=[(stage.batches, stage.num_steps) for stage in stages],
    validate=validate,
    score=evaluation.score,
    validate_every=evaluation.every,
    settings=settings,
    began=began,
    keep_after=before_last if evaluation.last_stage_only else 0,
  )
  return job, layout, keys


def _layout(settings: FinetuneSettings) -> Layout:
  """Where networks lie, on a mesh whose devices can share every batch."""
  mesh = settings.mesh or partitioning.make_mesh()
  rows = [
    getattr(stage.batches, "num_rows", mesh.size) for stage in settings.stages
  ]
  return Layout(partitioning.for_batch(mesh, math.gcd(*rows)))


def _write(job: Job, fitted: Fitted, tested: dict[str, Any]) -> None:
  """Writes the figure and report.json, and prints tables."""
  from pav_jax.reporting import sft_plots

  validated = fitted.log.rows("validation")
  figure = sft_plots.summary(
    job.workdir,
    fitted.log.history("train", "loss", job.num_steps)[:, 0],
    validated.pop("iteration"),
    {name: [seed[0] for seed in x] for name, x in validated.items()},
    tested,
  )
  _print(job.experiment, job.settings.problem, tested)
  fit_loop.write_report(
    job,
    fitted,
    {"policy": tested},
    [job.workdir / "policy", figure],
    training={"tokens_per_second": fitted.tokens_per_second},
    verdict=f"of {tested['problems']} new problems, a sample of the policy "
    f"solves {100 * tested['accuracy']:.1f} ± "
    f"{100 * tested['standard_error']:.1f} %, its greedy response "
    f"{100 * tested['greedy_accuracy']:.1f} %",
  )


def _print(experiment: str, problem: Any, tested: dict[str, Any]) -> None:
  """The test report as tables."""
  progress.table(
    f"{experiment}: {tested['problems']} test problems, "
    f"{tested['samples']} samples at temperature {tested['temperature']:g}",
    ["", "Pass@1", *(f"Pass@{k}" for k in tested["pass_at_k"]), "greedy"],
    [
      [
        "policy",
        f"{tested['accuracy']:.3f} ± {tested['standard_error']:.3f}",
        *(f"{value:.3f}" for value in tested["pass_at_k"].values()),
        f"{tested['greedy_accuracy']:.3f}",
      ]
    ],
  )
  if mistakes := base.mistakes_table(problem, tested.get("mistakes")):
    progress.table(*mistakes)
