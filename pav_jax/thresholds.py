"""Decisions from scores of steps: where the first error is, and the outcome.

A score below a threshold says "wrong". Thresholds are chosen on validation data
and used on other data. Scores are of steps, `[B, H]`: values after them
(`q_hat[:, 1:]`), advantages or effective rewards; a mask says which steps exist
(`steps.step_mask`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from pav_jax import checks, verification


class FirstErrorScores(NamedTuple):
  """ProcessBench's three figures, each in [0, 1].

  Attributes:
    erroneous: share of the erroneous samples whose first error was found.
    correct: share of the correct samples in which none was found.
    f1: the harmonic mean of the two.
  """

  erroneous: Float[Array, ""]
  correct: Float[Array, ""]
  f1: Float[Array, ""]


def first_error(
  scores: Real[ArrayLike, "*B H"],
  mask: Bool[ArrayLike, "*B H"],
  *,
  threshold: Real[ArrayLike, ""],
) -> Int[Array, "*B"]:
  """The first step that scores below the threshold, as in ProcessBench.

  Args:
    scores: of the steps: values after them, `q_hat[..., 1:]`, or advantages.
    mask: which steps exist, `steps.step_mask`.
    threshold: from `first_error_threshold`, on validation data.

  Returns:
    int32: 0-based index of the step; −1 for "no error".

  Raises:
    ValueError: shapes do not match.
  """
  checks.check_shape("mask", mask, np.shape(scores), "that of scores")
  below = (checks.widen(scores) < threshold) & checks.as_mask("mask", mask)
  if not below.shape[-1]:
    return jnp.full(below.shape[:-1], -1, jnp.int32)
  return jnp.where(below.any(-1), below.argmax(-1), -1).astype(jnp.int32)


def first_error_scores(
  predicted: Int[ArrayLike, "N"], labels: Int[ArrayLike, "N"]
) -> FirstErrorScores:
  """Accuracies of finding the first error, and their F1, as in ProcessBench.

  `F1 = 2 a b / (a + b)`, with a the accuracy on samples that have an error and
  b on those that have none; 0 where both are.

  Args:
    predicted: from `first_error`.
    labels: 0-based index of the first wrong step; −1 if there is none.

  Returns:
    The scores; NaN for a kind that does not occur, and then for F1 too.

  Raises:
    ValueError: shapes do not match.
  """
  checks.check_shape("predicted", predicted, np.shape(labels), "that of labels")
  predicted, labels = jnp.asarray(predicted), jnp.asarray(labels)
  right = predicted == labels
  erroneous, correct = (
    jnp.sum(right & kind) / jnp.sum(kind) for kind in (labels >= 0, labels < 0)
  )
  return FirstErrorScores(erroneous, correct, _harmonic(erroneous, correct))


def first_error_threshold(
  scores: Real[ArrayLike, "N H"],
  mask: Bool[ArrayLike, "N H"],
  labels: Int[ArrayLike, "N"],
) -> Float[Array, ""]:
  """The threshold with the highest F1 of `first_error`, for validation data.

  An erroneous sample is right for thresholds above the score of its first wrong
  step and up to the least score before it, a correct one for those up to its
  least score. The best threshold is searched among the ends of these intervals,
  by sorting, and no threshold does better.

  Args:
    scores: of the steps.
    mask: which steps exist.
    labels: 0-based index of the first wrong step; −1 if there is none.

  Returns:
    The middle of the best interval between scores, the lowest of several; −∞,
    with which there are no errors, if F1 is 0 everywhere; NaN if one kind of
    sample does not occur.

  Raises:
    ValueError: shapes do not match; labels known while tracing are no steps.
  """
  checks.check_shape("mask", mask, np.shape(scores), "that of scores")
  checks.check_shape("labels", labels, np.shape(scores)[:1], "[N]")
  mask = checks.as_mask("mask", mask)
  _check_labels_exist(mask, labels)
  scores, labels = checks.widen(scores), jnp.asarray(labels)
  # A step that nobody has, so that there is a last one where H is 0.
  scores = jnp.pad(
    jnp.where(mask, scores, jnp.inf),
    ((0, 0), (0, 1)),
    constant_values=jnp.inf,
  )
  position = jnp.arange(scores.shape[-1])
  faulty = labels >= 0
  before = ~faulty[:, None] | (position < labels[:, None])
  end = jnp.min(jnp.where(before, scores, jnp.inf), -1, initial=jnp.inf)
  at = jnp.take_along_axis(scores, jnp.maximum(labels, 0)[:, None], -1)[:, 0]
  start = jnp.where(faulty, at, -jnp.inf)

  bounds = jnp.sort(jnp.concatenate([start, end]))
  # Those entered below a bound, less those left: right for it.
  right = []
  for kind in (faulty, ~faulty):
    possible = kind & (start < end)
    entered, left = (
      jnp.searchsorted(jnp.sort(jnp.where(possible, x, jnp.inf)), bounds)
      for x in (start, end)
    )
    right.append((entered - left) / jnp.sum(kind))
  f1 = _harmonic(*right)
  best = jnp.argmax(f1)  # NaN counts as most
  threshold = _between(_below(bounds, best), bounds[best])
  return jnp.where(jnp.isnan(f1[best]), jnp.nan, threshold)


def outcome_thresholds(
  scores: Real[ArrayLike, "B H"],
  outcome: Real[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B H"],
) -> Float[Array, "H"]:
  """For each step, the threshold that best predicts the outcome (Fig. 10).

  A rollout is predicted to be correct iff the step's score is at least the
  threshold. To be fitted on validation data and used in `outcome_errors`.

  Args:
    scores: of the steps: values, advantages or effective rewards.
    outcome: 1 for correct rollouts, 0 for incorrect ones.
    mask: which steps exist; a rollout counts at its own steps alone.

  Returns:
    The middle between two scores, of the lowest such threshold; −∞ or ∞ if one
    prediction for all is best; NaN for steps that no rollout has.

  Raises:
    ValueError: shapes do not match; outcomes known while tracing are not 0 or
      1.
  """
  scores, mask, outcome = _step_arguments(scores, outcome, mask)

  def best(score, correct, exists):
    score = jnp.where(exists, score, jnp.inf)
    order = jnp.argsort(score)
    score, correct, exists = score[order], correct[order], exists[order]
    above = jnp.append(score, jnp.inf)
    below = jnp.append(-jnp.inf, score)
    missed, caught = (
      jnp.append(0, jnp.cumsum(kind & exists)) for kind in (correct, ~correct)
    )
    wrong = missed + (caught[-1] - caught)
    k = jnp.argmin(jnp.where(below < above, wrong, len(below)))
    return jnp.where(exists.any(), _between(below[k], above[k]), jnp.nan)

  return jax.vmap(best, in_axes=(1, 1, 1))(scores, outcome, mask)


def outcome_errors(
  scores: Real[ArrayLike, "B H"],
  outcome: Real[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B H"],
  *,
  thresholds: Real[ArrayLike, "H"],
) -> Float[Array, "H"]:
  """How often each step's score mispredicts the outcome (Fig. 10).

  Args:
    scores: of the steps, as in `outcome_thresholds`.
    outcome: 1 for correct rollouts, 0 for incorrect ones.
    mask: which steps exist.
    thresholds: one per step.

  Returns:
    Error rates in [0, 1]; NaN for steps without rollout or threshold.

  Raises:
    ValueError: as of `outcome_thresholds`.
  """
  scores, mask, outcome = _step_arguments(scores, outcome, mask)
  checks.check_shape("thresholds", thresholds, scores.shape[1:], "[H]")
  thresholds = checks.widen(thresholds)
  wrong = ((scores >= thresholds) != outcome) & mask
  rate = jnp.sum(wrong, 0) / jnp.sum(mask, 0)
  return jnp.where(jnp.isnan(thresholds), jnp.nan, rate)


def _step_arguments(scores, outcome, mask):
  """Scores [B, H], mask and outcomes as bool[B, H]."""
  verification.check_binary("outcome", outcome)
  checks.check_shape("mask", mask, np.shape(scores), "that of scores")
  checks.check_shape("outcome", outcome, np.shape(scores)[:1], "[B]")
  scores = checks.widen(scores)
  outcome = jnp.asarray(outcome)[:, None] > 0
  mask = checks.as_mask("mask", mask)
  return scores, mask, jnp.broadcast_to(outcome, scores.shape)


def _harmonic(a, b):
  return jnp.where((a == 0) & (b == 0), 0, 2 * a * b / (a + b))


def _below(sorted_bounds, index):
  """The largest bound less than that at `index`; −∞ if there is none."""
  bound = sorted_bounds[index]
  smaller = jnp.where(sorted_bounds < bound, sorted_bounds, -jnp.inf)
  return smaller.max()


def _between(low, high):
  """A number in (low, high], the middle if there is one; −∞ for low = −∞."""
  middle = low / 2 + high / 2
  adjacent = (middle == low) & jnp.isfinite(low)
  return jnp.where(adjacent, high, middle)


def _check_labels_exist(mask, labels) -> None:
  mask, labels = checks.concrete_value(mask), checks.concrete_value(labels)
  if mask is None or labels is None:
    return
  inside = (labels >= -1) & (labels < mask.shape[-1])
  if inside.all() and mask.shape[-1]:
    at = np.maximum(labels, 0)[:, None]
    inside = (labels == -1) | np.take_along_axis(mask, at, -1)[:, 0]
  if not inside.all():
    raise ValueError(
      f"labels hold {labels[~inside][0]}, expected -1 or a step that exists"
    )
