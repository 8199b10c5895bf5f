"""Math-Shepherd: steps labelled by completions (arXiv 2312.08935)."""

import os
import re
from collections.abc import Sequence
from typing import Any

from pav_jax.data import step_labels

STEP_TAG = "ки"
_TAG = re.compile(rf"[ \t]*{STEP_TAG}")
_FIRST_STEP = re.compile(r"step[ \t]*1[ \t]*:", re.IGNORECASE)
_STEP = re.compile(r"step[ \t]*[0-9]+[ \t]*:", re.IGNORECASE)
_QUESTION = re.compile(r".*\?(?=\s*\S)", re.DOTALL)


def read(
  path: str | os.PathLike, *, max_bad_lines: int = 0
) -> list[step_labels.Trace]:
  r"""Reads a file of the published schema, JSON lines of

      {"input": "PROBLEM Step 1: TEXT ки\nStep 2: TEXT ки",
       "label": "PROBLEM Step 1: TEXT +\nStep 2: TEXT -",
       "task": "GSM8K"}

  In `input` the tag ки follows each step; `label` is the same text with + in
  the tag's place where a completion of the step could reach the answer, and -
  where none did. Steps keep their numbers and lose the white space around them.

  The first step begins with `Step 1:`, in capitals or not; where no step has a
  number, behind the last question mark that has text behind it before the first
  tag. Tags before it are in the problem by mistake, and are taken out.

  Args:
    path: of the file.
    max_bad_lines: see `step_labels.read_jsonl`.

  Returns:
    A `Trace` for each line, with labels of type bool. The last label judges
    the whole response, so that it is the outcome as well.

  Raises:
    ValueError: naming file and line, if one is not of this schema.
  """
  return step_labels.read_jsonl(path, _parse, max_bad_lines=max_bad_lines)


def _parse(row: dict[str, Any]) -> list[step_labels.Trace]:
  text = step_labels.field(row, "input", str)
  label = step_labels.field(row, "label", str)
  step_labels.field(row, "task", str)
  *steps, rest = text.split(STEP_TAG)
  if not steps or rest.strip():
    raise ValueError(
      f"input ends with {text[-30:]!r}, expected the step tag {STEP_TAG}"
    )
  first, start = _first_step(steps)
  labels, at = [], 0
  for number, step in enumerate(steps):
    at += len(step)
    sign = label[at : at + 1]
    if number < first and label.startswith(STEP_TAG, at):  # not replaced
      sign = STEP_TAG
    if label[at - len(step) : at] != step or sign not in ("+", "-", STEP_TAG):
      raise ValueError(
        f"label has {label[max(at - 20, 0) : at + 1]!r} at the end of step "
        f"{number + 1 - first}, expected the text of the input and then + or -"
      )
    labels.append(sign == "+")
    at += len(sign)
  if label[at:].strip():
    raise ValueError(f"label goes on with {label[at:][:30]!r} after the input")
  problem = STEP_TAG.join([*steps[:first], steps[first][:start]])
  steps = [steps[first][start:], *steps[first + 1 :]]
  return [
    step_labels.Trace(
      prompt=_TAG.sub("", problem).strip(),
      steps=tuple(step.strip() for step in steps),
      labels=tuple(labels[first:]),
      outcome=float(labels[-1]),
      is_whole=True,
    )
  ]


def _first_step(parts: Sequence[str]) -> tuple[int, int]:
  """Which part the first step is in, and where it begins there."""
  for number, part in enumerate(parts):
    if beginnings := list(_FIRST_STEP.finditer(part)):
      return number, beginnings[-1].start()
  if any(_STEP.search(part) for part in parts):
    raise ValueError("there is no 'Step 1:' before the other steps")
  question = _QUESTION.match(parts[0])
  if question is None:
    raise ValueError(
      f"there is no 'Step 1:' and no question before the first {STEP_TAG}, so "
      "problem and steps cannot be told apart"
    )
  return 0, question.end()
