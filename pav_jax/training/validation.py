"""How a policy is judged while it is trained, and reported on in the end."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.data.packing import Batches
from pav_jax.policies.language_model import LanguageModel
from pav_jax.training import evaluation, sft

SELECT_BY = ("accuracy", "loss")


@dataclasses.dataclass(frozen=True)
class Validation:
  """Settings.

  Attributes:
    batches: held-out demonstrations.
    every: train steps between validations; there is one at the end too.
    num_problems: of the validation split.
    num_samples: responses to each.
    ks: of Pass@k, none above `num_samples`.
    num_batches: held-out batches for the loss.
    select_by: what the kept policy is best at: "accuracy", or "loss" where
      demonstrations are to be imitated with their mistakes.
    last_stage_only: keep a policy of the last stage.
    test_problems: of the test split, for the report on the kept policy.
    test_samples: responses to each.
    test_ks: of Pass@k, none above `test_samples`; None for 2, 4, 8, … up to it.

  Raises:
    ValueError: if a number is out of its range.
  """

  batches: Batches
  every: int = 500
  num_problems: int = 128
  num_samples: int = 8
  ks: Sequence[int] = (8,)
  num_batches: int = 8
  select_by: str = "accuracy"
  last_stage_only: bool = True
  test_problems: int = 256
  test_samples: int = 128
  test_ks: Sequence[int] | None = None

  def __post_init__(self):
    for name in (
      "every",
      "num_problems",
      "num_samples",
      "num_batches",
      "test_problems",
      "test_samples",
    ):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}, expected >= 1")
    if self.test_ks is None:
      object.__setattr__(
        self,
        "test_ks",
        tuple(2**i for i in range(1, self.test_samples.bit_length())),
      )
    for name, most in (
      ("ks", self.num_samples),
      ("test_ks", self.test_samples),
    ):
      numbers = tuple(getattr(self, name))
      object.__setattr__(self, name, numbers)
      if numbers and not 1 <= min(numbers) <= max(numbers) <= most:
        raise ValueError(f"{name} is {numbers}, expected numbers in 1 … {most}")
    if self.select_by not in SELECT_BY:
      raise ValueError(
        f"select_by is {self.select_by!r}, expected one of {SELECT_BY}"
      )

  def score(self, found: dict[str, float]) -> float:
    """What the kept policy has the highest value of."""
    sign = -1.0 if self.select_by == "loss" else 1.0
    return sign * found[self.select_by]


def judge(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  validation: Validation,
) -> dict[str, float]:
  """Loss on held-out demonstrations (nats a token), accuracy and Pass@k."""
  losses, position = [], 0
  for _ in range(validation.num_batches):
    batch, position = validation.batches(position)
    losses.append(_loss(policy.config, params, batch))
  found = evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem.problem_ids("validation", 0, validation.num_problems),
    num_samples=validation.num_samples,
  )
  passes = {f"pass_at_{k}": found.pass_at_k(k) for k in validation.ks}
  return {
    "loss": float(np.mean(losses)),
    "accuracy": found.accuracy,
    **passes,
    "tokens_per_second": found.num_tokens / found.seconds,
  }


_loss = jax.jit(sft.loss, static_argnums=0)


def report(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  validation: Validation,
) -> dict[str, Any]:
  """What report.json says of a policy on the test split.

  Samples at the policy's temperature, greedy responses, and for problems that
  count mistakes (`error_counts`) the error rates of operations beside the
  teacher's, if it attempts all of them.
  """
  problem_id = problem.problem_ids("test", 0, validation.test_problems)
  sampled = evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem_id,
    num_samples=validation.test_samples,
  )
  greedy = evaluation.evaluate(
    dataclasses.replace(policy, temperature=0.0),
    params,
    key,
    problem,
    problem_id,
    num_samples=1,
  )
  out = {
    "temperature": policy.temperature,
    **sampled.report(validation.test_ks),
    "greedy_accuracy": greedy.accuracy,
    "greedy_standard_error": greedy.standard_error,
  }
  if sampled.counts is not None and all(
    math.isfinite(rate) for rate, _ in sampled.counts.error_rates.values()
  ):
    out["mistakes"] = _mistakes(problem, problem_id, sampled.counts)
  return out


def _mistakes(problem: Any, problem_id: np.ndarray, counts: Any) -> dict:
  """Error rates of operations, the teacher's, and the accuracies they imply."""
  rates = counts.error_rates
  implied = problem.success_rates(
    problem_id, {symbol: rate for symbol, (rate, _) in rates.items()}
  )
  return {
    "error_rates": {
      operation.symbol: {
        "policy": rates[operation.symbol][0],
        "standard_error": rates[operation.symbol][1],
        "teacher": float(operation.error),
      }
      for operation in problem.operations
    },
    "implied_accuracy": float(np.mean(implied)),
    "teacher_accuracy": float(np.mean(problem.success_rates(problem_id))),
    "illegal": counts.illegal_share,
    "unfinished": counts.unfinished_share,
    "restatements": counts.restatement_share,
  }
