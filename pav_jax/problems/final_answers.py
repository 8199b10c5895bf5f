"""Final answers of mathematical texts, and which of them are the same string.

The standard library is all this needs: processes that grade load it by its
path. Time is linear in the text, as expressions see only `MAX_LENGTH`
characters of it.
"""

import collections
import re
from fractions import Fraction

MAX_LENGTH = 1000  # characters; what is longer is no final answer

_HEADING = re.compile(
  r"^[ \t]*#{1,6}[ \t]*(?:final[ \t]+)?answer\b[ \t]*:?|####",
  re.IGNORECASE | re.MULTILINE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.S)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\\frac\{[0-9]+\}\{[0-9]+\})")


def _without_commas(match: re.Match) -> str:
  return re.sub(r"[,{}\s]", "", match[0])


# In this order.
_RULES = tuple(
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r"(?<!\\)\\[!,; ]", ""),
    (r"\\\\", r"\\"),
    (r"\\[tdc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\n|\\(?:left|right)(?![a-zA-Z])", ""),
    (r"\^?\\circ(?![a-zA-Z])|\^\{\\circ\}|\\?[$%]", ""),
    # All of it is text, or a unit stands behind it.
    (r"^\s*\\(?:text|textbf|textrm|mathrm|mbox)\{([^{}]*)\}\s*$", r"\1"),
    (r"^((?:(?!\\(?:text|mbox)\{ ).)+)\\(?:text|mbox)\{ [^\\]*$", r"\1"),
    (r"^\s*(-?[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+)(?=\s*$|\.)", _without_commas),
    (r"(^|[ {(\[,-])\.(?=[0-9])", r"\g<1>0."),
    (r"^[^=]{1,2}=([^=]*)$", r"\1"),
    (r"\\sqrt ?([^{\[\\ ])", r"\\sqrt{\1}"),
    (r"\s+", ""),
    (r"\\frac([^{\\])([^{\\])", r"\\frac{\1}{\2}"),
    (r"\\frac([^{\\])(?=\{)", r"\\frac{\1}"),
    (r"\\frac(\{[^{}]*\})([^{\\])", r"\\frac\1{\2}"),
    (r"^(-?[0-9]+\.[0-9]*?)0+$", r"\1"),
    (r"^(-?[0-9]+)\.$", r"\1"),
    (r"^(-?)0\.5$", r"\1\\frac{1}{2}"),
    (r"^(-?)([0-9]+)/([0-9]+)$", r"\1\\frac{\2}{\3}"),
    (r"^\\frac\{-([0-9]+)\}", r"-\\frac{\1}"),
  )
)


def final_answer(text: str) -> str | None:
  r"""What a solution gives as its answer; None if there is none.

  That is what stands in the last `\boxed{…}` or `\fbox{…}`, braces balanced, or
  under the last heading `# Answer`, as solutions of PRM800K end, or behind the
  last `####`, as those of GSM8K; of these whichever comes last. A last box that
  is never closed is no answer, whatever came before.
  """
  box = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
  headings = collections.deque(_HEADING.finditer(text), maxlen=1)
  if headings and headings[0].start() > box:
    return _below(text, headings[0].end())
  return _boxed(text, box) if box >= 0 else None


def normalize(answer: str) -> str:
  r"""One way of writing for answers that differ in form.

  The rules are those of the scorer that was published with MATH (Hendrycks et
  al., arXiv 2103.03874): `\dfrac` and `\tfrac` are `\frac`; `\left`, `\right`,
  spaces, degrees, percent and dollar signs are dropped, and so are units, which
  are a `\text{ …}` behind something else; `.5` is `0.5`, `\frac12` is
  `\frac{1}{2}`, `\sqrt3` is `\sqrt{3}`, `a/b` is `\frac{a}{b}`, `0.5` a half,
  and what stands before a single `=` is dropped if it is one or two characters.

  Beyond it, `\text{…}` around all of an answer, separators of thousands and
  trailing zeros of decimals are dropped, and a fraction's minus sign stands in
  front.
  """
  for pattern, replacement in _RULES:
    answer = pattern.sub(replacement, answer)
  return answer


def same(answer: str, other: str) -> bool:
  """Whether two answers are one string when they are normalised."""
  return normalize(answer) == normalize(other)


def number(answer: str) -> Fraction | None:
  """The value of an answer that is an integer, decimal or simple fraction."""
  answer = normalize(answer)
  if len(answer) > 60 or not _NUMBER.fullmatch(answer):
    return None
  sign = -1 if answer.startswith("-") else 1
  parts = re.findall(r"[0-9.]+", answer)
  if len(parts) == 1:
    return sign * Fraction(parts[0])
  top, bottom = map(int, parts)
  return sign * Fraction(top, bottom) if bottom else None


def _boxed(text: str, box: int) -> str | None:
  begin = _BOX.match(text, box).end()
  content = text[begin : begin + MAX_LENGTH + 2]
  if not content.startswith("{"):
    return _clean(re.split(r"[$\n]", content, maxsplit=1)[0])
  depth = 0
  for brace in _BRACE.finditer(content):
    depth += {"{": 1, "}": -1}.get(brace[0], 0)
    if depth == 0 and brace[0] == "}":
      return _clean(content[1 : brace.start()])
  return None


def _below(text: str, begin: int) -> str | None:
  """The rest of a heading's line, or else the next line that is not empty."""
  lines = text[begin : begin + 2 * MAX_LENGTH].lstrip(" \t:*").lstrip()
  line = lines.split("\n", 1)[0].rstrip()
  return _clean(line.removesuffix("."))


def _clean(answer: str) -> str | None:
  answer = answer.strip()
  if match := _WRAPPED.fullmatch(answer):
    answer = next(part for part in match.groups() if part is not None).strip()
  return answer if 0 < len(answer) <= MAX_LENGTH else None
