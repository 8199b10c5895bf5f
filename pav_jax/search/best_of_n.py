"""Best-of-N: the same samples, ranked in several ways (Sec. 4.1).

B problems with S samples each, drawn once. Ranking them for N < S uses every
group of N samples, first to last without overlap: S // N answers a problem,
whose mean has less noise than one answer, from the same samples for every
method, every N and every α.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from pav_jax import advantages, checks

AGGREGATIONS = ("last", "min", "product", "mean")


def aggregate(
  scores: Float[ArrayLike, "*B H"], mask: Bool[ArrayLike, "*B H"], how: str
) -> Float[Array, "*B"]:
  """One score of a response, of those of its steps.

  Args:
    scores: of the steps: values after them, `q[..., 1:]`, or effective rewards.
    mask: which steps exist, `steps.step_mask`.
    how: "last" (the whole response's: an ORM reads that alone), "min",
      "product" or "mean".

  Returns:
    float32; of a response without steps −∞, for nothing is known of it.

  Raises:
    ValueError: if there is no such aggregation, or shapes differ.
  """
  if how not in AGGREGATIONS:
    raise ValueError(f"how is {how!r}, expected one of {AGGREGATIONS}")
  checks.check_shape("mask", mask, jnp.shape(scores), "that of scores")
  scores, mask = checks.widen(scores), jnp.asarray(mask)
  if how == "last":
    last = jnp.maximum(jnp.sum(mask, -1, keepdims=True) - 1, 0)
    out = jnp.take_along_axis(scores, last, axis=-1)[..., 0]
  elif how == "min":
    out = jnp.min(jnp.where(mask, scores, jnp.inf), axis=-1)
  elif how == "product":
    out = jnp.prod(jnp.where(mask, scores, 1.0), axis=-1)
  else:
    out = jnp.sum(jnp.where(mask, scores, 0.0), axis=-1)
    out = out / jnp.maximum(jnp.sum(mask, -1), 1)
  return jnp.where(jnp.any(mask, -1), out, -jnp.inf)


def orm_scores(
  q_policy: Float[ArrayLike, "*B P"],
  mask: Bool[ArrayLike, "*B H"],
  *,
  how: str = "last",
) -> Float[Array, "*B"]:
  """What best-of-N ranks by: the value of the whole response.

  Args:
    q_policy: of the prefixes.
    mask: which steps exist.
    how: see `aggregate`; other than "last", a PRM's scores.
  """
  return aggregate(jnp.asarray(q_policy)[..., 1:], mask, how)


def pav_scores(
  q_policy: Float[ArrayLike, "*B P"],
  q_prover: Float[ArrayLike, "*B P"],
  mask: Bool[ArrayLike, "*B H"],
  *,
  alpha: Real[ArrayLike, ""],
  how: str = "mean",
) -> Float[Array, "*B"]:
  """PAV-as-ORM: the aggregated effective reward `Q^π + α A^μ` of the steps.

  Args:
    q_policy: values of the prefixes under the policy.
    q_prover: the same under the prover.
    mask: which steps exist.
    alpha: weight of progress.
    how: see `aggregate`.
  """
  reward = advantages.effective_reward(
    jnp.asarray(q_policy)[..., 1:],
    advantages.step_advantages(q_prover),
    alpha=alpha,
  )
  return aggregate(reward, mask, how)


def groups(x: ArrayLike, num: int) -> np.ndarray:
  """Samples [B, S, …] as groups of `num`: [B, S // num, num, …].

  What does not fill a group is left out.

  Raises:
    ValueError: if there are fewer samples than one group has.
  """
  x = np.asarray(x)
  if not 1 <= num <= x.shape[1]:
    raise ValueError(
      f"num is {num}, expected 1 … {x.shape[1]}, the samples of each problem"
    )
  each = x.shape[1] // num
  return x[:, : each * num].reshape(len(x), each, num, *x.shape[2:])


def best(scores: Float[ArrayLike, "B S"], num: int) -> Int[np.ndarray, "B G"]:
  """Which sample, 0 … S - 1, is the answer of each group of N.

  Args:
    scores: of the samples; of equal ones the first wins.
    num: N.
  """
  within = np.argmax(groups(scores, num), axis=-1)
  return within + num * np.arange(within.shape[1])


def accuracy(
  chosen: Int[ArrayLike, "B G"], outcome: Float[ArrayLike, "B S"]
) -> Float[np.ndarray, "B"]:
  """The share of a problem's answers that are right."""
  right = np.take_along_axis(np.asarray(outcome), np.asarray(chosen), axis=1)
  return np.mean(right, axis=-1)


def oracle(
  outcome: Float[ArrayLike, "B S"], num: int
) -> Float[np.ndarray, "B"]:
  """Pass@N: the share of groups that hold a right response."""
  return np.mean(np.max(groups(outcome, num), axis=-1), axis=-1)
