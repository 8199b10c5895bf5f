"""Weights in the shapes that other libraries learn from; none is imported.

They keep responses apart from problems: arrays are `[B, R]`, a response's first
token at index 0, padded to R on the right. Here problem and response stand in
one row, and `prefix_len` says where (`rollout.Rollout`). Results are numpy's.
"""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pav_jax import checks, steps


def verl(
  weights: Float[ArrayLike, "B H"],
  prefix_len: Int[ArrayLike, "B P"],
  response_length: int,
  *,
  token_weights: Float[ArrayLike, "B T"] | None = None,
) -> dict[str, np.ndarray]:
  """What an advantage estimator of verl gives, and the mask beside it.

  A function registered with `verl.trainer.ppo.core_algos.register_adv_est`
  returns `advantages` and `returns`, [bs, response_length] each. A credit
  estimator has no returns of its own for a critic to learn; they are the
  advantages, as of verl's own estimators without a critic.

  Args:
    weights: of the steps, from a credit estimator.
    prefix_len: non-decreasing prefix lengths, in tokens.
    response_length: R, at least the longest response, as in the batch.
    token_weights: factors of tokens, such as `credit.low_probability`.

  Returns:
    `advantages` and `returns`, float32[B, R]; `response_mask`, int64[B, R].

  Raises:
    ValueError: shapes do not match, or R is too small.
  """
  advantages, mask = _per_token(
    weights, prefix_len, response_length, token_weights
  )
  return {
    "advantages": advantages,
    "returns": advantages,
    "response_mask": mask.astype(np.int64),
  }


def verl_rewards(
  rewards: Float[ArrayLike, "B H"],
  prefix_len: Int[ArrayLike, "B P"],
  response_length: int,
) -> Float[np.ndarray, "B R"]:
  """Rewards of steps as verl's `token_level_rewards`: on each last token.

  For estimators of verl that sum them (`gae`, `reinforce_plus_plus`).

  Args:
    rewards: of the steps.
    prefix_len: non-decreasing prefix lengths, in tokens.
    response_length: R, see `verl`.

  Returns:
    float32, 0 on all other tokens; a row's sum is the sum over its steps.

  Raises:
    ValueError: as of `verl`.
  """
  rewards, prefix_len = np.asarray(rewards), np.asarray(prefix_len)
  of_tokens, mask = _per_token(rewards, prefix_len, response_length, None)
  ends = prefix_len[:, 1:] - prefix_len[:, :1] - 1
  last = np.zeros_like(mask)
  row, step = np.nonzero(np.asarray(steps.step_mask(prefix_len)))
  last[row, ends[row, step]] = True
  return np.where(last, of_tokens, 0)


def tunix(
  weights: Float[ArrayLike, "B H"],
  prefix_len: Int[ArrayLike, "B P"],
  completion_length: int,
  *,
  token_weights: Float[ArrayLike, "B T"] | None = None,
) -> dict[str, np.ndarray]:
  """Fields of Tunix's `TrainExample` for its losses of tokens.

  Its PPO loss takes `advantages` [B, R] beside a `completion_mask` [B, R]. (Its
  GRPO loss takes one advantage for each response, which says nothing of steps.)

  Args:
    weights: of the steps, from a credit estimator.
    prefix_len: non-decreasing prefix lengths, in tokens.
    completion_length: R, at least the longest response, as in the batch.
    token_weights: factors of tokens, such as `credit.low_probability`.

  Returns:
    `advantages`, float32[B, R]; `completion_mask`, int32[B, R].

  Raises:
    ValueError: shapes do not match, or R is too small.
  """
  advantages, mask = _per_token(
    weights, prefix_len, completion_length, token_weights
  )
  return {"advantages": advantages, "completion_mask": mask.astype(np.int32)}


def nemo_gym(
  weights: Float[ArrayLike, "B H"], prefix_len: Int[ArrayLike, "B P"]
) -> list[list[float]]:
  """`step_rewards` as NeMo Gym plans them: a list of floats a response.

  One for each step that exists, in order (NVIDIA-NeMo/Gym, issue 1298, where
  steps are the turns of the assistant).

  Args:
    weights: of the steps, or their rewards.
    prefix_len: non-decreasing prefix lengths, in tokens.

  Raises:
    ValueError: shapes do not match.
  """
  exists = np.asarray(steps.step_mask(prefix_len))
  checks.check_shape("weights", weights, exists.shape, "[B, H]")
  weights = np.asarray(weights, np.float64)
  return [row[mask].tolist() for row, mask in zip(weights, exists, strict=True)]


def _per_token(weights, prefix_len, length, token_weights):
  """Weights of responses' tokens, float32[B, R], and which exist."""
  prefix_len = np.asarray(prefix_len)
  checks.check_shape("prefix_len", prefix_len, (None, None), "[B, H + 1]")
  size = prefix_len[:, -1] - prefix_len[:, 0]
  if (size > length).any():
    raise ValueError(
      f"the longest response has {size.max()} tokens, expected at most {length}"
    )
  spread = steps.spread_over_tokens(
    weights, prefix_len - prefix_len[:, :1], length
  )
  advantages = np.array(spread, np.float32)
  mask = np.arange(length) < size[:, None]
  if token_weights is not None:
    checks.check_shape(
      "token_weights", token_weights, (len(prefix_len), None), "[B, T]"
    )
    factors = np.asarray(token_weights, np.float32)
    row, index = np.nonzero(mask)
    advantages[row, index] *= factors[row, prefix_len[row, 0] + index]
  return advantages, mask
