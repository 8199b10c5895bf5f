r"""One way of writing for final answers that differ in form.

What is left of `x = 1\tfrac12\text{ cm}` is `Form("x", r"\frac{3}{2}", "cm")`.
The rules are careful: what they take away never makes another answer of one.
Of the rules published with MATH (`published_scorers`) that is not true: they
drop all spaces, so that `3 4` is `34`, and all that follows a number in words.

The standard library is all this needs. Answers are at most
`final_answers.MAX_LENGTH` long, and expressions see no more.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

HUNDREDTH = Fraction(1, 100)


class Form(NamedTuple):
  """An answer without what does not matter.

  Attributes:
    variable: that an answer such as `x = 5` is of; empty if there is none.
    value: what it is, or is equal to.
    unit: `cm`, `$`, `%` or another word; empty if there is none.
  """

  variable: str
  value: str
  unit: str


_CHARACTERS = str.maketrans(
  {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "°": r"^\circ ",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "²": "^2",
    "³": "^3",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "’": "'",
  }
)
_BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
_THOUSANDS = r"(?:,\\!|\{,\}|\\,|\\!,)"
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TEXT = r"\\(?:text|textbf|textrm|textit|mathrm|mbox|operatorname)\s*"


def _joined(match: re.Match) -> str:
  return re.sub(r"[^0-9.-]", "", match[0])


def _mixed(match: re.Match) -> str:
  r"""`1\frac{1}{2}` as one fraction; one that is not proper stays."""
  sign, whole, top, bottom = match.groups()
  if int(top) >= int(bottom):
    return match[0]
  return rf"{sign}\frac{{{int(whole) * int(bottom) + int(top)}}}{{{bottom}}}"


def _scientific(match: re.Match) -> str:
  r"""`3e2` and `3 \times 10^2` as decimals."""
  sign, digits, exponent = match.groups()
  exponent = int(exponent)
  if abs(exponent) > 30:
    return match[0]
  whole, _, part = digits.partition(".")
  point = len(whole) + exponent
  digits = whole + part
  digits = "0" * -min(point - 1, 0) + digits.ljust(point, "0")
  point = max(point, 1)
  out = f"{digits[:point].lstrip('0') or '0'}.{digits[point:]}"
  return sign + out.rstrip("0").rstrip(".")


# In this order.
_RULES: tuple[tuple[re.Pattern, str | Callable[[re.Match], str]], ...] = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    # Looks: colours, weights, sizes of brackets, spaces.
    (r"\\(?:text)?color\s*\{[^{}]*\}", ""),
    (
      rf"\\(?:boldsymbol|mathbf|bm|mathit|mathsf|textcolor|ensuremath)\s*{_BRACED}",
      r"\1",
    ),
    (r"\\(?:displaystyle|textstyle|limits|boldmath)(?![a-zA-Z])", " "),
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", ""),
    (r"\\[lr]vert(?![a-zA-Z])", "|"),
    (rf"(?<![0-9])[0-9]{{1,3}}(?:{_THOUSANDS}[0-9]{{3}})+(?![0-9])", _joined),
    (r"\\!", ""),
    (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])", " "),
    (r"\s+", " "),  # from here on there is one at a time
    (r"\\[tdc]frac(?![a-zA-Z])", r"\\frac"),
    # Names of one thing.
    (r"\*\*", "^"),
    (r"(?<=[0-9])(?:\^\{?\\text\{(?:st|nd|rd|th)\}\}?|th)(?![a-zA-Z])", ""),
    (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
    (r"\\neq(?![a-zA-Z])", r"\\ne"),
    (r"\\(?:\{|lbrace(?![a-zA-Z]))", r"\\{"),
    (r"\\(?:\}|rbrace(?![a-zA-Z]))", r"\\}"),
    (r"\\(?:emptyset|varnothing)(?![a-zA-Z])", r"\\{\\}"),
    (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^?\s*\\degree", r"^\\circ "),
    # Whole numbers and decimals.
    (r"(^|[ {(\[,-])\.(?=[0-9])", r"\g<1>0."),
    (r"^\s*\+\s*(?=[0-9.\\])", ""),
    (rf"^\s*(-?)({_NUMBER})[eE]([+-]?[0-9]{{1,3}})\s*$", _scientific),
    (
      rf"^\s*(-?)({_NUMBER})\s*\\(?:times|cdot)\s*10\^\{{?([+-]?[0-9]{{1,3}})"
      r"\}?\s*$",
      _scientific,
    ),
    # `1,234` is a number, and `1, 234` a list.
    (
      r"^\s*(?:[a-zA-Z]\s*=\s*)?-?\s*(?:\\?\$)?\s*"
      r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])",
      lambda match: match[0].replace(",", ""),
    ),
    (
      r"^\s*-?[0-9]{1,3}(?:,\s+[0-9]{3})+\s*$",
      lambda match: match[0].replace(",", ";"),
    ),
    # Spaces that do not keep numbers, words or a command's letters apart.
    (
      r"(?<![0-9a-zA-Z])\s|\s(?![0-9a-zA-Z])|(?<=[0-9])\s(?![0-9])"
      r"|(?<=[a-zA-Z])\s(?![a-zA-Z])",
      "",
    ),
    # Fractions and roots.
    (r"\\sqrt ?([^{\[\\ ])", r"\\sqrt{\1}"),
    (r"\\frac ?([^{\\ ]) ?([^{\\ ])", r"\\frac{\1}{\2}"),
    (r"\\frac ?([^{\\ ])(?=\{)", r"\\frac{\1}"),
    (r"\\frac(\{[^{}]*\}) ?([^{\\ ])", r"\\frac\1{\2}"),
  )
)
# Of a value without its unit.
_VALUE_RULES = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r"^(-?[0-9]+\.[0-9]*?)0+$", r"\1"),
    (r"^(-?[0-9]+)\.$", r"\1"),
    (r"^(-?)0\.5$", r"\1\\frac{1}{2}"),
    (r"^(-?)([0-9]+)/([0-9]+)$", r"\1\\frac{\2}{\3}"),
    (r"^(-?)([0-9]+) ([0-9]+)/([0-9]+)$", _mixed),
    (r"^(-?)([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}$", _mixed),
    (r"^\\frac\{-([0-9]+)\}", r"-\\frac{\1}"),
    (r"^-0+$", "0"),
  )
)
_WRAPPED = re.compile(rf"(?:{_TEXT})?{_BRACED}|\\\((.*)\\\)|\\\[(.*)\\\]", re.S)
_VARIABLE = re.compile(
  r"([a-zA-Z](?:\([a-zA-Z]\)|_\{?[a-zA-Z0-9]\}?)?|\\[a-z]+)"
  r"(?:=|\\in ?(?=[\[(\\]))([^=<>]*)"
)
_UNIT_IN_TEXT = re.compile(
  rf"(.*?[^\s({{\[,;=+*/^_-])\s*{_TEXT}\{{([^{{}}]*)\}}"
  r"((?:\^\{?[0-9]\}?)?(?:/?[a-z]{1,3})?)",
  re.S,
)
_SYMBOL_UNIT = re.compile(
  r"((?:(?!\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)).)*[^\s({\[,;=+*/^_\\-])"
  r"(?:\^?\\circ ?|\\?([$%]))"
)
_PLAIN_UNIT = re.compile(
  r"(.*?[0-9})])\s*((?:square |cubic |sq\.? ?)?"
  r"(?:[ckm]m|[km]g|lbs?|ft|in|mph|inch(?:es)?|feet|foot|oz"
  r"|(?:yard|mile|(?:centi|kilo)?met(?:er|re)|lit(?:er|re)|(?:kilo)?gram|pound"
  r"|ounce|hour|hr|minute|min|second|sec|day|week|month|year|dollar|cent"
  r"|degree|unit|way|student)s?|percent|people))((?:\^\{?[0-9]\}?)?)",
  re.S,
)
# Words that make another number of it, or leave open what it is.
_NO_UNIT = re.compile(
  r"\b(?:or|and|not|nor|is|are|was|if|but|maybe|either|else|except|than|about|"
  r"wrong|no|false|approximately|least|most|more|less|over|under|plus|minus|"
  r"times|by|to|half|third|quarter|dozen|hundred|thousand|million|billion|"
  r"trillion|base|mod|zero|one|two|three|four|five|six|seven|eight|nine|ten|"
  r"eleven|twelve|[ivx]+|pi|e|double|triple)s?\b",
  re.IGNORECASE,
)
_UNIT_WORDS = re.compile(r"[a-zA-Z]+[.]?(?:[ /-]+[a-zA-Z]+[.]?){0,3}")
_SAME_UNIT = {
  "dollar": "$",
  "usd": "$",
  "percent": "%",
  "degree": "^\\circ",
  "inche": "in",
  "inch": "in",
  "feet": "ft",
  "foot": "ft",
  "centimeter": "cm",
  "meter": "m",
  "kilometer": "km",
  "millimeter": "mm",
  "hr": "hour",
  "min": "minute",
  "sec": "second",
  "lb": "pound",
  "kilogram": "kg",
  "gram": "g",
}


def form(answer: str) -> Form:
  r"""An answer's form.

  Units are words in `\text{…}` behind a value, or well-known ones in plain
  letters; degrees, dollars and percent. Words that negate, number or offer a
  choice are no units, and stay in the value.
  """
  value = re.sub(r"\s+", " ", answer.translate(_CHARACTERS))
  if r"\begin" not in value:
    value = value.replace(r"\\", "\\")
  else:
    value = re.sub(r"(?<!\\)\\(?=[0-9\s-])", r"\\\\", value)
  for pattern, replacement in _RULES:
    value = pattern.sub(replacement, value)
  value = _bare(value.strip())
  variable = ""
  if match := _VARIABLE.fullmatch(value):
    variable, value = match[1], _bare(match[2].strip())
  value, unit = _unit(value)
  value = _bare(value)
  for pattern, replacement in _VALUE_RULES:
    value = pattern.sub(replacement, value)
  return Form(variable, value, unit)


def value_of(number: str) -> Fraction | None:
  """What a value is that is an integer, a decimal or a simple fraction."""
  match = re.fullmatch(
    rf"(-?)(?:({_NUMBER})|\\frac\{{([0-9]+)\}}\{{([0-9]+)\}})", number
  )
  if match is None or len(number) > 60:
    return None
  sign, digits, top, bottom = match.groups()
  if digits is None and not int(bottom):
    return None
  value = Fraction(digits) if digits else Fraction(int(top), int(bottom))
  return -value if sign else value


def _bare(value: str) -> str:
  r"""Without dollar signs, braces or `\text{…}` around all of it."""
  before = None
  while before != value:
    before = value
    if match := _WRAPPED.fullmatch(value):
      value = match[match.lastindex].strip()
    if len(value) > 1 and value[0] == value[-1] == "$" != value[-2]:
      value = value[1:-1].strip()
    value = value.removesuffix(".") if not value.endswith("..") else value
  return value


def _unit(value: str) -> tuple[str, str]:
  unit = ""
  if match := re.fullmatch(r"(-?)\\?\$(.*)", value):
    value, unit = match[1] + match[2], "$"
  if match := _SYMBOL_UNIT.fullmatch(value):
    if unit and match[2] != unit:
      return value, unit
    return match[1], match[2] or "^\\circ"
  match = _UNIT_IN_TEXT.fullmatch(value) or _PLAIN_UNIT.fullmatch(value)
  if match is None:
    return value, unit
  value_of_it, words, power = match[1], match[2].strip(), match[3]
  # Text within the value: of several units, or a sentence.
  if _NO_UNIT.search(words) or "\\text" in value_of_it:
    return value, unit
  if not _UNIT_WORDS.fullmatch(words) or not re.search("[0-9a-z]", value_of_it):
    return value, unit
  words = words.lower().rstrip(".")
  words = words[:-1] if len(words) > 2 and words.endswith("s") else words
  words = _SAME_UNIT.get(words, words)
  return value_of_it, words + re.sub(r"[{}]", "", power)
