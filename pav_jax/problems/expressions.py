r"""Reads mathematical answers.

`read` makes trees of what final answers are written in: numbers, expressions,
points, intervals, sets, lists, unions, matrices, equations and inequalities,
words and numbers of another base. Its grammar is small on purpose: of a text
that it does not cover in whole, and so of any sentence, nothing is read.
"""

import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from pav_jax.problems.expression_values import (
  EXPRESSIONS,
  FUNCTIONS,
  Tree,
  Unreadable,
  variables_of,
)

_MAX_DEPTH = 40
_MAX_ITEMS = 60

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
TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_GREEK = re.compile(
  r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota"
  r"|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|(?:var)?phi|chi|psi|omega|ell"
  r"|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega)"
)
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
      or word in FUNCTIONS
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
    if word in FUNCTIONS:
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
    if items[0][0] not in EXPRESSIONS and opening != "{":
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
      while self.begins_factor() and self.peek() not in (*FUNCTIONS, "("):
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
    relations, sides = [TURNED[r] for r in relations[::-1]], sides[::-1]
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
  if variables_of(low) | variables_of(high):
    return None
  return ("range", variable, ("tuple", opening, closing, low, high))
