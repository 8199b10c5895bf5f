"""Trains several arms over several seeds, side by side, and reports on them."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.models import partitioning
from pav_jax.reporting import plots, progress
from pav_jax.reporting.metrics import MetricsLog, write_config, write_report
from pav_jax.runs import hosts
from pav_jax.training import rl
from pav_jax.training.state import Checkpoints, TrainState, sha256


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
  policy: Any
  problem: Any
  arms: Sequence[rl.Arm]
  keys: jax.Array
  initial_params: PyTree
  params: dict[str, PyTree]
  accuracy: dict[str, np.ndarray]


_LEVELS = (50, 90, 99)

Analysis = Callable[[Trained], tuple[dict[str, Any], list[pathlib.Path]]]


def compare(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  policy: Any,
  problem: Any,
  arms: Sequence[rl.Arm],
  init_params: Callable[[Any, jax.Array], PyTree],
  num_iterations: int,
  batch_size: int = 64,
  num_seeds: int = 8,
  seed: int = 0,
  chunk: int = 10,
  checkpoint_every: int = 50,
  num_eval_samples: int = 4096,
  mesh: jax.sharding.Mesh | None = None,
  analyses: Sequence[Analysis] = (),
) -> dict[str, dict[str, list]]:
  """Runs a comparison; continues it if the workdir holds its beginning.

  Args:
    workdir: gets metrics.jsonl, event files, report.json, figures, checkpoints.
    experiment: its name, for the report.
    policy: see `training.rl`.
    problem: see `training.rl`.
    arms: what is compared.
    init_params: `(policy, key) -> params` that all arms of a seed start from.
    num_iterations: of every arm; may be raised to go on with a finished run.
    batch_size: rollouts an iteration, arm and seed.
    num_seeds: S >= 1.
    seed: runs have the keys of seed … seed + S - 1.
    chunk: iterations a compiled call; progress moves once a chunk.
    checkpoint_every: iterations, rounded up to whole chunks.
    num_eval_samples: fresh responses for `initial_accuracy` and
      `final_accuracy`.
    mesh: from `make_mesh`; None for all devices on the data axis.
    analyses: called in the end, each gives a part of the report and figures.

  Returns:
    The `arms` of report.json.

  Raises:
    ValueError: for settings out of range, or a workdir of another run.
    FloatingPointError: if a loss is not finite; the last good checkpoint stays.
  """
  for name, number, least in (
    ("num_iterations", num_iterations, 1),
    ("num_seeds", num_seeds, 1),
    ("chunk", chunk, 1),
    ("checkpoint_every", checkpoint_every, 1),
    ("num_eval_samples", num_eval_samples, 1),
    ("seed", seed, 0),
  ):
    if number < least:
      raise ValueError(f"{name} is {number}, expected at least {least}")
  hosts.require_one_process("compare")
  groups = rl.group_arms(arms)
  mesh = partitioning.for_batch(mesh, batch_size)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  keys = jax.vmap(jax.random.key)(np.arange(seed, seed + num_seeds))
  start = time.monotonic()
  initial_params = rl.initial_params(policy, keys, init_params)
  log = MetricsLog(workdir)
  config = {
    "policy": repr(policy),
    "problem": repr(problem),
    "init_params": repr(init_params),
    "batch_size": str(batch_size),
    "seeds": f"{seed} … {seed + num_seeds - 1}",
  }
  seconds, params = 0.0, {}
  for number, group in enumerate(groups.values()):
    checkpoints = Checkpoints(
      workdir / "checkpoints" / f"group_{number}",
      config=config | {f"arm {arm.name}": repr(arm) for arm in group},
    )
    state, group_seconds = _train_group(
      policy,
      problem,
      group,
      keys,
      initial_params,
      log,
      checkpoints,
      num_iterations=num_iterations,
      batch_size=batch_size,
      chunk=chunk,
      checkpoint_every=checkpoint_every,
      mesh=mesh,
    )
    checkpoints.close()
    seconds += group_seconds
    for index, arm in enumerate(group):
      params[arm.name] = jax.tree.map(lambda x, i=index: x[i], state.params)
  log.close()
  names = [arm.name for arm in arms]
  trained = Trained(
    workdir=workdir,
    policy=policy,
    problem=problem,
    arms=arms,
    keys=keys,
    initial_params=initial_params,
    params={name: params[name] for name in names},
    accuracy={
      name: log.history(name, "accuracy", num_iterations) for name in names
    },
  )
  progress.say("evaluating …")
  report = evaluate(trained, num_eval_samples)
  figures = [plots.learning_curves(workdir, trained.accuracy)]
  more = {}
  for analysis in analyses:
    part, paths = analysis(trained)
    more |= part
    figures += paths
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=seconds + time.monotonic() - start,
    **more,
  )
  if len(report) <= 20:
    _print_table(experiment, report, num_seeds)
  else:
    progress.say(f"{experiment}: the metrics of {len(report)} arms are in")
  written = ["report.json", "metrics.jsonl", "config.gin", "tensorboard"]
  for path in [*(workdir / name for name in written), *figures]:
    if path.exists():
      progress.say(f"wrote {path}")
  return report


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
    correct = rl.count_correct(
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


def _train_group(
  policy: Any,
  problem: Any,
  group: Sequence[rl.Arm],
  keys: jax.Array,
  initial_params: PyTree,
  log: MetricsLog,
  checkpoints: Checkpoints,
  *,
  num_iterations: int,
  batch_size: int,
  chunk: int,
  checkpoint_every: int,
  mesh: jax.sharding.Mesh,
) -> tuple[TrainState, float]:
  """Trains arms of one structure; gives their state and wall time so far."""
  names = [arm.name for arm in group]
  algorithms = rl.stack_arms(group)
  state = rl.init_state(algorithms, keys, initial_params)
  state = jax.device_put(state, partitioning.replicated(mesh))
  done, seconds_before = 0, 0.0
  if restored := checkpoints.restore(state):
    done, state, seconds_before = restored
    if done > num_iterations:
      raise ValueError(
        f"num_iterations is {num_iterations}, and the workdir's run has done "
        f"{done}; choose another workdir, or at least {done} iterations"
      )
    progress.say(f"continuing after iteration {done} of {num_iterations}")
  log.resume(names, done)
  if done == num_iterations:
    return state, seconds_before
  start = time.monotonic()
  saved = done
  train_chunk = rl.make_train_chunk(
    policy, problem, batch_size=batch_size, chunk=chunk, mesh=mesh
  )
  bar = progress.Progress(
    num_iterations,
    done=done,
    lanes=len(group) * len(keys),
    label=f"{len(group)} arms × {len(keys)} seeds",
  )
  with bar:
    while done < num_iterations:
      # Chunks start at multiples of their length also in a run that was raised
      # from a number of iterations in between.
      end = min(num_iterations, done + chunk - done % chunk)
      state, metrics = train_chunk(
        algorithms, keys, state, np.int32(done), np.int32(end)
      )
      metrics = jax.tree.map(lambda x, n=end - done: np.asarray(x)[:n], metrics)
      for index, name in enumerate(names):
        log.write(
          name,
          range(done + 1, end + 1),
          {metric: x[:, index] for metric, x in metrics.items()},
        )
      _check_finite(metrics["loss"], done, names, saved)
      done = end
      if done == num_iterations or done - saved >= checkpoint_every:
        seconds = seconds_before + time.monotonic() - start
        checkpoints.save(done, state, seconds)
        saved = done
      bar.update(
        done,
        {
          name: float(np.mean(metrics["accuracy"][:, index]))
          for index, name in enumerate(names)
        },
      )
  return state, seconds_before + time.monotonic() - start


def _check_finite(
  loss: np.ndarray, done: int, names: Sequence[str], saved: int
) -> None:
  """Raises FloatingPointError at the first loss that is not finite."""
  bad = np.argwhere(~np.isfinite(loss))
  if len(bad):
    offset, arm, seed = bad[0]
    kept = f"checkpoint {saved} is kept" if saved else "no checkpoint was due"
    raise FloatingPointError(
      f"loss is {loss[offset, arm, seed]} at iteration {done + offset + 1} "
      f"(arm {names[arm]!r}, seed number {seed}); {kept}"
    )


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
    known = [value for value in values if value is not None]
    return f"{min(known):.3f}" if known else "–"

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
