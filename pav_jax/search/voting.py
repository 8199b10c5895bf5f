"""Majority voting over answers that count as equal, plain and weighted."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pav_jax.problems.answer_groups import NO_ANSWER
from pav_jax.search import best_of_n


def vote(
  answers: Int[ArrayLike, "B S"],
  num: int,
  scores: Float[ArrayLike, "B S"] | None = None,
) -> Int[np.ndarray, "B G"]:
  """The sample that stands for the most voted answer of each group of N.

  Args:
    answers: equal for samples of a problem whose final answers are, as
      `final_answers` of text problems has them; `NO_ANSWER` for those without
      one, which do not vote.
    num: N, see `best_of_n.groups`.
    scores: weights of the votes, >= 0, such as a verifier's; None for one each.

  Returns:
    Indices 0 … S - 1: of the winning answer's samples the one with the highest
    score, or the first. Of answers with equally many votes the one that occurs
    first wins. A group without answers gives its first sample.
  """
  answers = best_of_n.groups(answers, num)
  weights = np.ones(answers.shape)
  if scores is not None:
    weights = best_of_n.groups(scores, num)
  votes = answers != NO_ANSWER
  same = answers[..., :, None] == answers[..., None, :]
  total = np.sum(np.where(same, weights[..., None, :], 0), -1)
  total = np.where(votes, total, -np.inf)
  # Sums of equal sets are formed in one order, so they are equal exactly.
  first = np.argmax(total, axis=-1, keepdims=True)
  wins = np.take_along_axis(same, first[..., None], axis=-2)[..., 0, :]
  within = np.argmax(np.where(wins, weights, -np.inf), axis=-1)
  none = ~np.any(votes, axis=-1)
  within = np.where(none, 0, within)
  return within + num * np.arange(within.shape[1])
