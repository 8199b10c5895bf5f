import dataclasses

import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.problems.countdown import Countdown
from pav_jax.rollout import Rollout
from pav_jax.training import probes


def rollout(tokens, prefix_len, outcome=None):
  tokens = np.asarray(tokens, np.int32)
  return Rollout(
    tokens=tokens,
    logp=np.zeros(tokens.shape, np.float32),
    prefix_len=np.asarray(prefix_len, np.int32),
    outcome=np.zeros(len(tokens), np.float32) if outcome is None else outcome,
    problem_id=np.zeros(len(tokens), np.int32),
    sample_id=np.arange(len(tokens), dtype=np.int32),
  )


def test_measures_by_arithmetic():
  # A problem of one token. Row 0: steps 5 6 | 5 6 | 7, the second repeats the
  # first and the third is as short as a delimiter. Rows 1 and 2 are the same,
  # 5 6 | 8 9.
  batch = rollout(
    [[4, 5, 6, 5, 6, 7], [4, 5, 6, 8, 9, 0], [4, 5, 6, 8, 9, 0]],
    [[1, 3, 5, 6], [1, 3, 5, 5], [1, 3, 5, 5]],
    np.array([1.0, 0.0, 0.0], np.float32),
  )
  q = np.zeros((3, 4), np.float32)
  q[:, -1] = [0.9, 0.6, 0.6]
  found = probes.measure(Countdown(), batch, q)
  assert found["no_progress"] == pytest.approx(1 / 7)
  assert found["empty"] == pytest.approx(1 / 7)
  assert found["length"] == pytest.approx(13 / 3)
  assert found["distinct"] == pytest.approx(1 / 2)  # of the wrong ones
  assert found["score_gap"] == pytest.approx(0.7 - 1 / 3)
  assert "score_gap" not in probes.measure(Countdown(), batch)
  # Who always gives the same right response has learnt it.
  right = dataclasses.replace(batch, outcome=np.ones(3, np.float32))
  assert probes.measure(Countdown(), right)["distinct"] == 1


def test_chain_says_which_of_its_steps_restate():
  problem = dataclasses.replace(Chain(), horizon=3, rho=0.5)
  ids = problem.problem_ids("train", 0, 16)
  batch = problem.demonstrations(ids, np.zeros_like(ids))
  steps = problem.steps(batch)
  share = (steps.kind == -1).sum() / (np.diff(batch.prefix_len) > 0).sum()
  assert 0.2 < share < 0.8
  assert probes.measure(problem, batch)["no_progress"] == pytest.approx(share)


def test_thresholds_are_one_sided_but_for_length():
  fine = {"no_progress": 0.1, "empty": 0.0, "distinct": 1.0, "length": 60.0}
  thresholds = probes.Thresholds()
  assert thresholds.exceeded(fine | {"score_gap": -0.5}, fine) == {}
  for change in (
    {"no_progress": 0.5},
    {"empty": 0.1},
    {"distinct": 0.2},
    {"length": 100.0},
    {"length": 30.0},
    {"score_gap": 0.3},
  ):
    assert list(thresholds.exceeded(fine | change, fine)) == list(change)
  for accuracy, best, warns in (
    (0.09, 0.2, True),
    (0.11, 0.2, False),
    (0.0, 0.04, False),
  ):
    now = fine | {"accuracy": accuracy}
    assert ("accuracy" in thresholds.exceeded(now, fine, best)) == warns
