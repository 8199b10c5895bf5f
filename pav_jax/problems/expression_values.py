"""Values of mathematical expressions, which are trees: exact, or to 400 digits.

mpmath is all this needs beside the standard library.
"""

import math
import zlib
from fractions import Fraction
from typing import Any

import mpmath

DIGITS = 400
_MAX_BITS = 1 << 17  # of exact numbers
_MAX_EXPONENT = 10**6
_MAX_FACTORIAL = 5000

Tree = tuple  # the kind, then parts


class Unreadable(ValueError):
  """A text that is not read, or an expression that has no value."""


# Kinds of trees that may have values.
EXPRESSIONS = frozenset(
  {
    "number",
    "repeating",
    "variable",
    "unknown",
    "function",
    "pi",
    "e",
    "i",
    "infinity",
    "negative",
    "+",
    "*",
    "/",
    "^",
    "root",
    "abs",
    "floor",
    "factorial",
    "binomial",
  }
)
FUNCTIONS = {
  r"\sin": mpmath.sin,
  r"\cos": mpmath.cos,
  r"\tan": mpmath.tan,
  r"\cot": mpmath.cot,
  r"\sec": mpmath.sec,
  r"\csc": mpmath.csc,
  r"\arcsin": mpmath.asin,
  r"\arccos": mpmath.acos,
  r"\arctan": mpmath.atan,
  r"\sinh": mpmath.sinh,
  r"\cosh": mpmath.cosh,
  r"\tanh": mpmath.tanh,
  r"\ln": mpmath.ln,
  r"\log": mpmath.log10,
  r"\exp": mpmath.exp,
}


def variables_of(tree: Tree) -> frozenset[str]:
  """Names of variables, and of unknown functions as `f()`."""
  if tree[0] == "variable":
    return frozenset(tree[1:])
  if tree[0] == "unknown":
    return variables_of(tree[2]) | {tree[1] + "()"}
  parts = [x for x in tree[1:] if isinstance(x, tuple)]
  return frozenset().union(*map(variables_of, parts))


def as_float(value: Any) -> Any:
  """A number of mpmath, with the digits that are asked for now."""
  if isinstance(value, Fraction):
    return mpmath.mpf(value.numerator) / value.denominator
  return value


def _drawn(name: str, point: int) -> Fraction:
  """A variable's value at a point: negative at one of three."""
  draw = zlib.crc32(f"{name} {point}".encode())
  value = Fraction(draw % 9973 + 1, 997)
  return -value if point == 1 else value


def value_at(tree: Tree, point: int) -> Any:
  """A Fraction where it is rational, and else a number of mpmath.

  Raises:
    Unreadable: if it has none, or one that is too large.
  """
  with mpmath.workdps(DIGITS):
    return _evaluated(tree, point)


def _evaluated(tree: Tree, point: int) -> Any:
  kind = tree[0]
  match kind:
    case "number" | "repeating":
      return tree[1]
    case "pi":
      return +mpmath.pi
    case "e":
      return +mpmath.e
    case "i":
      return mpmath.mpc(0, 1)
    case "infinity":
      return mpmath.inf
    case "variable":
      return _drawn(tree[1], point)
  if kind not in EXPRESSIONS:
    raise Unreadable(kind)
  values = [_evaluated(x, point) for x in tree[1:] if isinstance(x, tuple)]
  match kind:
    case "unknown":
      return mpmath.cos(as_float(values[0]) + as_float(_drawn(tree[1], point)))
    case "function":
      if abs(as_float(values[0])) > 10**9:
        raise Unreadable("a large argument")
      return FUNCTIONS[tree[1]](as_float(values[0]))
    case "^":
      return _power(*values)
    case "root":
      if values[1] == 0:
        raise Unreadable("a root of degree 0")
      return _power(values[0], 1 / values[1])
    case "+" | "*" | "/":
      return _arithmetic(kind, *values)
    case "negative":
      return -values[0]
    case "abs":
      return abs(values[0])
    case "floor":
      return Fraction(int(mpmath.floor(as_float(values[0]).real)))
    case "factorial":
      return _factorial(values[0])
    case "binomial":
      if abs(values[0]) > _MAX_FACTORIAL or abs(values[1]) > _MAX_FACTORIAL:
        raise Unreadable("a large binomial")
      if all(isinstance(x, Fraction) and x.denominator == 1 for x in values):
        return Fraction(math.comb(*(x.numerator for x in values)))
      return mpmath.binomial(*map(as_float, values))
  raise Unreadable(kind)


def _arithmetic(kind: str, left: Any, right: Any) -> Any:
  if not (isinstance(left, Fraction) and isinstance(right, Fraction)):
    left, right = as_float(left), as_float(right)
  if kind == "+":
    value = left + right
  elif kind == "*":
    value = left * right
  else:
    value = left / right
  if isinstance(value, Fraction) and _bits(value) > _MAX_BITS:
    raise Unreadable("a large number")
  return value


def _power(base: Any, exponent: Any) -> Any:
  if abs(as_float(exponent)) > _MAX_EXPONENT:
    raise Unreadable("a large exponent")
  if isinstance(base, Fraction) and isinstance(exponent, Fraction):
    if exponent.denominator == 1:
      if _bits(base) * abs(exponent) <= _MAX_BITS:
        return base**exponent.numerator
    elif base >= 0 and _bits(base) * abs(exponent) <= _MAX_BITS:
      value = base**exponent.numerator
      root = _exact_root(value, exponent.denominator)
      if root is not None:
        return root
  return mpmath.power(as_float(base), as_float(exponent))


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
  roots = []
  for part in (value.numerator, value.denominator):
    with mpmath.workprec(part.bit_length() + 64):
      root = int(mpmath.nint(mpmath.root(part, degree)))
    if root**degree != part:
      return None
    roots.append(root)
  return Fraction(*roots)


def _factorial(value: Any) -> Any:
  if abs(value) > _MAX_FACTORIAL:
    raise Unreadable("a large factorial")
  if isinstance(value, Fraction) and value.denominator == 1:
    if value < 0:
      raise Unreadable("a factorial below 0")
    return Fraction(math.factorial(value.numerator))
  return mpmath.gamma(as_float(value) + 1)


def _bits(value: Fraction) -> int:
  return value.numerator.bit_length() + value.denominator.bit_length()
