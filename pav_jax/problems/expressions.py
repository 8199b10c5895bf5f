r"""Reads mathematical answers, and tells whether two are equal.

`read` makes trees of what final answers are written in: numbers, expressions,
points, intervals, sets, lists, unions, matrices, equations and inequalities,
words and numbers of another base. Its grammar is small on purpose: of a text
that it does not cover in whole, and so of any sentence, nothing is read.

`equal` compares trees of one kind part by part, and expressions by their
values: exactly, where they are rational, and else to `DIGITS` digits; those
with variables at points that are drawn from the variables' names. Expressions
that differ agree at all of them with a probability that is nil for any text
that was not made to.

mpmath is all this needs beside the standard library.
"""

import functools
import math
import re
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath

DIGITS = 400
_TOLERANCE = mpmath.mpf(10) ** -350
_POINTS = 3
_MAX_DEPTH = 40
_MAX_ITEMS = 60
_MAX_BITS = 1 << 17  # of exact numbers
_MAX_EXPONENT = 10**6
_MAX_FACTORIAL = 5000
# A decimal with so many digits, all and behind the point, may be rounded.
_ROUNDED_DIGITS = 6

Tree = tuple  # the kind, then parts


class Unreadable(ValueError):
  """A text that is not read, or an expression that has no value."""


_TOKEN = re.compile(
  r"(?P<repeating>[0-9]*\.[0-9]*\\overline\{[0-9]+\})"
  r"|(?P<number>[0-9]+(?:\.[0-9]+)?)"
  r"|(?P<text>\\(?:text|textbf|textrm|mathrm|mbox|operatorname)\{[^{}]*\})"
  r"|(?P<command>\\[a-zA-Z]+|\\\\|\\[{}|%])"
  r"|(?P<name>sqrt|sin|cos|tan|log|ln|exp|pi|infinity|inf"
  r"|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])|[A-Z]{2,}|[a-zA-Z])"
  r"|(?P<space>\s+)|(?P<symbol>[-+*/^_()\[\]{}|!,;:=<>&])"
)
_WORD = re.compile(r"[a-zA-Z]{2,}(?:[ '-][a-zA-Z]+)*")
_NAMES = {
  "sqrt": r"\sqrt",
  "sin": r"\sin",
  "cos": r"\cos",
  "tan": r"\tan",
  "log": r"\log",
  "ln": r"\ln",
  "exp": r"\exp",
  "pi": r"\pi",
  "infinity": r"\infty",
  "inf": r"\infty",
}
_RELATIONS = {
  "=": "=",
  "<": "<",
  ">": ">",
  r"\lt": "<",
  r"\gt": ">",
  r"\le": "<=",
  r"\ge": ">=",
  r"\ne": "!=",
}
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_GREEK = re.compile(
  r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota"
  r"|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|(?:var)?phi|chi|psi|omega|ell"
  r"|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega)"
)
_FUNCTIONS = {
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
_INVERSE = {r"\sin": r"\arcsin", r"\cos": r"\arccos", r"\tan": r"\arctan"}
_CLOSING = {"(": ")]", "[": ")]", r"\{": (r"\}",), "{": "}"}


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Tree:
  """The tree of an answer's value.

  Raises:
    Unreadable: if any part of the text is not in the grammar.
  """
  if _WORD.fullmatch(text):
    return ("word", text)
  if match := re.fullmatch(r"\(([A-Z])\)", text):  # of a multiple choice
    return ("variable", match[1])
  return _Reader(text).answer()


class _Reader:
  """Descends from lists to factors; `at` is the next token's number."""

  def __init__(self, text: str):
    self.tokens: list[tuple[str, str]] = []
    end = 0
    for token in _TOKEN.finditer(text):
      if token.start() != end:
        break
      end = token.end()
      word = token[0]
      if token.lastgroup == "space":
        continue
      if token.lastgroup == "text":
        word = word[word.index("{") + 1 : -1].strip()
        if word.rstrip(",") in ("and", "or"):
          self.tokens.append(("symbol", "and"))
          continue
      if word in ("and", "or"):
        self.tokens.append(("symbol", "and"))
      elif token.lastgroup == "name" and word in _NAMES:
        self.tokens.append(("command", _NAMES[word]))
      else:
        self.tokens.append((token.lastgroup, word))
    if end != len(text) or not self.tokens:
      raise Unreadable(text)
    self.at = self.depth = self.bars = 0

  # Tokens.

  def peek(self) -> str:
    """The next token if it is a symbol or command, and else its kind."""
    if self.at == len(self.tokens):
      return ""
    kind, word = self.tokens[self.at]
    return word if kind in ("symbol", "command") else f"a {kind}"

  def take(self, *words: str) -> str | None:
    """The next token, if it is one of these."""
    if self.peek() in words and self.peek():
      self.at += 1
      return self.tokens[self.at - 1][1]
    return None

  def expect(self, *words: str) -> str:
    """The next token, which has to be one of these."""
    if (word := self.take(*words)) is None:
      raise Unreadable(f"{self.peek()} instead of {words}")
    return word

  # Kinds, from the outermost.

  def answer(self) -> Tree:
    items = self.items(())
    if self.at != len(self.tokens):
      raise Unreadable(f"{self.peek()} is left over")
    return items[0] if len(items) == 1 else ("list", *items)

  def items(self, ends: Sequence[str]) -> list[Tree]:
    """What commas and the words `and`, `or` separate, up to a bracket."""
    items = []
    while True:
      items += self.item()
      if self.take(",", ";"):
        self.take("and")  # "1, 2, and 3"
      elif not self.take("and"):
        break
    if ends and self.peek() not in ends:
      raise Unreadable(f"{self.peek()} instead of {ends}")
    if len(items) > _MAX_ITEMS:
      raise Unreadable("too many items")
    return items

  def item(self) -> list[Tree]:
    """One item, or two for one with a sign of both kinds."""
    start, stop = self.at, len(self.tokens)
    tree = self.relation()
    end = self.at
    both = [
      i for i in range(start, min(end, stop)) if self.tokens[i][1] in _BOTH
    ]
    if not both:
      return [tree]
    trees, tokens = [], self.tokens
    for sign in range(2):
      self.tokens = list(tokens)
      for i in both:
        self.tokens[i] = ("symbol", _BOTH[tokens[i][1]][sign])
      self.at = start
      trees.append(self.relation())
    self.tokens = tokens
    return trees

  def relation(self) -> Tree:
    parts: list[Any] = [self.union()]
    while relation := self.take(*_RELATIONS):
      parts += [_RELATIONS[relation], self.union()]
    if len(parts) == 1:
      return parts[0]
    return _interval(parts) or ("relation", *parts)

  def union(self) -> Tree:
    parts = [self.sum()]
    while self.take(r"\cup"):
      parts.append(self.sum())
    if len(parts) == 1:
      return parts[0]
    if any(part[0] not in ("tuple", "set") for part in parts):
      raise Unreadable("a union of what is no set")
    return ("union", *parts)

  def sum(self) -> Tree:
    self.depth += 1
    if self.depth > _MAX_DEPTH:
      raise Unreadable("nested too deeply")
    tree = self.signed()
    while sign := self.take("+", "-", *_BOTH):
      right = self.product()
      tree = ("+", tree, ("negative", right) if sign == "-" else right)
    self.depth -= 1
    return tree

  def signed(self) -> Tree:
    sign = self.take("+", "-", *_BOTH)
    tree = self.product()
    return ("negative", tree) if sign == "-" else tree

  def product(self) -> Tree:
    tree = self.power()
    divided = False
    while True:
      if self.take("*", r"\cdot", r"\times"):
        tree, divided = ("*", tree, self.factor()), False
      elif self.take("/", r"\div"):
        tree, divided = ("/", tree, self.factor()), True
      elif self.peek() == ":" and tree[0] != "ratio":
        return self.ratio(tree)
      elif self.begins_factor():
        # `1/2x` is read in two ways, and `3 4` and `x2` in none.
        if divided or self.peek() in ("a number", "a repeating"):
          raise Unreadable("an ambiguous product")
        tree = ("*", tree, self.power())
      else:
        return tree

  def ratio(self, first: Tree) -> Tree:
    parts = [first]
    while self.take(":"):
      parts.append(self.power())
    return ("ratio", *parts)

  def factor(self) -> Tree:
    return ("negative", self.power()) if self.take("-") else self.power()

  def begins_factor(self) -> bool:
    word = self.peek()
    return (
      word in ("a number", "a repeating", "a name", "(", "[", "{")
      or (word == "|" and not self.bars)
      or _GREEK.fullmatch(word) is not None
      or word in _FUNCTIONS
      or word in (r"\pi", r"\frac", r"\sqrt", r"\binom", r"\lfloor", r"\lceil")
      or word == r"\infty"
    )

  def power(self) -> Tree:
    tree = self.atom()
    while True:
      if self.take("!"):
        tree = ("factorial", tree)
      elif self.take("^"):
        tree = self.raised(tree)
      else:
        return tree

  def raised(self, base: Tree) -> Tree:
    if self.take(r"\circ"):
      return ("*", base, ("/", ("pi",), _whole(180)))
    if self.peek() == "{" and self.tokens[self.at + 1 : self.at + 2] == [
      ("command", r"\circ")
    ]:
      self.at += 2
      self.expect("}")
      return ("*", base, ("/", ("pi",), _whole(180)))
    return ("^", base, self.exponent())

  def exponent(self) -> Tree:
    if self.take("-"):
      return ("negative", self.exponent())
    return self.atom()

  def group(self) -> Tree:
    r"""An argument in braces, or one token, as `\sqrt` and `\frac` take."""
    if self.take("{"):
      tree = self.sum()
      self.expect("}")
      return tree
    return self.atom()

  def atom(self) -> Tree:
    self.depth += 1
    if self.depth > _MAX_DEPTH:
      raise Unreadable("nested too deeply")
    tree = self._atom()
    self.depth -= 1
    return tree

  def _atom(self) -> Tree:
    if self.at == len(self.tokens):
      raise Unreadable("the end, instead of an expression")
    kind, word = self.tokens[self.at]
    self.at += 1
    match kind:
      case "number":
        return self.number(word)
      case "repeating":
        return _repeating(word)
      case "name":
        return self.name(word)
      case "text":
        if not _WORD.fullmatch(word) and not re.fullmatch("[a-zA-Z]", word):
          raise Unreadable(word)
        return ("word", word)
    if word in ("(", "[", r"\{", "{"):
      return self.bracketed(word)
    if word == "|":
      self.bars += 1
      tree = self.sum()
      self.bars -= 1
      self.expect("|")
      return ("abs", tree)
    if _GREEK.fullmatch(word):
      return self.subscripted(word)
    if word in _FUNCTIONS:
      return self.function(word)
    return self.command(word)

  def number(self, word: str) -> Tree:
    if self.take("_"):
      base = self.subscript()
      return ("base", word.lstrip("0"), base)
    return ("number", Fraction(word), word)

  def name(self, word: str) -> Tree:
    if word == "e":
      return ("e",)
    if word == "i":
      return ("i",)
    if word in "fgh" and self.peek() == "(":
      return ("unknown", word, self.atom())
    return self.subscripted(word)

  def subscripted(self, word: str) -> Tree:
    if self.take("_"):
      word += "_" + self.subscript()
    return ("variable", word)

  def subscript(self) -> str:
    if self.take("{"):
      words = []
      while not self.take("}"):
        if self.at == len(self.tokens) or self.peek() == "{":
          raise Unreadable("a subscript")
        words.append(self.tokens[self.at][1])
        self.at += 1
      return " ".join(words)
    kind, word = self.tokens[self.at] if self.peek() else ("", "")
    if kind not in ("number", "name", "text"):
      raise Unreadable("a subscript")
    self.at += 1
    return word

  def bracketed(self, opening: str) -> Tree:
    bars, self.bars = self.bars, 0
    closings = _CLOSING[opening]
    if opening == r"\{" and self.take(*closings):
      return ("set",)
    items = self.items(tuple(closings))
    closing = self.expect(*closings)
    self.bars = bars
    if opening == r"\{":
      return ("set", *items)
    if len(items) > 1 and opening != "{":
      return ("tuple", opening, closing, *items)
    if len(items) > 1 or (opening, closing) in (("(", "]"), ("[", ")")):
      raise Unreadable("an item of an interval")
    if items[0][0] not in _EXPRESSIONS and opening != "{":
      raise Unreadable("brackets around what is no expression")
    return items[0]

  def function(self, word: str) -> Tree:
    base, power = None, None
    if word == r"\log" and self.take("_"):
      base = self.group()
    if self.take("^"):
      power = self.exponent()
    if self.take("("):
      argument = self.sum()
      self.expect(")")
    else:
      # `\sin 2x` is of the product; `\sin x \cos y` is a product of two.
      argument = self.power()
      while self.begins_factor() and self.peek() not in (*_FUNCTIONS, "("):
        argument = ("*", argument, self.power())
    if power == ("negative", _whole(1)) and word in _INVERSE:
      word, power = _INVERSE[word], None
    tree = ("function", word, argument)
    if base is not None:
      tree = (
        "/",
        ("function", r"\ln", argument),
        ("function", r"\ln", base),
      )
    return tree if power is None else ("^", tree, power)

  def command(self, word: str) -> Tree:
    match word:
      case r"\pi":
        return ("pi",)
      case r"\infty":
        return ("infinity",)
      case r"\frac":
        return ("/", self.group(), self.group())
      case r"\binom":
        return ("binomial", self.group(), self.group())
      case r"\sqrt":
        degree = _whole(2)
        if self.take("["):
          degree = self.sum()
          self.expect("]")
        return ("root", self.group(), degree)
      case r"\lfloor":
        tree = self.sum()
        self.expect(r"\rfloor")
        return ("floor", tree)
      case r"\lceil":
        tree = self.sum()
        self.expect(r"\rceil")
        return ("negative", ("floor", ("negative", tree)))
      case r"\begin":
        return self.matrix()
    raise Unreadable(word)

  def matrix(self) -> Tree:
    name = self.environment()
    rows = [[self.sum()]]
    while True:
      if self.take("&"):
        rows[-1].append(self.sum())
      elif self.take("\\\\"):
        if self.peek() == r"\end":
          continue
        rows.append([self.sum()])
      else:
        self.expect(r"\end")
        break
    if self.environment() != name or len({len(row) for row in rows}) > 1:
      raise Unreadable("a matrix")
    return ("matrix", name == "vmatrix", *(("row", *row) for row in rows))

  def environment(self) -> str:
    self.expect("{")
    name = ""
    while self.peek() == "a name":
      name += self.tokens[self.at][1]
      self.at += 1
    self.expect("}")
    if name not in ("pmatrix", "bmatrix", "matrix", "vmatrix"):
      raise Unreadable(name)
    return name


_BOTH = {r"\pm": "+-", r"\mp": "-+"}
_EXPRESSIONS = frozenset(
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


def _whole(number: int) -> Tree:
  return ("number", Fraction(number), str(number))


def _repeating(word: str) -> Tree:
  whole, _, rest = word.partition(".")
  fixed, _, period = rest.partition(r"\overline{")
  period = period[:-1]
  scale = 10 ** len(fixed)
  value = Fraction(int(whole + fixed or "0"), scale)
  value += Fraction(int(period), scale * (10 ** len(period) - 1))
  return ("repeating", value)


def _interval(parts: list[Any]) -> Tree | None:
  """`1 < x <= 2` and `x >= 3` as intervals of x, if that is what they are."""
  relations, sides = parts[1::2], parts[0::2]
  if set(relations) <= {">", ">="}:
    relations, sides = [_TURNED[r] for r in relations[::-1]], sides[::-1]
  if not set(relations) <= {"<", "<="}:
    return None
  variables = [side[0] == "variable" for side in sides]
  if variables not in ([True, False], [False, True], [False, True, False]):
    return None
  low, high = ("negative", ("infinity",)), ("infinity",)
  opening, closing = "(", ")"
  variable = sides[variables.index(True)]
  if variables[1]:
    low, opening = sides[0], "(" if relations[0] == "<" else "["
  if not variables[-1]:
    high, closing = sides[-1], ")" if relations[-1] == "<" else "]"
  if _variables(low) | _variables(high):
    return None
  return ("range", variable, ("tuple", opening, closing, low, high))


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
  if set(kinds) <= _EXPRESSIONS:
    return _equal_values(left, right)
  if set(kinds) == {"set", "list"} or (
    "set" in kinds and set(kinds) & _EXPRESSIONS
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
    right = [_TURNED.get(x, x) if isinstance(x, str) else x for x in right][
      ::-1
    ]
    if left[1::2] != right[1::2]:
      return False
  if all(map(equal, left[0::2], right[0::2])):
    return True
  if len(left) != 3 or left[1] not in ("=", "!="):
    return False
  if any(side[0] not in _EXPRESSIONS for side in (*left[::2], *right[::2])):
    return False
  one, other = (("+", s[0], ("negative", s[2])) for s in (left, right))
  if _variables(one) != _variables(other) or not _variables(one):
    return False
  try:
    ratios = [
      mpmath.mpmathify(_value(one, point))
      / mpmath.mpmathify(_value(other, point))
      for point in range(_POINTS)
    ]
    return all(_close(ratio, ratios[0]) for ratio in ratios)
  except _NO_VALUE:
    return False


# What an expression without a value raises.
_NO_VALUE = (Unreadable, ArithmeticError, ValueError, TypeError, IndexError)


def _equal_values(left: Tree, right: Tree) -> bool:
  if _variables(left) != _variables(right) and not (
    _cancel(left) or _cancel(right)
  ):
    return False
  points = _POINTS if _variables(left) | _variables(right) else 1
  try:
    for point in range(points):
      values = _value(left, point), _value(right, point)
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
    left, right = map(_float, (left, right))
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
    difference = abs(_float(values[0]) - _float(values[1]))
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


def _variables(tree: Tree) -> frozenset[str]:
  if tree[0] == "variable":
    return frozenset(tree[1:])
  if tree[0] == "unknown":
    return _variables(tree[2]) | {tree[1] + "()"}
  parts = [x for x in tree[1:] if isinstance(x, tuple)]
  return frozenset().union(*map(_variables, parts))


def _float(value: Any) -> Any:
  if isinstance(value, Fraction):
    return mpmath.mpf(value.numerator) / value.denominator
  return value


def _drawn(name: str, point: int) -> Fraction:
  """A variable's value at a point: negative at one of three."""
  draw = zlib.crc32(f"{name} {point}".encode())
  value = Fraction(draw % 9973 + 1, 997)
  return -value if point == 1 else value


def _value(tree: Tree, point: int) -> Any:
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
  if kind not in _EXPRESSIONS:
    raise Unreadable(kind)
  values = [_evaluated(x, point) for x in tree[1:] if isinstance(x, tuple)]
  match kind:
    case "unknown":
      return mpmath.cos(_float(values[0]) + _float(_drawn(tree[1], point)))
    case "function":
      if abs(_float(values[0])) > 10**9:
        raise Unreadable("a large argument")
      return _FUNCTIONS[tree[1]](_float(values[0]))
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
      return Fraction(int(mpmath.floor(_float(values[0]).real)))
    case "factorial":
      return _factorial(values[0])
    case "binomial":
      if abs(values[0]) > _MAX_FACTORIAL or abs(values[1]) > _MAX_FACTORIAL:
        raise Unreadable("a large binomial")
      if all(isinstance(x, Fraction) and x.denominator == 1 for x in values):
        return Fraction(math.comb(*(x.numerator for x in values)))
      return mpmath.binomial(*map(_float, values))
  raise Unreadable(kind)


def _arithmetic(kind: str, left: Any, right: Any) -> Any:
  if not (isinstance(left, Fraction) and isinstance(right, Fraction)):
    left, right = _float(left), _float(right)
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
  if abs(_float(exponent)) > _MAX_EXPONENT:
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
  return mpmath.power(_float(base), _float(exponent))


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
  return mpmath.gamma(_float(value) + 1)


def _bits(value: Fraction) -> int:
  return value.numerator.bit_length() + value.denominator.bit_length()
