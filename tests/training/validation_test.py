import dataclasses

import pytest

from pav_jax.data.packing import Demonstrations
from pav_jax.problems.chain import Chain
from pav_jax.training.validation import FinetuneEvaluationConfig

BATCHES = Demonstrations(Chain(horizon=1), num_rows=2, row_length=32)


def test_lower_losses_and_higher_accuracies_score_higher():
  by_accuracy = FinetuneEvaluationConfig(BATCHES)
  by_loss = dataclasses.replace(by_accuracy, select_by="loss")
  better, worse = (
    {"loss": 0.1, "accuracy": 0.9},
    {"loss": 0.2, "accuracy": 0.8},
  )
  assert by_accuracy.score(better) > by_accuracy.score(worse)
  assert by_loss.score(better) > by_loss.score(worse)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"every": 0}, "every is 0"),
    ({"num_samples": 4}, r"ks is \(8,\), expected numbers in 1 … 4"),
    ({"test_ks": (0,)}, "test_ks is"),
    ({"select_by": "luck"}, "select_by is 'luck', expected one of"),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError, match=message):
    FinetuneEvaluationConfig(BATCHES, **change)


def test_pass_at_k_goes_up_to_all_samples():
  found = {
    n: FinetuneEvaluationConfig(BATCHES, test_samples=n).test_ks
    for n in (1, 16, 128)
  }
  assert found == {1: (), 16: (2, 4, 8, 16), 128: (2, 4, 8, 16, 32, 64, 128)}
