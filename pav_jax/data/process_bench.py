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
from collections.abc import Sequence
from typing import Any

import numpy as np

from pav_jax import json_files
from pav_jax.data import step_labels
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
  """Reads a file, JSON or JSONL, compressed or not, in order.

  Raises:
    ValueError: the file is neither, holds no entry, or an entry lacks a field
      or has one of another type or range; it says where.
  """
  path = pathlib.Path(path)
  samples, first = [], {}
  for where, entry in _entries(path, json_files.read_text(path)):
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
  samples: Sequence[Sample], problem: step_labels.EncodesText
) -> Rollout:
  """The samples as arrays, to be scored by a verifier.

  They are tokenised as imported labels are (`step_labels.to_targets`), and so
  as the rollouts that a verifier has been trained on: the problem in its
  prompt, each step with the delimiter, the last one with the end token.

  Args:
    samples: from `read`.
    problem: of the verifier's policy.

  Returns:
    A rollout of numpy arrays, H the most steps of a sample: `outcome` is
    `final_answer_correct`, `problem_id` the sample's index, `logp` 0. The
    labels are not in it.

  Raises:
    ValueError: there is no sample, or a text cannot be tokens.
  """
  if not samples:
    raise ValueError("there is no sample, expected at least one")
  traces = [
    step_labels.Trace(
      sample.problem,
      sample.steps,
      (None,) * len(sample.steps),
      is_whole=True,
      where=f"sample {sample.id!r}",
    )
    for sample in samples
  ]
  tokens, prefix_len = step_labels.tokenize(traces, problem)
  return Rollout(
    tokens=tokens,
    logp=np.zeros(tokens.shape, np.float32),
    prefix_len=prefix_len,
    outcome=np.array([s.final_answer_correct for s in samples], np.float32),
    problem_id=np.arange(len(tokens), dtype=np.int32),
    sample_id=np.zeros(len(tokens), np.int32),
  )


def _entries(path: pathlib.Path, text: str):
  """Where each entry stands, and what it is."""
  if text.lstrip().startswith("["):
    try:
      entries = json_files.parse(text)
    except ValueError as error:
      raise ValueError(f"{path} is not JSON: {error}") from error
    for number, entry in enumerate(entries):
      yield f"entry {number} of {path}", entry
    return
  # Not `splitlines`, which splits at characters that JSON strings may hold.
  for number, line in enumerate(text.split("\n"), start=1):
    if line.strip():
      where = f"line {number} of {path}"
      try:
        yield where, json_files.parse(line)
      except ValueError as error:
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
