"""Worked solutions of some data sets of reasoning-gym: a step is a line.

Each takes an entry, with its `metadata` as JSON has it, and gives all lines but
the answer's, or None; `gym.ReasoningGym.solver` says which one is used.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TERM = re.compile(r"([+-]?)\s*(?:(\d+)(?:\*([a-z]))?|([a-z]))\s*")


def answer_alone(entry: Mapping[str, Any]) -> str:
  """No line at all: the answer is given at once. Of any data set."""
  del entry
  return ""


def simple_equations(entry: Mapping[str, Any]) -> str | None:
  """Algebra: what stands beside the variable goes over, then its factor.

  Of `8*t + 4 = 20`: `8*t = 20 - 4 = 16`, `t = 16 / 8 = 2`. None of `0 = 0`,
  which the data set has too.
  """
  equation, name = entry["metadata"]["equation"], entry["metadata"]["variable"]
  left, right = equation.split(" = ")
  right = int(right)
  factor = constant = 0
  for sign, number, of_number, alone in _TERM.findall(left):
    value = int(f"{sign}{number or 1}")
    if of_number or alone:
      factor += value
    else:
      constant += value
  if not factor:
    return None
  lines = []
  if constant:
    change = f"- {constant}" if constant > 0 else f"+ {-constant}"
    lines.append(f"{factor}*{name} = {right} {change} = {right - constant}")
  rest = right - constant
  lines.append(f"{name} = {rest} / {factor} = {rest // factor}")
  return "\n".join(lines)


def binary_alternation(entry: Mapping[str, Any]) -> str:
  """Algorithms: the string is held against the nearest alternating one.

  Of `1001`: `2 ones, 2 zeros`, `1010`, `wrong at 3 4`, `2 / 2 = 1`. A swap puts
  two digits right.
  """
  string = entry["metadata"]["string"]
  ones, zeros = string.count("1"), string.count("0")
  lines = [f"{ones} ones, {zeros} zeros"]
  if abs(ones - zeros) > 1:
    return "\n".join([*lines, "impossible"])
  firsts = "1" * (ones >= zeros) + "0" * (zeros >= ones)
  goals = [
    "".join(
      first if i % 2 == 0 else "10"[int(first)] for i in range(len(string))
    )
    for first in firsts
  ]
  misplaced = [
    [i + 1 for i, digit in enumerate(string) if digit != goal[i]]
    for goal in goals
  ]
  wrong, goal = min(zip(misplaced, goals, strict=True), key=lambda x: len(x[0]))
  lines.append(goal)
  lines.append(
    " ".join(["wrong at", *map(str, wrong)]) if wrong else "the same"
  )
  lines.append(f"{len(wrong)} / 2 = {len(wrong) // 2}")
  return "\n".join(lines)


def knights_knaves(entry: Mapping[str, Any]) -> str:
  """Logic: cases are tried until all that is said fits who says it.

  A line for each case, as `Ann a knight, Bo a knave: Ann is right, Bo is right
  but a knave`; the last line's case is consistent.
  """
  metadata = entry["metadata"]
  names, terms = metadata["names"], metadata["knight_knave_terms"]
  kinds = {True: terms["a_knight"], False: terms["a_knave"]}
  lines = []
  for case in itertools.product([True, False], repeat=len(names)):
    held = [_holds(statement, case) for statement in metadata["statements"]]
    who = ", ".join(
      f"{name} {kinds[truthful]}"
      for name, truthful in zip(names, case, strict=True)
    )
    bad = [i for i, (x, y) in enumerate(zip(held, case, strict=True)) if x != y]
    if not bad:
      lines.append(f"{who}: all fits")
      return "\n".join(lines)
    first = bad[0]
    word = "right" if held[first] else "wrong"
    lines.append(f"{who}: {names[first]} is {word} but {kinds[case[first]]}")
  raise ValueError(
    f"no case fits {entry['question']!r}, expected one that does"
  )


def _holds(statement: Sequence[Any], case: Sequence[bool]) -> bool:
  """Whether a statement about who tells the truth is true in a case."""
  kind, *parts = statement
  if kind == "telling-truth":
    return case[parts[0]]
  if kind == "lying":
    return not case[parts[0]]
  values = [_holds(part, case) for part in parts]
  return {
    "not": lambda: not values[0],
    "and": lambda: all(values),
    "or": lambda: any(values),
    "->": lambda: not values[0] or values[1],
    "<=>": lambda: values[0] == values[1],
  }[kind]()
