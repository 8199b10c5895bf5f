"""Math-Shepherd: steps labelled by completions (arXiv 2312.08935)."""

import os
from typing import Any

from pav_jax.data import step_labels

STEP_TAG = "ки"
_FIRST_STEP = "Step 1:"


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

  Args:
    path: of the file.
    max_bad_lines: see `step_labels.read_jsonl`; a few published lines have a
      tag within the problem.

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
  labels, at = [], 0
  for number, step in enumerate(steps, 1):
    at += len(step)
    sign = label[at : at + 1]
    if label[at - len(step) : at] != step or sign not in ("+", "-"):
      found = label[max(at - 20, 0) : at + 1]
      raise ValueError(
        f"label has {found!r} at the end of step {number}, expected the text "
        "of the input and then + or -"
      )
    labels.append(sign == "+")
    at += 1
  if label[at:].strip():
    raise ValueError(f"label goes on with {label[at:][:30]!r} after the input")
  start = steps[0].rfind(_FIRST_STEP)
  if start < 0:
    raise ValueError(
      f"there is no {_FIRST_STEP!r} before the first {STEP_TAG}, so problem "
      "and steps cannot be told apart"
    )
  steps = [steps[0][start:], *steps[1:]]
  return [
    step_labels.Trace(
      prompt=text[:start].strip(),
      steps=tuple(step.strip() for step in steps),
      labels=tuple(labels),
      outcome=float(labels[-1]),
      is_whole=True,
    )
  ]
