"""How a policy is evaluated while it is fine-tuned, and in the end."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.checks import check_positive
from pav_jax.data.packing import Batches
from pav_jax.policies.for_problem import ProblemPolicy
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems import base
from pav_jax.training import evaluation, sft

SELECT_BY = ("accuracy", "loss")


@dataclasses.dataclass(frozen=True)
class FinetuneEvaluationConfig(evaluation.HeldOut):
  """Which policy of a fine-tuning is kept, and what is said of it.

  Attributes:
    batches: held-out demonstrations.
    num_batches: held-out batches for the loss.
    select_by: the measure at which the kept policy is best: "accuracy", or
      "loss" where demonstrations are to be imitated with their mistakes.
    last_stage_only: keep a policy of the last stage.

  Raises:
    ValueError: if a number is out of its range.
  """

  least_test_k: ClassVar[int] = 2  # Pass@1 is the accuracy

  batches: Batches
  _: dataclasses.KW_ONLY
  num_batches: int = 8
  select_by: str = "accuracy"
  last_stage_only: bool = True
  every: int = 500
  num_problems: int = 128
  test_problems: int = 256

  def __post_init__(self):
    super().__post_init__()
    check_positive(num_batches=self.num_batches)
    if self.select_by not in SELECT_BY:
      raise ValueError(
        f"select_by is {self.select_by!r}, expected one of {SELECT_BY}"
      )

  def score(self, measures: dict[str, float]) -> float:
    """The number that the kept policy has the highest of."""
    sign = -1.0 if self.select_by == "loss" else 1.0
    return sign * measures[self.select_by]


def validate(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  config: FinetuneEvaluationConfig,
) -> dict[str, float]:
  """Loss on held-out demonstrations (nats a token), accuracy and Pass@k."""
  losses, position = [], 0
  for _ in range(config.num_batches):
    batch, position = config.batches(position)
    losses.append(_loss(policy.config, params, batch))
  evaluated = evaluation.evaluate(
    ProblemPolicy(policy, problem),
    params,
    key,
    problem,
    problem.problem_ids("validation", 0, config.num_problems),
    num_samples=config.num_samples,
  )
  return {
    "loss": float(np.mean(losses)),
    "accuracy": evaluated.accuracy,
    **{f"pass_at_{k}": evaluated.pass_at_k(k) for k in config.ks},
    "tokens_per_second": evaluated.num_tokens / evaluated.seconds,
  }


_loss = jax.jit(sft.loss, static_argnums=0)


def report(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  config: FinetuneEvaluationConfig,
) -> dict[str, Any]:
  """What report.json says of a policy on the test split.

  Samples at the policy's temperature, greedy responses, and the mistakes of the
  samples if the problem counts them.
  """
  problem_id = problem.problem_ids("test", 0, config.test_problems)
  sampled = evaluation.evaluate(
    ProblemPolicy(policy, problem),
    params,
    key,
    problem,
    problem_id,
    num_samples=config.test_samples,
  )
  greedy = evaluation.evaluate(
    ProblemPolicy(dataclasses.replace(policy, temperature=0.0), problem),
    params,
    key,
    problem,
    problem_id,
    num_samples=1,
  )
  out = {
    "temperature": policy.temperature,
    **sampled.report(config.test_ks),
    "greedy_accuracy": greedy.accuracy,
    "greedy_standard_error": greedy.standard_error,
  }
  mistakes = base.report_mistakes(problem, sampled.mistakes, problem_id)
  return out if mistakes is None else out | {"mistakes": mistakes}
