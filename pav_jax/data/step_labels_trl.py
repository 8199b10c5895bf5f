"""The stepwise-supervision schema of TRL, in and out.

JSON lines of

    {"prompt": TEXT, "completions": [TEXT, …], "labels": [true, false, …]}

with one label for each step of the response. Labels are of one type throughout
a file: true and false, 0 and 1, or floats in [0, 1]. Everything else is
refused; -100 above all, which elsewhere marks that there is no label, and which
a conversion to bool makes True.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from pav_jax import files
from pav_jax.data import step_labels
from pav_jax.rollout import StepTargets


def read(
  path: str | os.PathLike, *, is_whole: bool = False, max_bad_lines: int = 0
) -> list[step_labels.Trace]:
  """Reads a file of this schema.

  Args:
    path: of the file.
    is_whole: whether responses end with their last step, which the schema does
      not tell, so that the end token follows it in the delimiter's place.
    max_bad_lines: see `step_labels.read_jsonl`.

  Returns:
    A `Trace` for each line, with labels as the file has them; outcomes are
    unknown.

  Raises:
    ValueError: naming file and line, if one is not of this schema, or its
      labels are of another type than those before.
  """
  kinds: set[type] = set()

  def parse(row: dict[str, Any]) -> list[step_labels.Trace]:
    prompt = step_labels.field(row, "prompt", str)
    steps = step_labels.field(row, "completions", list)
    labels = step_labels.field(row, "labels", list)
    for step in steps:
      if not isinstance(step, str):
        raise ValueError(f"a completion is {step!r}, expected text")
    if None in labels:
      raise ValueError(f"labels are {labels}, expected one for each step")
    trace = step_labels.Trace(
      prompt=prompt, steps=tuple(steps), labels=tuple(labels), is_whole=is_whole
    )
    seen = kinds | {type(label) for label in labels}
    step_labels.check_one_kind(seen)
    kinds.update(seen)
    return [trace]

  return step_labels.read_jsonl(path, parse, max_bad_lines=max_bad_lines)


def rows(
  targets: StepTargets,
  problem: step_labels.EncodesText,
  *,
  label_type: type = float,
  threshold: float | None = None,
  merge_unlabelled: bool = False,
) -> Iterator[dict[str, Any]]:
  """Rows of this schema; the inverse of `read` and `to_targets`.

  A prompt is the problem's text, without its template. A step's text is that of
  its tokens less the delimiter or the end token, and its label the share of
  correct completions of the prefix that it ends. The bare problem's value has
  no place in the schema.

  Args:
    targets: B traces.
    problem: with which they were tokenised.
    label_type: bool, int or float.
    threshold: labels are 1 from here on, and else 0; None keeps them.
    merge_unlabelled: text of steps without a label goes to the next step with
      one, delimiters included; those after the last label are left out, and so
      are traces with no label at all. Else they are refused.

  Yields:
    B rows, with no key but the schema's.

  Raises:
    ValueError: at the row, if a step has no label and may not be merged, or a
      label is neither 0 nor 1, `label_type` not float and no threshold given.
  """
  if label_type not in (bool, int, float):
    raise ValueError(f"label_type is {label_type}, expected bool, int or float")
  arrays = (
    targets.tokens,
    targets.prefix_len,
    targets.num_completions,
    targets.num_correct,
  )
  for row, (tokens, prefix_len, n, c) in enumerate(
    zip(*map(np.asarray, arrays), strict=True)
  ):
    steps, labels, start = [], [], int(prefix_len[0])
    for h in range(1, len(prefix_len)):
      stop = int(prefix_len[h])
      if stop == prefix_len[h - 1]:
        break
      if not n[h]:
        if merge_unlabelled:
          continue
        raise ValueError(
          f"step {h} of row {row} has no label; merge_unlabelled=True joins it "
          "with the next"
        )
      steps.append(_text(tokens[start:stop], problem))
      label = float(c[h]) / int(n[h])
      if threshold is not None:
        label = float(label >= threshold)
      if label_type is not float and label not in (0, 1):
        raise ValueError(
          f"label {h} of row {row} is {label}, which is no "
          f"{label_type.__name__}; give a threshold, or label_type=float"
        )
      labels.append(label_type(label))
      start = stop
    if steps:
      prompt = problem.decode_problem(tokens[: prefix_len[0]])
      yield {"prompt": prompt, "completions": steps, "labels": labels}
    elif not merge_unlabelled:
      raise ValueError(f"row {row} has no steps")


def write(
  path: str | os.PathLike,
  targets: StepTargets,
  problem: step_labels.EncodesText,
  **options: Any,
) -> None:
  """Writes a file of this schema; the file appears whole or not at all.

  Args:
    path: of the file.
    targets: B traces.
    problem: with which they were tokenised.
    **options: of `rows`.

  Raises:
    ValueError: as of `rows`.
    OSError: if the file cannot be written.
  """
  with files.whole_file(path, "w") as file:
    for row in rows(targets, problem, **options):
      file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _text(ids: np.ndarray, problem: step_labels.EncodesText) -> str:
  vocabulary = problem.vocabulary
  if ids[-1] == vocabulary.eos_id:
    return vocabulary.decode(ids[:-1].tolist())
  return vocabulary.decode(ids.tolist()).removesuffix(problem.delimiter)
