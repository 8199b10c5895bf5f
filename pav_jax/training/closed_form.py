"""Collected values beside those that the problem knows in closed form."""

import dataclasses
from typing import Any

import numpy as np

from pav_jax.problems.chain.error_rates import ErrorRateValues
from pav_jax.provers import monte_carlo
from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits
from pav_jax.training.collect_seeds import readable


def compare(
  problem: Any, targets: StepTargets, *, error_rates: dict[str, float] | None
) -> dict[str, Any]:
  """How Monte-Carlo values agree with a chain's exact ones.

  The exact values are those of a policy whose every result is wrong with the
  rate of its operation, whatever the numbers (`ErrorRateValues`). For such a
  policy, as the teacher is, both z are about normal. A trained policy is only
  nearly one: how likely it is to be right varies from number to number. Then
  the comparison says how nearly, and not whether the collection is right.

  Args:
    problem: a `problems.chain.Chain`.
    targets: of numpy arrays. Of prefixes that several traces of a problem share
      one counts; whole responses do not, nor traces that the problem cannot
      read, see `collect.readable`.
    error_rates: of each operation's symbol, in [0, 1]; None for those of the
      traces themselves, which are right for values of the policy that sampled
      them from bare problems.

  Returns:
    `error_rates`, `illegal`, and the fields of `monte_carlo.Fit`: of all such
    prefixes, and by step in `by_step`; None where there is no number.
  """
  targets = target_splits.take(targets, readable(problem, targets))
  rollout = target_splits.rollout_of(targets)
  illegal = 0.0
  if error_rates is None:
    counts = problem.error_counts(rollout)
    illegal = counts.illegal_share
    error_rates = {
      symbol: 0.0 if rate != rate else rate
      for symbol, (rate, _) in counts.error_rates.items()
    }
  q = ErrorRateValues(problem, error_rates, illegal)(rollout)
  n, c = targets.num_completions, targets.num_correct
  length = targets.prefix_len
  real = np.diff(length, axis=-1, prepend=-1) > 0
  whole = (length == length[:, -1:]) & (np.arange(q.shape[1]) > 0)
  used = real & ~whole & (n > 0) & _first_of_equal(targets)

  def numbers(mask):
    fields = dataclasses.asdict(monte_carlo.fit(c[mask], n[mask], q[mask]))
    return {k: None if v != v else v for k, v in fields.items()}

  steps = [used & (np.arange(q.shape[1]) == h) for h in range(q.shape[1])]
  return {
    "error_rates": error_rates,
    "illegal": illegal,
    **numbers(used),
    "by_step": [numbers(mask) for mask in steps],
  }


def _first_of_equal(targets: StepTargets) -> np.ndarray:
  """Prefixes that no earlier trace of the problem has, bool[B, P]."""
  seen, first = set(), np.zeros(targets.prefix_len.shape, bool)
  for row, tokens in enumerate(targets.tokens):
    for h, length in enumerate(targets.prefix_len[row].tolist()):
      key = (int(targets.problem_id[row]), tokens[:length].tobytes())
      first[row, h] = key not in seen
      seen.add(key)
  return first
