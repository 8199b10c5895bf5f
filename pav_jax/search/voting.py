"""Majority voting over answers that count as equal, plain and weighted."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pav_jax.rollout import Rollout
from pav_jax.search import best_of_n

NO_ANSWER = -1


def vote(
  answers: Int[ArrayLike, "B S"],
  num: int,
  scores: Float[ArrayLike, "B S"] | None = None,
) -> Int[np.ndarray, "B G"]:
  """The sample that stands for the most voted answer of each group of N.

  Args:
    answers: equal for samples of a problem whose final answers are;
      `NO_ANSWER` for those without one, which do not vote.
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


def final_answers(
  problem: Any, rollout: Rollout, end_token: int
) -> Int[np.ndarray, "B"]:
  """Numbers that are equal for responses with equal final answers.

  A problem may say itself, as `final_answers(rollout) -> int[B]`. For others
  it is the token before the end token: the last number of a chain or of
  countdown. Responses that were cut off have none.

  Args:
    problem: that was answered.
    rollout: whole responses.
    end_token: ends them.
  """
  if hasattr(problem, "final_answers"):
    return np.asarray(problem.final_answers(rollout))
  tokens = np.asarray(rollout.tokens)
  prefix_len = np.asarray(rollout.prefix_len)
  length = prefix_len[:, -1:]
  last, before = (
    np.take_along_axis(tokens, np.maximum(length - back, 0), axis=1)[:, 0]
    for back in (1, 2)
  )
  ended = (last == end_token) & (length[:, 0] > prefix_len[:, 0] + 1)
  return np.where(ended, before, NO_ANSWER).astype(np.int64)
