"""Scores of answers to problems of reasoning-gym, by its own data sets."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from pav_jax.problems import grading_pool
from pav_jax.problems.final_answers import final_answer
from pav_jax.problems.grading import MAX_CHARS, NormalizedMatch

_MAX_ANSWER = 10_000  # characters between tags
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class GymGrader(NormalizedMatch):
  """Scores final answers as the data sets do.

  A final answer is what stands in the last `<answer>…</answer>`, which may have
  several lines; without one, what `final_answers.final_answer` takes for it.
  Voting takes answers of one form for equal, as `NormalizedMatch` does.

  Attributes:
    partial: whether scores between 0 and 1 are kept as they are; otherwise they
      are 0.
    num_workers: processes, which are kept; None for one a core, at most 16.
    seconds: of processor time for an answer; one that takes more scores 0.
    megabytes: of memory for a process; an answer that needs more scores 0.

  Raises:
    ValueError: if a number is out of its range.
  """

  partial: bool = False
  megabytes: int = 2048

  def final_answers(self, responses: Sequence[str]) -> list[str | None]:
    """The answers that responses give; None for one without."""
    return [_final_answer(text) for text in responses]

  def scores(
    self,
    responses: Sequence[str],
    problems: Sequence[tuple[str, str, int]],
  ) -> Float[np.ndarray, "B"]:
    """Scores of responses to problems, float32[B] in [0, 1].

    Args:
      responses: any text at all; one without a final answer scores 0.
      problems: name, configuration and seed of each, as of `gym_entries.score`.

    Raises:
      RuntimeError: if processes cannot be started.
    """
    given = self.final_answers(responses)
    rows = [
      (answer, *problem)
      for answer, problem in zip(given, problems, strict=True)
    ]
    asked = list(dict.fromkeys(row for row in rows if row[0] is not None))
    results = pool("gym_score", self).run(asked)
    scores = dict(zip(asked, results, strict=True))
    out = np.array([scores.get(row) or 0.0 for row in rows], np.float32)
    return out if self.partial else (out >= 1).astype(np.float32)


def pool(task: str, limits: NormalizedMatch) -> grading_pool.Pool:
  """Processes for a task of `gym_entries`, with a grader's limits."""
  return grading_pool.pool(
    task=task,
    seconds=limits.seconds,
    megabytes=limits.megabytes,
    num_workers=limits.num_workers or min(16, os.cpu_count() or 1),
  )


def _final_answer(text: str) -> str | None:
  if len(text) > MAX_CHARS:
    return None
  if tagged := _TAGS.findall(text):
    answer = tagged[-1].strip()
    return answer if 0 < len(answer) <= _MAX_ANSWER else None
  return final_answer(text)
