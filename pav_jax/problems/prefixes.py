"""Where the steps of responses end, found when tokens are first seen."""

import dataclasses

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int

from pav_jax.rollout import Rollout


def prefix_lengths(
  tokens: Int[ArrayLike, "B T"],
  prompt_len: Int[ArrayLike, "B"],
  ends_step: Bool[np.ndarray, "V"],
  *,
  eos_id: int,
  pad_id: int,
  num_steps: int | None = None,
) -> Int[np.ndarray, "B P"]:
  """The offsets of steps, as `Rollout.prefix_len` has them.

  A response ends with its first end token, or before its first padding, or
  where the row does. What follows the last delimiter, the end token included,
  is the last step. If there is no room for a response's steps, the last one
  takes all that is left, so that the last entry is always the whole response.

  Args:
    tokens: prompt, response, padding.
    prompt_len: tokens in each prompt.
    ends_step: from `vocabulary.delimiter_table`; ids outside of it end none.
    eos_id: the end token.
    pad_id: padding.
    num_steps: H, room for steps; None for as much as these rows need.

  Returns:
    int32[B, H + 1].

  Raises:
    ValueError: if a prompt is longer than its row, or `num_steps` < 1.
  """
  tokens, prompt_len = np.asarray(tokens), np.asarray(prompt_len)
  rows, width = tokens.shape
  if num_steps is not None and num_steps < 1:
    raise ValueError(f"num_steps is {num_steps}, expected at least 1")
  if ((prompt_len < 0) | (prompt_len > width)).any():
    raise ValueError(
      f"prompt_len is {prompt_len.min()} … {prompt_len.max()}, expected "
      f"0 … {width}, the tokens in a row"
    )
  position = np.arange(width)
  in_response = position >= prompt_len[:, None]
  end = _first(in_response & (tokens == eos_id), width - 1) + 1
  length = np.minimum(end, _first(in_response & (tokens == pad_id), width))
  length = np.maximum(length, prompt_len)

  known = (tokens >= 0) & (tokens < len(ends_step))
  closes = known & ends_step[np.where(known, tokens, 0)]
  closes &= in_response & (position < length[:, None] - 1)
  steps = closes.sum(-1) + (length > prompt_len)
  room = max(1, int(steps.max(initial=0))) if num_steps is None else num_steps

  prefix_len = np.broadcast_to(length[:, None], (rows, room + 1)).copy()
  prefix_len[:, 0] = prompt_len
  row, at = np.nonzero(closes)
  step = np.cumsum(closes, -1)[row, at]
  fits = step < room
  prefix_len[row[fits], step[fits]] = at[fits] + 1
  return prefix_len.astype(np.int32)


def cut_at_padding(
  rollout: Rollout, pad_id: int
) -> tuple[Rollout, Bool[np.ndarray, "B P"]]:
  """Responses as problems read them: up to their first padding.

  A policy may sample the padding token, and go on. To problems that is the end,
  of a response that is wrong.

  Args:
    rollout: of numpy arrays.
    pad_id: the padding token.

  Returns:
    The rollout, and which prefixes go beyond such an end, bool[B, P].
  """
  tokens, length = rollout.tokens, rollout.prefix_len
  at = np.arange(tokens.shape[1])
  inside = (at >= length[:, :1]) & (at < length[:, -1:])
  padding = inside & (tokens == pad_id)
  end = np.where(padding.any(-1), padding.argmax(-1), tokens.shape[1])
  cut = dataclasses.replace(
    rollout,
    tokens=np.where(at < end[:, None], tokens, pad_id),
    prefix_len=np.minimum(length, end[:, None]).astype(length.dtype),
  )
  return cut, length > end[:, None]


def _first(mask: np.ndarray, otherwise: int) -> np.ndarray:
  """The first True of each row: int64[B]."""
  if not mask.shape[-1]:
    return np.full(len(mask), otherwise)
  return np.where(mask.any(-1), mask.argmax(-1), otherwise)
