"""The run of reinforcement learning: arms over seeds, and a report (Sec. 5)."""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pav_jax.checks import check_least
from pav_jax.files import describe
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.problems.base import Problem
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import MetricsLog, write_config, write_report
from pav_jax.runs import hosts, rl_fresh, rl_held_out, rl_loop, rl_report
from pav_jax.runs.rl_arms import Candidates, all_arms, described
from pav_jax.runs.rl_fresh import FreshSamples
from pav_jax.runs.rl_held_out import EvaluationConfig
from pav_jax.runs.rl_loop import Job, Replica
from pav_jax.runs.rl_start import FreshPolicy, PolicyCheckpoint, Start
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training import processes
from pav_jax.training.learning_rate import LearningRateSchedule
from pav_jax.training.probes import Thresholds
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted, Traced
from pav_jax.training.rl_replicas import (
  Alone,
  Stream,
  Together,
  group_arms,
  is_pure,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RlSettings:
  """Settings of `reinforce`.

  Attributes:
    problem: what is learnt.
    start: where all arms start: a checkpoint, or parameters made for each seed.
    arms: what is compared. Of candidates the one is run whose accuracy on the
      validation split, averaged over a shorter run (`accuracy_over_run`), is
      the highest.
    num_iterations: of every arm and seed. Where the learning rate is constant
      it may be raised, to go on with a finished run.
    evaluation: how policies are judged: on the problem's validation and test
      splits, or on fresh samples of a problem that is pure JAX.
    num_problems: of a batch.
    num_samples: responses to each.
    num_seeds: S >= 1.
    seed: runs have the keys of seed … seed + S - 1; tuning that after.
    schedule: of the learning rate.
    thresholds: from where on probes warn.
    tuning_iterations: of each candidate.
    checkpoint_every: iterations, rounded up to whole strides.
    one_program: whether arms that differ in numbers only, and all seeds, are
      trained in one compiled program where all their parts are pure JAX. They
      run one after another else.
    stride: iterations a call of such a program; progress moves once a stride.
    mesh: from `make_mesh`, over which learning is split; None for all devices
      on the data axis.

  Raises:
    ValueError: if a number is out of range, or arms share a name.
  """

  problem: Problem
  start: PolicyCheckpoint | FreshPolicy
  arms: Sequence[Arm | Candidates]
  num_iterations: int
  evaluation: EvaluationConfig | FreshSamples = dataclasses.field(
    default_factory=EvaluationConfig
  )
  num_problems: int = 16
  num_samples: int = 8
  num_seeds: int = 4
  seed: int = 0
  schedule: LearningRateSchedule = dataclasses.field(
    default_factory=LearningRateSchedule
  )
  thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
  tuning_iterations: int = 50
  checkpoint_every: int = 50
  one_program: bool = True
  stride: int = 10
  mesh: jax.sharding.Mesh | None = None

  def __post_init__(self):
    check_least(
      1,
      num_iterations=self.num_iterations,
      num_problems=self.num_problems,
      num_samples=self.num_samples,
      num_seeds=self.num_seeds,
      tuning_iterations=self.tuning_iterations,
      checkpoint_every=self.checkpoint_every,
      stride=self.stride,
    )
    check_least(0, seed=self.seed)
    names = [arm.name for arm in self.arms]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        f"arms are named {names}, expected one or more different names"
      )


@dataclasses.dataclass(frozen=True)
class Run:
  """What all arms and seeds of a run share.

  Attributes:
    workdir: of the run.
    settings: of the run.
    start: where all arms start.
    mesh: over which learning is split.
    seeds: whose keys are used.
  """

  workdir: pathlib.Path
  settings: RlSettings
  start: Start
  mesh: jax.sharding.Mesh
  seeds: range

  @functools.cached_property
  def place(self) -> Hosted:
    """Where an arm is trained that has no program of its own."""
    return Hosted(Layout(self.mesh) if self.mesh.size > 1 else None)

  def trainer(self, arm: Arm, placement: Any) -> Trainer:
    """The trainer of an arm."""
    settings = self.settings
    return Trainer(
      arm,
      self.start.policy,
      settings.problem,
      placement,
      settings.num_problems,
      settings.num_samples,
    )

  def params_of(self, seed: int) -> Any:
    """Where a seed starts."""
    if not self.start.is_seeded:
      return self.start.params
    # Tuning has a seed of its own, and starts where the first one does.
    index = self.seeds.index(seed) if seed in self.seeds else 0
    return jax.tree.map(lambda x: x[index], self.start.params)

  def scale(self, iteration: int) -> float:
    """Factor of the learning rate."""
    settings = self.settings
    return settings.schedule(iteration, settings.num_iterations)

  @property
  def config(self) -> dict[str, str]:
    """What a run must agree on to go on with checkpoints."""
    settings, schedule = self.settings, self.settings.schedule
    config = self.start.identity | {
      "problem": describe(settings.problem),
      "batch": f"{settings.num_problems} × {settings.num_samples}",
      "schedule": describe(schedule),
      "evaluation": settings.evaluation.identity,
    }
    if not schedule.is_constant:
      config["iterations"] = str(settings.num_iterations)
    return config

  @property
  def identity(self) -> dict[str, str]:
    """What whoever goes on in the work directory must agree on.

    Arms may be added to what it holds, and left out.
    """
    arms = {
      f"arm {arm.name}": described(arm)
      for arm in self.settings.arms
      if not isinstance(arm, Candidates)
    }
    seed = str(self.settings.seed)
    return {"run": "reinforce", "seed": seed} | self.config | arms


@exclusive
def reinforce(
  workdir: str | os.PathLike, experiment: str, *, settings: RlSettings
) -> dict[str, Any]:
  """Trains arms over seeds; continues what the workdir holds.

  What was killed goes on from its checkpoint and ends with the same bits. The
  mesh and the number of processes may differ then, at the price of rounding.

  Args:
    workdir: gets report.json and figures, and metrics.jsonl, event files and
      checkpoints: of arms in one program there, else in `lanes/ARM/seedS/`,
      beside `policy/`, the trained policy in Hugging Face's format. `tuning/`
      has the same of candidates.
    experiment: its name, for the report.
    settings: of the run.

  Returns:
    The `arms` of report.json.

  Raises:
    ValueError: for a checkpoint of another tokenizer or delimiter, or a workdir
      of another run.
    FloatingPointError: if a loss or parameters are not finite; the last
      checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the iteration it stopped at.
  """
  began = time.monotonic()
  run = open_run(pathlib.Path(workdir), settings)
  accept(workdir, experiment, run.identity)
  reporter = (
    rl_fresh.Reporter(run)
    if isinstance(settings.evaluation, FreshSamples)
    else rl_report.Reporter(run)
  )
  arms, tuning = tune(run)
  reporter.judge_start()
  seconds = 0.0
  for job, names in jobs(run, arms):
    replicas = rl_loop.train(job)
    export(run, job, replicas)
    seconds += replicas[0][0].seconds
    for name, of_arm in zip(names, replicas, strict=True):
      reporter.add(name, of_arm)
  report, more, figures = reporter.report(arms)
  if not processes.is_first():
    return report
  verdict = _verdict(report)
  write_config(workdir)
  write_report(
    run.workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=seconds + time.monotonic() - began,
    verdict=verdict,
    **more,
    **({"tuning": tuning} if reporter.tunes else {}),
  )
  reporter.print_table(experiment, report)
  written = ("report.json", "metrics.jsonl", "config.gin", "lanes")
  paths = [*(run.workdir / name for name in written), *figures]
  progress.finish(filter(pathlib.Path.exists, paths), verdict)
  return report


def _verdict(report: Mapping[str, Mapping[str, Any]]) -> str:
  """The accuracy that the best arms end with."""
  ends = {
    name: of_arm.get("final_accuracy", of_arm.get("accuracy"))
    for name, of_arm in report.items()
  }
  best = sorted(ends, key=lambda name: -np.mean(ends[name]))[:5]
  return "accuracy at the end: " + "; ".join(
    f"{name} {100 * np.mean(ends[name]):.1f} %" for name in best
  )


def open_run(workdir: pathlib.Path, settings: RlSettings) -> Run:
  """Reads what a run starts from, and checks that batches fit the devices."""
  mesh = settings.mesh
  rows = settings.num_problems * settings.num_samples
  for arm in all_arms(settings.arms):
    mesh = partitioning.for_batch(mesh, rows // arm.num_minibatches)
  count = jax.process_count()
  if count > 1 and settings.num_problems < count:
    raise ValueError(
      f"num_problems is {settings.num_problems}, expected at least one for "
      f"each of {count} processes"
    )
  seeds = range(settings.seed, settings.seed + settings.num_seeds)
  layout = Layout(mesh) if mesh.size > 1 else None
  # The start is sampled from too, by each process for itself.
  if layout is not None and not layout.splits_parameters:
    layout = layout.own
  start = settings.start.load(settings.problem, _keys(seeds), layout)
  return Run(workdir, settings, start, mesh, seeds)


def _keys(seeds: range) -> jax.Array:
  return jax.vmap(jax.random.key)(np.asarray(seeds))


def jobs(run: Run, arms: Sequence[Arm]) -> Iterator[tuple[Job, Sequence[str]]]:
  """What is trained at once, and the names of its arms."""
  settings, policy = run.settings, run.start.policy
  validates = isinstance(settings.evaluation, EvaluationConfig)
  if (
    settings.one_program
    and not validates
    and is_pure(policy, settings.problem, arms)
  ):
    yield from _in_programs(run, arms)
    return
  for arm in arms:
    for seed in run.seeds:
      home = run.workdir / "lanes" / arm.name / f"seed{seed}"
      label = f"{arm.name}, seed {seed}"
      yield alone(run, home, arm, seed, label), [arm.name]


def _in_programs(
  run: Run, arms: Sequence[Arm]
) -> Iterator[tuple[Job, Sequence[str]]]:
  """A job for each group of arms of one structure, with all seeds."""
  hosts.require_one_process("reinforce with arms in one program")
  settings = run.settings
  for number, group in enumerate(group_arms(arms)):
    names = [arm.name for arm in group]
    replicas = Together(
      run.trainer(group[0], Traced(run.mesh)),
      group,
      _keys(run.seeds),
      run.start.params,
      settings.stride,
    )
    job = Job(
      label=f"{len(group)} arms × {len(run.seeds)} seeds",
      replicas=replicas,
      rows=names,
      log=run.workdir,
      checkpoints=run.workdir / "checkpoints" / f"group_{number}",
      config=run.config
      | {"seeds": f"{run.seeds[0]} … {run.seeds[-1]}"}
      | {f"arm {arm.name}": described(arm) for arm in group},
      fingerprint=None,
      num_iterations=settings.num_iterations,
      scale=run.scale,
      checkpoint_every=settings.checkpoint_every,
    )
    yield job, names


def alone(run: Run, home: pathlib.Path, arm: Arm, seed: int, label: str) -> Job:
  """The job of one arm and seed, which keeps its files in `home`."""
  settings, place = run.settings, run.place
  placed = dataclasses.replace(arm, prover=place.placed(arm.prover))
  reference, key = run.params_of(seed), jax.random.key(seed)
  warned: dict[str, Any] = {}

  def validate(params):
    policy, params = place.to_sample(run.start.policy, params)
    return rl_held_out.validate(
      policy,
      params,
      place.to_sample(policy, reference)[1],
      Stream.VALIDATE.of(key),
      settings.problem,
      settings.evaluation,
    )

  def warn(log: MetricsLog):
    rl_report.warn(label, log, settings.thresholds, warned)

  home.mkdir(parents=True, exist_ok=True)
  judged = isinstance(settings.evaluation, EvaluationConfig)
  return Job(
    label=label,
    replicas=Alone(run.trainer(placed, place), reference, key),
    rows=["train"],
    log=home,
    checkpoints=home / "checkpoints",
    config=run.config | {"arm": described(arm), "seed": str(seed)},
    fingerprint=settings.problem.fingerprint,
    num_iterations=settings.num_iterations,
    scale=run.scale,
    checkpoint_every=settings.checkpoint_every,
    validate=validate if judged else None,
    validate_every=settings.evaluation.every if judged else 1,
    on_validation=warn if judged else None,
  )


def export(run: Run, job: Job, replicas: Sequence[Sequence[Replica]]) -> None:
  """Writes a trained policy for others, where it is one of a job alone."""
  if run.start.export is None:
    return
  ((replica,),) = replicas
  path = job.log / "policy"
  if processes.agree(replica.is_new or not path.exists()):
    policy, problem = run.start.policy, run.settings.problem
    run.start.export(path, policy, replica.params, problem)


def tune(run: Run) -> tuple[list[Arm], dict[str, dict[str, float]]]:
  """Arms to run, and scores of candidates on validation problems, by arm.

  Raises:
    ValueError: if there are candidates and no validation problems.
  """
  settings = run.settings
  shorter = dataclasses.replace(
    run,
    settings=dataclasses.replace(
      settings, num_iterations=settings.tuning_iterations
    ),
  )
  seed = settings.seed + settings.num_seeds
  chosen, tuning = [], {}
  for arm in settings.arms:
    if not isinstance(arm, Candidates):
      chosen.append(arm)
      continue
    if not isinstance(settings.evaluation, EvaluationConfig):
      raise ValueError(
        f"{arm.name} has candidates and evaluation is {settings.evaluation}, "
        "expected an EvaluationConfig, whose validation problems choose"
      )
    scores = {}
    for candidate in arm.arms:
      job = alone(
        shorter,
        run.workdir / "tuning" / arm.name / candidate.name,
        candidate,
        seed,
        f"tuning {arm.name}: {candidate.name}",
      )
      replicas = rl_loop.train(job)
      export(run, job, replicas)
      validation = replicas[0][0].validation
      scores[candidate.name] = rl_held_out.accuracy_over_run(validation)
    best = max(arm.arms, key=lambda candidate: scores[candidate.name])
    progress.say(f"{arm.name} is run as {best.name}")
    tuning[arm.name] = scores
    chosen.append(dataclasses.replace(best, name=arm.name))
  return chosen, tuning
