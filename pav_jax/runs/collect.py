"""The run that collects values of prefixes into files of step targets."""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pav_jax.data import step_targets
from pav_jax.data.step_targets_writer import Writer
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.budget import Budget
from pav_jax.provers.completions import LanguageModelCompletions
from pav_jax.reporting import collect_plots, progress
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.runs import collection_costs, networks
from pav_jax.runs.networks import Loaded
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training import closed_form
from pav_jax.training.collect_seeds import (
  IndependentSeeds,
  Source,
  Spent,
  find_prefixes,
)

TARGETS = "targets"


def collect(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  problem: Any,
  policy: str,
  prover: str | None = None,
  strategy: Any,
  num_problems: int,
  budget: Budget | None = None,
  split: str = "train",
  first_problem: int = 0,
  problems_per_shard: int = 32,
  make_policy: Callable[..., LanguageModel] = language_model,
  mesh: jax.sharding.Mesh | None = None,
  dead_are_free: bool = True,
  rows_per_call: int = 1024,
  seed: int = 0,
  host: int = 0,
  num_hosts: int = 1,
) -> dict[str, Any]:
  """Collects values of prefixes; continues what the workdir holds (Sec. 4.2).

  Of several processes each is a host; what is written does not depend on how
  many there are.

  Args:
    workdir: gets `targets/`, the data set; report.json; a figure; and what
      each shard took, in `spent/`.
    experiment: its name, for the report.
    problem: a text problem, see `problems.text.GeneratedProblem`.
    policy: directory of the checkpoint that samples traces, in Hugging Face's
      format.
    prover: of the one that completes prefixes, whose values are stored; None
      for the policy. For Best-of-K of either apply `values.best_of_k` or
      `values.pass_at_k` to what is stored (Eq. 30).
    strategy: `(source, problem_id) -> (StepTargets, Spent)`, as
      `training.collect` has them.
    budget: chooses n_cov and n_mc, which replace `num_seeds` and
      `num_completions` of independent seeds (by the prefixes that seeds of the
      first shard have); None for these themselves.
    num_problems: of the split.
    split: "train", "validation" or "test".
    first_problem: its number in the split.
    problems_per_shard: what is lost, at most, when the run is killed.
    make_policy: `(config, problem) -> LanguageModel`.
    mesh: over which networks and rows are split, from `make_mesh` with `local`;
      None for all of a process's devices on the data axis.
    dead_are_free: whether prefixes that are wrong for certain are taken as
      such, and not completed. Counts have the same distribution either way.
    rows_per_call: completions sampled at a time.
    seed: of all samples.
    host: this host's number; it writes every `num_hosts`-th shard.
    num_hosts: which share the workdir, and are programs of their own; 1 for
      several processes of one program, which number themselves.

  Returns:
    The `collected` part of report.json; on hosts but the first nothing.

  Raises:
    ValueError: for settings out of range, a checkpoint of another vocabulary or
      delimiter, or a workdir with another data set.
    RuntimeError: if another process writes the same shards.
    OSError: if the disk is full or fails; what was written stays.
    Preempted: after SIGTERM, when the shard that was begun is written.
  """
  for name, number, least in (
    ("num_problems", num_problems, 1),
    ("first_problem", first_problem, 0),
    ("problems_per_shard", problems_per_shard, 1),
    ("rows_per_call", rows_per_call, 1),
  ):
    if number < least:
      raise ValueError(f"{name} is {number}, expected at least {least}")
  if jax.process_count() > 1:
    if num_hosts > 1:
      raise ValueError(
        f"num_hosts is {num_hosts}, expected 1: these are "
        f"{jax.process_count()} processes of one program, each of them a host"
      )
    host, num_hosts = jax.process_index(), jax.process_count()
  workdir = pathlib.Path(workdir)
  spent_dir = workdir / "spent"
  spent_dir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  load = functools.partial(
    networks.load,
    problem=problem,
    make_policy=make_policy,
    layout=networks.layout_of(mesh),
  )
  sampler = load(policy)
  completer = load(prover) if prover else sampler
  networks.check_alike(sampler.policy, completer.policy)
  source = _source(
    sampler,
    completer,
    problem,
    jax.random.key(seed),
    rows_per_call=rows_per_call,
    dead_are_free=dead_are_free,
  )
  problem_id = problem.problem_ids(
    split, first_problem, first_problem + num_problems
  )
  blocks = np.split(
    problem_id, range(problems_per_shard, num_problems, problems_per_shard)
  )
  if budget:
    strategy = _within(budget, strategy, source, blocks)
  config = {
    "problem": repr(problem),
    "split": split,
    "first_problem": first_problem,
    "num_problems": num_problems,
    "problems_per_shard": problems_per_shard,
    "strategy": repr(strategy),
    "policy": sampler.identity(),
    "prover": completer.identity(),
    "dead_are_free": dead_are_free,
    "rows_per_call": rows_per_call,
  }
  with Writer(
    workdir / TARGETS,
    config=config,
    seed=seed,
    checkpoint=completer.digest,
    fingerprint=problem.fingerprint,
    pad_id=problem.vocabulary.pad_id,
    num_shards=len(blocks),
    host=host,
    num_hosts=num_hosts,
  ) as writer:
    own = range(host, len(blocks), num_hosts)
    _collect_missing(
      writer, own, blocks, strategy, source, spent_dir, experiment
    )
    if host == 0:
      _wait_for_others(workdir / TARGETS, len(blocks))
    manifest = writer.finish()
  if host:
    progress.say(f"host {host} of {num_hosts} is through")
    return {}
  same = sampler.digest == completer.digest
  return _report(workdir, experiment, problem, manifest, strategy, same)


def _source(
  sampler: Loaded,
  completer: Loaded,
  problem: Any,
  key: jax.Array,
  **settings: Any,
) -> Source:
  """Traces and completions of checkpoints, with a key for each purpose."""
  seeds, stored, pilot, extend = jax.random.split(key, 4)

  def sample(problem_id, number):
    prompts = problem.prompts(problem_id)
    return sampler.policy.sample(
      sampler.params,
      seeds,
      prompts,
      problem.prompt_lengths(problem_id),
      problem_id,
      num_samples=number,
    )

  def completions(loaded, key):
    return LanguageModelCompletions(loaded.policy, loaded.params, key)

  return Source(
    problem=problem,
    sample=sample,
    complete=completions(completer, stored),
    pilot=completions(completer, pilot),
    extend=completions(sampler, extend),
    **settings,
  )


def _within(
  budget: Budget, strategy: Any, source: Source, blocks: Sequence[np.ndarray]
) -> Any:
  """Independent seeds with the planned n_cov and n_mc."""
  if not isinstance(strategy, IndependentSeeds):
    raise ValueError(
      f"budget is for independent seeds, and strategy is {strategy!r}"
    )
  # How many prefixes a seed has to complete, from the first problems.
  seeds = source.seeds(blocks[0], strategy.num_seeds)
  own = find_prefixes(source, seeds).own[:, 1:]
  per_seed = float(own.sum(-1).mean())
  num_problems = sum(map(len, blocks))
  num_seeds, num_completions = budget.split(num_problems, per_seed)
  progress.say(
    f"{budget.num_completions:,} completions: {num_seeds} seeds of each of "
    f"{num_problems} problems, {num_completions} completions of each of "
    f"about {per_seed:.1f} prefixes of a seed"
  )
  return dataclasses.replace(
    strategy, num_seeds=num_seeds, num_completions=num_completions
  )


def _collect_missing(
  writer, own, blocks, strategy, source, spent_dir, experiment
) -> None:
  """Writes this host's shards that are missing, and shows how it goes.

  Returns when the other processes of this program are through too.
  """
  missing = writer.missing_shards()
  total = sum(len(blocks[index]) for index in own)
  done = total - sum(len(blocks[index]) for index in missing)
  if done and missing:
    progress.say(f"continuing: {done} of {total} problems are there")
  shown, start = Spent(), None
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=experiment) as bar,
  ):
    for index in missing:
      begin = time.monotonic()
      targets, spent = strategy(source, blocks[index])
      seconds = time.monotonic() - begin
      # Before the shard, so that there is none without.
      collection_costs.write(spent_dir, index, spent, seconds)
      writer.write_shard(index, targets)
      done += len(blocks[index])
      shown += spent
      if start is None:
        # The first shard compiled.
        start, shown = time.monotonic(), Spent()
      rate = shown.completions / max(time.monotonic() - start, 1e-9)
      note = f"{shown.prefixes} prefixes · {rate:.0f} completions/s"
      bar.update(done, {}, note=note if shown.prefixes else "")
      if told_to_stop():
        break
    if told_to_stop.agree():
      left = len(writer.missing_shards())
      raise Preempted(f"stopped; this host has {left} shards left to write")


def _wait_for_others(
  directory: pathlib.Path, num_shards: int, *, seconds: float = 5.0
) -> None:
  """Returns when the shards of all hosts are there."""
  names = [
    directory / step_targets.shard_name(index, num_shards)
    for index in range(num_shards)
  ]
  said = False
  while missing := sum(not name.exists() for name in names):
    if not said:
      progress.say(f"waiting for {missing} shards of other hosts …")
      said = True
    time.sleep(seconds)


def _report(
  workdir, experiment, problem, manifest, strategy, same
) -> dict[str, Any]:
  """Writes report.json, the figure and the table."""
  targets = step_targets.load(
    workdir / TARGETS, fingerprint=problem.fingerprint
  )
  spent, numbers, seconds = collection_costs.read(
    workdir / "spent", manifest.num_shards
  )
  # The rate is the median over shards: one of them compiled.
  rate = float(np.median(numbers / np.maximum(seconds, 1e-9)))
  work = dataclasses.asdict(spent) | {
    "completions": spent.completions,
    "completions_per_second": rate,
    "useful_slots": spent.useful / spent.slots if spent.slots else None,
  }
  collected = collect_plots.summarize(targets)
  checked = {}
  knows_values = all(
    hasattr(problem, name) for name in ("teacher_values", "error_counts")
  )
  # The rates of the traces are those of the policy from bare problems.
  if same and knows_values and isinstance(strategy, IndependentSeeds):
    checked["closed_form"] = closed_form.compare(
      problem, targets, error_rates=None
    )
  figure = collect_plots.figure(workdir, collected)
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms={"collected": collected},
    seconds=float(seconds.sum()),
    work=work,
    strategy=repr(strategy),
    checkpoint=manifest.checkpoint,
    **checked,
  )
  collect_plots.print_tables(experiment, collected, work)
  if checked:
    _print_fit(checked["closed_form"])
  for path in (workdir / "report.json", workdir / TARGETS, figure):
    progress.say(f"wrote {path}")
  return collected


def _print_fit(fit: dict[str, Any]) -> None:
  """How collected values compare with closed form, in a line."""

  def number(name, form):
    return "-" if fit[name] is None else format(fit[name], form)

  progress.say(
    f"beside values of a policy with these error rates, {fit['prefixes']:,} "
    f"prefixes: correlation {number('correlation', '.3f')}, mean difference "
    f"{number('bias', '+.4f')} (z {number('bias_z', '+.1f')}), X² "
    f"{number('chi_square', ',.0f')} (z {number('chi_square_z', '+.1f')})"
  )
