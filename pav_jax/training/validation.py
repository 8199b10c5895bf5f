"""How a policy is evaluated while it is fine-tuned, and in the end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

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
class FinetuneEvaluationConfig:
  """Which policy of a fine-tuning is kept, and what is said of it.

  Attributes:
    batches: held-out demonstrations.
    every: train steps between validations; there is one at the end too.
    num_problems: of the validation split.
    num_samples: responses to each.
    ks: of Pass@k, none above `num_samples`.
    num_batches: held-out batches for the loss.
    select_by: the measure at which the kept policy is best: "accuracy", or
      "loss" where demonstrations are to be imitated with their mistakes.
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
    check_positive(
      every=self.every,
      num_problems=self.num_problems,
      num_samples=self.num_samples,
      num_batches=self.num_batches,
      test_problems=self.test_problems,
      test_samples=self.test_samples,
    )
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
