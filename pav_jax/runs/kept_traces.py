"""Which traces a reader keeps, and where a sequence goes on from one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_NOTHING = np.zeros(0, np.int32)


class Place(NamedTuple):
  """Where a sequence is read.

  Attributes:
    source: the trace whose beginning it has.
    target: the trace that it becomes.
    start: tokens of the beginning.
  """

  source: int
  target: int
  start: int


class KeptTraces:
  """Tokens of M traces, in the order in which they were last read."""

  def __init__(self, num_traces: int):
    """Takes M; all are empty."""
    self._num_traces = num_traces
    self.forget()

  def forget(self) -> None:
    """Empties all."""
    # The one that has not been read for longest comes first.
    self._tokens = dict.fromkeys(range(self._num_traces), _NOTHING)

  def place(
    self, rows: Sequence[Int[np.ndarray, "_"]], needed: Sequence[int]
  ) -> list[Place]:
    """Places for sequences that are read together, and remembers them there.

    A trace that a sequence goes on from becomes that sequence. Where it has
    gone on otherwise it stays, and what was read longest ago gives way.

    Args:
      rows: the sequences, at most M.
      needed: the first token of each that has to be read, even if it has been.
    """
    before = dict(self._tokens)
    sources = [
      max(before, key=lambda i: _common(before[i], tokens)) for tokens in rows
    ]
    targets: dict[int, int] = {}  # row by trace
    for row, source in enumerate(sources):
      is_grown = len(before[source]) == _common(before[source], rows[row])
      if is_grown and len(before[source]):
        targets.setdefault(source, row)
    row_target = {row: target for target, row in targets.items()}
    free = (i for i in before if i not in targets)
    places = []
    for row, (tokens, source) in enumerate(zip(rows, sources, strict=True)):
      target = row_target[row] if row in row_target else next(free)
      start = min(_common(before[source], tokens), needed[row])
      places.append(Place(source, target, start))
      self._tokens.pop(target)
      self._tokens[target] = tokens
    return places


def _common(a: Int[np.ndarray, "S"], b: Int[np.ndarray, "T"]) -> int:
  """Tokens with which both begin."""
  num = min(len(a), len(b))
  differ = np.flatnonzero(a[:num] != b[:num])
  return int(differ[0]) if len(differ) else num
