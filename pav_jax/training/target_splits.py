"""Step targets divided between training, choosing and reporting."""

from collections.abc import Sequence

import jax
import numpy as np

from pav_jax.problems import hashing
from pav_jax.rollout import Rollout, StepTargets

_PURPOSE = 17  # of the random numbers below


def split_by_problem(
  targets: StepTargets, shares: Sequence[float], *, seed: int = 0
) -> list[StepTargets]:
  """Divides traces so that no problem is on two sides.

  Where a problem goes depends on its id and the seed alone.

  Args:
    targets: all traces.
    shares: of problems on each side, in expectation; they sum to 1.
    seed: of the division.

  Returns:
    As many parts as there are shares, each in the order of `targets`.

  Raises:
    ValueError: if shares do not sum to 1, or a part that should have traces has
      none.
  """
  if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
    raise ValueError(f"shares are {shares}, expected shares that sum to 1")
  uniform = hashing.uniforms(_PURPOSE, seed, np.asarray(targets.problem_id))
  side = np.searchsorted(np.cumsum(shares)[:-1], uniform, side="right")
  parts = [take(targets, side == i) for i in range(len(shares))]
  for share, part in zip(shares, parts, strict=True):
    if share and not len(part.tokens):
      problems = len(np.unique(targets.problem_id))
      raise ValueError(
        f"a share of {share:g} of {problems} problems is none; expected more "
        "problems, or a data set of held-out ones"
      )
  return parts


def check_other_problems(train: StepTargets, held_out: StepTargets) -> None:
  """Raises ValueError if a problem is in both data sets."""
  both = np.intersect1d(train.problem_id, held_out.problem_id)
  if len(both):
    raise ValueError(
      f"{len(both)} problems are in the training data and held out too, the "
      f"first of them {both[:5].tolist()}; expected other problems"
    )


def take(targets: StepTargets, rows: np.ndarray | slice) -> StepTargets:
  """Some of the traces, in numpy arrays."""
  return jax.tree.map(lambda x: np.asarray(x)[rows], targets)


def rollout_of(targets: StepTargets) -> Rollout:
  """The traces, without log-probabilities, for what reads rollouts."""
  return Rollout(
    tokens=targets.tokens,
    logp=np.zeros(targets.tokens.shape, np.float32),
    prefix_len=targets.prefix_len,
    outcome=targets.outcome,
    problem_id=targets.problem_id,
    sample_id=targets.sample_id,
  )
