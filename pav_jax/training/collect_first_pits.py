"""One block of problems to step targets, by first pits (App. D)."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Int

from pav_jax.provers import first_pits
from pav_jax.provers.completions import Jobs
from pav_jax.rollout import StepTargets
from pav_jax.training.collect_seeds import (
  Prefixes,
  Source,
  Spent,
  check_at_least,
  find_prefixes,
  free_work,
  step_targets,
)


@dataclasses.dataclass(frozen=True)
class FirstPits:
  """Rollouts from prefixes of high value, up to where they go wrong (App. D).

  A first budget completes all prefixes of seeds a few times, to find a
  problem's prefixes of highest value. The policy is rolled out from these. On
  rollouts that end wrong, `provers.first_pits` locates the first step of value
  0; the rest goes to the prefixes up to it. Later prefixes have n = 0.

  Completions that found a state or a pit are not stored: the highest of noisy
  values is too high, and a zero too low. Those stored are made when all is
  decided, so c is Binomial(n, q) of the prefix.

  Attributes:
    num_seeds: >= 1, of each problem, to look for prefixes of high value.
    num_completions: n_mc >= 1, of each prefix that is kept.
    num_first: >= 1, of each prefix of a seed.
    num_states: prefixes of a problem, at most, from which there are rollouts.
    high: the least value of these, in (0, 1], by the first budget.
    num_rollouts: >= 1, from each.
    num_probe: >= 1, of each prefix where a pit may be.
    tolerance: see `first_pits.locate`.
    keep_correct: whether rollouts that end right are kept too, with all of
      their prefixes.

  Raises:
    ValueError: if a number is out of its range.
  """

  num_seeds: int
  num_completions: int
  num_first: int = 4
  num_states: int = 1
  high: float = 0.25
  num_rollouts: int = 4
  num_probe: int = 8
  tolerance: float = 0.05
  keep_correct: bool = True

  def __post_init__(self):
    names = ("seeds", "completions", "first", "states", "rollouts", "probe")
    check_at_least(1, self, *(f"num_{name}" for name in names))
    if not 0 < self.high <= 1:
      raise ValueError(f"high is {self.high}, expected a value in (0, 1]")
    if not 0 <= self.tolerance < 1:
      raise ValueError(
        f"tolerance is {self.tolerance}, expected 0 <= tolerance < 1"
      )

  def __call__(
    self, source: Source, problem_id: Int[np.ndarray, "D"]
  ) -> tuple[StepTargets, Spent]:
    """Step targets of the rollouts that are kept, ordered by problem, sample.

    Samples are numbered after the seeds, which are not kept.
    """
    traces, value, start, spent = self._rollouts(source, problem_id)
    prefixes = find_prefixes(source, traces)
    last = prefixes.final.argmax(-1)
    at = np.arange(prefixes.real.shape[1])

    rows = np.flatnonzero(traces.outcome == 0)

    def probe(some, which):
      nonlocal spent
      owner = prefixes.owner[rows[some], which]
      # What several rollouts share is probed once.
      first = np.unique([owner, which], axis=1)
      known = np.zeros(prefixes.real.shape, np.int64)
      known[tuple(first)], work = source.count(
        source.pilot, traces, Jobs(*first), self.num_probe
      )
      spent = spent.with_work(work, "deciding")
      return known[owner, which]

    # A dead prefix has value 0 for certain.
    failed = prefixes.dead | prefixes.final
    found = first_pits.locate(
      probe,
      start[rows],
      failed.argmax(-1)[rows],
      value[rows],
      num_probe=self.num_probe,
      tolerance=self.tolerance,
    )
    last[rows] = found.pit
    kept = at <= last[:, None]
    own = _own(prefixes, kept)
    n = np.where(own, self.num_completions, 0)
    c = np.zeros_like(n)
    c[own], work = source.count(
      source.complete, traces, Jobs.of(own), self.num_completions
    )
    spent = spent.with_work(work, "stored")
    spent += Spent(prefixes=int(own.sum()))
    number = self.num_completions
    targets = step_targets(traces, prefixes, n, c, free=(number, number))
    targets = dataclasses.replace(
      targets,
      num_completions=np.where(kept, targets.num_completions, 0),
      num_correct=np.where(kept, targets.num_correct, 0),
    )
    return targets, spent + free_work(prefixes, targets)

  def _rollouts(self, source, problem_id):
    """Rollouts from states of high value, those values, and which prefix."""
    seeds = source.seeds(problem_id, self.num_seeds)
    prefixes = find_prefixes(source, seeds)
    own = prefixes.own
    first = np.zeros(own.shape)
    count, work = source.count(
      source.pilot, seeds, Jobs.of(own), self.num_first
    )
    first[own] = count / self.num_first
    row, prefix, number = [], [], []
    per_problem = own.reshape(len(problem_id), -1).shape[1]
    for block in range(len(problem_id)):
      values = first.reshape(-1)[block * per_problem :][:per_problem]
      best = np.argsort(-values, kind="stable")[: self.num_states]
      best = best[values[best] >= self.high] + block * per_problem
      row.extend(best // own.shape[1])
      prefix.extend(best % own.shape[1])
      number.extend(range(len(best)))
    size = len(row)
    # Whole responses fill up the call, whose shape is the same for all blocks.
    room = len(problem_id) * self.num_states - size
    row = np.pad(np.array(row, np.int64), (0, room))
    prefix = np.pad(
      np.array(prefix, np.int64), (0, room), constant_values=seeds.num_steps
    )
    given = jax.tree.map(lambda x: x[row], seeds)
    rollouts = source.extend(given, prefix[:, None], self.num_rollouts)
    rollouts = jax.tree.map(
      lambda x: np.asarray(x)[: size * self.num_rollouts], rollouts
    )
    state = np.repeat(np.arange(size), self.num_rollouts)
    sample = np.tile(np.arange(self.num_rollouts), size)
    sample = sample + np.array(number, int)[state] * self.num_rollouts
    rollouts = source.graded(
      dataclasses.replace(
        rollouts, sample_id=(self.num_seeds + sample).astype(np.int32)
      )
    )
    kept = np.flatnonzero((rollouts.outcome == 0) | self.keep_correct)
    spent = Spent(traces=len(seeds.tokens) + size * self.num_rollouts)
    return (
      jax.tree.map(lambda x: x[kept], rollouts),
      first[row[state], prefix[state]][kept],
      prefix[state][kept],
      spent.with_work(work, "deciding"),
    )


def _own(prefixes: Prefixes, kept: np.ndarray) -> np.ndarray:
  """The first of equal open prefixes where any of them is kept, bool[B, P]."""
  wanted = np.zeros_like(kept)
  row, at = np.nonzero(prefixes.open & kept)
  wanted[prefixes.owner[row, at], at] = True
  return wanted
