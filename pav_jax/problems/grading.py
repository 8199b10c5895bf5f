"""Graders: is a response's final answer the right one?

A grader is a function `(responses, answers) -> bool[B]` of texts. Both of these
grade in processes with limits of time and memory, which any response may be
thrown at.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from pav_jax.problems import grading_pool


@runtime_checkable
class Grader(Protocol):
  """What problems need of a grader; it is hashable."""

  def __call__(
    self, responses: Sequence[str], answers: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which responses end with the right answer; never raises on any text."""
    ...


@dataclasses.dataclass(frozen=True)
class NormalizedMatch:
  """Right if the final answer is the same string, normalised.

  `final_answers.final_answer` says what the final answer is, and `normalize`
  there what is the same: the rules of the scorer that was published with MATH.

  Attributes:
    num_workers: processes, which are kept; None for one a core, at most 16.
    seconds: of processor time for a response; one that takes more is wrong.
    megabytes: of memory for a process; a response that needs more is wrong.

  Raises:
    ValueError: if a number is out of its range.
  """

  symbolic: ClassVar[bool] = False

  num_workers: int | None = dataclasses.field(default=None, repr=False)
  seconds: float | int = 3.0
  megabytes: int = 512

  def __post_init__(self):
    if self.num_workers is not None and self.num_workers < 1:
      raise ValueError(f"num_workers is {self.num_workers}, expected >= 1")
    if not 0 < self.seconds < 3600:
      raise ValueError(
        f"seconds is {self.seconds}, expected more than 0 and below 3600"
      )
    if self.megabytes < 128:
      raise ValueError(f"megabytes is {self.megabytes}, expected >= 128")

  def __call__(
    self, responses: Sequence[str], answers: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which responses end with the right answer.

    Args:
      responses: any text at all; what exceeds a limit is wrong, and so is a
        response of more than 2²⁰ characters.
      answers: the right ones.

    Returns:
      bool[B], in order.

    Raises:
      ValueError: if there are not as many answers as responses.
      ImportError: if math-verify is needed and absent.
      RuntimeError: if processes cannot be started.
    """
    if len(responses) != len(answers):
      raise ValueError(
        f"there are {len(responses)} responses and {len(answers)} answers, "
        "expected as many"
      )
    pool = grading_pool.pool(
      symbolic=self.symbolic,
      seconds=self.seconds,
      megabytes=self.megabytes,
      num_workers=self.num_workers or min(16, os.cpu_count() or 1),
    )
    pairs = list(zip(responses, answers, strict=True))
    return np.array(pool.grade(pairs), bool)


@dataclasses.dataclass(frozen=True)
class SymbolicMatch(NormalizedMatch):
  """Right if the final answer is equal as a mathematical expression.

  Strings that `NormalizedMatch` takes for the same are; others are compared by
  math-verify (the extra `math`), but for two numbers, which need none.
  Attributes are those of `NormalizedMatch`.
  """

  symbolic: ClassVar[bool] = True
