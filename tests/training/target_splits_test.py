import numpy as np
import pytest

from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits


def targets(problem_id):
  rows = len(problem_id)
  return StepTargets(
    tokens=np.arange(rows, dtype=np.int32)[:, None],
    prefix_len=np.ones((rows, 1), np.int32),
    num_completions=np.ones((rows, 1), np.int32),
    num_correct=np.ones((rows, 1), np.float32),
    outcome=np.ones(rows, np.float32),
    problem_id=np.asarray(problem_id, np.int32),
    sample_id=np.arange(rows, dtype=np.int32),
  )


ALL = targets(np.repeat(np.arange(0, 900, 3), 4))


def test_every_trace_is_on_one_side_and_no_problem_on_two():
  parts = target_splits.split_by_problem(ALL, (0.6, 0.3, 0.1))
  rows = np.concatenate([part.tokens[:, 0] for part in parts])
  assert sorted(rows) == list(range(1200))
  problems = [set(part.problem_id.tolist()) for part in parts]
  assert not (problems[0] & problems[1] | problems[1] & problems[2])
  assert not problems[0] & problems[2]
  # 300 problems: 180, 90 and 30, with deviations of at most 8.7 each.
  for found, expected in zip(problems, (180, 90, 30), strict=True):
    assert abs(len(found) - expected) < 35
  for part in parts:
    assert (np.diff(part.tokens[:, 0]) > 0).all()


def test_the_side_depends_on_problem_and_seed_alone():
  some = target_splits.take(ALL, np.arange(500, 800))
  whole, part = (
    target_splits.split_by_problem(x, (0.5, 0.5))[0].problem_id
    for x in (ALL, some)
  )
  assert set(part) == set(whole) & set(some.problem_id)
  other = target_splits.split_by_problem(ALL, (0.5, 0.5), seed=1)[0].problem_id
  assert set(other) != set(whole)


def test_bad_shares():
  with pytest.raises(ValueError, match="shares are"):
    target_splits.split_by_problem(ALL, (0.5, 0.6))
  with pytest.raises(ValueError, match="of 1 problems is none"):
    target_splits.split_by_problem(targets([0, 0]), (0.9, 0.1))


def test_a_problem_in_both_data_sets_is_refused():
  target_splits.check_other_problems(targets([0, 3]), targets([1, 4]))
  with pytest.raises(ValueError, match=r"1 problems are .* \[3\]"):
    target_splits.check_other_problems(targets([0, 3]), targets([3, 4]))


def test_rollout_has_the_same_traces():
  rollout = target_splits.rollout_of(ALL)
  for field in ("tokens", "prefix_len", "outcome", "problem_id", "sample_id"):
    assert getattr(rollout, field) is getattr(ALL, field)
  assert not rollout.logp.any()
