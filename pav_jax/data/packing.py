"""Demonstrations packed into rows, for supervised fine-tuning."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from pav_jax.checks import check_least
from pav_jax.rollout import PackedTokens, Rollout


@runtime_checkable
class Batches(Protocol):
  """Where batches come from: a pure function of a position.

  A run that goes on from a position gets the batches that an uninterrupted one
  would have got.
  """

  def __call__(self, position: int) -> tuple[PackedTokens, int]:
    """The batch at a position, and the position of the next; 0 is the first."""
    ...


def pack(
  tokens: Sequence[Int[np.ndarray, "_"]],
  prompt_len: Sequence[int],
  *,
  num_rows: int,
  row_length: int,
) -> tuple[PackedTokens, int]:
  """Puts texts into rows, each into the first that has room.

  Args:
    tokens: of texts, a problem and a response each.
    prompt_len: tokens of each that are the problem's.
    num_rows: B.
    row_length: T.

  Returns:
    `(batch, n)`: the first n texts in numpy arrays, where text n is the first
    for which there is no room; or all of them.

  Raises:
    ValueError: if a text is longer than a row.
  """
  shape = (num_rows, row_length)
  ids, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
  loss_mask = np.zeros(shape, bool)
  used, count = np.zeros(num_rows, int), np.zeros(num_rows, int)
  packed = 0
  for text, prompt in zip(tokens, prompt_len, strict=True):
    if len(text) > row_length:
      raise ValueError(
        f"a demonstration has {len(text)} tokens, expected at most row_length "
        f"= {row_length}"
      )
    fits = used + len(text) <= row_length
    if not fits.any():
      break
    row = int(fits.argmax())
    begin, end = used[row], used[row] + len(text)
    used[row] = end
    count[row] += 1
    ids[row, begin:end] = text
    segments[row, begin:end] = count[row]
    positions[row, begin:end] = np.arange(len(text))
    loss_mask[row, begin + prompt : end] = True
    packed += 1
  return PackedTokens(ids, segments, positions, loss_mask), packed


@dataclasses.dataclass(frozen=True)
class Demonstrations:
  """A problem's demonstrations in packed batches: `Batches`.

  The stream has the first demonstration of each problem in the order of the
  split, then the second of each, and so on; it never ends. A position is the
  number of demonstrations before.

  Attributes:
    problem: has `problem_ids(split, start, stop)`, `demonstrations`,
      `split_size` and `max_demonstration_len`.
    num_rows: of a batch.
    row_length: tokens in a row; at least the longest demonstration's.
    num_problems: of the split; None for all, at most 2²⁴.
    split: of the problem.

  Raises:
    ValueError: if a number is not positive, or rows are too short.
  """

  problem: Any
  num_rows: int
  row_length: int
  num_problems: int | None = None
  split: str = "train"

  def __post_init__(self):
    if self.num_problems is None:
      size = min(2**24, self.problem.split_size(self.split))
      object.__setattr__(self, "num_problems", size)
    check_least(1, num_rows=self.num_rows, num_problems=self.num_problems)
    longest = self.problem.max_demonstration_len
    if self.row_length < longest:
      raise ValueError(
        f"row_length is {self.row_length}, expected at least {longest}, the "
        "longest demonstration"
      )

  def __call__(self, position: int) -> tuple[PackedTokens, int]:
    """The batch that begins with demonstration `position`."""
    texts, prompt_len = [], []
    while True:
      rollout = self._demonstrations(position + len(texts))
      texts += _texts(rollout)
      prompt_len += rollout.prefix_len[:, 0].tolist()
      batch, packed = pack(
        texts, prompt_len, num_rows=self.num_rows, row_length=self.row_length
      )
      if packed < len(texts):
        return batch, position + packed

  def _demonstrations(self, position: int) -> Rollout:
    """A few demonstrations from a position on, of one pass over the split."""
    repeat, start = divmod(position, self.num_problems)
    stop = min(start + self.num_rows, self.num_problems)
    ids = self.problem.problem_ids(self.split, start, stop)
    return self.problem.demonstrations(ids, np.full_like(ids, repeat))


def _texts(rollout: Rollout) -> list[np.ndarray]:
  lengths = np.asarray(rollout.prefix_len)[:, -1]
  return [
    row[:length]
    for row, length in zip(np.asarray(rollout.tokens), lengths, strict=True)
  ]
