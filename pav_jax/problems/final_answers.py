r"""Which part of a solution is its final answer.

Solutions show their answer by a mark. Of the first kind of mark that a text
has, the last one counts:

1. `\boxed{…}` and `\fbox{…}`, the heading `# Answer` of PRM800K's solutions and
   the `#### 72` of GSM8K's;
2. a phrase, as `The answer is: 72` or `**Final Answer:** 72`;
3. a last line that is set off as a whole, as `**72**`.

A text without any of them has no final answer. The standard library is all this
needs, and time is linear in the text: expressions see only `MAX_LENGTH`
characters behind a mark.
"""

import collections
import re
from collections.abc import Callable, Iterator

MAX_LENGTH = 1000  # characters; what is longer is no final answer
_MAX_MARKS = 100  # of a kind; those before are not looked at

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_PLACEHOLDER = re.compile(r"(?:[\s.…?~_]|\\[,;:! ]|\\(?:[lc]?dots|quad)\b)*")
_ANSWER_HEADING = re.compile(
  r"^[ \t]*#{1,6}[ \t]*\**(?:final[ \t]+)?answer\b[ \t]*:?",
  re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]{0,1001})")
_PHRASE = re.compile(
  r"\b(?P<the>the[ \t]+)?(?P<final>final[ \t]+)?answer(?P<verb>[ \t]+is)?\b",
  re.IGNORECASE,
)
_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.S)
_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3}|`{1,3})(?=\S)(.*\S)\1", re.S)
_DIGITS = r"(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
# A number and the words behind it, as `$1,250 dollars.` or `40% of them`.
_NUMBER = re.compile(
  r"(?P<emphasis>[*_`]*)(?P<sign>[-+−]?\s*(?:\\?[$€£])?\s*[-+−]?)"
  rf"(?P<digits>{_DIGITS})(?:\\?%)?(?P=emphasis)"
  r"(?P<rest>[.,;:!)]*(?:\s.*)?|(?:[ckm]?m|[mk]?g|ft|lbs?|oz|[a-z]{4,}).*)",
  re.DOTALL,
)
# What makes it another number, or one of several.
_ALTERNATIVE = re.compile(
  r"\b(?:or|and|not|nor|either|maybe|versus|vs|else|wrong|instead)\b"
  r"|^\s*[0-9]|[-+*^×]\s*[0-9(\\]|[=?<>≈≠]|(?<![a-z])/|/(?![a-z])"
  r"|\\(?!text|mbox|mathrm)|^\s*[a-z]\W*$",
  re.IGNORECASE,
)
_ENUMERATED = re.compile(r"[0-9]+[.)]\s+\S")
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm|textrm)\{[^{}]*\}")


def final_answer(text: str) -> str | None:
  r"""What a solution gives as its answer; None if there is none.

  The content of a box, braces balanced; of `\boxed` without braces, as a mere
  mention of it has none, a number or what ends with a dollar sign. Empty boxes
  and mentions do not count, and a last box that is never closed is no answer,
  whatever came before. Of boxes within a box the outermost counts.

  Behind `####` and phrases it is the number, where words follow: `72` of
  `#### 72 clips` or `#### $72, in total`. Where they name an alternative, as in
  `#### 72 or 73`, it is all of the line. Lines of words behind `####` are other
  headings and no answers.

  Emphasis, dollar signs around an answer and a full stop behind it are dropped.
  """
  if marked := [mark for mark in map(_last, _MARKS, [text] * 3) if mark]:
    return max(marked)[1]
  last = _last(_phrases, text) or _last(_set_off, text)
  return last and last[1]


_Mark = tuple[int, str | None]  # where it stands, and its content


def _last(marks: Callable[[str], Iterator[_Mark]], text: str) -> _Mark | None:
  return next(marks(text), None)


def _from_last(mark: re.Pattern, text: str) -> Iterator[re.Match]:
  """The last marks of a text, the last one first."""
  return reversed(collections.deque(mark.finditer(text), maxlen=_MAX_MARKS))


def _boxes(text: str) -> Iterator[_Mark]:
  """Boxes that have a content, from the last one on."""
  boxes = list(_from_last(_BOX, text))
  for number, box in enumerate(boxes):
    content = _content(text, box)
    if not content.startswith("{"):
      if (answer := _without_braces(content)) is not None:
        yield box.start(), answer
      continue
    inner = _braced(content)
    if inner is None:
      yield box.start(), None
    elif not _PLACEHOLDER.fullmatch(inner):
      yield box.start(), _clean(_outermost(text, boxes[:number:-1], box, inner))


def _content(text: str, box: re.Match) -> str:
  return text[box.end() : box.end() + MAX_LENGTH + 3].lstrip(" \t\n")


def _braced(content: str) -> str | None:
  """What stands between a brace, with which the text begins, and its other."""
  depth = 0
  for brace in _BRACE.finditer(content):
    depth += {"{": 1, "}": -1}.get(brace[0], 0)
    if depth == 0 and brace[0] == "}":
      return content[1 : brace.start()]
  return None


def _outermost(
  text: str, before: list[re.Match], box: re.Match, inner: str
) -> str:
  """The content of the outermost box around a box, if it has more to say."""
  for outer in before:
    content = _content(text, outer)
    if outer.end() + MAX_LENGTH > box.start() and content.startswith("{"):
      around = _braced(content) or ""
      if outer.end() + len(around) > box.start():
        bare = re.sub(r"\\(?:boxed|fbox)\s*\{|\}", "", around).strip()
        return inner if bare == inner.replace("}", "").strip() else around
  return inner


def _without_braces(content: str) -> str | None:
  line = content.split("\n", 1)[0]
  formula, dollar, _ = line.partition("$")
  if dollar and formula.strip() and not _WORD.search(formula):
    return _clean(formula)
  number = re.match(rf"[-+−]?{_DIGITS}", line)
  return number and number[0].rstrip(",")


def _headings(text: str) -> Iterator[_Mark]:
  for heading in _from_last(_ANSWER_HEADING, text):
    rest = text[heading.end() : heading.end() + 2 * MAX_LENGTH]
    yield heading.start(), _line(_next_line(rest))


def _hashes(text: str) -> Iterator[_Mark]:
  box = _BOX.search(text)
  for hashes in _from_last(_HASHES, text):
    content = hashes[1].strip()
    after_box = box is not None and box.start() < hashes.start()
    # As "#### 2. Verification".
    heading = after_box and _ENUMERATED.match(content.lstrip("*_`"))
    if _is_answer(content) and not heading:
      yield hashes.start(), _line(content)


_MARKS = (_boxes, _headings, _hashes)


def _phrases(text: str) -> Iterator[_Mark]:
  """`… answer is 72` and `… answer: 72`, from the last one on.

  "the answer is" needs a colon where no sentence begins: it may go on as it
  does here.
  """
  for phrase in _from_last(_PHRASE, text):
    rest = text[phrase.end() : phrase.end() + 2 * MAX_LENGTH]
    colon = rest.lstrip(" \t*_").startswith((":", "\n"))
    begins = phrase["final"] or (phrase["the"] and phrase[0][0] == "T")
    if not (colon or (phrase["verb"] and begins)):
      continue
    line = re.split(r"\.\s+(?=[A-Z])", _next_line(rest), maxsplit=1)[0]
    if _is_answer(line) or (colon and 0 < len(line.split()) <= 4):
      yield phrase.start(), _line(line)


def _set_off(text: str) -> Iterator[_Mark]:
  """A last line that is a number with emphasis."""
  line = text[-MAX_LENGTH:].rstrip().rpartition("\n")[2].strip()
  if _EMPHASIS.fullmatch(line) and _NUMBER.fullmatch(_stripped(line)):
    yield 0, _line(line)


def _next_line(rest: str) -> str:
  """What is left of a line, or else the next line that is not empty."""
  begin = re.match(r"[*_]*[ \t]*:?[*_]*\s*", rest).end()
  return rest[begin:].split("\n", 1)[0].rstrip()


def _is_answer(line: str) -> bool:
  """Whether a line is a number with words, or a formula without any."""
  bare = line.strip(" \t*_`$.")
  return bool(
    _NUMBER.fullmatch(_stripped(line))
    or re.fullmatch(r"\(?[a-zA-Z]\)?", bare)
    or (
      re.search(r"[0-9]|\\[a-zA-Z({\[]", bare)
      and not _WORD.search(_TEXT.sub("", bare))
    )
  )


def _line(line: str) -> str | None:
  """A line's number, if words that name no alternative follow it, or all."""
  line = _stripped(line)
  number = _NUMBER.fullmatch(line)
  if (
    len(line) > MAX_LENGTH or not number or _ALTERNATIVE.search(number["rest"])
  ):
    return _clean(line)
  sign = "-" if re.search("[-−]", number["sign"]) else ""
  return sign + number["digits"].rstrip(",")


def _clean(answer: str) -> str | None:
  answer = _stripped(answer)
  return answer if 0 < len(answer) <= MAX_LENGTH else None


def _stripped(answer: str) -> str:
  """Without dollar signs or emphasis around it, and a full stop behind it."""
  before = None
  while before != answer and len(answer) <= 2 * MAX_LENGTH:
    before = answer
    answer = answer.strip()
    if not answer.endswith(r"\right."):
      answer = answer.removesuffix(".").rstrip()
    if answer.count("$") == 1 and not answer.endswith("\\$"):
      answer = answer.removesuffix("$")
    if match := _WRAPPED.fullmatch(answer) or _EMPHASIS.fullmatch(answer):
      answer = next(x for x in match.groups()[::-1] if x is not None).strip()
  return answer
