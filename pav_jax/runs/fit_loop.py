"""The loop that fits a network: metrics, validation, the best one, resuming."""

import concurrent.futures
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from pav_jax.checks import check_positive
from pav_jax.files import describe
from pav_jax.models import adapters
from pav_jax.reporting import metrics, progress
from pav_jax.reporting.metrics import MetricsLog, write_config
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training import fitting, processes
from pav_jax.training.fitting import FitState, Fitter
from pav_jax.training.state import Checkpoints, checksum

# `position -> (batch, position of the next)`, as `data.packing.Batches`.
BatchesFn = Callable[[int], tuple[PyTree, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSettings:
  """What runs that fit a network have in common.

  Attributes:
    seed: of new parameters and of everything random.
    chunk: most train steps in a compiled call.
    checkpoint_every: train steps; whatever they are, the last is kept.
    mesh: from `make_mesh`; None for all devices on the data axis.

  Raises:
    ValueError: if a number is out of its range.
  """

  seed: int = 0
  chunk: int = 50
  checkpoint_every: int = 1000
  mesh: jax.sharding.Mesh | None = None

  # Settings that may differ when a run is continued.
  free: ClassVar[frozenset[str]] = frozenset(
    {"chunk", "checkpoint_every", "mesh"}
  )

  def __post_init__(self):
    check_positive(chunk=self.chunk, checkpoint_every=self.checkpoint_every)

  def identity(self) -> dict[str, str]:
    """What a run must agree on to go on with its beginning."""
    values = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in self.free
    }
    return {
      name: describe(
        tuple(x) if isinstance(x, list) else getattr(x, "__name__", x)
      )
      for name, x in values.items()
    }


@dataclasses.dataclass(frozen=True)
class Job:
  """A network to be fitted.

  Attributes:
    experiment: its name.
    workdir: gets metrics.jsonl, event files, checkpoints and report.json.
    config: what a run must agree on to go on with the checkpoints.
    fingerprint: of the problem's tokenizer and delimiter.
    fitter: the step of training.
    stages: batches, and how many steps are made on them; one stage after the
      other, and all batches of one shape.
    validate: `params -> {measure: number}`, the `loss` among them.
    score: of measures; the parameters with the highest one are kept.
    validate_every: train steps; it is done at the end too.
    settings: of the run.
    began: when the run did, by `time.monotonic`.
    keep_after: train steps; parameters of earlier ones are not kept.
  """

  experiment: str
  workdir: pathlib.Path
  config: Mapping[str, str]
  fingerprint: str
  fitter: Fitter
  stages: Sequence[tuple[BatchesFn, int]]
  validate: Callable[[PyTree], dict[str, float]]
  score: Callable[[dict[str, float]], float]
  validate_every: int
  settings: FitSettings
  began: float
  keep_after: int = 0

  @property
  def num_steps(self) -> int:
    """Of all stages."""
    return sum(number for _, number in self.stages)


@dataclasses.dataclass(frozen=True)
class Fitted:
  """What came of a job.

  Attributes:
    params: of the network with the highest score, as training had them.
    step: after which they were.
    log: of the run, open.
    seconds_before: of wall time, in earlier runs of this work directory.
    tokens_per_second: of training, with prompts and padding: the median over
      calls, but for the first, which compiles; None if there was no second.
  """

  params: PyTree
  step: int
  log: MetricsLog
  seconds_before: float
  tokens_per_second: float | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Saved:
  """A checkpoint of the run, and one of its best parameters.

  Attributes:
    params: that are trained.
    optimizer: the optimiser's state; of the best parameters nothing.
    position: in the present stage's batches.
    best: the highest score so far, -inf for none.
  """

  params: PyTree
  optimizer: PyTree
  position: Int[np.ndarray, ""]
  best: Float[np.ndarray, ""]

  @property
  def as_best(self) -> "_Saved":
    """What is kept if these are the best parameters."""
    return _Saved(self.params, (), np.asarray(0), self.best)


def train(job: Job, state: FitState) -> Fitted:
  """Fits a network, or goes on where an earlier run stopped.

  Args:
    job: what is fitted.
    state: before the first step, from `job.fitter`; it is used up.

  Raises:
    ValueError: if checkpoints are of another configuration, or metrics or
      checkpoints are lost.
    FloatingPointError: if a loss or parameters are not finite; the last
      checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the step it stopped at.
  """
  total, settings, rates = job.num_steps, job.settings, []
  config = dict(job.config)
  if state.base:  # which checkpoints do not hold
    config["base"] = checksum(state.base)
  last, best = (
    Checkpoints(
      job.workdir / "checkpoints" / name,
      config=config,
      fingerprint=job.fingerprint,
      max_to_keep=number,
      afresh=job.workdir / "checkpoints",
    )
    for name, number in (("last", 3), ("best", 1))
  )
  done, now, seconds_before = _resume(last, best, state)
  log = _resumed_log(job, done)
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=job.experiment) as bar,
  ):
    for begin, end, batches, position in _segments(
      job, done, int(now.position)
    ):
      batches = job.fitter.put(batches, settings.chunk)
      clock = time.perf_counter()
      state, rows = job.fitter.train_chunk(
        FitState(now.params, now.optimizer, state.base),
        batches,
        np.int32(end - begin),
      )
      number = end - begin
      rows = {name: np.asarray(x)[:number] for name, x in rows.items()}
      num_tokens = number * batches.tokens[0].size
      rates.append(num_tokens / (time.perf_counter() - clock))
      log.write(
        "train",
        range(begin + 1, end + 1),
        {name: x[:, None] for name, x in rows.items()},
      )
      fitting.check_finite(rows["loss"], begin, last.newest)
      now = _Saved(
        state.params, state.optimizer, np.asarray(position), now.best
      )
      note = f"loss {rows['loss'].mean():.3f}"
      if end % job.validate_every == 0 or end == total:
        now, measures = _validate(job, log, last, best, end, now, state.base)
        note += " · validation: " + " · ".join(
          f"{name} {x:.3g}"
          for name, x in measures.items()
          if name != "tokens_per_second"  # of sampling, compilation included
        )
      stop = told_to_stop()
      if stop or end % settings.checkpoint_every == 0 or end == total:
        seconds = seconds_before + time.monotonic() - job.began
        last.save(end, now, seconds)
      bar.update(end, {}, note=note)
      if stop:
        log.close()
        raise Preempted(f"stopped after step {end} of {total}")
  last.close()
  step, kept, _ = best.restore_needed(now.as_best)
  best.close()
  rate = float(np.median(rates[1:])) if rates[1:] else None
  params = adapters.join(kept.params, state.base)
  return Fitted(params, step, log, seconds_before, rate)


def write_report(
  job: Job,
  fitted: Fitted,
  arms: dict[str, Any],
  written: Sequence[pathlib.Path],
  *,
  training: Mapping[str, Any],
  verdict: str,
  **more: Any,
) -> None:
  """Writes report.json, closes the log, and says which files there are.

  Args:
    job: that is done.
    fitted: what came of it.
    arms: see `reporting.metrics.write_report`.
    written: files besides report.json and metrics.jsonl.
    training: for the report.
    verdict: what came of it, in a line.
    **more: for the report.
  """
  write_config(job.workdir)
  report = job.workdir / "report.json"
  metrics.write_report(
    report,
    experiment=job.experiment,
    arms=arms,
    seconds=fitted.seconds_before + time.monotonic() - job.began,
    verdict=verdict,
    training={"steps": job.num_steps, "kept_step": fitted.step, **training},
    **more,
  )
  fitted.log.close()
  progress.finish((report, job.workdir / "metrics.jsonl", *written), verdict)


def _resume(
  last: Checkpoints, best: Checkpoints, state: FitState
) -> tuple[int, _Saved, float]:
  """Steps done, what they left, and their wall time."""
  start = _Saved(
    state.params, state.optimizer, np.asarray(0), np.asarray(-math.inf)
  )
  restored = last.restore(start)
  if restored is None:
    return 0, start, 0.0
  for x in jax.tree.leaves((state.params, state.optimizer)):
    x.delete()  # devices have no room for both, whoever still has the start
  done, now, seconds = restored
  if math.isfinite(now.best):  # it will be needed in the end
    best.restore_needed(now.as_best)
  progress.say(f"continuing after step {done}")
  return done, now, seconds


def _resumed_log(job: Job, done: int) -> MetricsLog:
  """The log, with the rows of the steps that are done and no others."""
  total, every = job.num_steps, job.validate_every
  log = MetricsLog(job.workdir)
  log.resume(
    ["train", "validation"],
    done,
    expected={
      "train": range(1, total + 1),
      "validation": [*range(0, total, every)[1:], total],
    },
  )
  return log


def _validate(
  job: Job,
  log: MetricsLog,
  last: Checkpoints,
  best: Checkpoints,
  step: int,
  now: _Saved,
  base: PyTree,
) -> tuple[_Saved, dict[str, float]]:
  """Validates, and keeps the parameters if they are the best so far."""
  measures = processes.agree(job.validate(adapters.join(now.params, base)))
  loss = np.array([measures["loss"]])
  fitting.check_finite(loss, step - 1, last.newest, "validation ")
  log.write(
    "validation",
    [step],
    {name: np.array([[value]]) for name, value in measures.items()},
  )
  score = job.score(measures)
  if step > job.keep_after and score > now.best:
    now = dataclasses.replace(now, best=np.asarray(score))
    best.save(step, now.as_best, 0.0)
  return now, measures


def _segments(
  job: Job, done: int, position: int
) -> Iterator[tuple[int, int, list[PyTree], int]]:
  """The parts that are run in one call: begin, end, batches, next position.

  A part ends after `chunk` steps, where something is due, or with its stage.
  The next one's batches are made while the present one is used.
  """
  settings = job.settings
  every = job.validate_every, settings.checkpoint_every

  def make():
    begin, at = done, position
    ends = np.cumsum([number for _, number in job.stages])
    while begin < ends[-1]:
      stage = int(np.searchsorted(ends, begin, side="right"))
      if begin in ends:
        at = 0
      end = min(
        begin + settings.chunk,
        int(ends[stage]),
        *(begin - begin % n + n for n in every),
      )
      batches = []
      for _ in range(begin, end):
        batch, at = job.stages[stage][0](at)
        batches.append(batch)
      yield begin, end, batches, at
      begin = end

  parts = make()
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    ahead = thread.submit(next, parts, None)
    while (part := ahead.result()) is not None:
      ahead = thread.submit(next, parts, None)
      yield part
