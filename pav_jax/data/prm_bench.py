"""Reads step-labelled solutions in PRMBench's format, and scores judgements.

PRMBench (arXiv 2501.03124) changes right solutions so that they have errors of
nine kinds in three categories. An entry, one a line, is a JSON object with

    idx                string; the same in every file for one problem
    classification     the kind of error
    modified_question  the problem
    modified_process   list of strings, the steps
    error_steps        1-based indices of wrong steps; none for multi_solutions
    original_question, original_process
                       the unchanged ones, read with "redundency" alone

and other fields, which are passed over. As in the authors' evaluation, of two
entries with one idx and kind the first counts, and indices that are no step's
are left out: 5 and 100 of the 6216 entries that were published.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from pav_jax import json_files
from pav_jax.data import process_bench, step_labels
from pav_jax.rollout import Rollout

# Kinds of errors, spelt as the files spell them, by category.
CATEGORIES: Mapping[str, tuple[str, ...]] = {
  "simplicity": ("redundency", "circular"),
  "soundness": (
    "counterfactual",
    "step_contradiction",
    "domain_inconsistency",
    "confidence",
  ),
  "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
KINDS = tuple(kind for kinds in CATEGORIES.values() for kind in kinds)
CORRECT = "correct"

_NUMBER = re.compile(r"^(step\s*\d+\.\s*|\d+\.\s*)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Sample:
  """A labelled solution.

  Attributes:
    id: kind and name, `circular_prm_test_p1_0`.
    kind: one of `KINDS`; `CORRECT` for an unchanged solution.
    problem: its text.
    steps: texts of the H >= 1 steps.
    errors: 0-based indices of wrong steps.
  """

  id: str
  kind: str
  problem: str
  steps: tuple[str, ...]
  errors: tuple[int, ...]


def read(
  path: str | os.PathLike, *, without_numbers: bool = True
) -> list[Sample]:
  """Reads a file of entries, or all `*.jsonl` of a folder, in order.

  Args:
    path: of the file or folder; compressed or not.
    without_numbers: whether "Step 3. " or "3. " before a step is left out, as
      the authors do for most models.

  Raises:
    ValueError: naming file and line, if one is no such entry; or if there is
      none.
  """
  path = pathlib.Path(path)
  files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
  samples: dict[str, Sample] = {}
  for file in files:
    for number, line in enumerate(json_files.read(file).split(b"\n"), 1):
      if line.strip():
        try:
          entry = json_files.parse(line)
          for sample in _samples(entry, without_numbers):
            samples.setdefault(sample.id, sample)
        except ValueError as error:
          raise ValueError(f"line {number} of {file}: {error}") from error
  if not samples:
    raise ValueError(f"{path} holds no entry, expected at least one")
  return list(samples.values())


def _samples(entry: Any, without_numbers: bool) -> list[Sample]:
  """An entry's changed solution, and the unchanged one of some."""
  if not isinstance(entry, dict):
    raise ValueError(f"{entry!r:.60} is no object, expected one")
  kind = step_labels.field(entry, "classification", str)
  name = step_labels.field(entry, "idx", str)
  errors = step_labels.field(entry, "error_steps", list)
  if kind not in KINDS:
    raise ValueError(
      f"classification is {kind!r}, expected one of {', '.join(KINDS)}"
    )
  if any(type(step) is not int for step in errors):
    raise ValueError(f"error_steps are {errors}, expected whole numbers")

  def made(which, kind, errors):
    question = step_labels.field(entry, f"{which}_question", str)
    steps = step_labels.field(entry, f"{which}_process", list)
    if not steps or not all(isinstance(step, str) for step in steps):
      raise ValueError(
        f"{which}_process is {steps!r:.60}, expected texts, at least one"
      )
    if without_numbers:
      steps = [_NUMBER.sub("", step.strip()) for step in steps]
    there = sorted({x - 1 for x in errors if 1 <= x <= len(steps)})
    return Sample(f"{kind}_{name}", kind, question, tuple(steps), tuple(there))

  out = [made("modified", kind, errors)]
  if kind == "redundency":
    out.append(made("original", CORRECT, ()))
  return out


def rollout(
  samples: Sequence[Sample], problem: step_labels.EncodesText
) -> Rollout:
  """The samples as arrays, see `process_bench.rollout`.

  Args:
    samples: from `read`.
    problem: of the prover's policy.
  """
  return process_bench.rollout(
    [
      process_bench.Sample(
        sample.id,
        sample.problem,
        sample.steps,
        min(sample.errors, default=-1),
        not sample.errors,
      )
      for sample in samples
    ],
    problem,
  )


def scores(
  samples: Sequence[Sample], is_valid: Bool[np.ndarray, "N H"]
) -> dict[str, Any]:
  """PRMBench's scores of judgements of steps.

  With valid steps as the positive class, `f1` is theirs, `negative_f1` that of
  wrong steps, and PRMScore the mean of both; of multi_solutions, where no step
  is wrong, it is `f1`. F1 is 2 TP / (2 TP + FP + FN): where nothing is right it
  is 0, where the authors' script writes −1.

  Args:
    samples: N of them; unchanged solutions are only compared with.
    is_valid: whether each step is taken for right; what is behind a sample's
      steps does not count.

  Returns:
    `prm_score`, `f1`, `negative_f1`, `step_accuracy`, `correct_step_accuracy`,
    `wrong_step_accuracy` and `first_error_accuracy` over all changed solutions;
    `kinds`, the same of each kind; and `categories`, the mean PRMScore of
    theirs. All are in [0, 1]; NaN for what does not occur. `similarity` is
    the mean difference of the shares of steps taken for right in a solution
    and in the unchanged one, where any of that are.

  Raises:
    ValueError: if `is_valid` has another shape.
  """
  is_valid = np.asarray(is_valid, bool)
  longest = max((len(sample.steps) for sample in samples), default=0)
  if is_valid.ndim != 2 or not (
    len(is_valid) == len(samples) and is_valid.shape[1] >= longest
  ):
    raise ValueError(
      f"is_valid has shape {is_valid.shape}, expected [{len(samples)}, H] with "
      f"H >= {longest}, the most steps"
    )
  share = {
    sample.id: row[: len(sample.steps)].mean()
    for sample, row in zip(samples, is_valid, strict=True)
  }
  counted = [
    _Judged(sample, row[: len(sample.steps)], share)
    for sample, row in zip(samples, is_valid, strict=True)
    if sample.kind != CORRECT
  ]
  by_kind = {
    kind: _summary([x for x in counted if x.sample.kind == kind], kind)
    for kind in KINDS
  }
  return _summary(counted) | {
    "kinds": by_kind,
    "categories": {
      name: float(np.mean([by_kind[kind]["prm_score"] for kind in kinds]))
      for name, kinds in CATEGORIES.items()
    },
  }


class _Judged:
  """A sample with the judgements of its steps."""

  def __init__(self, sample, valid, share):
    self.sample, self.valid = sample, valid
    self.wrong = np.isin(np.arange(len(valid)), sample.errors)
    original = f"{CORRECT}_{sample.id.removeprefix(f'{sample.kind}_')}"
    other = share.get(original)
    self.distance = abs(share[sample.id] - other) if other else math.nan


def _summary(judged: list[_Judged], kind: str = "") -> dict[str, float]:
  empty = np.zeros(0, bool)
  valid = np.concatenate([empty, *(x.valid for x in judged)])
  wrong = np.concatenate([empty, *(x.wrong for x in judged)])
  first = [x.valid[x.sample.errors[0]] for x in judged if x.sample.errors]
  missed, caught = int((valid & wrong).sum()), int((~valid & wrong).sum())
  right, refused = int((valid & ~wrong).sum()), int((~valid & ~wrong).sum())
  f1 = _ratio(2 * right, 2 * right + missed + refused)
  negative_f1 = _ratio(2 * caught, 2 * caught + missed + refused)
  both = (f1 + negative_f1) / 2
  distance = [x.distance for x in judged if not math.isnan(x.distance)]
  return {
    "prm_score": f1 if kind == "multi_solutions" else both,
    "f1": f1,
    "negative_f1": negative_f1,
    "step_accuracy": _ratio(right + caught, len(valid)),
    "correct_step_accuracy": _ratio(right, right + refused),
    "wrong_step_accuracy": _ratio(caught, caught + missed),
    "first_error_accuracy": _ratio(len(first) - int(sum(first)), len(first)),
    "similarity": _ratio(float(sum(distance)), len(distance)),
  }


def _ratio(a: float | int, b: int) -> float:
  return float(a / b) if b else math.nan
