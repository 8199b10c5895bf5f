"""What the designs of Fig. 6b buy, counted on traces of the noisy teacher.

  python -m studies.scaling.budgets

No model is needed: the policy imitates this teacher. For each design, a
problem: labels that differ (those of prefixes that traces share do not), labels
as they were drawn before `thin` knew of shared prefixes, and how many of the
completions are of dead prefixes, which a collector that knows them need not
make.
"""

import dataclasses

import jax
import numpy as np

from pav_jax.problems import base
from pav_jax.problems.chain import Chain
from pav_jax.reporting import progress
from pav_jax.rollout import Rollout
from pav_jax.training.collect_seeds import owners

DESIGNS = ((8, 1), (4, 2), (2, 4), (1, 8), (8, 2), (4, 4), (2, 8), (1, 16))


@dataclasses.dataclass(frozen=True)
class Counts:
  """Completions for a problem, means over problems.

  Attributes:
    alive: of prefixes that may still succeed, each once.
    dead: of those that are wrong already, each once.
    drawn_before: of prefixes that may still succeed, those of every trace drawn
      for itself but for the bare problem's: the rule before.
  """

  alive: float
  dead: float
  drawn_before: float


def count(
  problem: Chain, traces: Rollout, num_seeds: int, num_completions: int
) -> Counts:
  """What so many seeds and completions of each prefix cost a problem.

  Args:
    problem: that the traces answer.
    traces: of numpy arrays, at least `num_seeds` of each problem.
    num_seeds: traces of a problem that are kept, the first.
    num_completions: of each prefix.
  """
  rows = traces.sample_id < num_seeds
  kept = jax.tree.map(lambda x: x[rows], traces)
  length = kept.prefix_len
  real = np.diff(length, axis=-1, prepend=-1) > 0
  whole = (length == length[:, -1:]) & (np.arange(length.shape[1]) > 0)
  dead = base.dead_prefixes(problem, kept)
  owner = owners(kept) == np.arange(len(length))[:, None]
  opened, number = real & ~whole, len(np.unique(kept.problem_id))
  before = opened & ~dead
  before[:, 0] &= owner[:, 0]

  def mean(mask):
    return float(num_completions * mask.sum() / number)

  return Counts(
    alive=mean(opened & owner & ~dead),
    dead=mean(opened & owner & dead),
    drawn_before=mean(before),
  )


def main() -> None:
  """Prints the table."""
  problem = Chain()
  ids = problem.problem_ids("train", 0, 512)
  traces = problem.demonstrations(
    np.repeat(ids, 8), np.tile(np.arange(8, dtype=np.int32), len(ids))
  )
  rows = []
  for seeds, completions in DESIGNS:
    counts = count(problem, traces, seeds, completions)
    rows.append(
      [
        f"{seeds} × {completions}",
        *(
          f"{x:.1f}"
          for x in (
            counts.drawn_before,
            counts.alive,
            counts.dead,
            counts.alive + counts.dead,
          )
        ),
      ]
    )
  progress.table(
    "completions a problem",
    ["traces × completions", "drawn before", "alive", "dead", "both"],
    rows,
  )


if __name__ == "__main__":
  main()
