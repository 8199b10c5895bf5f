"""What a policy got wrong on chains, counted by kind of operation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from pav_jax.problems.base import Table
from pav_jax.problems.chain.reading import NO_PROGRESS, Notation, Steps


@dataclasses.dataclass(frozen=True)
class Counts:
  """Steps and responses, counted; add two with `+`.

  A response is read up to its first illegal step, and a last line that was cut
  off is not read.

  Attributes:
    operations: for each symbol `(attempted, wrong)`: lines that copy the
      current value and the problem's next operation, and those of them whose
      result is not the right one for the line's own value.
    restatements: steps that only restate the current value.
    illegal: responses with an illegal step, or that end before the last
      operation is done.
    unfinished: responses without an end token; some may be illegal too.
    responses: how many there are.
  """

  operations: Mapping[str, tuple[int, int]]
  restatements: int
  illegal: int
  unfinished: int
  responses: int

  def __add__(self, other: "Counts") -> "Counts":
    if self.operations.keys() != other.operations.keys():
      raise ValueError(
        f"counts are of operations {tuple(self.operations)} and "
        f"{tuple(other.operations)}, expected the same"
      )
    operations = {
      symbol: (a + other.operations[symbol][0], w + other.operations[symbol][1])
      for symbol, (a, w) in self.operations.items()
    }
    return Counts(
      operations,
      self.restatements + other.restatements,
      self.illegal + other.illegal,
      self.unfinished + other.unfinished,
      self.responses + other.responses,
    )

  @property
  def error_rates(self) -> dict[str, tuple[float, float]]:
    """`(rate, standard error)` of each operation; nan where none was attempted.

    The standard error, √(e (1 - e) / attempted), takes mistakes as independent.
    """
    rates = {}
    for symbol, (attempted, wrong) in self.operations.items():
      rate = wrong / attempted if attempted else float("nan")
      deviation = (rate * (1 - rate) / max(attempted, 1)) ** 0.5
      rates[symbol] = (rate, deviation)
    return rates

  @property
  def restatement_share(self) -> float:
    """Restatements among operations and restatements; nan if there are none."""
    steps = self.restatements + sum(a for a, _ in self.operations.values())
    return self.restatements / steps if steps else float("nan")

  @property
  def illegal_share(self) -> float:
    """Illegal responses among all."""
    return self.illegal / self.responses

  @property
  def unfinished_share(self) -> float:
    """Unfinished responses among all."""
    return self.unfinished / self.responses


def without_cut_lines(
  tokens: Int[np.ndarray, "B T"],
  prefix_len: Int[np.ndarray, "B P"],
  notation: Notation,
) -> Int[np.ndarray, "B P"]:
  """The offsets of complete lines: a last one that is not closed is left out.

  Args:
    tokens: prompt, response, padding.
    prefix_len: the offsets of all steps.
    notation: of the problem.
  """
  length = prefix_len[:, -1:]
  before = np.where(prefix_len < length, prefix_len, prefix_len[:, :1])
  closed = notation.closes(
    np.take_along_axis(tokens, np.maximum(length - 1, 0), -1)
  )
  complete = np.where(closed, length, before.max(-1, keepdims=True))
  return np.minimum(prefix_len, complete)


def count(
  notation: Notation,
  steps: Steps,
  operand: Int[np.ndarray, "B N"],
) -> Counts:
  """Counts what the steps of responses say.

  Args:
    notation: of the problem.
    steps: with room for all steps of each response.
    operand: of each of the problem's N operations.
  """
  operations = notation.operations
  row, step = np.nonzero(steps.kind >= 0)
  kind, before = steps.kind[row, step], steps.value[row, step]
  right = notation.right(before, kind, operand[row, steps.done[row, step]])
  wrong = steps.value[row, step + 1] != right
  attempted = np.bincount(kind, minlength=len(operations))
  failed = np.bincount(kind[wrong], minlength=len(operations))
  return Counts(
    operations={
      operation.symbol: (int(a), int(w))
      for operation, a, w in zip(operations, attempted, failed, strict=True)
    },
    restatements=int((steps.kind == NO_PROGRESS).sum()),
    illegal=int((~steps.legal[:, -1]).sum()),
    unfinished=int((~steps.ended[:, -1]).sum()),
    responses=len(steps.legal),
  )


def report(
  counts: Counts,
  teacher: Mapping[str, float],
  *,
  implied_accuracy: float,
  teacher_accuracy: float,
) -> dict[str, Any]:
  """What report.json says of a policy's mistakes.

  Args:
    counts: of the policy's responses, in which all operations occur.
    teacher: the teacher's error rate of each symbol.
    implied_accuracy: pass@1 at the policy's error rates.
    teacher_accuracy: pass@1 at the teacher's.
  """
  return {
    "error_rates": {
      symbol: {
        "policy": rate,
        "standard_error": deviation,
        "teacher": teacher[symbol],
      }
      for symbol, (rate, deviation) in counts.error_rates.items()
    },
    "implied_accuracy": implied_accuracy,
    "teacher_accuracy": teacher_accuracy,
    "illegal": counts.illegal_share,
    "unfinished": counts.unfinished_share,
    "restatements": counts.restatement_share,
  }


def table(mistakes: Mapping[str, Any]) -> Table:
  """What is printed of a `report`."""
  return Table(
    "share of wrong results; their rates imply Pass@1 of "
    f"{mistakes['implied_accuracy']:.3f}, the teacher's "
    f"{mistakes['teacher_accuracy']:.3f}",
    ["operation", "policy", "teacher"],
    [
      [
        symbol,
        f"{rate['policy']:.3f} ± {rate['standard_error']:.3f}",
        f"{rate['teacher']:.3f}",
      ]
      for symbol, rate in mistakes["error_rates"].items()
    ],
  )
