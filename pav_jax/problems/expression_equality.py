"""Whether two mathematical answers are equal, as trees of `expressions.read`.

Trees of one kind are compared part by part, and expressions by their values:
exactly, where they are rational, and else to `DIGITS` digits; those with
variables at points that are drawn from the variables' names. Expressions that
differ agree at all of them with a probability that is nil for any text that was
not made to.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath

from pav_jax.problems.expression_values import (
  DIGITS,
  EXPRESSIONS,
  Tree,
  Unreadable,
  as_float,
  value_at,
  variables_of,
)
from pav_jax.problems.expressions import TURNED

_TOLERANCE = mpmath.mpf(10) ** -350
_POINTS = 3
# A decimal with so many digits, all and behind the point, may be rounded.
_ROUNDED_DIGITS = 6


def equal(left: Tree, right: Tree) -> bool:
  """Whether two trees say the same.

  Points and intervals are equal entry by entry, with the same brackets; sets,
  lists and unions in any order, and a list is a set if nothing comes twice.
  Equations are equal if one is a multiple of the other. A decimal of 6 digits
  or more behind the point is equal to what rounds to it.
  """
  left, right = _solved(left), _solved(right)
  if left == right:
    return True
  if {left[0], right[0]} == {"range", "tuple"}:
    left, right = (x[2] if x[0] == "range" else x for x in (left, right))
  kinds = left[0], right[0]
  if set(kinds) <= EXPRESSIONS:
    return _equal_values(left, right)
  if set(kinds) == {"set", "list"} or (
    "set" in kinds and set(kinds) & EXPRESSIONS
  ):
    left, right = (
      tree[1:] if tree[0] in ("set", "list") else (tree,)
      for tree in (left, right)
    )
    return _equal_unordered(left, right)
  if kinds[0] != kinds[1]:
    return False
  left, right = left[1:], right[1:]
  match kinds[0]:
    case "word":
      return _equal_words(*left, *right)
    case "tuple":
      return left[:2] == right[:2] and _equal_ordered(left[2:], right[2:])
    case "matrix":
      return left[0] == right[0] and _equal_ordered(left[1:], right[1:])
    case "ratio" | "row" | "range":
      return _equal_ordered(left, right)
    case "list" | "union":
      return _equal_unordered(left, right)
    case "set":
      return _equal_unordered(_distinct(left), _distinct(right))
    case "relation":
      return _equal_relations(left, right)
  return False


def _solved(tree: Tree) -> Tree:
  """`x = 2 or x = 3` as the list `2, 3`."""
  if tree[0] != "list" or any(item[0] != "relation" for item in tree[1:]):
    return tree
  heads = {item[1:3] for item in tree[1:]}
  if len(heads) > 1 or any(len(item) != 4 for item in tree[1:]):
    return tree
  ((variable, relation),) = heads
  if variable[0] != "variable" or relation != "=":
    return tree
  return ("list", *(item[3] for item in tree[1:]))


def _equal_words(left: str, right: str) -> bool:
  """The case of a first letter is no matter, but in names as `AB`."""
  if left[1:].islower() and right[1:].islower():
    left, right = left[0].lower() + left[1:], right[0].lower() + right[1:]
  return left == right


def _equal_ordered(left: Sequence[Tree], right: Sequence[Tree]) -> bool:
  return len(left) == len(right) and all(map(equal, left, right))


def _equal_unordered(left: Sequence[Tree], right: Sequence[Tree]) -> bool:
  if len(left) != len(right):
    return False
  rest = list(right)
  for item in left:
    at = next((i for i, other in enumerate(rest) if equal(item, other)), None)
    if at is None:
      return False
    del rest[at]
  return True


def _distinct(items: Sequence[Tree]) -> list[Tree]:
  kept: list[Tree] = []
  for item in items:
    if not any(equal(item, other) for other in kept):
      kept.append(item)
  return kept


def _equal_relations(left: Sequence[Any], right: Sequence[Any]) -> bool:
  if left[1::2] != right[1::2]:
    right = [TURNED.get(x, x) if isinstance(x, str) else x for x in right][::-1]
    if left[1::2] != right[1::2]:
      return False
  if all(map(equal, left[0::2], right[0::2])):
    return True
  if len(left) != 3 or left[1] not in ("=", "!="):
    return False
  if any(side[0] not in EXPRESSIONS for side in (*left[::2], *right[::2])):
    return False
  one, other = (("+", s[0], ("negative", s[2])) for s in (left, right))
  if variables_of(one) != variables_of(other) or not variables_of(one):
    return False
  try:
    ratios = [
      mpmath.mpmathify(value_at(one, point))
      / mpmath.mpmathify(value_at(other, point))
      for point in range(_POINTS)
    ]
    return all(_close(ratio, ratios[0]) for ratio in ratios)
  except _NO_VALUE:
    return False


# What an expression without a value raises.
_NO_VALUE = (Unreadable, ArithmeticError, ValueError, TypeError, IndexError)


def _equal_values(left: Tree, right: Tree) -> bool:
  if variables_of(left) != variables_of(right) and not (
    _cancel(left) or _cancel(right)
  ):
    return False
  points = _POINTS if variables_of(left) | variables_of(right) else 1
  try:
    for point in range(points):
      values = value_at(left, point), value_at(right, point)
      if not _close(*values) and not _rounded(left, right, *values):
        return False
    return True
  except _NO_VALUE:
    return False


def _cancel(tree: Tree) -> bool:
  """Whether variables may cancel: they occur more than once."""
  return str(tree).count("'variable'") > 1


def _close(left: Any, right: Any) -> bool:
  if isinstance(left, Fraction) and isinstance(right, Fraction):
    return left == right
  with mpmath.workdps(DIGITS):
    left, right = map(as_float, (left, right))
    if mpmath.isinf(left) or mpmath.isinf(right):
      return left == right
    return abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))


def _rounded(left: Tree, right: Tree, *values: Any) -> bool:
  decimals = [_decimal(tree) for tree in (left, right)]
  if (decimals[0] is None) == (decimals[1] is None):
    return False
  other = right if decimals[0] is not None else left
  if _terminates(other):
    return False
  (places,) = (x for x in decimals if x is not None)
  with mpmath.workdps(DIGITS):
    difference = abs(as_float(values[0]) - as_float(values[1]))
    return difference <= mpmath.mpf(10) ** -places / 2


def _decimal(tree: Tree) -> int | None:
  """Digits behind the point of a decimal that is long enough to be rounded."""
  if tree[0] == "negative":
    tree = tree[1]
  if tree[0] != "number" or "." not in tree[2]:
    return None
  places = len(tree[2].partition(".")[2])
  digits = len(tree[2].replace(".", "").lstrip("0"))
  return places if min(places, digits) >= _ROUNDED_DIGITS else None


def _terminates(tree: Tree) -> bool:
  return tree[0] == "number" or (tree[0] == "negative" and _terminates(tree[1]))
