"""Platt scaling: a verifier's logits made to fit frequencies again."""

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Float, Real


def fit(
  logit: Float[np.ndarray, "N"],
  label: Float[np.ndarray, "N"],
  weight: Real[np.ndarray, "N"],
) -> tuple[float, float]:
  """The scale a > 0 and the offset b of `a · logit + b` that fit best.

  They minimise `Σ w [−y log σ(al + b) − (1 − y) log σ(−al − b)]`, which is
  convex, on data that the verifier was not trained on. Balanced training shifts
  values towards one half, and this undoes it without changing their order.

  Args:
    logit: predicted log-odds.
    label: in [0, 1].
    weight: >= 0, such as numbers of completions.
  """
  logit, label, weight = (
    np.asarray(x, np.float64) for x in (logit, label, weight)
  )
  weight = weight / weight.sum()

  def loss(parameters):
    z = np.exp(parameters[0]) * logit + parameters[1]
    error = weight * (scipy.special.expit(z) - label)
    value = np.sum(weight * (np.logaddexp(0, z) - label * z))
    return value, np.array(
      [np.sum(error * np.exp(parameters[0]) * logit), error.sum()]
    )

  found = scipy.optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS")
  return float(np.exp(found.x[0])), float(found.x[1])


def apply(head: dict, scale: float, offset: float) -> dict:
  """The head whose output is `scale` times this one's, plus `offset`."""
  return {
    "kernel": head["kernel"] * scale,
    "bias": head["bias"] * scale + offset,
  }
