"""Theorem 3.1's terms for Best-of-K provers, from sampled rollouts (Sec. 7).

The theorem wants variances and means over the steps that the policy might take
at a state. A rollout shows one step a state. So states of about the same value
are taken as one, and their steps as draws of one distribution.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from pav_jax import complementarity, steps, values
from pav_jax.checks import Leaf
from pav_jax.rollout import Rollout

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
  q: Float[ArrayLike, "B P"],
  outcome: Float[ArrayLike, "B"],
  prefix_len: Int[ArrayLike, "B P"],
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
    loss_weight: of negative advantages in `Terms.progress`, >= 0.
  """
  q, outcome = jnp.asarray(q), jnp.asarray(outcome)
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


def terms_at(
  q: Float[ArrayLike, "B P"],
  rollout: Rollout,
  k: Leaf,
  *,
  loss_weight: float = 0.5,
) -> dict[str, Any]:
  """`sampled_terms` of one K by name, and `k`; scalars, for metrics.

  Args:
    q: values for one sample.
    rollout: graded.
    k: at least 1.
    loss_weight: see `sampled_terms`.
  """
  ks = jnp.asarray(k, jnp.float32)[None]
  terms = sampled_terms(
    q, rollout.outcome, rollout.prefix_len, ks, loss_weight=loss_weight
  )
  return {name: x[0] for name, x in terms._asdict().items()} | {"k": ks[0]}
