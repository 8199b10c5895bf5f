import numpy as np
import pytest

from pav_jax.training.learning_rate import LearningRateSchedule


def test_rates_warm_up_and_fall_along_a_cosine():
  # 2 of 10 iterations warm up, from ½ to 1; half-way down the cosine is ½.
  schedule = LearningRateSchedule(warmup=0.2)
  rates = [schedule(i, 10) for i in range(10)]
  np.testing.assert_allclose(rates[:2], [0.5, 1.0])
  np.testing.assert_allclose(rates[5], 0.5, atol=1e-6)
  assert rates[9] == pytest.approx(0, abs=1e-6)
  assert LearningRateSchedule(0.0, 1.0)(7, 10) == 1.0
  assert LearningRateSchedule(0.0, 1.0).is_constant
  assert not schedule.is_constant


def test_bad_schedules():
  with pytest.raises(ValueError, match="warmup and final are 1"):
    LearningRateSchedule(warmup=1.0)
