"""Collected values beside those that the problem knows in closed form."""

import dataclasses
from typing import Any

import numpy as np

from pav_jax.problems import base
from pav_jax.problems.base import ExactValues
from pav_jax.provers import monte_carlo
from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits
from pav_jax.training.collect_seeds import owners


def compare(
  problem: Any, targets: StepTargets, exact: ExactValues | None = None
) -> dict[str, Any] | None:
  """How Monte-Carlo values agree with exact ones.

  Where the policy is what the exact values assume, both z are about normal.
  Else the comparison says how nearly it is, and not whether the collection is
  right.

  Args:
    problem: that the traces answer.
    targets: of numpy arrays. Of prefixes that several traces of a problem share
      one counts; whole responses do not, nor traces that the problem cannot
      read, see `problems.base.readable`.
    exact: the exact values; None for those under the policy that sampled the
      traces from bare problems, if the problem has any.

  Returns:
    The assumptions of the exact values and the fields of `monte_carlo.Fit`: of
    all such prefixes, and by step in `by_step`; None where there is no number.
    Nothing at all where the problem has no exact values.
  """
  rows = base.readable(problem, target_splits.rollout_of(targets))
  targets = target_splits.take(targets, rows)
  rollout = target_splits.rollout_of(targets)
  exact = exact or base.exact_values(problem, rollout)
  if exact is None:
    return None
  q = exact.values(rollout)
  n, c = targets.num_completions, targets.num_correct
  length = targets.prefix_len
  real = np.diff(length, axis=-1, prepend=-1) > 0
  whole = (length == length[:, -1:]) & (np.arange(q.shape[1]) > 0)
  first = owners(targets) == np.arange(len(q))[:, None]
  used = real & ~whole & (n > 0) & first

  def numbers(mask):
    fields = dataclasses.asdict(monte_carlo.fit(c[mask], n[mask], q[mask]))
    return {k: None if v != v else v for k, v in fields.items()}

  steps = [used & (np.arange(q.shape[1]) == h) for h in range(q.shape[1])]
  return {
    **exact.assumptions,
    **numbers(used),
    "by_step": [numbers(mask) for mask in steps],
  }
