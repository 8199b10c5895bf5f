"""Reads step-labelled traces in ProcessBench's format.

ProcessBench (arXiv 2412.06559) asks for the first wrong step of a solution. An
entry is a JSON object with

    id                    string
    problem               string
    steps                 list of strings, not empty
    label                 0-based index of the first wrong step; -1 for none
    final_answer_correct  true or false

and any other fields, which are passed over. A file holds a list of entries, or
one entry a line (JSONL). `thresholds.first_error_scores` has the measure.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class Sample:
  """A labelled solution.

  Attributes:
    id: its name, of which a file has no two.
    problem: its text.
    steps: texts of the H >= 1 steps.
    label: 0-based index of the first wrong step; −1 if there is none.
    final_answer_correct: whether the outcome is right, as it may be in spite of
      a wrong step.
  """

  id: str
  problem: str
  steps: tuple[str, ...]
  label: int
  final_answer_correct: bool


def read(path: str | os.PathLike) -> list[Sample]:
  """Reads a file, JSON or JSONL, in order.

  Raises:
    ValueError: the file is neither, holds no entry, or an entry lacks a field
      or has one of another type or range; it says where.
  """
  path = pathlib.Path(path)
  try:
    text = path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8: {error}") from error
  samples, first = [], {}
  for where, entry in _entries(path, text):
    sample = _sample(where, entry)
    if sample.id in first:
      raise ValueError(
        f"{where} has the id {sample.id!r} of {first[sample.id]}, expected "
        "each once"
      )
    first[sample.id] = where
    samples.append(sample)
  if not samples:
    raise ValueError(f"{path} holds no entry, expected at least one")
  return samples


def rollout(
  samples: Sequence[Sample],
  encode: Callable[[str], Sequence[int]],
  *,
  delimiter: str = "\n",
  pad_id: int = 0,
) -> Rollout:
  """The samples as arrays, to be scored by a verifier.

  The problem and every step are encoded by themselves, each followed by the
  delimiter; so a step's offsets are known, whatever its text holds.

  Args:
    samples: from `read`.
    encode: from text to token ids.
    delimiter: ends the problem and each step.
    pad_id: fills up rows.

  Returns:
    A rollout of numpy arrays, H the most steps of a sample: `outcome` is
    `final_answer_correct`, `problem_id` the sample's index, `logp` 0. The
    labels are not in it.

  Raises:
    ValueError: there is no sample, or a part has no token.
  """
  if not samples:
    raise ValueError("there is no sample, expected at least one")
  rows, ends = [], []
  for sample in samples:
    parts = [
      list(encode(text + delimiter)) for text in (sample.problem, *sample.steps)
    ]
    if not all(parts):
      raise ValueError(
        f"a part of sample {sample.id!r} has no token, expected one at least"
      )
    rows.append(np.concatenate(parts))
    ends.append(np.cumsum([len(part) for part in parts]))
  shape = len(rows), max(map(len, rows))
  tokens = np.full(shape, pad_id, np.int32)
  prefix_len = np.zeros((len(rows), max(map(len, ends))), np.int32)
  for row, (ids, end) in enumerate(zip(rows, ends, strict=True)):
    tokens[row, : len(ids)] = ids
    prefix_len[row] = end[-1]
    prefix_len[row, : len(end)] = end
  return Rollout(
    tokens=tokens,
    logp=np.zeros(shape, np.float32),
    prefix_len=prefix_len,
    outcome=np.array([s.final_answer_correct for s in samples], np.float32),
    problem_id=np.arange(len(rows), dtype=np.int32),
    sample_id=np.zeros(len(rows), np.int32),
  )


def _entries(path: pathlib.Path, text: str):
  """Where each entry stands, and what it is."""
  if text.lstrip().startswith("["):
    try:
      entries = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"{path} is not JSON: {error}") from error
    for number, entry in enumerate(entries):
      yield f"entry {number} of {path}", entry
    return
  # Not `splitlines`, which splits at characters that JSON strings may hold.
  for number, line in enumerate(text.split("\n"), start=1):
    if line.strip():
      where = f"line {number} of {path}"
      try:
        yield where, json.loads(line)
      except json.JSONDecodeError as error:
        raise ValueError(
          f"{where} is not JSON: {error}; expected a list of entries, or one "
          "entry a line"
        ) from error


def _sample(where: str, entry: Any) -> Sample:
  if not isinstance(entry, dict):
    raise ValueError(f"{where} is {_shown(entry)}, expected an object")
  values = {}
  for field in dataclasses.fields(Sample):
    if field.name not in entry:
      raise ValueError(
        f"{where} has no {field.name!r}; its fields are {sorted(entry)}"
      )
    values[field.name] = entry[field.name]
  steps, label = values["steps"], values["label"]
  right = {
    "id": (isinstance(values["id"], str), "a string"),
    "problem": (isinstance(values["problem"], str), "a string"),
    "steps": (
      isinstance(steps, list)
      and steps
      and all(isinstance(step, str) for step in steps),
      "a list of strings, not empty",
    ),
    # `true` is an int to Python.
    "label": (type(label) is int, "a whole number"),
    "final_answer_correct": (
      isinstance(values["final_answer_correct"], bool),
      "true or false",
    ),
  }
  for name, (ok, expected) in right.items():
    if not ok:
      raise ValueError(
        f"{name!r} in {where} is {_shown(values[name])}, expected {expected}"
      )
  if not -1 <= label < len(steps):
    raise ValueError(
      f"'label' in {where} is {label}, expected -1 … {len(steps) - 1} with "
      f"{len(steps)} steps"
    )
  return Sample(**values | {"steps": tuple(steps)})


def _shown(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else text[:57] + "…"
