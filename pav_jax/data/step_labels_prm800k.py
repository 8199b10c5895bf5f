"""PRM800K: steps rated by people (arXiv 2305.20050)."""

import functools
import math
import os
from collections.abc import Collection
from typing import Any

from pav_jax.data import step_labels

_FINISH_REASONS = ("solution", "found_error", "give_up", "bad_problem")


def read(
  path: str | os.PathLike,
  *,
  neutral: float | int | None = 1.0,
  finish_reasons: Collection[str] = ("solution", "found_error", "give_up"),
  max_bad_lines: int = 0,
) -> list[step_labels.Trace]:
  """Reads a file of the published schema, JSON lines of (among other fields)

      {"question": {"problem": TEXT, …},
       "label": {"steps": [{"completions": [{"text": TEXT, "rating": 1}, …],
                            "human_completion": null,
                            "chosen_completion": 0}, …],
                 "finish_reason": "solution"}}

  `completions` are candidates for one step, rated -1, 0 or +1, or null where
  the labeller passed. The response goes on from the one whose index is
  `chosen_completion`, or else from `human_completion`, `{"text": TEXT, …}`,
  which counts as rated +1; where both are null it stops. `completions` may be
  null. A rating judges the step, and is no estimate of a success rate.

  Args:
    path: of the file.
    neutral: the label of a step rated 0, which is not wrong and makes no
      progress: a number in [0, 1], or None for no label.
    finish_reasons: lines with other ones are left out: of "solution" (the last
      step reached the right answer), "found_error", "give_up", "bad_problem".
      Lines without a reason are kept.
    max_bad_lines: see `step_labels.read_jsonl`.

  Returns:
    `Trace`s with labels of type float, -1 as 0 and +1 as 1. First of a line
    is the response; then each candidate that was not chosen, after the steps
    that were, which have no label there lest they count twice. The outcome is
    1 for "solution", and else unknown.

  Raises:
    ValueError: naming file and line, if one is not of this schema.
  """
  unknown = set(finish_reasons) - set(_FINISH_REASONS)
  if unknown:
    raise ValueError(
      f"finish_reasons has {sorted(unknown)}, expected some of "
      f"{_FINISH_REASONS}"
    )
  if neutral is not None and not 0 <= neutral <= 1:
    raise ValueError(f"neutral is {neutral}, expected None or one in [0, 1]")
  neutral = None if neutral is None else float(neutral)
  label_of = {-1: 0.0, 0: neutral, 1: 1.0, None: None}
  parse = functools.partial(
    _parse, label_of=label_of, finish_reasons=finish_reasons
  )
  return step_labels.read_jsonl(path, parse, max_bad_lines=max_bad_lines)


def _parse(row: dict[str, Any], label_of, finish_reasons):
  prompt = step_labels.field(
    step_labels.field(row, "question", dict), "problem", str
  )
  label = step_labels.field(row, "label", dict)
  reason = step_labels.field(label, "finish_reason", str, None)
  if reason is not None and reason not in _FINISH_REASONS:
    raise ValueError(
      f"finish_reason is {reason!r}, expected one of {_FINISH_REASONS} or null"
    )
  steps = step_labels.field(label, "steps", list)
  if reason is not None and reason not in finish_reasons:
    return []
  texts, labels, others = (), (), []
  is_solution = reason == "solution"
  for step in steps:
    if not isinstance(step, dict):
      raise ValueError(f"a step is {step!r}, expected an object")
    candidates = step_labels.field(step, "completions", list, None) or []
    chosen = step_labels.field(step, "chosen_completion", int, None)
    if chosen is not None and not 0 <= chosen < len(candidates):
      raise ValueError(
        f"chosen_completion is {chosen}, expected one of {len(candidates)} "
        "completions or null"
      )
    rated = [_rated(candidate, label_of) for candidate in candidates]
    for k, (text, value) in enumerate(rated):
      if k != chosen and value is not None:
        others.append(((*texts, text), (None,) * len(texts) + (value,)))
    human = step_labels.field(step, "human_completion", dict, None)
    if chosen is not None:
      text, value = rated[chosen]
    elif human is not None:
      text, value = step_labels.field(human, "text", str), 1.0
    else:
      is_solution = False
      break
    texts, labels = (*texts, text), (*labels, value)
  traces = []
  if is_solution or any(value is not None for value in labels):
    traces.append(
      step_labels.Trace(
        prompt=prompt,
        steps=texts,
        labels=labels,
        outcome=1.0 if is_solution else math.nan,
        is_whole=is_solution,
      )
    )
  return traces + [
    step_labels.Trace(prompt=prompt, steps=texts, labels=labels)
    for texts, labels in others
  ]


def _rated(candidate: Any, label_of) -> tuple[str, float | None]:
  if not isinstance(candidate, dict):
    raise ValueError(f"a completion is {candidate!r}, expected an object")
  rating = step_labels.field(candidate, "rating", int, None)
  if rating not in label_of:
    raise ValueError(f"rating is {rating}, expected -1, 0, 1 or null")
  return step_labels.field(candidate, "text", str), label_of[rating]
