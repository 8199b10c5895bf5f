"""Best-of-K with a K that is chosen on the rollouts it is used on (Sec. 7).

Two criteria. `"bound"` is Theorem 3.1's: distinguishability plus alignment.

`"progress"`, the default, is not the paper's: the mean of the prover's
advantages over the steps that were sampled, negative ones at less weight. What
it measures is how much of the reward a policy earns as it is. The mean of all
advantages at full weight would not do: it telescopes to the value of whole
responses less that of bare problems, which is largest at K = 1 always.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from pav_jax import values
from pav_jax.checks import concrete_value
from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.provers.sampled_terms import sampled_terms, terms_at
from pav_jax.rollout import Rollout

CRITERIA = ("progress", "bound")


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["prover"],
  meta_fields=["ks", "by", "loss_weight"],
)
@dataclasses.dataclass(frozen=True)
class AdaptiveK(base.Wrapper):
  """Best-of-K of another prover, K chosen anew for every batch of rollouts.

  Rollouts have to be graded: outcomes stand in for the policy's values. So it
  serves reinforcement learning, and no search.

  Attributes:
    prover: any; its values are those of one sample.
    ks: the candidates, each at least 1; of equals the first wins.
    by: of `sampled_terms.Terms` the one that is to be largest, "progress", or
      "bound" for the theorem's. With exact values of a problem with steps that
      do nothing the bound grows up to the largest K, to whose prover right
      steps are worth no more than those; policies then come to do nothing
      (measured, K up to 32; docs/rl.md).
    loss_weight: of negative advantages in "progress", >= 0. Half of what they
      weigh in the reward suits: 1/2 for the paper's, 0 for one that does not
      punish them, for K is not chosen to avoid what is not punished.

  Raises:
    ValueError: if there is no candidate, one is below 1, `by` is no such term,
      or `loss_weight` is negative.
  """

  prover: Prover
  ks: Sequence[float | int] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
  by: str = "progress"
  loss_weight: float = 0.5

  def __post_init__(self):
    if self.by not in CRITERIA:
      raise ValueError(f"by is {self.by!r}, expected one of {CRITERIA}")
    object.__setattr__(self, "ks", tuple(map(float, self.ks)))
    if not self.ks or not min(self.ks) >= 1:
      raise ValueError(f"ks are {self.ks}, expected numbers from 1 up")
    if not 0 <= self.loss_weight < math.inf:
      raise ValueError(
        f"loss_weight is {self.loss_weight}, expected a number >= 0"
      )

  def choose(
    self, q: Float[ArrayLike, "B P"], rollout: Rollout
  ) -> Float[Array, ""]:
    """The K of a batch.

    Args:
      q: values for one sample.
      rollout: graded.

    Raises:
      ValueError: if an outcome is NaN, where that is not traced.
    """
    outcome = concrete_value(rollout.outcome)
    if outcome is not None and np.isnan(outcome).any():
      raise ValueError(
        "AdaptiveK chooses K by outcomes and got rollouts without, expected "
        "graded ones; a search takes BestOfK"
      )
    ks = jnp.array(self.ks, jnp.float32)
    terms = sampled_terms(
      q,
      rollout.outcome,
      rollout.prefix_len,
      ks,
      loss_weight=self.loss_weight,
    )
    return ks[jnp.argmax(terms._asdict()[self.by])]

  def of_values(
    self, q: Float[ArrayLike, "B P"], rollout: Rollout
  ) -> Float[Array, "B P"]:
    """Best-of-K's values, with the chosen K."""
    return values.best_of_k(q, self.choose(q, rollout))

  def metrics(
    self, q: Float[ArrayLike, "B P"], rollout: Rollout
  ) -> dict[str, Any]:
    """The chosen `k`, and the terms of Theorem 3.1 with it."""
    k = self.choose(q, rollout)
    return terms_at(q, rollout, k, loss_weight=self.loss_weight)
