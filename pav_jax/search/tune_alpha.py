"""The weight of progress, by grid search on validation problems (App. C)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from pav_jax.search import efficiency

GRID = tuple(round(0.1 * i, 1) for i in range(11))


def best_alpha(
  alphas: Sequence[float], correct: Float[ArrayLike, "A B"]
) -> dict[str, Any]:
  """The weight whose search was right most often.

  Args:
    alphas: that were tried.
    correct: 1 where the answer to a problem was right, and else 0.

  Returns:
    For a report: `alpha`, the first of equally good ones; `alphas`, and each
    one's `accuracy`, its `standard_error`, and `to_best`, the difference to the
    best one and its paired standard error.

  Raises:
    ValueError: if weights and rows differ in number, or there are none.
  """
  correct = np.asarray(correct, np.float64)
  if not len(alphas) or len(alphas) != len(correct):
    raise ValueError(
      f"there are {len(alphas)} alphas and answers to {len(correct)}, expected "
      "as many, and at least one"
    )
  scores = [efficiency.mean_and_error(row) for row in correct]
  best = int(np.argmax([mean for mean, _ in scores]))
  return {
    "alpha": float(alphas[best]),
    "alphas": [float(alpha) for alpha in alphas],
    "accuracy": [mean for mean, _ in scores],
    "standard_error": [error for _, error in scores],
    "to_best": [
      efficiency.mean_and_error(row - correct[best]) for row in correct
    ],
  }
