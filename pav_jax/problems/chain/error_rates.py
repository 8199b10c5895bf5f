"""Values of chains under a policy whose error rates were measured."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from pav_jax.problems.base import ExactValues
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class ErrorRateValues:
  """Closed-form values of a policy that errs at known rates.

  They are the teacher's with other rates. Exact for a policy whose chance of a
  mistake depends on the operation's kind alone; how near a trained policy comes
  to that is for Monte-Carlo values to tell.

  Attributes:
    problem: the `Chain` that the rollouts answer.
    error_rates: of each symbol, in [0, 1].
    illegal: share of responses with an illegal step. It is spread evenly over
      the operations, as a mistake that is made besides.

  Raises:
    ValueError: if the rates are of other symbols, or one is out of range.
  """

  problem: Any
  error_rates: Mapping[str, float]
  illegal: float | int = 0.0

  def __post_init__(self):
    symbols = [o.symbol for o in self.problem.operations]
    if set(self.error_rates) != set(symbols):
      raise ValueError(
        f"error_rates are of {sorted(self.error_rates)}, expected {symbols}"
      )
    if not all(0 <= rate <= 1 for rate in self.error_rates.values()):
      raise ValueError(
        f"error_rates are {dict(self.error_rates)}, expected numbers in [0, 1]"
      )
    if not 0 <= self.illegal <= 1:
      raise ValueError(f"illegal is {self.illegal}, expected a share in [0, 1]")

  def __call__(self, rollout: Rollout) -> Float[np.ndarray, "B P"]:
    """float64[B, P], see `Chain.teacher_values`."""
    legal = (1 - self.illegal) ** (1 / self.problem.horizon)
    operations = tuple(
      dataclasses.replace(o, error=1 - (1 - self.error_rates[o.symbol]) * legal)
      for o in self.problem.operations
    )
    policy = dataclasses.replace(self.problem, operations=operations)
    return policy.teacher_values(rollout)

  @property
  def described(self) -> ExactValues:
    """These values, and for reports the rates that they rest on."""
    return ExactValues(
      self, {"error_rates": dict(self.error_rates), "illegal": self.illegal}
    )


def measured_values(problem: Any, policy: str | os.PathLike) -> ErrorRateValues:
  """Closed-form values at the rates that a fine-tuning run measured.

  Args:
    problem: the `Chain` that the rollouts answer.
    policy: the directory that the run exported; its report.json, with the rates
      of the policy's samples on the test split, is beside it.

  Raises:
    ValueError: if there is no such report, or one without rates.
  """
  path = pathlib.Path(policy).parent / "report.json"
  try:
    mistakes = json.loads(path.read_text())["arms"]["policy"]["mistakes"]
    rates = {
      symbol: float(rate["policy"])
      for symbol, rate in mistakes["error_rates"].items()
    }
    illegal = float(mistakes["illegal"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} gives no error rates of the policy ({error!r}), expected the "
      "report of the run that fine-tuned it; or bind ErrorRateValues"
    ) from error
  return ErrorRateValues(problem, rates, illegal)
