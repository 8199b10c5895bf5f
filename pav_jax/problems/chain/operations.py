"""The operations of chains: what is right, and what a noisy teacher writes."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

SYMBOLS = "+-*~"
_RIGHT = (
  lambda a, b: a + b,
  lambda a, b: a - b,
  lambda a, b: a * b,
  lambda a, b: b - a,
)
# The systematic mistake: another operation than the one asked for.
_SLIP = (
  lambda a, b: a - b,
  lambda a, b: b - a,
  lambda a, b: a + b,
  lambda a, b: a - b,
)
_NEAR = (1, -1, 10, -10)


@dataclasses.dataclass(frozen=True)
class Operation:
  """A kind of operation, and how well the teacher does it.

  Attributes:
    symbol: `+`, `-`, `*`, or `~`, which is subtraction from the operand:
      a~b is b - a.
    error: probability that the teacher's result is wrong.
    systematic: share of the wrong results that are the kind's one typical
      slip: a-b for a+b, b-a for a-b, a+b for a*b and a-b for a~b. The other
      results are near misses: each of +1, -1, +10, -10 and another
      operation's operand has a fifth of them.
    weight: how often problems have it, relative to the others.
    low: smallest operand.
    high: largest operand; None for the modulus less one.

  Raises:
    ValueError: if a number is out of its range.
  """

  symbol: str
  error: float | int = 0.0
  systematic: float | int = 0.0
  weight: float | int = 1.0
  low: int = 1
  high: int | None = None

  def __post_init__(self):
    if len(self.symbol) != 1 or self.symbol not in SYMBOLS:
      raise ValueError(f"symbol is {self.symbol!r}, expected one of {SYMBOLS}")
    for name in ("error", "systematic"):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a number in [0, 1]")
    if not 0 < self.weight < float("inf"):
      raise ValueError(f"weight is {self.weight}, expected a positive number")
    if self.low < 0 or (self.high is not None and self.high < self.low):
      raise ValueError(
        f"low and high are {self.low} and {self.high}, expected "
        "0 <= low <= high"
      )


OPERATIONS = (
  Operation("+", error=0.08, weight=3),
  Operation("-", error=0.12, weight=3),
  Operation("*", error=0.16, weight=3, low=2, high=9),
  Operation("~", error=0.65, systematic=1.0, weight=1),
)


def harder(
  odds: float | int, operations: Sequence[Operation] = OPERATIONS
) -> tuple[Operation, ...]:
  """The same operations with a teacher that errs more, or less, often.

  Args:
    odds: factor, above 0, of the odds of a mistake, error / (1 - error).
    operations: whose errors are changed.

  Raises:
    ValueError: if the factor is not positive.
  """
  if not 0 < odds < float("inf"):
    raise ValueError(f"odds is {odds}, expected a positive number")
  return tuple(
    dataclasses.replace(
      o, error=o.error * odds / (1 - o.error + o.error * odds)
    )
    for o in operations
  )


def results(
  operations: Sequence[Operation],
  modulus: int,
  value: Int[np.ndarray, "..."],
  kind: Int[np.ndarray, "..."],
  operand: Int[np.ndarray, "..."],
) -> Int[np.ndarray, "..."]:
  """The right result of each operation; arguments broadcast.

  Args:
    operations: the kinds.
    modulus: results are 0 … modulus - 1.
    value: the current value.
    kind: index into `operations`.
    operand: of the operation.
  """
  return _apply(_RIGHT, operations, modulus, value, kind, operand)


def teacher(
  operations: Sequence[Operation],
  modulus: int,
  value: Int[np.ndarray, "..."],
  kind: Int[np.ndarray, "..."],
  operand: Int[np.ndarray, "..."],
  other: Int[np.ndarray, "..."],
) -> tuple[Int[np.ndarray, "... 7"], Float[np.ndarray, "... 7"]]:
  """What the teacher may write, and how likely: [..., 7] each.

  Entry 0 is the right result; no other entry equals it, though others may
  coincide.

  Args:
    operations: the kinds.
    modulus: results are 0 … modulus - 1.
    value: the current value.
    kind: index into `operations`.
    operand: of the operation.
    other: the operand that may be taken by mistake.
  """
  right = results(operations, modulus, value, kind, operand)
  wrong = [(right + near) % modulus for near in _NEAR]
  wrong.append(results(operations, modulus, value, kind, other))
  wrong.append(_apply(_SLIP, operations, modulus, value, kind, operand))
  wrong = [np.where(x == right, (right + 1) % modulus, x) for x in wrong]
  error = np.array([o.error for o in operations])
  slip = error * np.array([o.systematic for o in operations])
  near = (error - slip) / (len(_NEAR) + 1)
  table = np.stack([1 - error, *[near] * (len(_NEAR) + 1), slip], -1)
  return np.stack([right, *wrong], -1), table[kind]


def _apply(
  functions: Sequence[Callable], operations, modulus, value, kind, operand
):
  value, kind, operand = np.broadcast_arrays(value, kind, operand)
  which = np.array([SYMBOLS.index(o.symbol) for o in operations])[kind]
  applied = np.select(
    [which == i for i in range(len(functions))],
    [function(value, operand) for function in functions],
  )
  return applied % modulus
