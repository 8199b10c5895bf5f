"""Which of a problem's responses have equal final answers."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

NO_ANSWER = -1


def group(
  answers: Sequence[str | None],
  problem_id: Int[np.ndarray, "B"],
  equal: Callable[[list[str], list[str]], Bool[np.ndarray, "_"]],
) -> Int[np.ndarray, "B"]:
  """Numbers that are equal for equal answers of a problem.

  Each pair of different texts of a problem is compared once. An answer joins
  the first group whose first answer it is equal to.

  Args:
    answers: of B responses; None for one without an answer.
    problem_id: of the responses.
    equal: tells which of two lists' answers are equal, pair by pair.

  Returns:
    int64[B]: 0, 1, … in the order in which a problem's groups come, or
    `NO_ANSWER`.
  """
  texts: dict[int, list[str]] = {}
  for answer, problem in zip(answers, problem_id.tolist(), strict=True):
    distinct = texts.setdefault(problem, [])
    if answer is not None and answer not in distinct:
      distinct.append(answer)
  pairs = [
    (problem, *pair)
    for problem, distinct in texts.items()
    for pair in itertools.combinations(distinct, 2)
  ]
  verdicts = equal(
    [left for _, left, _ in pairs], [right for *_, right in pairs]
  )
  same = {
    pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict
  }
  numbers: dict[tuple[int, str], int] = {}
  for problem, distinct in texts.items():
    heads: list[str] = []
    for text in distinct:
      number = next(
        (n for n, head in enumerate(heads) if (problem, head, text) in same),
        len(heads),
      )
      if number == len(heads):
        heads.append(text)
      numbers[problem, text] = number
  return np.array(
    [
      NO_ANSWER if answer is None else numbers[problem, answer]
      for answer, problem in zip(answers, problem_id.tolist(), strict=True)
    ],
    np.int64,
  )
