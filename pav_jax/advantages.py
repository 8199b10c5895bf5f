"""From values of prefixes to rewards of steps: progress, and where it ends.

`q[..., P]` holds the values of a rollout's P = H + 1 prefixes, the bare problem
first. An array over steps, `[..., H]`, has the step that leads from prefix h to
prefix h + 1 at index h.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from pav_jax import checks


def step_advantages(q: Float[ArrayLike, "*B P"]) -> Float[Array, "*B P-1"]:
  """Progress of each step: `[..., H + 1] -> [..., H]` (Eq. 2).

  `A(s_h, a_h) = Q(s_h, a_h) − Q(s_{h−1}, a_{h−1})`, h in 1 … H, at index h − 1,
  with `Q(s_0, a_0) := V(s_1)`, the value of the bare problem. Its sum over
  steps telescopes to `q[..., -1] − q[..., 0]`. Steps past the end of a response
  repeat their prefix, hence its value, hence have advantage exactly 0.

  Args:
    q: success probabilities of the prefixes, in [0, 1], under one prover.

  Returns:
    Advantages in [−1, 1], in `q`'s dtype.

  Raises:
    ValueError: `q` has no axis of prefixes, or an empty one; or holds a number
      that is known while tracing and outside [0, 1]. NaN, for a value that is
      not known, gives NaN.
  """
  _check_prefixes(q)
  q_wide = checks.widen(q)
  return (q_wide[..., 1:] - q_wide[..., :-1]).astype(checks.float_dtype(q))


def effective_reward(
  q_policy: Float[ArrayLike, "*#B"],
  adv_prover: Float[ArrayLike, "*#B"],
  *,
  alpha: Real[ArrayLike, ""],
) -> Float[Array, "..."]:
  """What a step is rewarded with: `Q^π + α A^μ` (Eq. 5).

  It weights the log-probability of its own step alone and is not accumulated
  into a return (`losses.policy_gradient_loss`).

  Args:
    q_policy: `Q^π(s_h, a_h)`, shape [..., H]: of the values of prefixes, those
      after a step, `q[..., 1:]`. In online RL one sampled outcome stands in for
      it: `outcome[..., None]`, shape [..., 1], which alone is broadcast.
    adv_prover: `A^μ(s_h, a_h)`, shape [..., H], as from `step_advantages`.
    alpha: weight of progress, a finite number, possibly traced. 0 is
      outcome-only RL, and search by Q alone.

  Returns:
    Rewards in [−|α|, 1 + |α|], shape [..., H].

  Raises:
    ValueError: `q_policy` has neither the shape of `adv_prover` nor that with
      one step; or `alpha` is no scalar, or is known while tracing and not
      finite.
  """
  known = checks.concrete_value(alpha)
  if jnp.ndim(alpha) or (known is not None and not math.isfinite(known)):
    raise ValueError(f"alpha is {alpha}; expected one finite number")
  ours, theirs = np.shape(q_policy), np.shape(adv_prover)
  # [1, B] beside [B, H] would broadcast where B is H, over the wrong axis.
  one_outcome = (*theirs[:-1], 1) if theirs else ()
  if ours not in (theirs, one_outcome):
    raise ValueError(
      f"q_policy has shape {ours} and adv_prover {theirs}; expected [..., H] "
      "both (one outcome per rollout enters as outcome[..., None])"
    )
  reward = checks.widen(q_policy) + alpha * checks.widen(adv_prover)
  return reward.astype(checks.float_dtype(q_policy, adv_prover))


def first_pit(
  q: Float[ArrayLike, "*B P"],
  outcome: Float[ArrayLike, "*B"],
  *,
  high: Real[ArrayLike, ""],
) -> Int[Array, "*B"]:
  """Where a promising but wrong rollout goes wrong (App. D, Fig. 11).

  The least index h in 0 … H − 1 with `q[h + 1] == 0` and
  `max(q[0], …, q[h]) >= high`, on rollouts with outcome 0. Example: with
  `high = 0.5`, `q = [0.2, 0.6, 0.3, 0, 0]` has its first pit at index 2.

  Args:
    q: (estimated) values of the prefixes, in [0, 1].
    outcome: 1 for correct rollouts, 0 for incorrect ones.
    high: value in (0, 1] that a prefix before the pit must have reached;
      compared in `q`'s dtype.

  Returns:
    int32: 0-based index among the H steps; −1 where there is no such step.

  Raises:
    ValueError: shapes do not match; or `high` is no scalar, or is known while
      tracing and not in (0, 1].
  """
  _check_prefixes(q)
  checks.check_shape("outcome", outcome, np.shape(q)[:-1], "q's without prefix")
  known = checks.concrete_value(high)
  if jnp.ndim(high) or (known is not None and not 0 < known <= 1):
    raise ValueError(f"high is {high}; expected one value in (0, 1]")
  q = jnp.asarray(q)
  high_reached = q >= jnp.asarray(high).astype(q.dtype)
  promising = jax.lax.cummax(
    high_reached.astype(jnp.int32), axis=high_reached.ndim - 1
  )[..., :-1]
  wrong = (jnp.asarray(outcome) == 0)[..., None]
  pit = (q[..., 1:] == 0) & (promising == 1) & wrong
  index = jnp.arange(pit.shape[-1], dtype=jnp.int32)
  none = jnp.int32(pit.shape[-1])
  first = jnp.min(jnp.where(pit, index, none), axis=-1, initial=none)
  return jnp.where(first < none, first, -1)


def _check_prefixes(q: ArrayLike) -> None:
  shape = np.shape(q)
  if not shape or shape[-1] < 1:
    raise ValueError(f"q has shape {shape}; expected [..., H + 1] with H >= 0")
  checks.check_probabilities("q", q, allow_nan=True)
