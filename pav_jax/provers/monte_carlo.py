"""Values by rollouts: the fraction of completions of a prefix that succeed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from pav_jax import steps
from pav_jax.models.partitioning import Layout
from pav_jax.provers.base import Placement
from pav_jax.provers.completions import (
  Jobs,
  LanguageModelCompletions,
  count_correct,
)
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["problem", "num_completions", "policy", "rows_per_call"],
)
@dataclasses.dataclass(frozen=True)
class MonteCarlo:
  """A prover that completes every prefix with a policy (Eq. 1).

  Without a policy it is that of the policy in training or search, as it is when
  values are asked for (Sec. 7); see `with_policy`. It runs where the problem
  grades. On the host responses that have ended are not completed, and the
  device samples some completions while others are graded.

  Attributes:
    problem: that grades completions.
    num_completions: M >= 1, of each prefix; values are multiples of 1 / M.
    policy: a `policies.base.Policy`; None for the one in training.
    params: of the policy.
    rows_per_call: completions sampled at a time, on the host; bounds memory.

  Raises:
    ValueError: if a number is below 1.
  """

  problem: Any
  num_completions: int = 1
  policy: Any = None
  params: Any = ()
  rows_per_call: int = 1024

  def __post_init__(self):
    for name, number in (
      ("num_completions", self.num_completions),
      ("rows_per_call", self.rows_per_call),
    ):
      if number < 1:
        raise ValueError(f"{name} is {number}, expected at least 1")

  @property
  def placement(self) -> Placement:
    """Where the problem grades."""
    return self.problem.placement

  def with_policy(self, policy: Any, params: Any) -> "MonteCarlo":
    """The prover of a policy; itself if it has one already."""
    if self.policy is not None:
      return self
    return dataclasses.replace(self, policy=policy, params=params)

  @property
  def networks(self) -> tuple[Any, ...]:
    """None that reads rollouts; completions are not counted."""
    return ()

  @property
  def layout(self) -> Layout | None:
    """Its policy's."""
    return None if self.policy is None else self.policy.layout

  def with_params(self, params: Any, layout: Layout | None) -> "MonteCarlo":
    """See `base.HasParams`."""
    if self.policy is None:
      return self
    policy = self.policy
    if layout != policy.layout:
      policy = dataclasses.replace(policy, layout=layout)
    return dataclasses.replace(self, params=params, policy=policy)

  def __call__(
    self, key: jax.Array, rollout: Rollout
  ) -> Float[ArrayLike, "B P"]:
    """q_mc[b, h], unbiased for Q^π; a whole response has its outcome.

    Raises:
      ValueError: if it has no policy.
    """
    if self.policy is None:
      raise ValueError(
        "MonteCarlo has no policy, expected one or a call of with_policy"
      )
    if self.placement == "host":
      return self._on_host(key, rollout)
    completed = self.policy.complete(
      self.params, key, rollout, num_samples=self.num_completions
    )
    outcome = self.problem.grade(completed)
    return jnp.mean(
      outcome.reshape(*rollout.prefix_len.shape, self.num_completions), axis=-1
    )

  def _on_host(self, key, rollout) -> Float[np.ndarray, "B P"]:
    traces = jax.tree.map(np.asarray, rollout)
    exists, unfinished = self._prefixes(traces)
    correct, _ = count_correct(
      LanguageModelCompletions(self.policy, self.params, key),
      self.problem,
      traces,
      Jobs.of(unfinished),
      num_completions=self.num_completions,
      rows_per_call=min(
        self.rows_per_call, unfinished.size * self.num_completions
      ),
    )
    outcome = np.asarray(self.problem.grade(traces), np.float32)
    q = np.repeat(outcome[:, None], exists.shape[1], axis=1)
    q[unfinished] = correct / self.num_completions
    # What repeats a prefix has its value.
    which = np.where(exists, np.arange(exists.shape[1]), 0)
    which = np.maximum.accumulate(which, axis=1)
    return np.take_along_axis(q, which, axis=1)

  def _prefixes(self, traces):
    """Prefixes that repeat no other, and those of them that are completed."""
    grew = np.asarray(steps.step_mask(traces.prefix_len))
    exists = np.pad(grew, ((0, 0), (1, 0)), constant_values=True)
    length = traces.prefix_len
    # What was cut off is completed by nothing, and a partial response by more.
    ended = np.asarray(self.policy.has_ended(traces))[:, None]
    return exists, exists & ~(ended & (length == length[:, -1:]))


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
