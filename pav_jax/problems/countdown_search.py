"""Exhaustive search of countdown: what numbers reach, and how."""

import functools
from collections.abc import Iterator, Sequence

SYMBOLS = "+-*/"
Step = tuple[int, str, int, int]  # (a, op, b, c) of `a op b=c`


def solve(numbers: Sequence[int], target: int, max_value: int) -> list[Step]:
  """Steps from numbers to a target among those that they reach."""
  numbers, steps = list(map(int, numbers)), []
  while len(numbers) > 1:
    step, numbers = next(
      (step, left)
      for step, left in _moves(numbers, max_value)
      if target in reachable(tuple(sorted(left)), max_value)
    )
    steps.append(step)
  return steps


def _moves(
  numbers: list[int], max_value: int
) -> Iterator[tuple[Step, list[int]]]:
  """Every legal step, and the numbers that it leaves."""
  for i, a in enumerate(numbers):
    for j, b in enumerate(numbers):
      if i == j:
        continue
      left = [x for k, x in enumerate(numbers) if k not in (i, j)]
      for symbol in SYMBOLS:
        c = result(a, symbol, b)
        if 1 <= c <= max_value:
          yield (a, symbol, b, c), [*left, c]


def result(a: int, symbol: str, b: int) -> int:
  """`a symbol b`; 0, which no rule allows, for a fraction."""
  if symbol == "+":
    return a + b
  if symbol == "-":
    return a - b
  if symbol == "*":
    return a * b
  return a // b if a % b == 0 else 0


@functools.lru_cache(maxsize=1 << 18)
def reachable(numbers: tuple[int, ...], max_value: int) -> frozenset[int]:
  """Values of all expressions over sorted numbers, each used once.

  Only values in 1 … `max_value`, also on the way, are legal.

  Legal steps are expression trees evaluated from the leaves, so the last
  operation joins what two parts of the numbers reach.
  """
  if len(numbers) == 1:
    return frozenset(numbers)
  values = set()
  # The first number is in the one part, so each division comes once.
  for mask in range(2 ** (len(numbers) - 1) - 1):
    one = [numbers[0]]
    two = []
    for i, x in enumerate(numbers[1:]):
      (one if mask >> i & 1 else two).append(x)
    ones = reachable(tuple(one), max_value)
    twos = reachable(tuple(two), max_value)
    for a in ones:
      for b in twos:
        small, large = (a, b) if a < b else (b, a)
        values.add(a + b)
        values.add(a * b)
        values.add(large - small)
        if large % small == 0:
          values.add(large // small)
  return frozenset(x for x in values if 1 <= x <= max_value)
