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
from jaxtyping import Int

from pav_jax import packages
from pav_jax.checks import check_positive
from pav_jax.data import step_targets
from pav_jax.data.step_targets_writer import Writer
from pav_jax.files import describe
from pav_jax.models.transformer_config import KeptTokens
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.budget import Budget
from pav_jax.provers.completions import LanguageModelCompletions
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.rollout import StepTargets
from pav_jax.runs import collection_costs, networks
from pav_jax.runs.networks import Loaded
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.runs.workdir import accept, occupied
from pav_jax.training import closed_form
from pav_jax.training.collect_seeds import (
  IndependentSeeds,
  Source,
  Spent,
  find_prefixes,
)

TARGETS = "targets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectSettings:
  """Settings of `collect`.

  Attributes:
    problem: a text problem, see `problems.text.GeneratedProblem`.
    policy: directory of the checkpoint that samples traces, in Hugging Face's
      format.
    prover: of the one that completes prefixes, whose values are stored; None
      for the policy. For Best-of-K of either apply `values.best_of_k` or
      `values.pass_at_k` to what is stored (Eq. 30).
    strategy: `(source, problem_id) -> (StepTargets, Spent)`, as
      `training.collect_seeds.IndependentSeeds`.
    budget: chooses n_cov and n_mc, which replace `num_seeds` and
      `num_completions` of independent seeds (by the prefixes that seeds of the
      first shard have); None for these themselves.
    num_problems: of the split.
    split: "train", "validation" or "test".
    first_problem: its number in the split.
    problems_per_shard: problems that are lost, at most, when the run is killed.
    make_policy: `(config, problem) -> LanguageModel`.
    dtype: of computation; None for that of the parameters.
    param_dtype: of parameters; None for the checkpoint's.
    remat: what gradients would compute again, see `TransformerConfig`.
    kept: tokens that both may say, see `for_problem.used_tokens`; None for all.
    mesh: over which networks and rows are split, from `make_mesh` with `local`;
      None for all of a process's devices on the data axis.
    skip_dead_prefixes: whether prefixes that are wrong for certain are taken as
      such, and not completed. Counts have the same distribution either way.
    rows_per_call: completions sampled at a time.
    seed: of all samples.
    host: this host's number; it writes every `num_hosts`-th shard.
    num_hosts: which share the workdir, and are programs of their own; 1 for
      several processes of one program, which number themselves.

  Raises:
    ValueError: if a setting is out of its range.
  """

  problem: Any
  policy: str
  prover: str | None = None
  strategy: Any
  budget: Budget | None = None
  num_problems: int
  split: str = "train"
  first_problem: int = 0
  problems_per_shard: int = 32
  make_policy: Callable[..., LanguageModel] = language_model
  dtype: str | None = None
  param_dtype: str | None = None
  remat: str = "none"
  kept: KeptTokens | None = None
  mesh: jax.sharding.Mesh | None = None
  skip_dead_prefixes: bool = True
  rows_per_call: int = 1024
  seed: int = 0
  host: int = 0
  num_hosts: int = 1

  def __post_init__(self):
    check_positive(
      num_problems=self.num_problems,
      problems_per_shard=self.problems_per_shard,
      rows_per_call=self.rows_per_call,
      num_hosts=self.num_hosts,
    )
    if self.first_problem < 0:
      raise ValueError(f"first_problem is {self.first_problem}, expected >= 0")
    if jax.process_count() > 1 and self.num_hosts > 1:
      raise ValueError(
        f"num_hosts is {self.num_hosts}, expected 1: these are "
        f"{jax.process_count()} processes of one program, each of them a host"
      )

  @property
  def shards(self) -> list[Int[np.ndarray, "_"]]:
    """Problems of each shard."""
    first, number = self.first_problem, self.num_problems
    problem_id = self.problem.problem_ids(self.split, first, first + number)
    cuts = range(self.problems_per_shard, number, self.problems_per_shard)
    return np.split(problem_id, cuts)

  def load(self, path: str) -> Loaded:
    """A network by whose samples is collected."""
    return networks.load(
      path,
      problem=self.problem,
      make_policy=self.make_policy,
      layout=networks.layout_of(self.mesh),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      remat=self.remat,
      kept=self.kept,
    )


@packages.needs(
  "tensorflow",
  package="'pav_jax[data]'",
  purpose="writing values of prefixes (Linux, Python below 3.13)",
)
def collect(
  workdir: str | os.PathLike, experiment: str, settings: CollectSettings
) -> dict[str, Any]:
  """Collects values of prefixes; continues what the workdir holds (Sec. 4.2).

  Of several processes each is a host; what is written does not depend on how
  many there are.

  Args:
    workdir: gets `targets/`, the data set; report.json; a figure; and what
      each shard took, in `spent/`.
    experiment: its name, for the report.
    settings: of the run.

  Returns:
    The `collected` arm of report.json; on hosts but the first nothing.

  Raises:
    ValueError: for a checkpoint of another tokenizer or delimiter, or a workdir
      with another data set.
    RuntimeError: if another process writes the same shards.
    OSError: if the disk is full or fails; what was written stays.
    Preempted: after SIGTERM, when the shard that was begun is written.
  """
  with occupied(workdir, shared=settings.num_hosts > 1):
    return _collect(pathlib.Path(workdir), experiment, settings)


def _collect(
  workdir: pathlib.Path, experiment: str, settings: CollectSettings
) -> dict[str, Any]:
  host, num_hosts = settings.host, settings.num_hosts
  if jax.process_count() > 1:
    host, num_hosts = jax.process_index(), jax.process_count()
  sampler = settings.load(settings.policy)
  completer = settings.load(settings.prover) if settings.prover else sampler
  networks.check_alike(sampler.policy, completer.policy)
  source = _source(sampler, completer, settings)
  shards, strategy = settings.shards, settings.strategy
  if settings.budget:
    strategy = _within(settings.budget, strategy, source, shards)
  config = _config(settings, strategy, sampler, completer)
  identity = {"run": "collect", "checkpoint": completer.digest}
  identity["seed"] = settings.seed
  accept(workdir, experiment, identity | config)
  spent_dir = workdir / "spent"
  spent_dir.mkdir(exist_ok=True)
  with Writer(
    workdir / TARGETS,
    config=config,
    seed=settings.seed,
    checkpoint=completer.digest,
    fingerprint=settings.problem.fingerprint,
    pad_id=settings.problem.vocabulary.pad_id,
    num_shards=len(shards),
    host=host,
    num_hosts=num_hosts,
  ) as writer:
    _collect_missing(
      writer,
      range(host, len(shards), num_hosts),
      shards,
      functools.partial(strategy, source),
      spent_dir,
      experiment,
    )
    if host == 0:
      _wait_for_others(workdir / TARGETS, len(shards))
    manifest = writer.finish()
  if host:
    progress.say(f"host {host} of {num_hosts} is through")
    return {}
  same = sampler.digest == completer.digest
  return _report(
    workdir, experiment, settings.problem, manifest, strategy, same
  )


def _config(
  settings: CollectSettings, strategy: Any, sampler: Loaded, completer: Loaded
) -> dict[str, Any]:
  """What the data depends on, for its manifest."""
  names = "split first_problem num_problems problems_per_shard "
  names += "skip_dead_prefixes rows_per_call"
  return {
    "problem": describe(settings.problem),
    **{name: getattr(settings, name) for name in names.split()},
    "strategy": describe(strategy),
    "policy": sampler.identity(),
    "prover": completer.identity(),
  }


def _source(
  sampler: Loaded, completer: Loaded, settings: CollectSettings
) -> Source:
  """Traces and completions of checkpoints, with a key for each purpose."""
  problem, key = settings.problem, jax.random.key(settings.seed)
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
    dead_are_free=settings.skip_dead_prefixes,
    rows_per_call=settings.rows_per_call,
  )


def _within(
  budget: Budget, strategy: Any, source: Source, shards: Sequence[np.ndarray]
) -> Any:
  """Independent seeds with the planned n_cov and n_mc."""
  if not isinstance(strategy, IndependentSeeds):
    raise ValueError(
      f"budget is for independent seeds, and strategy is {strategy!r}"
    )
  # How many prefixes a seed has to complete, from the first problems.
  seeds = source.seeds(shards[0], strategy.num_seeds)
  to_complete = find_prefixes(source, seeds).own[:, 1:]
  per_seed = float(to_complete.sum(-1).mean())
  num_problems = sum(map(len, shards))
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
  writer: Writer,
  mine: range,
  shards: Sequence[np.ndarray],
  strategy: Callable[[np.ndarray], tuple[StepTargets, Spent]],
  spent_dir: pathlib.Path,
  experiment: str,
) -> None:
  """Writes this host's shards that are missing, and shows how it goes.

  Returns when the other processes of this program are through too.
  """
  missing = writer.missing_shards()
  total = sum(len(shards[index]) for index in mine)
  done = total - sum(len(shards[index]) for index in missing)
  if done and missing:
    progress.say(f"continuing: {done} of {total} problems are there")
  shown, start = Spent(), None
  with (
    Watch() as told_to_stop,
    progress.Progress(total, done=done, label=experiment) as bar,
  ):
    for index in missing:
      begin = time.monotonic()
      targets, spent = strategy(shards[index])
      seconds = time.monotonic() - begin
      # Before the shard, so that there is none without.
      collection_costs.write(spent_dir, index, spent, seconds)
      writer.write_shard(index, targets)
      done += len(shards[index])
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
  from pav_jax.reporting import collect_plots

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
  # Then traces are the completing policy's, from bare problems.
  if same and isinstance(strategy, IndependentSeeds):
    fit = closed_form.compare(problem, targets)
    checked = {"closed_form": fit} if fit else {}
  figure = collect_plots.figure(workdir, collected)
  verdict = (
    f"{collected['labels']:,} prefixes of {collected['traces']:,} responses "
    f"have values, by {spent.completions:,} completions; "
    f"{100 * collected['accuracy']:.1f} % of responses are correct"
  )
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms={"collected": collected},
    seconds=float(seconds.sum()),
    work=work,
    strategy=describe(strategy),
    checkpoint=manifest.checkpoint,
    verdict=verdict,
    **checked,
  )
  collect_plots.print_tables(experiment, collected, work)
  if checked:
    _print_fit(checked["closed_form"])
  written = workdir / "report.json", workdir / TARGETS, figure
  progress.finish(written, verdict)
  return collected


def _print_fit(fit: dict[str, Any]) -> None:
  """How collected values compare with closed form, in a line."""

  def number(name, form):
    return "-" if fit[name] is None else format(fit[name], form)

  progress.say(
    f"beside values in closed form, {fit['prefixes']:,} "
    f"prefixes: correlation {number('correlation', '.3f')}, mean difference "
    f"{number('bias', '+.4f')} (z {number('bias_z', '+.1f')}), X² "
    f"{number('chi_square', ',.0f')} (z {number('chi_square_z', '+.1f')})"
  )
