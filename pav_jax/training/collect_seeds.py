"""One block of problems to step targets: seeds, and completions of prefixes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from pav_jax.problems import base
from pav_jax.provers import completions
from pav_jax.provers.budget import EarlyStopping
from pav_jax.provers.completions import CompleteFn, CompletionStatistics, Jobs
from pav_jax.rollout import Rollout, StepTargets


@dataclasses.dataclass(frozen=True)
class Source:
  """Where traces and completions come from.

  What each callable samples is addressed by problem, sample and prefix; the
  keys of the four differ.

  Attributes:
    problem: a text problem, see `problems.text.GeneratedProblem`.
    sample: `(problem_id int[D], number) -> Rollout`, seeds 0 … number - 1 of
      each problem, from the policy.
    complete: of prefixes, with the prover: completions that are stored.
    pilot: like it: completions that decide what is done next.
    extend: like it, with the policy: more traces from prefixes.
    rows_per_call: completions sampled at a time.
    dead_are_free: whether prefixes of `problems.base.dead_prefixes` are taken
      as having failed, and not completed.
  """

  problem: Any
  sample: Callable[[Int[np.ndarray, "D"], int], Rollout]
  complete: CompleteFn
  pilot: CompleteFn
  extend: CompleteFn
  rows_per_call: int = 1024
  dead_are_free: bool = True

  def seeds(self, problem_id: Int[np.ndarray, "D"], number: int) -> Rollout:
    """Graded seeds of numpy arrays, ordered by problem, sample."""
    return self.graded(self.sample(problem_id, number))

  def graded(self, rollout: Rollout) -> Rollout:
    """A rollout of numpy arrays with its outcomes."""
    rollout = jax.tree.map(np.asarray, rollout)
    outcome = np.zeros(0, np.float32)
    if len(rollout.tokens):
      outcome = np.asarray(self.problem.grade(rollout), np.float32)
    return dataclasses.replace(rollout, outcome=outcome)

  def count(
    self, complete_fn: CompleteFn, traces: Rollout, jobs: Jobs, number: int
  ) -> tuple[Int[np.ndarray, "J"], CompletionStatistics]:
    """`completions.count_correct` of jobs; nothing is done for none."""
    if not len(jobs.trace) or not number:
      return np.zeros(len(jobs.trace), np.int64), CompletionStatistics()
    return completions.count_correct(
      complete_fn,
      self.problem,
      traces,
      jobs,
      num_completions=number,
      rows_per_call=self.rows_per_call,
    )


@dataclasses.dataclass(frozen=True)
class Spent:
  """What a block took; add two with `+`.

  Attributes:
    traces: seeds and other traces sampled.
    stored: completions whose outcomes are stored.
    deciding: completions that decided what to do, and are not stored.
    saved: completions that stopping early left out.
    free_final: completions that whole responses stand for.
    free_dead: completions that dead prefixes stand for.
    free_shared: completions that an equal prefix of another trace stands for.
    decided: prefixes whose completions were stopped early.
    prefixes: that were completed.
    tokens: sampled in completions.
    useful: decode slots that gave a token.
    slots: decode slots there were.
  """

  traces: int = 0
  stored: int = 0
  deciding: int = 0
  saved: int = 0
  free_final: int = 0
  free_dead: int = 0
  free_shared: int = 0
  decided: int = 0
  prefixes: int = 0
  tokens: int = 0
  useful: float = 0.0
  slots: float = 0.0

  def __add__(self, other: "Spent") -> "Spent":
    fields = zip(
      dataclasses.astuple(self), dataclasses.astuple(other), strict=True
    )
    return Spent(*(a + b for a, b in fields))

  @property
  def completions(self) -> int:
    """All completions that were sampled."""
    return self.stored + self.deciding

  def with_work(self, work: CompletionStatistics, kind: str) -> "Spent":
    """With completions of a kind, "stored" or "deciding", and their tokens."""
    more = Spent(tokens=work.tokens, useful=work.useful, slots=work.slots)
    return self + dataclasses.replace(more, **{kind: work.completions})


@dataclasses.dataclass(frozen=True)
class Prefixes:
  """Which prefixes of traces there are, and which have to be completed.

  Attributes:
    real: prefixes, but entries past the end.
    final: whole responses, whose value is their outcome.
    dead: not whole, and wrong for certain.
    owner: the first row whose prefix is the same, token for token, in the same
      problem.
  """

  real: Bool[np.ndarray, "B P"]
  final: Bool[np.ndarray, "B P"]
  dead: Bool[np.ndarray, "B P"]
  owner: Int[np.ndarray, "B P"]

  @property
  def open(self) -> Bool[np.ndarray, "B P"]:
    """Prefixes whose value only completions tell."""
    return self.real & ~self.final & ~self.dead

  @property
  def own(self) -> Bool[np.ndarray, "B P"]:
    """Open prefixes that are the first of their like."""
    return self.open & (self.owner == np.arange(len(self.owner))[:, None])

  def shared(self, x: np.ndarray) -> np.ndarray:
    """An array [B, P] with entries of owners for those who share with them."""
    return x[self.owner, np.arange(x.shape[1])]


def find_prefixes(source: Source, traces: Rollout) -> Prefixes:
  """What is known of the prefixes of whole responses without completing them.

  Args:
    source: says whether dead prefixes are free.
    traces: graded, of numpy arrays.
  """
  prefix_len = traces.prefix_len
  real = np.diff(prefix_len, axis=-1, prepend=-1) > 0
  final = real & (prefix_len == prefix_len[:, -1:])
  final[:, 0] = False
  dead = np.zeros_like(real)
  if source.dead_are_free:
    dead = real & ~final & base.dead_prefixes(source.problem, traces)
  return Prefixes(real, final, dead, owners(traces))


def owners(traces: Rollout | StepTargets) -> Int[np.ndarray, "B P"]:
  """The first row of the same problem that has this prefix: int64[B, P].

  A prefix that several traces share is completed once, for its owner.

  Args:
    traces: of numpy arrays.
  """
  owner = np.zeros(traces.prefix_len.shape, np.int64)
  seen: dict[tuple[int, int, bytes], int] = {}
  rows = zip(
    traces.problem_id.tolist(),
    traces.tokens,
    traces.prefix_len.tolist(),
    strict=True,
  )
  for row, (problem, tokens, lengths) in enumerate(rows):
    for h, length in enumerate(lengths):
      key = (problem, h, tokens[:length].tobytes())
      owner[row, h] = seen.setdefault(key, row)
  return owner


def step_targets(
  traces: Rollout,
  prefixes: Prefixes,
  num_completions: Int[np.ndarray, "B P"],
  num_correct: Int[np.ndarray, "B P"],
  *,
  free: tuple[int, int],
) -> StepTargets:
  """Puts counts together with those of prefixes that are free.

  Args:
    traces: graded.
    prefixes: of them.
    num_completions: n of open prefixes that own theirs.
    num_correct: c of them.
    free: n of free prefixes, whose completions are all alike: of those with
      none correct, and of those with all correct.
  """
  is_free = prefixes.final | prefixes.dead
  right = prefixes.final & (traces.outcome[:, None] == 1)
  n = np.where(prefixes.open, prefixes.shared(num_completions), 0)
  c = np.where(prefixes.open, prefixes.shared(num_correct), 0)
  n = np.where(is_free, np.where(right, free[1], free[0]), n)
  c = np.where(is_free, np.where(right, n, 0), c)
  return StepTargets(
    tokens=traces.tokens,
    prefix_len=traces.prefix_len,
    num_completions=n.astype(np.int32),
    num_correct=c.astype(np.float32),
    outcome=traces.outcome,
    problem_id=traces.problem_id,
    sample_id=traces.sample_id,
  )


@dataclasses.dataclass(frozen=True)
class IndependentSeeds:
  """Seeds from the policy, all of whose prefixes are completed (Sec. 4.2).

  Attributes:
    num_seeds: n_cov >= 1, of each problem.
    num_completions: n_mc >= 1, of each prefix.
    early_stopping: None for as many of all prefixes.

  Raises:
    ValueError: if a number is out of its range.
  """

  num_seeds: int
  num_completions: int
  early_stopping: EarlyStopping | None = None

  def __post_init__(self):
    check_at_least(1, self, "num_seeds", "num_completions")
    if self.early_stopping:
      self.early_stopping.number(np.zeros(0, int), self.num_completions)

  def __call__(
    self, source: Source, problem_id: Int[np.ndarray, "D"]
  ) -> tuple[StepTargets, Spent]:
    """Step targets of D · n_cov traces, ordered by problem, sample."""
    traces = source.seeds(problem_id, self.num_seeds)
    prefixes = find_prefixes(source, traces)
    own = prefixes.own
    spent = Spent(traces=len(traces.tokens), prefixes=int(own.sum()))
    n = np.where(own, self.num_completions, 0)
    free = self.num_completions, self.num_completions
    if stopping := self.early_stopping:
      pilots, work = source.count(
        source.pilot, traces, Jobs.of(own), stopping.pilot
      )
      spent = spent.with_work(work, "deciding")
      n[own] = stopping.number(pilots, self.num_completions)
      # What pilots of free prefixes would have said.
      alike = np.array([0, stopping.pilot])
      free = tuple(stopping.number(alike, self.num_completions).tolist())
      saved = self.num_completions - stopping.pilot - n[own]
      spent += Spent(
        saved=int(saved.sum()), decided=int(stopping.stops(pilots).sum())
      )
    c = np.zeros_like(n)
    for number in np.unique(n[own]).tolist():
      some = own & (n == number)
      c[some], work = source.count(
        source.complete, traces, Jobs.of(some), number
      )
      spent = spent.with_work(work, "stored")
    targets = step_targets(traces, prefixes, n, c, free=free)
    return targets, spent + free_work(prefixes, targets)


def free_work(prefixes: Prefixes, targets: StepTargets) -> Spent:
  """The completions that free prefixes stand for."""
  n = targets.num_completions
  return Spent(
    free_final=int(n[prefixes.final].sum()),
    free_dead=int(n[prefixes.dead].sum()),
    free_shared=int(n[prefixes.open & ~prefixes.own].sum()),
  )


def check_at_least(least: int, settings: Any, *names: str) -> None:
  """Raises ValueError for attributes below a number."""
  for name in names:
    if not getattr(settings, name) >= least:
      raise ValueError(
        f"{name} is {getattr(settings, name)}, expected at least {least}"
      )
