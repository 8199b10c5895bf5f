"""How completions are spent: on seeds or on values, and when to stop."""

import dataclasses
import math

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Real

from pav_jax.checks import check_least


def is_decided(
  num_correct: Real[ArrayLike, "*B"],
  num_completions: Int[ArrayLike, "*B"],
  *,
  boundary: float = 0.5,
  confidence: float = 0.95,
) -> Bool[np.ndarray, "*B"]:
  """Whether it is known on which side of a boundary a value lies.

  That is so if the exact (Clopper-Pearson) interval of the value leaves out the
  boundary p: if a Binomial(n, p) number is as low as c, or as high, with
  probability at most (1 - confidence) / 2.

  Args:
    num_correct: c, of completions of a prefix.
    num_completions: n; with n = 0 nothing is decided.
    boundary: p in (0, 1); that of the two buckets of labels is 0.5 (Sec. 4.2).
    confidence: of the interval, in (0, 1).

  Raises:
    ValueError: if a setting is out of its range.
  """
  for name, value in (("boundary", boundary), ("confidence", confidence)):
    if not 0 < value < 1:
      raise ValueError(f"{name} is {value}, expected a number in (0, 1)")
  import scipy.stats  # takes most of a second

  c, n = np.broadcast_arrays(num_correct, num_completions)
  below = scipy.stats.binom.cdf(c, n, boundary)
  above = scipy.stats.binom.sf(c - 1, n, boundary)
  # A tail may equal the bound but for rounding.
  tail = np.asarray(np.minimum(below, above))
  return np.asarray(tail <= (1 - confidence) / 2 * (1 + 1e-9))


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """Fewer completions for prefixes whose side of the boundary is known.

  A pilot of every prefix decides how many completions follow it: `least` if the
  pilot leaves no doubt, else what is left of n_mc. The pilot is not stored. Its
  outcomes and those stored are independent given the prefix; so given n, the
  stored c is Binomial(n, q), as without stopping: c / n, `values.pass_at_k` and
  any likelihood stay unbiased. Had the pilot been stored, they would not: of
  q = 1/2, stopped at a success and else continued once, the mean of c / n is
  5/8.

  Attributes:
    pilot: completions that decide.
    least: completions stored of a prefix that is decided, at least 1.
    boundary: of the buckets, see `is_decided`.
    confidence: see `is_decided`.

  Raises:
    ValueError: if a number is out of its range, or no pilot decides anything.
  """

  pilot: int = 6
  least: int = 2
  boundary: float = 0.5
  confidence: float = 0.95

  def __post_init__(self):
    check_least(1, pilot=self.pilot, least=self.least)
    if not self.stops(np.array([0, self.pilot])).any():
      raise ValueError(
        f"a pilot of {self.pilot} completions that are all alike leaves doubt "
        f"at confidence {self.confidence}, expected a larger pilot"
      )

  def stops(self, num_correct: Int[np.ndarray, "*B"]) -> Bool[np.ndarray, "*B"]:
    """Whether pilots with so many correct completions decide their prefix."""
    return is_decided(
      num_correct,
      np.full_like(num_correct, self.pilot),
      boundary=self.boundary,
      confidence=self.confidence,
    )

  def number(
    self, num_correct: Int[np.ndarray, "*B"], num_completions: int
  ) -> Int[np.ndarray, "*B"]:
    """Completions that are stored after such pilots.

    Args:
      num_correct: of the pilots.
      num_completions: n_mc, with the pilot.

    Raises:
      ValueError: if n_mc does not leave room for pilot and `least`.
    """
    if self.pilot + self.least > num_completions:
      raise ValueError(
        f"num_completions is {num_completions}, expected at least "
        f"{self.pilot + self.least}: a pilot of {self.pilot} and {self.least} "
        "that are stored"
      )
    rest = num_completions - self.pilot
    return np.where(self.stops(num_correct), self.least, rest)


@dataclasses.dataclass(frozen=True)
class Budget:
  """Splits a number of completions between seeds and completions of each.

  The paper's rule of thumb (Sec. 4.2, Fig. 6b) is coverage first, n_cov > n_mc,
  and accurate labels with more, n_mc > n_cov. With N = n_cov · n_mc, what a
  problem's share of the completions allows, the planned ratio is

      n_mc / n_cov = (N / crossover²)^(1/2)

  so that both grow with N, n_mc as N^(3/4) and n_cov as N^(1/4). The rule gives
  no number for the crossover; that is a setting.

  Attributes:
    num_completions: in all.
    crossover: what n_cov and n_mc are where they are equal.

  Raises:
    ValueError: if a number is not positive.
  """

  num_completions: int
  crossover: float = 8.0

  def __post_init__(self):
    for name in ("num_completions", "crossover"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} is {getattr(self, name)}, expected > 0")

  def split(
    self, num_problems: int, prefixes_per_seed: float
  ) -> tuple[int, int]:
    """`(n_cov, n_mc)`, whose cost is within the budget.

    A problem costs n_mc (1 + n_cov · prefixes_per_seed) completions: those of
    the bare problem, which seeds share, and of each seed's own prefixes.

    Args:
      num_problems: at least 1.
      prefixes_per_seed: that have to be completed, without the bare problem;
        0 or more.

    Raises:
      ValueError: if the budget does not allow one seed with one completion of
        each prefix.
    """
    share = self.num_completions / num_problems
    if share < 1 + prefixes_per_seed:
      raise ValueError(
        f"num_completions is {self.num_completions}, expected at least "
        f"{math.ceil(num_problems * (1 + prefixes_per_seed))}: one for each of "
        f"{1 + prefixes_per_seed:.1f} prefixes of a seed of {num_problems} "
        "problems"
      )
    per_seed = max(prefixes_per_seed, 1e-9)
    most = int(min((share - 1) / per_seed, share)) or 1
    n_cov = np.arange(1, most + 1)
    n_mc = np.floor(share / (1 + n_cov * prefixes_per_seed) + 1e-9)
    possible = n_mc >= 1
    n_cov, n_mc = n_cov[possible], n_mc[possible]
    ratio = np.sqrt(n_cov * n_mc) / self.crossover
    best = np.argmin(np.abs(np.log(n_mc / n_cov / ratio)))
    return int(n_cov[best]), int(n_mc[best])
