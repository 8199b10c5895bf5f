"""Baselines and scales: what rewards are compared with.

Each is `(rollout, rewards, groups) -> [B, H]`, see `base.Baseline`. Those that
leave a rollout out of its group's mean see other rollouts alone, so that the
expected gradient stays as it is; with the rollout in the mean it is scaled by
1 − 1/n, n being those that are averaged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax import steps
from pav_jax.credit import base
from pav_jax.rollout import Rollout

_OF = ("rewards", "outcomes", "responses")


def batch_mean(
  rollout: Rollout,
  rewards: Float[Array, "B H"],
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """The batch's mean reward at step h, among rollouts that have one.

  A rollout's own reward is in the mean, which scales the expected gradient by
  1 − 1/n, n being the rollouts with a step h.

  Args:
    rollout: B graded rollouts.
    rewards: of their steps.
    groups: not looked at.
  """
  del groups
  exists = steps.step_mask(rollout.prefix_len)
  total = jnp.sum(rewards * exists, axis=0, keepdims=True)
  count = jnp.sum(exists, axis=0, keepdims=True)
  mean = total / jnp.maximum(count, 1)
  return jnp.broadcast_to(mean, rewards.shape)


def group_mean(
  rollout: Rollout,
  rewards: Float[Array, "B H"],
  groups: Int[Array, "B"] | None = None,
  *,
  of: str = "rewards",
  leave_one_out: bool = False,
) -> Float[Array, "B H"]:
  """A mean over the samples of the same problem.

  Args:
    rollout: B graded rollouts.
    rewards: of their steps.
    groups: see `base.Credit`.
    of: what is averaged. "rewards": those of step h, of samples that have one.
      "outcomes": the outcomes of samples that have a step h. A prover's
      advantages are differences of values and need no other baseline; their
      mean even adds noise: behind an error advantages are 0, and a mean of what
      others lost at the same step would be a reward there. "responses": the
      outcomes of all samples, however long, as in GRPO and RLOO.
    leave_one_out: whether a sample is left out of its mean (RLOO). Where no
      other sample has a step h the others' mean outcome takes the place of
      their mean at h, and 0 where there is no other sample: what is subtracted
      never depends on the step, and the expected gradient is not scaled.
      (Subtracting the reward itself would scale that of a step by
      1 − (1 − c)^(G−1), c being the chance that another of G samples has it.)

  Raises:
    ValueError: for another `of`.
  """
  x, counted = _statistic(rollout, rewards, of)
  same = _same_group(rollout, groups, leave_one_out, rewards.dtype)
  total, count = _sums(same, x * counted), _sums(same, counted)
  mean = total / jnp.maximum(count, 1)
  if not leave_one_out:
    return jnp.where(count > 0, mean, x)
  outcome = rollout.outcome[:, None].astype(rewards.dtype)
  others = _sums(same, outcome) / jnp.maximum(
    jnp.sum(same, axis=-1, keepdims=True), 1
  )
  return jnp.where(count > 0, mean, others)


def group_deviation(
  rollout: Rollout,
  rewards: Float[Array, "B H"],
  groups: Int[Array, "B"] | None = None,
  *,
  of: str = "responses",
  ddof: int = 1,
  epsilon: float = 1e-6,
) -> Float[Array, "B H"]:
  """The standard deviation over the samples of the same problem, a scale.

  `√(Σ (x − mean)² / (n − ddof)) + ε`. The GRPO paper writes `std` and says
  neither ddof nor ε; ddof = 1 is what its implementations use.

  Args:
    rollout: B graded rollouts.
    rewards: of their steps.
    groups: see `base.Credit`.
    of: see `group_mean`.
    ddof: 1 divides by n − 1, 0 by n.
    epsilon: > 0, added. Where all samples are alike, or there is one, the
      numerator of a centred reward is 0, and so is the weight.

  Raises:
    ValueError: for another `of`, or if `epsilon` is not positive.
  """
  if not epsilon > 0:
    raise ValueError(f"epsilon is {epsilon}, expected a positive number")
  x, counted = _statistic(rollout, rewards, of)
  same = _same_group(rollout, groups, False, rewards.dtype)
  count = _sums(same, counted)
  mean = _sums(same, x * counted) / jnp.maximum(count, 1)
  # Deviations from the row's own group's mean are those of all in the group.
  squares = _sums(same, jnp.square(x - mean) * counted)
  return jnp.sqrt(squares / jnp.maximum(count - ddof, 1)) + epsilon


def has_spread(
  rollout: Rollout, groups: Int[Array, "B"] | None = None
) -> Bool[Array, "B"]:
  """Whether outcomes differ in a rollout's group, as DAPO's filter asks.

  Where they do not, group-relative weights are 0 (2503.14476, Sec. 3.2).

  Args:
    rollout: B graded rollouts.
    groups: see `base.Credit`.
  """
  groups = base.group_of(rollout, groups)
  other = rollout.outcome[:, None] != rollout.outcome
  return jnp.any((groups[:, None] == groups) & other, axis=-1)


def _statistic(rollout, rewards, of):
  """What is averaged, and which of it counts, [B, H] each."""
  if of not in _OF:
    raise ValueError(f"of is {of!r}, expected one of {', '.join(_OF)}")
  exists = steps.step_mask(rollout.prefix_len).astype(rewards.dtype)
  outcome = rollout.outcome[:, None].astype(rewards.dtype)
  x = rewards if of == "rewards" else jnp.broadcast_to(outcome, rewards.shape)
  return x, jnp.ones_like(exists) if of == "responses" else exists


def _same_group(rollout, groups, leave_one_out, dtype):
  groups = base.group_of(rollout, groups)
  same = groups[:, None] == groups
  if leave_one_out:
    same &= ~jnp.eye(len(same), dtype=bool)
  return same.astype(dtype)


def _sums(same, x):
  """Sums of [B, H] over each row's group; exact where accelerators round."""
  return jnp.matmul(same, x, precision=jax.lax.Precision.HIGHEST)
