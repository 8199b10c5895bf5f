"""Choosing the K of a Best-of-K prover on the policy's own rollouts (Sec. 7).

Two criteria. `"bound"` is the theorem's (3.1): distinguishability plus
alignment. It wants variances and means over the steps that the policy might
take at a state, and a rollout shows one step a state; so states of about the
same value are taken as one, and their steps as draws of one distribution.

`"progress"`, the default, is not the paper's: the mean of the prover's
advantages over the steps that were sampled, negative ones at less weight. What
it measures is how much of the reward a policy earns as it is. The mean of all
advantages at full weight would not do: it telescopes to the value of whole
responses less that of bare problems, which is largest at K = 1 always.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from pav_jax import complementarity, steps, values

_NUM_CELLS = 16


class Terms(NamedTuple):
  """Theorem 3.1 for each K, in means over the steps that were sampled.

  Attributes:
    distinguishability: how far the prover tells steps apart, in [0, 1].
    alignment: of the prover's progress with what the policy gains, in [-1, 1].
    bound: their sum.
    progress: mean of the prover's advantages, negative ones at less weight.
      Where Q^{BoK} saturates at 1 right steps gain nothing, however far they
      and wrong ones are apart, and the mean step is worth less than one that
      does nothing; so the maximum is inside, at K of about 1 / Q (Remark 3.1).
  """

  distinguishability: Float[Array, "K"]
  alignment: Float[Array, "K"]
  bound: Float[Array, "K"]
  progress: Float[Array, "K"]


def sampled_terms(
  q: Float[Array, "B P"],
  outcome: Float[Array, "B"],
  prefix_len: Int[Array, "B P"],
  ks: Real[Array, "K"],
  *,
  loss_weight: Real[ArrayLike, ""] = 0.5,
) -> Terms:
  """Estimates the terms of Theorem 3.1 from rollouts, for Best-of-K provers.

  The outcome stands in for `Q^π(s, a)`, without bias. So the policy may have
  moved away from the one whose values q are; alignment tells.

  Args:
    q: values of prefixes under the policy that is sampled K times, in [0, 1].
    outcome: of the rollouts of the policy that is trained, 0 or 1.
    prefix_len: of the rollouts.
    ks: each at least 1.
    loss_weight: of negative advantages in `Terms.progress`, >= 0, see
      `loss_weight_for`.
  """
  exists = steps.step_mask(prefix_len).reshape(-1)
  before, after = q[:, :-1].reshape(-1), q[:, 1:].reshape(-1)
  gained = jnp.broadcast_to(outcome[:, None], (len(q), q.shape[1] - 1))
  # Cells hold about as many steps each; equal values share one.
  among = jnp.sort(jnp.where(exists, before, jnp.inf))
  count = jnp.sum(exists)
  ranks = (jnp.arange(1, _NUM_CELLS) * count) // _NUM_CELLS
  cell = jnp.searchsorted(among[ranks], before, side="right")
  member = (cell == jnp.arange(_NUM_CELLS)[:, None]) & exists
  size = jnp.sum(member, axis=-1, keepdims=True)
  probs = member / jnp.maximum(size, 1).astype(jnp.float32)
  weight = size[:, 0] / jnp.maximum(count, 1)

  def table(x):
    return jnp.broadcast_to(x, probs.shape)

  def centred(x):
    return table(x) - jnp.sum(probs * x, axis=-1, keepdims=True)

  adv_policy = centred(gained.reshape(-1))

  def of_k(k):
    adv = values.best_of_k(after, k) - values.best_of_k(before, k)
    apart = complementarity.distinguishability(table(adv), probs)
    aligned = complementarity.alignment(table(adv), adv_policy, probs)
    earned = jnp.where(adv > 0, adv, loss_weight * adv) * exists
    progress = jnp.sum(earned) / jnp.maximum(count, 1)
    return jnp.sum(weight * apart), jnp.sum(weight * aligned), progress

  apart, aligned, progress = jax.vmap(of_k)(jnp.asarray(ks, jnp.float32))
  return Terms(apart, aligned, apart + aligned, progress)


def loss_weight_for(
  loss_weight: Real[ArrayLike, ""] | None, negative_weight: Real[ArrayLike, ""]
) -> Real[ArrayLike, ""]:
  """What negative advantages weigh in `Terms.progress`.

  Args:
    loss_weight: what they are to weigh; None for half of `negative_weight`: K
      is not chosen to avoid what the reward does not punish, and of the
      paper's reward losses count half.
    negative_weight: what they weigh in the reward, 1 in the paper's.
  """
  return negative_weight / 2 if loss_weight is None else loss_weight


@dataclasses.dataclass(frozen=True)
class AdaptiveK:
  """K is chosen anew while training, from the rollouts that it is used on.

  Attributes:
    ks: the candidates, each at least 1; of equals the first wins.
    every: iterations between choices; the first is made at the first.
    by: of `Terms` the one that is to be largest, "progress", or "bound" for
      the theorem's. On chain with exact values the bound grows up to the
      largest K, to whose prover right steps are worth no more than steps that
      do nothing; policies then come to do nothing (measured, K up to 32).
    loss_weight: of negative advantages in "progress", >= 0; None for half of
      what they weigh in the reward (`loss_weight_for`).

  Raises:
    ValueError: if there is no candidate, one is below 1, `every` is, `by` is no
      such term, or `loss_weight` is negative.
  """

  ks: Sequence[float | int] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
  every: int = 1
  by: str = "progress"
  loss_weight: float | None = None

  def __post_init__(self):
    if self.by not in ("progress", "bound"):
      raise ValueError(f"by is {self.by!r}, expected 'progress' or 'bound'")
    object.__setattr__(self, "ks", tuple(map(float, self.ks)))
    if not self.ks or min(self.ks) < 1:
      raise ValueError(f"ks are {self.ks}, expected numbers from 1 up")
    if self.every < 1:
      raise ValueError(f"every is {self.every}, expected at least 1")
    if self.loss_weight is not None and not 0 <= self.loss_weight < math.inf:
      raise ValueError(
        f"loss_weight is {self.loss_weight}, expected a number >= 0"
      )
