"""The loop that trains replicas: metrics, validation, checkpoints, resuming."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import PyTree

from pav_jax.reporting import progress
from pav_jax.reporting.metrics import MetricsLog
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training.rl_learning import RlState
from pav_jax.training.rl_replicas import Replicas, Rows
from pav_jax.training.state import Checkpoints

VALIDATION = "validation"


@dataclasses.dataclass(frozen=True)
class Job:
  """Replicas that are trained at once, and where and how they are.

  Attributes:
    label: what progress shows.
    replicas: what is trained.
    rows: what metrics.jsonl calls each arm.
    log: directory of metrics.jsonl.
    checkpoints: directory of checkpoints.
    config: what a run must agree on to go on with the checkpoints.
    fingerprint: of the problem's tokenizer and delimiter, or None.
    num_iterations: in all.
    scale: iteration -> factor of the learning rate.
    checkpoint_every: iterations.
    validate: parameters of a policy -> metrics; None for no validation.
    validate_every: iterations.
    on_validation: is shown the log after each validation.
  """

  label: str
  replicas: Replicas
  rows: Sequence[str]
  log: pathlib.Path
  checkpoints: pathlib.Path
  config: Mapping[str, str]
  fingerprint: str | None
  num_iterations: int
  scale: Callable[[int], float]
  checkpoint_every: int
  validate: Callable[[PyTree], dict[str, float]] | None = None
  validate_every: int = 1
  on_validation: Callable[[MetricsLog], None] | None = None


@dataclasses.dataclass(frozen=True)
class Replica:
  """One arm and seed, trained.

  Attributes:
    params: at the end.
    seconds: of wall time, in all runs of what was trained with it.
    curves: metric -> float[iterations], of training batches.
    validation: metric -> float[evaluations]; `iteration` among them.
    is_new: whether any of it was trained just now.
  """

  params: PyTree
  seconds: float
  curves: dict[str, np.ndarray]
  validation: dict[str, np.ndarray]
  is_new: bool = True


def train(job: Job) -> list[list[Replica]]:
  """Trains what a job has, or reads what an earlier run trained.

  Returns:
    For each arm a replica of each seed.

  Raises:
    ValueError: if checkpoints are of another configuration, or metrics of
      iterations before the newest are lost.
    FloatingPointError: if a loss or the parameters are not finite; the last
      checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the iteration it stopped at.
  """
  checkpoints = Checkpoints(
    job.checkpoints,
    config=dict(job.config),
    fingerprint=job.fingerprint,
    max_to_keep=2,
  )
  log = MetricsLog(job.log)
  done, state, seconds = _resume(job, checkpoints, log)
  if done < job.num_iterations:
    state, seconds = _advance(job, checkpoints, log, done, state, seconds)
  checkpoints.close()
  params = job.replicas.params_of(state)
  out = [
    _replicas(
      log,
      row,
      of_arm,
      seconds,
      has_validation=job.validate is not None,
      is_new=done < job.num_iterations,
    )
    for row, of_arm in zip(job.rows, params, strict=True)
  ]
  log.close()
  return out


def _resume(
  job: Job, checkpoints: Checkpoints, log: MetricsLog
) -> tuple[int, RlState, float]:
  """Iterations done, -1 before the start was judged, and what they left."""
  state, total = job.replicas.init(), job.num_iterations
  done, seconds = -1, 0.0
  if restored := checkpoints.restore(state):
    done, state, seconds = restored
    if done > total:
      raise ValueError(
        f"num_iterations is {total}, and the workdir's run has done {done}; "
        f"choose another workdir, or at least {done} iterations"
      )
    if done < total:
      progress.say(f"{job.label}: continuing after iteration {done} of {total}")
  expected = dict.fromkeys(job.rows, range(1, total + 1))
  if job.validate:
    expected[VALIDATION] = [*range(0, total, job.validate_every), total]
  log.resume(expected, done, expected=expected)
  return done, state, seconds


def _advance(
  job: Job,
  checkpoints: Checkpoints,
  log: MetricsLog,
  done: int,
  state: RlState,
  seconds_before: float,
) -> tuple[RlState, float]:
  """Trains to the end; gives the state and wall time so far."""
  start, total = time.monotonic(), job.num_iterations
  seconds, pending, shown = seconds_before, None, {}

  def validate(iteration: int) -> dict[str, float]:
    ((params,),) = job.replicas.params_of(state)
    judged = job.validate(params)
    column = {name: np.array([[value]]) for name, value in judged.items()}
    log.write(VALIDATION, [iteration], column)
    return {"held out": judged["accuracy"]}

  if job.validate and done <= 0:
    shown = validate(0)
  done = max(done, 0)
  record = functools.partial(_record, job, log, checkpoints)
  with (
    Watch() as told_to_stop,
    progress.Progress(
      total,
      done=done,
      label=job.label,
    ) as bar,
  ):
    for begin, end in _spans(done, total, job.replicas.stride):
      scales = [job.scale(i) for i in range(begin, end)]
      state, finish = job.replicas.advance(state, begin, scales)
      # What a call measured is read while the device does the next.
      if pending:
        shown = record(*pending) or shown
      pending = begin, finish
      checks = job.validate and _due(begin, end, total, job.validate_every)
      stop = told_to_stop()
      saves = stop or _due(begin, end, total, job.checkpoint_every)
      if checks or saves:
        shown = record(*pending) or shown
        pending = None
      if checks:
        shown = validate(end)
        if job.on_validation:
          job.on_validation(log)
      if saves:
        seconds = seconds_before + time.monotonic() - start
        checkpoints.save(end, state, seconds)
      bar.update(end, shown)
      if stop:
        log.close()
        raise Preempted(
          f"{job.label}: stopped after iteration {end} of {total}"
        )
  return state, seconds


def _spans(done: int, total: int, stride: int) -> Iterator[tuple[int, int]]:
  """Calls begin at multiples of the stride, also in a run that was raised from
  a number of iterations in between.
  """
  while done < total:
    end = min(total, done + stride - done % stride)
    yield done, end
    done = end


def _due(begin: int, end: int, total: int, every: int) -> bool:
  """Whether a multiple of `every` is reached, or the end."""
  return end // every > begin // every or end == total


def _record(
  job: Job,
  log: MetricsLog,
  checkpoints: Checkpoints,
  begin: int,
  finish: Callable[[], Rows],
) -> dict[str, float]:
  """Writes metrics and gives accuracies to show; raises if a loss is bad."""
  metrics = finish()
  for row, of_arm in zip(job.rows, metrics, strict=True):
    number = len(of_arm["loss"])
    log.write(row, range(begin + 1, begin + number + 1), of_arm)
  for arm, of_arm in zip(job.replicas.arms, metrics, strict=True):
    bad = np.argwhere(~np.isfinite(of_arm["loss"]))
    if len(bad):
      offset, seed = bad[0]
      raise FloatingPointError(
        f"loss is {of_arm['loss'][offset, seed]} at iteration "
        f"{begin + offset + 1} (arm {arm.name!r}, seed number {seed}); "
        f"{_kept(checkpoints)}"
      )
  if job.validate:
    return {}
  return {
    arm.name: float(np.mean(of_arm["accuracy"]))
    for arm, of_arm in zip(job.replicas.arms, metrics, strict=True)
  }


def _kept(checkpoints: Checkpoints) -> str:
  newest = checkpoints.newest
  return (
    "no checkpoint was due"
    if newest is None
    else f"checkpoint {newest} is kept"
  )


def _replicas(
  log: MetricsLog,
  row: str,
  params: Sequence[PyTree],
  seconds: float,
  *,
  has_validation: bool,
  is_new: bool,
) -> list[Replica]:
  """Those of an arm, from its parameters and metrics."""

  def columns(name: str, seed: int) -> dict[str, np.ndarray]:
    rows = log.rows(name)
    iterations = {"iteration": np.array(rows.pop("iteration"))}
    return iterations | {
      metric: np.array([of_seeds[seed] for of_seeds in column], np.float64)
      for metric, column in rows.items()
    }

  out = []
  for seed, of_seed in enumerate(params):
    curves = columns(row, seed)
    del curves["iteration"]
    validation = columns(VALIDATION, seed) if has_validation else {}
    out.append(Replica(of_seed, seconds, curves, validation, is_new))
  return out
