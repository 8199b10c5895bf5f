"""Values by rollouts: the fraction of completions of a prefix that succeed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["policy", "problem", "num_rollouts"],
)
@dataclasses.dataclass(frozen=True)
class MonteCarlo:
  """A prover `(key, rollout) -> q` that completes every prefix with a policy.

  Attributes:
    params: the policy's parameters.
    policy: has `complete(params, key, rollout, num_samples=M)`.
    problem: has `grade(rollout)`.
    num_rollouts: M >= 1, completions of each prefix. The final prefix is its
      own outcome and costs its completions nothing: nothing is left to sample.
  """

  params: Any
  policy: Any
  problem: Any
  num_rollouts: int = 1

  def __post_init__(self):
    if self.num_rollouts < 1:
      raise ValueError(
        f"num_rollouts is {self.num_rollouts}, expected at least 1"
      )

  def __call__(self, key: jax.Array, rollout: Rollout) -> Float[Array, "B P"]:
    """q_mc[b, h], multiples of 1 / num_rollouts; unbiased for Q^π (Eq. 1)."""
    completions = self.policy.complete(
      self.params, key, rollout, num_samples=self.num_rollouts
    )
    outcome = self.problem.grade(completions)
    return jnp.mean(
      outcome.reshape(*rollout.prefix_len.shape, self.num_rollouts), axis=-1
    )


@dataclasses.dataclass(frozen=True)
class Fit:
  """How counts of correct completions agree with exact values.

  Attributes:
    prefixes: N, those with 0 < q < 1 and completions.
    chi_square: X² = Σ (c - n q)² / (n q (1 - q)), N in the mean if c is
      Binomial(n, q).
    chi_square_z: (X² - N) in its standard deviations; large if values are
      spread about q by more than completions explain.
    bias: mean of c / n - q.
    bias_z: Σ (c - n q) in its standard deviations.
    correlation: of c / n and q.
    impossible: prefixes with correct completions and q = 0, or wrong ones and
      q = 1.
  """

  prefixes: int
  chi_square: float
  chi_square_z: float
  bias: float
  bias_z: float
  correlation: float
  impossible: int


def fit(
  num_correct: Real[ArrayLike, "N"],
  num_completions: Real[ArrayLike, "N"],
  q_exact: Float[ArrayLike, "N"],
) -> Fit:
  """Compares Monte-Carlo counts with exact values.

  A term of X² has mean 1 and variance 2 + (1 - 6 q (1 - q)) / (n q (1 - q)),
  of the binomial's fourth moment: no approximation by a normal distribution.
  Both z are about normal with many prefixes, whose counts are to be
  independent: those that several traces share count once.

  Args:
    num_correct: c.
    num_completions: n; prefixes with n = 0 are left out.
    q_exact: values in [0, 1].
  """
  c, n, q = (
    np.asarray(x, np.float64) for x in (num_correct, num_completions, q_exact)
  )
  c, n, q = (x[n > 0] for x in (c, n, q))
  impossible = ((q == 0) & (c > 0)) | ((q == 1) & (c < n))
  some = (q > 0) & (q < 1)
  c, n, q = c[some], n[some], q[some]
  if not len(q):
    return Fit(0, 0.0, *[np.nan] * 4, int(impossible.sum()))
  varied = np.ptp(q) > 0 and np.ptp(c / n) > 0
  variance = n * q * (1 - q)
  terms = (c - n * q) ** 2 / variance
  spread = np.sqrt(np.sum(2 + (1 - 6 * q * (1 - q)) / variance))
  return Fit(
    prefixes=len(q),
    chi_square=float(terms.sum()),
    chi_square_z=float((terms - 1).sum() / spread),
    bias=float(np.mean(c / n - q)),
    bias_z=float((c - n * q).sum() / np.sqrt(variance.sum())),
    correlation=float(np.corrcoef(c / n, q)[0, 1]) if varied else np.nan,
    impossible=int(impossible.sum()),
  )
