"""Graders: is a response's final answer the right one?

A grader is a function `(responses, answers) -> bool[B]` of texts. What the
final answer is says `final_answers`; what is equal `answer_equality`, with
`answer_forms` and `expressions`. Both of those compare in processes with limits
of time and memory, which any answer may be thrown at. `PublishedMatch` has the
benchmarks' own scorers.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from pav_jax import packages
from pav_jax.problems import grading_pool, published_scorers
from pav_jax.problems.final_answers import final_answer

MAX_CHARS = 1 << 20  # of a response


@runtime_checkable
class Grader(Protocol):
  """What problems need of a grader; it is hashable."""

  def __call__(
    self, responses: Sequence[str], answers: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which responses end with the right answer; never raises on any text."""
    ...


@runtime_checkable
class ComparesAnswers(Grader, Protocol):
  """A grader that finds answers and compares them, as voting needs."""

  def final_answers(self, responses: Sequence[str]) -> list[str | None]:
    """The answers that responses give; None for one without."""
    ...

  def equal(
    self, answers: Sequence[str], others: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which answers are equal to the others, pair by pair."""
    ...


class _FromAnswers(abc.ABC):
  """A grader made of what finds answers and what compares them."""

  @abc.abstractmethod
  def final_answers(self, responses: Sequence[str]) -> list[str | None]:
    """The answers that responses give; None for one without."""

  @abc.abstractmethod
  def equal(
    self, answers: Sequence[str], others: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which answers are equal to the others, pair by pair."""

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
      RuntimeError: if processes are needed and cannot be started.
    """
    if len(responses) != len(answers):
      raise ValueError(
        f"there are {len(responses)} responses and {len(answers)} answers, "
        "expected as many"
      )
    given = self.final_answers(responses)
    rows = [row for row, answer in enumerate(given) if answer is not None]
    correct = np.zeros(len(given), bool)
    correct[rows] = self.equal(
      [given[row] for row in rows], [answers[row] for row in rows]
    )
    return correct


@dataclasses.dataclass(frozen=True)
class NormalizedMatch(_FromAnswers):
  """Right if the final answer has the same form.

  That is so for answers that are one string when what does not matter is taken
  away (`answer_equality.same`): spaces, sizes and colours, a unit or variable
  that only one of them has, `1.0` for `1`.

  Attributes:
    num_workers: processes, which are kept; None for one a core, at most 16.
    seconds: of processor time for an answer; one that takes more is wrong.
    megabytes: of memory for a process; an answer that needs more is wrong.

  Raises:
    ValueError: if a number is out of its range.
  """

  task: ClassVar[str] = "same"

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

  def final_answers(self, responses: Sequence[str]) -> list[str | None]:
    """See `final_answers.final_answer`; None for one of too many characters."""
    return [
      None if len(text) > MAX_CHARS else final_answer(text)
      for text in responses
    ]

  def equal(
    self, answers: Sequence[str], others: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which answers are equal to the others; each pair is compared once.

    Raises:
      RuntimeError: if processes cannot be started.
    """
    pairs = list(zip(answers, others, strict=True))
    pool = grading_pool.pool(
      task=self.task,
      seconds=self.seconds,
      megabytes=self.megabytes,
      num_workers=self.num_workers or min(16, os.cpu_count() or 1),
    )
    compared = list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))
    verdicts = dict(zip(compared, pool.compare(compared), strict=True))
    return np.array([verdicts.get(pair, True) for pair in pairs], bool)


@dataclasses.dataclass(frozen=True)
class SymbolicMatch(NormalizedMatch):
  """Right if the final answer is equal as mathematics.

  `answer_equality.equal` says when: what is not understood in whole is right
  only if `NormalizedMatch` takes it. Needs mpmath (the extra `math`).
  Attributes are those of `NormalizedMatch`.

  Raises:
    MissingPackageError: without mpmath.
  """

  task: ClassVar[str] = "symbolic"

  def __post_init__(self):
    super().__post_init__()
    packages.require("mpmath", package="mpmath", purpose="SymbolicMatch")


_SCORERS: dict[str, tuple[Callable, Callable]] = {
  "math": (published_scorers.math_answer, published_scorers.math_equal),
  "gsm8k": (published_scorers.gsm8k_answer, published_scorers.gsm8k_equal),
}


@dataclasses.dataclass(frozen=True)
class PublishedMatch(_FromAnswers):
  """Right by the scorer that a benchmark was published with.

  For figures that others have measured with it. It is no reward: MATH's takes
  `3 4` for `34` and drops all that follows a number in words.

  Attributes:
    benchmark: "math" or "gsm8k".

  Raises:
    ValueError: if it is another.
  """

  benchmark: str = "math"

  def __post_init__(self):
    if self.benchmark not in _SCORERS:
      raise ValueError(
        f"benchmark is {self.benchmark!r}, expected one of {tuple(_SCORERS)}"
      )

  def final_answers(self, responses: Sequence[str]) -> list[str | None]:
    """The answers that the scorer finds."""
    find, _ = _SCORERS[self.benchmark]
    return [None if len(text) > MAX_CHARS else find(text) for text in responses]

  def equal(
    self, answers: Sequence[str], others: Sequence[str]
  ) -> Bool[np.ndarray, "B"]:
    """Which answers the scorer takes for equal."""
    _, equal = _SCORERS[self.benchmark]
    return np.array(list(map(equal, answers, others)), bool)
