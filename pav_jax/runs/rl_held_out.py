"""Policies judged on the validation and test problems of a text problem."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from pav_jax import losses
from pav_jax.policies.base import Policy
from pav_jax.problems.base import Problem
from pav_jax.training import evaluation, processes, rl_placement
from pav_jax.training.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(evaluation.HeldOut):
  """How policies are judged on problems that they are not trained on.

  There is an evaluation before the first iteration too.

  Attributes:
    hard_samples: responses of the start to each test problem; the problems that
      none of them solves are hard (Fig. 8b). 0 not to look for them.

  Raises:
    ValueError: if a number is out of its range.
  """

  hard_samples: int = 256

  def __post_init__(self):
    super().__post_init__()
    if self.hard_samples < 0:
      raise ValueError(f"hard_samples is {self.hard_samples}, expected >= 0")

  @property
  def identity(self) -> str:
    """What validation curves depend on."""
    return f"{self.num_problems} × {self.num_samples} every {self.every}"


def validate(
  policy: Policy,
  params: PyTree,
  reference: PyTree,
  key: jax.Array,
  problem: Problem,
  config: EvaluationConfig,
) -> dict[str, float]:
  """What a policy does on the validation split.

  Returns:
    `accuracy`, `pass_at_k` of each k, `length` in tokens, and in nats a
    response `entropy` and `kl` to the policy of parameters `reference`.
  """
  kls, entropies, rows = [], [], []

  def observe(rollout):
    logp_ref = rl_placement.logp(policy, reference, rollout)
    kl = losses.kl_penalty(rollout.logp, logp_ref, rollout.prefix_len)
    kls.append(float(kl))
    entropies.append(float(-np.mean(np.sum(rollout.logp, axis=-1))))
    rows.append(len(rollout.tokens))

  judged = evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem.problem_ids("validation", 0, config.num_problems),
    num_samples=config.num_samples,
    observe=observe,
  )
  responses = len(judged.num_correct) * judged.num_samples
  if not processes.together(policy):
    kls, entropies, rows = map(processes.gather_objects, (kls, entropies, rows))
  return {
    "accuracy": judged.accuracy,
    **{f"pass_at_{k}": judged.pass_at_k(k) for k in config.ks},
    "length": judged.num_tokens / responses,
    "entropy": float(np.average(entropies, weights=rows)),
    "kl": float(np.average(np.array(kls, np.float64), weights=rows)),
  }


def test(
  policy: Policy,
  params: PyTree,
  key: jax.Array,
  problem: Problem,
  config: EvaluationConfig,
  *,
  num_samples: int | None = None,
) -> Evaluation:
  """Responses to the test split; `num_samples` None for `test_samples`."""
  return evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem.problem_ids("test", 0, config.test_problems),
    num_samples=num_samples or config.test_samples,
  )


def hard_problems(
  policy: Policy,
  params: PyTree,
  key: jax.Array,
  problem: Problem,
  config: EvaluationConfig,
) -> Int[np.ndarray, "N"] | None:
  """Indices of the test problems that a policy never solves (Fig. 8b)."""
  if not config.hard_samples:
    return None
  tried = test(
    policy, params, key, problem, config, num_samples=config.hard_samples
  )
  return np.flatnonzero(tried.num_correct == 0)


def summary(
  tested: Evaluation,
  config: EvaluationConfig,
  hard: Int[np.ndarray, "N"] | None,
) -> dict[str, Any]:
  """Numbers of `test` for a report.

  Args:
    tested: of a policy.
    config: settings.
    hard: from `hard_problems`, of the start.
  """
  out = {
    "accuracy": tested.accuracy,
    "standard_error": tested.standard_error,
    "pass_at_k": {str(k): tested.pass_at_k(k) for k in config.test_ks},
    "tokens_per_response": tested.num_tokens
    / (len(tested.num_correct) * tested.num_samples),
  }
  if hard is not None:
    out["hard_problems_solved"] = int((tested.num_correct[hard] > 0).sum())
    out["hard_problems"] = len(hard)
  return out


def accuracy_over_run(validation: Mapping[str, np.ndarray]) -> float:
  """Validation accuracy, averaged over a run's iterations.

  The area under the curve of accuracies against iterations, by trapezoids, over
  its length: high if a run learns early and ends well. Where a run was judged
  at its beginning and at its end alone, the end decides.

  Args:
    validation: with `iteration` and `accuracy`, of two evaluations or more.
  """
  at, accuracy = validation["iteration"], validation["accuracy"]
  return float(np.trapezoid(accuracy, at) / (at[-1] - at[0]))
