"""The run that trains language models by reinforcement: arms, seeds, report."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.models import hf, partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.policies.for_problem import export, language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.reporting import progress, rl_plots
from pav_jax.reporting.metrics import MetricsLog, write_config, write_report
from pav_jax.runs import rl_report
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.runs.rl_arms import Candidates, described, placed
from pav_jax.training import processes, rl_evaluation
from pav_jax.training.language_arm import LanguageArm
from pav_jax.training.probes import Thresholds
from pav_jax.training.rl_evaluation import HeldOut
from pav_jax.training.rl_text import (
  RateSchedule,
  RlState,
  Trainer,
  init_state,
)
from pav_jax.training.state import Checkpoints, sha256


@dataclasses.dataclass(frozen=True)
class _Run:
  """What all arms and seeds share; see `reinforce`."""

  policy: LanguageModel
  problem: Any
  params: PyTree
  digest: str
  num_iterations: int
  num_problems: int
  num_samples: int
  schedule: RateSchedule
  held_out: HeldOut
  thresholds: Thresholds
  checkpoint_every: int
  layout: Layout | None

  def to_sample(self, params: PyTree) -> tuple[LanguageModel, PyTree]:
    """The policy and its parameters, see `processes.to_sample`."""
    return processes.to_sample(self.policy, params, self.layout)


def reinforce(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  policy: str,
  problem: Any,
  arms: Sequence[LanguageArm | Candidates],
  num_iterations: int,
  num_problems: int = 16,
  num_samples: int = 8,
  num_seeds: int = 4,
  seed: int = 0,
  schedule: RateSchedule | None = None,
  held_out: HeldOut | None = None,
  thresholds: Thresholds | None = None,
  make_policy: Callable[..., LanguageModel] = language_model,
  tuning_iterations: int = 50,
  checkpoint_every: int = 50,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """Trains arms over seeds; continues what the workdir holds (Sec. 5).

  Lanes, one for each arm and seed, run one after another. A lane that was
  killed goes on from its checkpoint and ends with the same bits. The mesh and
  the number of processes may differ then, at the price of rounding.

  Args:
    workdir: gets report.json and figures; `lanes/ARM/seedS/` with the lane's
      metrics.jsonl, event files, checkpoints and `policy/`, the trained policy
      in Hugging Face's format; `tuning/` if arms are tuned.
    experiment: its name, for the report.
    policy: directory of the checkpoint that all arms start from, in Hugging
      Face's format; the KL is to it.
    problem: a text problem, see `problems.text.GeneratedProblem`.
    arms: what is compared. Of candidates the one is run whose accuracy on the
      validation split, averaged over a shorter run (`accuracy_over_run`), is
      the highest.
    num_iterations: of every lane.
    num_problems: of a batch.
    num_samples: responses to each.
    num_seeds: S >= 1.
    seed: lanes have the keys of seed … seed + S - 1; tuning that before.
    schedule: of the learning rate; None for `RateSchedule()`.
    held_out: how policies are judged; None for `HeldOut()`.
    thresholds: from where on probes warn; None for `Thresholds()`.
    make_policy: `(config, problem) -> LanguageModel`, at temperature 1.
    tuning_iterations: of each candidate.
    checkpoint_every: iterations.
    mesh: from `make_mesh`, over which learning is split; None for all devices
      on the data axis.

  Returns:
    The `arms` of report.json.

  Raises:
    ValueError: for settings out of range, a checkpoint of another vocabulary or
      delimiter, or a workdir of another run.
    FloatingPointError: if a loss is not finite; the last checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the iteration it stopped at.
  """
  for name, number, least in (
    ("num_iterations", num_iterations, 1),
    ("num_problems", num_problems, 1),
    ("num_samples", num_samples, 1),
    ("num_seeds", num_seeds, 1),
    ("tuning_iterations", tuning_iterations, 1),
    ("checkpoint_every", checkpoint_every, 1),
    ("seed", seed, 0),
  ):
    if number < least:
      raise ValueError(f"{name} is {number}, expected at least {least}")
  names = [arm.name for arm in arms]
  if not names or len(set(names)) < len(names):
    raise ValueError(
      f"arms are named {names}, expected one or more, all unlike"
    )
  minibatches = [
    one.num_minibatches
    for arm in arms
    for one in (arm.arms if isinstance(arm, Candidates) else (arm,))
  ]
  for number in minibatches:
    mesh = partitioning.for_batch(mesh, num_problems * num_samples // number)
  if num_problems < jax.process_count():
    raise ValueError(
      f"num_problems is {num_problems}, expected at least one for each of "
      f"{jax.process_count()} processes"
    )
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  hf.check_fingerprint(policy, problem.fingerprint)
  layout = Layout(mesh) if mesh.size > 1 else None
  split = layout is not None and layout.splits_parameters
  # The start is sampled from too, by each process for itself.
  where = layout if split or layout is None else layout.own
  config, params = hf.load(policy, layout=where)
  sampler = make_policy(config, problem)
  if (sampler.temperature, sampler.top_k, sampler.top_p) != (1.0, None, 1.0):
    raise ValueError(
      f"the policy samples at temperature {sampler.temperature}, top_k "
      f"{sampler.top_k} and top_p {sampler.top_p}, expected 1, None and 1: "
      "others are not the policy that is trained"
    )
  run = _Run(
    policy=sampler,
    problem=problem,
    params=params,
    digest=sha256(params),
    num_iterations=num_iterations,
    num_problems=num_problems,
    num_samples=num_samples,
    schedule=schedule or RateSchedule(),
    held_out=held_out or HeldOut(),
    thresholds=thresholds or Thresholds(),
    checkpoint_every=checkpoint_every,
    layout=layout,
  )
  chosen, tuning = _tune(
    workdir / "tuning", run, arms, seed + num_seeds, tuning_iterations
  )
  key = jax.random.key(seed)
  started, hard = _test_start(run, key)
  report, seconds = {}, 0.0
  for arm in chosen:
    lanes = []
    for number in range(seed, seed + num_seeds):
      home = workdir / "lanes" / arm.name / f"seed{number}"
      lanes.append(_train(home, run, arm, number, f"{arm.name}, seed {number}"))
    tested = []
    for lane in lanes:
      found = rl_evaluation.test(
        *run.to_sample(lane.params), key, problem, run.held_out
      )
      tested.append(rl_evaluation.report(found, run.held_out, hard))
      seconds += lane.seconds
    report[arm.name] = rl_report.summary(
      lanes, tested, num_problems * num_samples
    )
  if not processes.is_first():
    return report
  first = next(iter(report))
  ratios = {
    name: rl_report.ratios(report[first], found)
    for name, found in report.items()
    if name != first
  }
  figures = rl_plots.write_all(workdir, report, started, first)
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=seconds + time.monotonic() - start,
    start=started,
    fewer_iterations_than=first,
    ratios=ratios,
    tuning=tuning,
  )
  rl_report.print_table(experiment, report, started, num_seeds)
  for path in (workdir / "report.json", workdir / "lanes", *figures):
    progress.say(f"wrote {path}")
  return report


def _train(
  home: pathlib.Path, run: _Run, arm: LanguageArm, seed: int, label: str
) -> rl_report.Lane:
  """Trains one lane, or reads what an earlier run trained."""
  home.mkdir(parents=True, exist_ok=True)
  key = jax.random.key(seed)
  trainer = Trainer(
    placed(arm, run.layout),
    run.policy,
    run.problem,
    run.params,
    jax.random.fold_in(key, 1),
    run.num_problems,
    run.num_samples,
    run.layout,
  )
  checkpoints = Checkpoints(
    home / "checkpoints",
    config={
      "policy": repr(run.policy),
      "start": run.digest,
      "problem": repr(run.problem),
      "arm": described(arm),
      "iterations": str(run.num_iterations),
      "batch": f"{run.num_problems} × {run.num_samples}",
      "schedule": repr(run.schedule),
      "held_out": f"{run.held_out.num_problems} × {run.held_out.num_samples}"
      f" every {run.held_out.every}",
      "seed": str(seed),
    },
    fingerprint=run.problem.fingerprint,
    max_to_keep=2,
  )
  params = run.params
  if run.layout:
    params = partitioning.put(
      params, transformer.shardings(run.policy.config, run.layout)
    )
  state = init_state(arm, run.policy, key, params, run.layout)
  done, seconds_before = 0, 0.0
  if restored := checkpoints.restore(state):
    done, state, seconds_before = restored
    if done < run.num_iterations:
      progress.say(f"{label}: continuing after iteration {done}")
  start, seconds_spent = time.monotonic(), seconds_before
  total = run.num_iterations
  log = MetricsLog(home)
  log.resume(["train", "validation"], done)

  def validate(iteration: int, state: RlState) -> float:
    found = rl_evaluation.judge(
      *run.to_sample(state.params),
      run.to_sample(run.params)[1],
      jax.random.fold_in(key, 2),
      run.problem,
      run.held_out,
    )
    log.write("validation", [iteration], _column(found))
    return found["accuracy"]

  warned: dict[str, Any] = {}
  shown = None
  if not done:
    shown = validate(0, state)
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=label) as bar,
  ):
    pending = None
    for iteration in range(done, total):
      scale = run.schedule(iteration, total)
      state, finish = trainer.iterate(state, iteration, scale)
      # What an iteration measured is read while the device does the next.
      if pending:
        _finish(log, *pending, checkpoints.newest)
      pending = (iteration + 1, finish)
      now = iteration + 1
      checks = now % run.held_out.every == 0 or now == total
      stop = told_to_stop()
      saves = stop or now % run.checkpoint_every == 0 or now == total
      if checks or saves:
        _finish(log, *pending, checkpoints.newest)
        pending = None
      if checks:
        shown = validate(now, state)
        rl_report.warn(label, log, run.thresholds, warned)
      if saves:
        jax.block_until_ready(state)
        seconds = seconds_before + time.monotonic() - start
        checkpoints.save(now, state, seconds)
        seconds_spent = seconds
      bar.update(now, {} if shown is None else {"held out": shown})
      if stop:
        log.close()
        raise Preempted(f"{label}: stopped after iteration {now} of {total}")
  params = state.params
  missing = done < total or not (home / "policy").exists()
  if processes.agree(missing):
    export(home / "policy", run.policy, params, run.problem)
  checkpoints.close()
  curves = log.rows("train")
  validation = log.rows("validation")
  warnings = rl_report.warnings(curves, run.thresholds)
  log.close()
  return rl_report.Lane(
    params,
    seconds_spent,
    {
      name: rl_report.series(x)
      for name, x in curves.items()
      if name != "iteration"
    },
    {
      name: np.array(x) if name == "iteration" else rl_report.series(x)
      for name, x in validation.items()
    },
    warnings,
  )


def _column(found: Mapping[str, float]) -> dict[str, np.ndarray]:
  return {name: np.array([[value]]) for name, value in found.items()}


def _finish(log, iteration, finish, kept) -> None:
  """Writes an iteration's metrics; raises if its loss is not finite."""
  found = finish()
  log.write("train", [iteration], _column(found))
  if not math.isfinite(found["loss"]):
    state = "no checkpoint was due" if kept is None else f"{kept} is kept"
    raise FloatingPointError(
      f"loss is {found['loss']} at iteration {iteration}; {state}"
    )


def _tune(
  workdir: pathlib.Path,
  run: _Run,
  arms: Sequence[LanguageArm | Candidates],
  seed: int,
  num_iterations: int,
) -> tuple[list[LanguageArm], dict[str, dict[str, float]]]:
  """Arms to run, and scores of candidates, by arm."""
  chosen, tuning = [], {}
  run = dataclasses.replace(run, num_iterations=num_iterations)
  for arm in arms:
    if not isinstance(arm, Candidates):
      chosen.append(arm)
      continue
    scores = {}
    for candidate in arm.arms:
      home = workdir / arm.name / candidate.name
      label = f"tuning {arm.name}: {candidate.name}"
      lane = _train(home, run, candidate, seed, label)
      scores[candidate.name] = rl_report.accuracy_over_run(lane.validation)
    if len(scores) < len(arm.arms) or not scores:
      raise ValueError(
        f"candidates of {arm.name} are named "
        f"{[candidate.name for candidate in arm.arms]}, expected one or more, "
        "all unlike"
      )
    best = max(arm.arms, key=lambda candidate: scores[candidate.name])
    progress.say(f"{arm.name} is run as {best.name}")
    tuning[arm.name] = scores
    chosen.append(dataclasses.replace(best, name=arm.name))
  return chosen, tuning


def _test_start(
  run: _Run, key: jax.Array
) -> tuple[dict[str, Any], np.ndarray | None]:
  """The start's report, and indices of the test problems it never solves."""
  held_out, hard = run.held_out, None
  start = run.to_sample(run.params)
  if held_out.hard_samples:
    found = rl_evaluation.test(
      *start,
      jax.random.fold_in(key, 3),
      run.problem,
      held_out,
      num_samples=held_out.hard_samples,
    )
    hard = np.flatnonzero(found.num_correct == 0)
  found = rl_evaluation.test(*start, key, run.problem, held_out)
  return rl_evaluation.report(found, held_out, hard), hard
