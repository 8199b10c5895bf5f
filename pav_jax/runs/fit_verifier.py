"""The run that trains a verifier: training, validation, keeping the best."""

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
from jaxtyping import Float, PyTree

from pav_jax.data import step_targets
from pav_jax.models import partitioning
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import verifier as provers_verifier
from pav_jax.provers.verifier import Verifier
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import MetricsLog, write_config, write_report
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.runs import fit_report
from pav_jax.runs import labelled_data as inputs
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training import (
  calibration,
  fitting,
  labelling,
  processes,
  sft,
  value_fitting,
)
from pav_jax.training import target_splits as data_sets
from pav_jax.training import value_evaluation as evaluation
from pav_jax.training.state import Checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Saved:
  """A checkpoint of the run, and one of its best verifier.

  Attributes:
    params: trunk and head.
    optimizer: the optimiser's state; of the best verifier nothing.
    best: the least validation loss so far, inf for none.
  """

  params: PyTree
  optimizer: PyTree
  best: Float[np.ndarray, ""]


def fit_verifier(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  problem: Any,
  data: str | os.PathLike,
  trunk: Callable[[jax.Array, Layout, str], tuple[TransformerConfig, dict]],
  schedule: value_fitting.Schedule,
  reader_layers: int = 0,
  labels: labelling.Labelling | None = None,
  aux_weight: float = 0.0,
  held_out: str | os.PathLike | None = None,
  held_out_share: float = 0.2,
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None = None,
  calibrate: bool = True,
  optimizer: Callable | None = None,
  process_bench: Sequence[str | os.PathLike] = (),
  seed: int = 0,
  chunk: int = 50,
  validate_every: int = 250,
  held_out_traces: int = 2048,
  checkpoint_every: int = 500,
  num_inspected: int = 50,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """Trains a verifier; continues if the workdir holds the run's beginning.

  Problems that are held out are halved: validation chooses the verifier that is
  kept, its calibration and the threshold of first errors; the test half is
  reported on.

  In several processes it ends as in one with the same mesh. The number of
  processes, and the mesh, may differ when a run is continued.

  Args:
    workdir: gets metrics.jsonl, event files, report.json, figures,
      checkpoints, inspect.html, and `verifier/`, see `provers.verifier`.
    experiment: its name, for the report.
    problem: that the data is of: a vocabulary, a delimiter and a fingerprint,
      and what `verifier_evaluation.references` asks for if it has it.
    data: a directory of step targets.
    trunk: `(key, layout, fingerprint) -> (config, params)` to start from, as
      `training.trunks` has them.
    reader_layers: see `models.verifier.VerifierConfig`.
    schedule: steps, learning rates and batches.
    labels: which labels there are and how they count; None for the paper's.
    aux_weight: of the next-token loss on the steps that `labels` says.
    held_out: a directory of step targets of other problems; None to hold out
      some of `data`'s.
    held_out_share: of `data`'s problems, if there is no `held_out`.
    exact: exact values, `rollout -> [B, P]`, to measure against.
    calibrate: whether the head is scaled to fit validation labels in the end.
    optimizer: `learning_rate -> optax.GradientTransformation`; None for
      `sft.AdamW()`.
    process_bench: two files in ProcessBench's format, one to choose a threshold
      on and one to report on; () for none.
    seed: of new parameters, and of the order of traces.
    chunk: most train steps in a compiled call.
    validate_every: train steps; it is done at the end too.
    held_out_traces: at most so many for validation, and for the test.
    checkpoint_every: train steps; whatever they are, the last is kept.
    num_inspected: test traces on the page.
    mesh: from `make_mesh`; None for all devices on the data axis.

  Returns:
    The `verifier` arm of report.json.

  Raises:
    ValueError: for settings out of range, data or a checkpoint of another
      vocabulary, or a workdir of another run.
    FloatingPointError: if a loss is not finite; the last checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the step it stopped at.
  """
  for name, number in (
    ("chunk", chunk),
    ("validate_every", validate_every),
    ("held_out_traces", held_out_traces),
    ("checkpoint_every", checkpoint_every),
  ):
    if number < 1:
      raise ValueError(f"{name} is {number}, expected at least 1")
  if not 0 <= aux_weight < math.inf:
    raise ValueError(f"aux_weight is {aux_weight}, expected >= 0")
  if len(process_bench) not in (0, 2):
    raise ValueError(
      f"process_bench has {len(process_bench)} files, expected two: to choose "
      "a threshold on, and to report on"
    )
  labels = labels or labelling.Labelling()
  optimizer = optimizer or sft.AdamW()
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  layout = Layout(partitioning.for_batch(mesh, schedule.batch_size))
  train, validation, test = inputs.load(data, held_out, held_out_share, problem)
  learnt = labelling.examples(train, labels)
  validation, test = (
    data_sets.take(part, slice(held_out_traces)) for part in (validation, test)
  )
  judged = labelling.examples(validation, labels)

  trunk_key, reader_key = jax.random.split(jax.random.key(seed))
  trunk_config, params = trunk(trunk_key, layout, problem.fingerprint)
  inputs.check_room(trunk_config, problem, train, validation, test)
  config = VerifierConfig(trunk_config, reader_layers)
  transformation = schedule.optimizer(optimizer)
  state = value_fitting.init_state(
    config, transformation, network.init(config, params, reader_key), layout
  )
  del params
  log = MetricsLog(workdir)
  open_checkpoints = functools.partial(
    Checkpoints,
    config={
      "problem": repr(problem),
      "data": inputs.digest(data),
      "held_out": repr(held_out_share)
      if held_out is None
      else inputs.digest(held_out),
      "trunk": repr(getattr(trunk, "__name__", trunk)),
      "reader_layers": str(reader_layers),
      "schedule": repr(schedule),
      "labels": repr(labels),
      "aux_weight": repr(aux_weight),
      "optimizer": repr(optimizer),
      "validation": repr((validate_every, held_out_traces)),
      "seed": str(seed),
    },
    fingerprint=problem.fingerprint,
  )
  checkpoints = open_checkpoints(workdir / "checkpoints" / "last")
  kept = open_checkpoints(workdir / "checkpoints" / "best", max_to_keep=1)
  best, done, seconds_before = math.inf, 0, 0.0
  if restored := checkpoints.restore(_pack(state, best)):
    done, saved, seconds_before = restored
    state = fitting.FitState(saved.params, saved.optimizer)
    best = float(saved.best)
    progress.say(f"continuing after step {done}")
  log.resume(["train", "validation"], done)

  known = evaluation.references(problem, validation, exact)
  train_chunk = value_fitting.make_train_chunk(
    config, transformation, layout, aux_weight=aux_weight
  )
  total, rates = schedule.num_steps, []
  batches = functools.partial(_batches, learnt, schedule.batch_size, seed)
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=experiment) as bar,
  ):
    for begin, end in _segments(
      done, total, chunk, (validate_every, checkpoint_every)
    ):
      number = end - begin
      stacked = partitioning.put(
        batches(begin, number, chunk), fitting.batch_sharding(layout)
      )
      clock = time.perf_counter()
      state, metrics = train_chunk(state, stacked, np.int32(number))
      metrics = {name: np.asarray(x)[:number] for name, x in metrics.items()}
      rates.append(number / (time.perf_counter() - clock))
      log.write(
        "train",
        range(begin + 1, end + 1),
        {name: x[:, None] for name, x in metrics.items()},
      )
      fitting.check_finite(metrics["loss"], begin, checkpoints.newest)
      note = f"loss {metrics['loss'].mean():.3f}"
      if end % validate_every == 0 or end == total:
        logit = _score(_own(state.params, config, layout), validation)
        found = processes.agree(fit_report.validation(logit, judged, known))
        log.write(
          "validation",
          [end],
          {name: np.array([[value]]) for name, value in found.items()},
        )
        note += "".join(f" · {name} {x:.3f}" for name, x in found.items())
        if found["loss"] < best:
          best = found["loss"]
          kept.save(end, _pack_best(state, best), 0.0)
      stop = told_to_stop()
      if stop or end % checkpoint_every == 0 or end == total:
        seconds = seconds_before + time.monotonic() - start
        checkpoints.save(end, _pack(state, best), seconds)
      bar.update(end, {}, note=note)
      if stop:
        log.close()
        raise Preempted(f"stopped after step {end} of {total}")
  checkpoints.close()
  step, saved, _ = kept.restore(_pack_best(state, best))
  kept.close()

  progress.say(f"testing the verifier of step {step} …")
  trained, fitted = _own(saved.params, config, layout), None
  if calibrate:
    logit = _score(trained, validation)
    some = judged.weight > 0
    n = np.maximum(validation.num_completions, 1)
    fitted = calibration.fit(logit[some], judged.label[some], n[some])
    head = calibration.apply(trained.params["head"], *fitted)
    trained = dataclasses.replace(
      trained, params=trained.params | {"head": head}
    )
  vocabulary = problem.vocabulary
  provers_verifier.save(
    workdir / "verifier",
    config,
    trained.params,
    identity=identity(vocabulary, problem.delimiter),
    token_ids={
      "eos_token_id": vocabulary.eos_id,
      "pad_token_id": vocabulary.pad_id,
    },
  )
  score_fn = functools.partial(evaluation.score, trained)
  several = processes.together(trained)
  if not processes.is_first():
    if several:
      processes.follow(score_fn)
    return processes.agree(None)
  tested, more, written = fit_report.final(
    workdir,
    processes.led(score_fn) if several else score_fn,
    problem,
    validation,
    test,
    exact=exact,
    calibration=fitted,
    process_bench=process_bench,
    num_inspected=num_inspected,
    log=log,
    num_steps=total,
    title=experiment,
  )
  if several:
    processes.dismiss()
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms={"verifier": tested},
    seconds=seconds_before + time.monotonic() - start,
    training={
      "steps": total,
      "kept_step": step,
      "traces": len(train.tokens),
      "problems": len(np.unique(train.problem_id)),
      "labels": int((learnt.weight > 0).sum()),
      "completions": int(train.num_completions.sum(dtype=np.int64)),
      "traces_per_second": float(np.median(rates[1:])) * schedule.batch_size
      if rates[1:]
      else None,
    },
    **more,
  )
  log.close()
  for path in (
    *(workdir / x for x in ("report.json", "metrics.jsonl", "verifier")),
    *written,
  ):
    progress.say(f"wrote {path}")
  return processes.agree(tested)


def _own(params: PyTree, config: VerifierConfig, layout: Layout) -> Verifier:
  """A verifier as `processes.to_sample` has policies."""
  if layout.splits_parameters or jax.process_count() == 1:
    return Verifier(params, config, layout=layout)
  return Verifier(processes.on_own(params), config, layout=layout.own)


def _score(
  verifier: Verifier, targets: StepTargets
) -> Float[np.ndarray, "B P"]:
  """Logits of all prefixes; processes that can divide the traces."""
  number = len(targets.tokens)
  if number < jax.process_count() or processes.together(verifier):
    return evaluation.score(verifier, targets)
  share = data_sets.take(targets, processes.share(number))
  return processes.gather(evaluation.score(verifier, share))


def _pack(state: fitting.FitState, best: float) -> _Saved:
  return _Saved(state.params, state.optimizer, np.asarray(best))


def _pack_best(state: fitting.FitState, best: float) -> _Saved:
  return _Saved(state.params, (), np.asarray(best))


def _segments(
  done: int, total: int, chunk: int, every: Sequence[int]
) -> Iterator[tuple[int, int]]:
  """Steps that are run in one call: after `chunk`, or at multiples."""
  begin = done
  while begin < total:
    end = min(begin + chunk, total, *(begin - begin % n + n for n in every))
    yield begin, end
    begin = end


def _batches(
  examples: labelling.Examples,
  batch_size: int,
  seed: int,
  begin: int,
  number: int,
  room: int,
) -> labelling.Examples:
  """Stacked batches of steps from `begin` on, filled up to `room`."""
  rows = [
    step_targets.batch_rows(
      len(examples.tokens), batch_size=batch_size, seed=seed, step=step
    )
    for step in range(begin, begin + number)
  ]
  rows = np.stack(rows + [rows[-1]] * (room - number))
  return jax.tree.map(lambda x: x[rows], examples)
