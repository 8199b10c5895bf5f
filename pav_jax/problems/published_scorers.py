r"""The scorers that MATH and GSM8K were published with, for comparison.

They find and compare answers exactly as their authors' programs do, faults
included: MATH's takes `3 4` for `34`, and GSM8K's finds nothing in `#### $18`.

Sources: Hendrycks et al., arXiv 2103.03874 (`math_equivalence.py` and
`last_boxed_only_string`); Cobbe et al., arXiv 2110.14168 (`dataset.py`).
"""

import re

_GSM8K = re.compile(r"#### (-?[0-9.,]+)")
# What is replaced in answers of MATH, in this order, up to the units.
_DROPPED = (
  ("\n", ""),
  (r"\!", ""),
  (r"\\", "\\"),
  ("tfrac", "frac"),
  ("dfrac", "frac"),
  (r"\left", ""),
  (r"\right", ""),
  (r"^{\circ}", ""),
  (r"^\circ", ""),
  (r"\$", ""),
)
_UNIT = r"\text{ "
_FRACTION_OF_INTEGERS = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")


def math_answer(text: str) -> str | None:
  r"""What the last `\boxed`, or else `\fbox`, has in balanced braces.

  Escaped braces count, as in the published program.
  """
  begin = text.rfind(r"\boxed")
  if begin < 0:
    begin = text.rfind(r"\fbox")
  if begin < 0:
    return None
  depth, first = 0, -1
  for brace in re.finditer("[{}]", text[begin:]):
    depth += 1 if brace[0] == "{" else -1
    if first < 0:
      first = brace.end()
    if brace[0] == "}" and depth == 0:
      return text[begin + first : begin + brace.start()]
  return None


def math_equal(answer: str, other: str) -> bool:
  """Whether two answers are one string by the rules published with MATH."""
  try:
    return _stripped(answer) == _stripped(other)
  except ValueError:  # what the rules cannot be applied to
    return answer == other


def gsm8k_answer(text: str) -> str | None:
  """The number behind the first `#### `, without commas."""
  match = _GSM8K.search(text)
  return match and match[1].replace(",", "")


def gsm8k_equal(answer: str, other: str) -> bool:
  """Whether two numbers are one string, commas aside."""
  return answer.replace(",", "") == other.replace(",", "")


def _stripped(answer: str) -> str:
  for old, new in _DROPPED:
    answer = answer.replace(old, new)
  parts = answer.split(_UNIT)
  if len(parts) > 2:
    raise ValueError("two units")
  answer = parts[0].replace(r"\%", "").replace("%", "")
  answer = answer.replace(" .", " 0.").replace("{.", "{0.")
  if answer.startswith("."):
    answer = "0" + answer
  sides = answer.split("=")
  if len(sides) == 2 and len(sides[0]) <= 2:
    answer = sides[1]
  answer = _with_braces(answer, r"\sqrt", 1).replace(" ", "")
  answer = _with_braces(answer, r"\frac", 2)
  if answer == "0.5":
    return r"\frac{1}{2}"
  if match := _FRACTION_OF_INTEGERS.fullmatch(answer):
    return rf"\frac{{{match[1]}}}{{{match[2]}}}"
  return answer


def _with_braces(answer: str, command: str, arguments: int) -> str:
  """Puts braces around arguments of one character.

  A fraction with a braced numerator stays as it is; one that ends the answer
  before its second argument stops the rule for all of it.
  """
  first, *parts = answer.split(command)
  out = first
  for part in parts:
    if not part:
      raise ValueError(f"nothing behind {command}")
    if part[0] == "{":
      out += command + part
    elif len(part) < arguments:
      return answer
    elif arguments == 1 or part[1] == "{":
      out += f"{command}{{{part[0]}}}{part[1:]}"
    else:
      out += f"{command}{{{part[0]}}}{{{part[1]}}}{part[2:]}"
  return out
