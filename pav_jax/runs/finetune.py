"""The run that fine-tunes a policy: training, validation, keeping the best."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.for_problem import export
from pav_jax.policies.language_model import LanguageModel
from pav_jax.reporting import progress, sft_plots
from pav_jax.reporting.metrics import MetricsLog, write_config, write_report
from pav_jax.rollout import PackedTokens
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training import fitting, processes, sft
from pav_jax.training.initial import random_params
from pav_jax.training.state import Checkpoints
from pav_jax.training.validation import Validation, judge, report


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Saved:
  """A checkpoint of the run, and one of its best policy.

  Attributes:
    params: of the network.
    optimizer: the optimiser's state; of the best policy nothing.
    position: in the present stage's batches.
    best: the best score so far, -inf for none.
  """

  params: PyTree
  optimizer: PyTree
  position: Int[np.ndarray, ""]
  best: Float[np.ndarray, ""]


def finetune(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  policy: LanguageModel,
  problem: Any,
  stages: Sequence[sft.Stage],
  validation: Validation,
  optimizer: Callable | None = None,
  init_params: Callable[
    [LanguageModel, jax.Array, Layout], PyTree
  ] = random_params,
  seed: int = 0,
  chunk: int = 50,
  checkpoint_every: int = 1000,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """Trains a policy; continues if the workdir holds the run's beginning.

  In several processes it ends as in one with the same mesh. The number of
  processes, and the mesh, may differ when a run is continued.

  Args:
    workdir: gets metrics.jsonl, event files, report.json, a figure,
      checkpoints, and `policy/`, the kept policy in Hugging Face's format.
    experiment: its name, for the report.
    policy: what is trained; judged as it samples.
    problem: a text problem, see `problems.text.GeneratedProblem`.
    stages: trained one after another; all batches have one shape.
    validation: how the policy is judged, and which is kept.
    optimizer: `learning_rate -> optax.GradientTransformation`; None for
      `sft.AdamW()`.
    init_params: `(policy, key, layout) -> params` to start from, as
      `training.initial` has them.
    seed: of initial parameters and of samples.
    chunk: most train steps in a compiled call.
    checkpoint_every: train steps; whatever they are, the last is kept.
    mesh: from `make_mesh`; None for all devices on the data axis.

  Returns:
    The `test` part of report.json.

  Raises:
    ValueError: for settings out of range, or a workdir of another run.
    FloatingPointError: if a loss is not finite; the last checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the step it stopped at.
  """
  for name, number in (
    ("chunk", chunk),
    ("checkpoint_every", checkpoint_every),
  ):
    if number < 1:
      raise ValueError(f"{name} is {number}, expected at least 1")
  if not stages:
    raise ValueError("there are no stages, expected at least one")
  optimizer = optimizer or sft.AdamW()
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  mesh = mesh or partitioning.make_mesh()
  sizes = [getattr(stage.batches, "num_rows", mesh.size) for stage in stages]
  layout = Layout(partitioning.for_batch(mesh, math.gcd(*sizes)))
  key = jax.random.key(seed)
  init_key, validation_key, test_key = jax.random.split(key, 3)
  config = {
    "policy": repr(policy),
    "problem": repr(problem),
    "stages": repr(tuple(stages)),
    "validation": repr(validation),
    "optimizer": repr(optimizer),
    "init_params": repr(getattr(init_params, "__name__", init_params)),
    "seed": str(seed),
  }
  log = MetricsLog(workdir)
  open_checkpoints = functools.partial(
    Checkpoints, config=config, fingerprint=problem.fingerprint
  )
  checkpoints = open_checkpoints(workdir / "checkpoints" / "last")
  kept = open_checkpoints(workdir / "checkpoints" / "best", max_to_keep=1)

  transformation = optimizer(sft.schedule(stages))
  params = init_params(policy, init_key, layout)
  state = sft.init_state(policy.config, transformation, params, layout)
  del params
  position, best = 0, -math.inf
  done, seconds_before = 0, 0.0
  if restored := checkpoints.restore(_pack(state, position, best)):
    done, saved, seconds_before = restored
    state = fitting.FitState(saved.params, saved.optimizer)
    position, best = int(saved.position), float(saved.best)
    progress.say(f"continuing after step {done}")
  log.resume(["train", "validation"], done)

  total = sum(stage.num_steps for stage in stages)
  last_stage = total - stages[-1].num_steps
  train_chunk = sft.make_train_chunk(policy.config, transformation, layout)
  speed = _Speed()
  segments = _segments(
    stages, done, position, chunk, (validation.every, checkpoint_every)
  )
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=experiment) as bar,
  ):
    for begin, end, batches, position in segments:
      number = end - begin
      batches = _put(batches, layout, chunk)
      with speed.measure(number * batches.tokens[0].size):
        state, metrics = train_chunk(state, batches, np.int32(number))
        metrics = {name: np.asarray(x)[:number] for name, x in metrics.items()}
      log.write(
        "train",
        range(begin + 1, end + 1),
        {name: x[:, None] for name, x in metrics.items()},
      )
      fitting.check_finite(metrics["loss"], begin, checkpoints.newest)
      shown = {}
      if end % validation.every == 0 or end == total:
        sampler = processes.to_sample(policy, state.params, layout)
        found = processes.agree(
          judge(*sampler, validation_key, problem, validation)
        )
        del sampler
        log.write(
          "validation",
          [end],
          {name: np.array([[value]]) for name, value in found.items()},
        )
        shown = {"held out": found["accuracy"]}
        score = validation.score(found)
        in_last = end > last_stage or not validation.last_stage_only
        if in_last and score > best:
          best = score
          kept.save(end, _pack_best(state, best), 0.0)
      stop = told_to_stop()
      if stop or end % checkpoint_every == 0 or end == total:
        seconds = seconds_before + time.monotonic() - start
        checkpoints.save(end, _pack(state, position, best), seconds)
      bar.update(end, shown, note=f"loss {metrics['loss'].mean():.3f}")
      if stop:
        log.close()
        raise Preempted(f"stopped after step {end} of {total}")
  checkpoints.close()
  step, saved, _ = kept.restore(_pack_best(state, best))
  kept.close()

  progress.say(f"testing the policy of step {step} …")
  sampler, params = processes.to_sample(policy, saved.params, layout)
  tested = processes.agree(
    report(sampler, params, test_key, problem, validation)
  )
  export(workdir / "policy", policy, params, problem)
  if not processes.is_first():
    return tested
  validated = log.rows("validation")
  figure = sft_plots.summary(
    workdir,
    log.history("train", "loss", total)[:, 0],
    validated.pop("iteration"),
    {name: [seed[0] for seed in x] for name, x in validated.items()},
    tested,
  )
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms={"policy": tested},
    seconds=seconds_before + time.monotonic() - start,
    training={
      "steps": total,
      "kept_step": step,
      "tokens_per_second": speed.tokens_per_second,
    },
  )
  log.close()
  _print(experiment, tested)
  for path in (
    *(workdir / name for name in ("report.json", "metrics.jsonl", "policy")),
    figure,
  ):
    progress.say(f"wrote {path}")
  return tested


def _pack(state: fitting.FitState, position: int, best: float) -> _Saved:
  return _Saved(
    state.params, state.optimizer, np.asarray(position), np.asarray(best)
  )


def _pack_best(state: fitting.FitState, best: float) -> _Saved:
  return _Saved(state.params, (), np.asarray(0), np.asarray(best))


def _segments(
  stages: Sequence[sft.Stage],
  done: int,
  position: int,
  chunk: int,
  every: Sequence[int],
) -> Iterator[tuple[int, int, list[PackedTokens], int]]:
  """The parts that are run in one call: begin, end, batches, next position.

  A part ends after `chunk` steps, at a multiple of `every`, or with its stage.
  The next one's batches are made while the present one is used.
  """

  def make():
    begin, at = done, position
    ends = np.cumsum([stage.num_steps for stage in stages])
    while begin < ends[-1]:
      number = int(np.searchsorted(ends, begin, side="right"))
      if begin in ends:
        at = 0
      end = min(
        begin + chunk, ends[number], *(begin - begin % n + n for n in every)
      )
      batches = []
      for _ in range(begin, end):
        batch, at = stages[number].batches(at)
        batches.append(batch)
      yield begin, int(end), batches, at
      begin = int(end)

  parts = make()
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    ahead = thread.submit(next, parts, None)
    while (part := ahead.result()) is not None:
      ahead = thread.submit(next, parts, None)
      yield part


def _put(
  batches: Sequence[PackedTokens], layout: Layout, chunk: int
) -> PackedTokens:
  """Stacked and filled up to `chunk` batches, on the mesh."""
  fill = [batches[-1]] * (chunk - len(batches))
  stacked = jax.tree.map(lambda *x: np.stack(x), *batches, *fill)
  return partitioning.put(stacked, fitting.batch_sharding(layout))


class _Speed:
  """Tokens a second of a call; the first one compiles and is not counted."""

  def __init__(self):
    self._rates: list[float] = []

  @contextlib.contextmanager
  def measure(self, num_tokens: int) -> Iterator[None]:
    """Times what is done inside, with that many tokens."""
    start = time.perf_counter()
    yield
    self._rates.append(num_tokens / (time.perf_counter() - start))

  @property
  def tokens_per_second(self) -> float | None:
    """The median; None if there was no second call."""
    return float(np.median(self._rates[1:])) if self._rates[1:] else None


def _print(experiment: str, tested: dict[str, Any]) -> None:
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
  if mistakes := tested.get("mistakes"):
    progress.table(
      "share of wrong results; their rates imply Pass@1 of "
      f"{mistakes['implied_accuracy']:.3f}, the teacher's "
      f"{mistakes['teacher_accuracy']:.3f}",
      ["operation", "policy", "teacher"],
      [
        [
          symbol,
          f"{rate['policy']:.3f} ± {rate['standard_error']:.3f}",
          f"{rate['teacher']:.3f}",
        ]
        for symbol, rate in mistakes["error_rates"].items()
      ],
    )
