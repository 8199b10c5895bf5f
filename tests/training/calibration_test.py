import numpy as np
import scipy.special

from pav_jax.training import calibration


def test_finds_the_line_that_labels_were_made_with():
  logit = np.linspace(-3, 3, 41)
  label = scipy.special.expit(0.5 * logit - 1.2)
  scale, offset = calibration.fit(logit, label, np.ones(41))
  np.testing.assert_allclose([scale, offset], [0.5, -1.2], atol=1e-4)


def test_mean_value_fits_the_weighted_frequency():
  # The derivative by the offset is zero at the best: Σ w (q − y) = 0.
  rng = np.random.default_rng(0)
  logit, weight = rng.normal(size=50), rng.integers(1, 9, 50)
  label = rng.binomial(weight, 0.2) / weight
  scale, offset = calibration.fit(logit, label, weight)
  q = scipy.special.expit(scale * logit + offset)
  assert scale > 0
  np.testing.assert_allclose(
    np.average(q, weights=weight), np.average(label, weights=weight), atol=1e-5
  )


def test_a_head_reads_the_scaled_logit():
  head = {"kernel": np.array([1.0, -2.0]), "bias": np.float64(0.5)}
  hidden = np.array([0.3, 0.7])
  new = calibration.apply(head, 3.0, -1.0)
  before = hidden @ head["kernel"] + head["bias"]
  np.testing.assert_allclose(
    hidden @ new["kernel"] + new["bias"], 3 * before - 1
  )
