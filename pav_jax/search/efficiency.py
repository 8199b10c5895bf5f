"""Accuracy for what it costs: curves, equal costs, and their uncertainty.

Curves are arrays [B, M]: of B problems, which all methods answer, at M sizes of
a method in the order of their mean cost. Between sizes accuracy is linear in
the logarithm of the mean cost.
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number with an interval of 95 %; None where there is none.

  Attributes:
    value: of all problems.
    low: 2.5 % of resampled sets of problems are below.
    high: 2.5 % are above; None if in those the method never gets there.
  """

  value: float | None
  low: float | None
  high: float | None


def mean_and_error(x: Float[np.ndarray, "B"]) -> tuple[float, float]:
  """The mean over problems and its standard error; of a difference, paired."""
  x = np.asarray(x, np.float64)
  error = np.std(x, ddof=1) / len(x) ** 0.5 if len(x) > 1 else float("nan")
  return float(np.mean(x)), float(error)


def at_cost(
  accuracy: Float[np.ndarray, "B M"],
  cost: Float[np.ndarray, "B M"],
  target: float,
) -> Float[np.ndarray, "B"] | None:
  """Each problem's accuracy at a mean cost, between a method's sizes.

  The smallest size below its cost, which favours the method; None above that
  of the largest.
  """
  at = np.log(np.mean(cost, axis=0))
  target = np.log(target)
  if target > at[-1] + 1e-9:
    return None
  right = int(np.clip(np.searchsorted(at, target), 1, max(len(at) - 1, 1)))
  if len(at) == 1 or target <= at[0]:
    return accuracy[:, 0]
  share = (target - at[right - 1]) / (at[right] - at[right - 1])
  return (1 - share) * accuracy[:, right - 1] + share * accuracy[:, right]


def cost_of(
  accuracy: Float[np.ndarray, "M"],
  cost: Float[np.ndarray, "M"],
  target: float,
) -> float | None:
  """The least mean cost at which a curve reaches an accuracy; None if never.

  That of the smallest size if this is enough.
  """
  reached = np.flatnonzero(accuracy >= target)
  if not len(reached):
    return None
  right = reached[0]
  if right == 0:
    return float(cost[0])
  low, high = accuracy[right - 1], accuracy[right]
  share = (target - low) / (high - low)
  log = (1 - share) * np.log(cost[right - 1]) + share * np.log(cost[right])
  return float(np.exp(log))


def compute_efficiency(
  accuracy: Float[np.ndarray, "B M"],
  cost: Float[np.ndarray, "B M"],
  reference_accuracy: Float[np.ndarray, "B"],
  reference_cost: Float[np.ndarray, "B"],
  *,
  num_resamples: int = 1000,
  seed: int = 0,
) -> Estimate:
  """How many times cheaper a method is at the reference's accuracy (Sec. 4.1).

  The reference's cost, best-of-128 by an ORM say, over the cost at which the
  method reaches its accuracy. The interval is over resampled sets of problems.

  Args:
    accuracy: of the method.
    cost: of the method.
    reference_accuracy: of the reference, at one size.
    reference_cost: of the reference, at that size.
    num_resamples: sets of problems.
    seed: of their choice.
  """

  def of(rows):
    least = cost_of(
      accuracy[rows].mean(0),
      cost[rows].mean(0),
      reference_accuracy[rows].mean(),
    )
    if least is None:
      return 0.0
    return float(reference_cost[rows].mean() / least)

  number = len(accuracy)
  rng = np.random.default_rng(seed)
  factors = [
    of(rng.integers(number, size=number)) for _ in range(num_resamples)
  ]
  low, high = np.quantile(factors, [0.025, 0.975], method="nearest")
  # A factor of 0 stands for sets in which the method never gets there.
  value, low, high = (
    float(x) or None for x in (of(np.arange(number)), low, high)
  )
  return Estimate(value, low, high)
