import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.problems.chain import ErrorRateValues
from pav_jax.provers import monte_carlo
from pav_jax.provers.completions import Jobs
from pav_jax.training import closed_form
from pav_jax.training.collect_first_pits import FirstPits
from pav_jax.training.collect_seeds import find_prefixes
from pav_jax.training.target_splits import rollout_of

STRATEGY = FirstPits(
  num_seeds=4, num_completions=16, num_states=2, num_rollouts=3
)


def ids(source, number):
  return source.problem.problem_ids("train", 0, number)


def test_labels_reach_up_to_the_pit(teacher_source):
  source = teacher_source()
  targets, spent = STRATEGY(source, ids(source, 40))
  n, c = targets.num_completions, targets.num_correct
  length = targets.prefix_len
  real = np.diff(length, axis=-1, prepend=-1) > 0
  dead = source.problem.dead_prefixes(rollout_of(targets))
  right = targets.outcome == 1
  assert (~right).sum() > 20 and right.any()
  # Of right traces all is labelled.
  np.testing.assert_array_equal(n[right], np.where(real, 16, 0)[right])
  # Of wrong ones everything to the first dead prefix, if no sooner one failed
  # by chance, and nothing that follows.
  labelled = n > 0
  assert (labelled[:, :-1] >= labelled[:, 1:]).all()
  last = labelled.sum(-1) - 1
  first_dead = (dead & real).argmax(-1)
  assert (last[~right] <= first_dead[~right]).all()
  assert (last == first_dead)[~right].mean() > 0.9
  assert (c[dead] == 0).all()
  # Samples are numbered after the four seeds, six a problem at most.
  assert targets.sample_id.min() >= 4 and targets.sample_id.max() <= 9
  pairs = np.stack([targets.problem_id, targets.sample_id], -1)
  assert len(np.unique(pairs, axis=0)) == len(pairs)
  assert spent.deciding > 0
  assert spent.stored == 16 * spent.prefixes


def test_selection_leaves_labels_unbiased(teacher_source):
  # States and pits were chosen by noisy values; labels are from others.
  source = teacher_source(rows_per_call=4096)
  targets, _ = STRATEGY(source, ids(source, 300))
  rates = {o.symbol: o.error for o in source.problem.operations}
  fit = closed_form.compare(
    source.problem, targets, ErrorRateValues(source.problem, rates).described
  )
  assert fit["prefixes"] > 500
  assert abs(fit["chi_square_z"]) < 4
  assert abs(fit["bias_z"]) < 4


def test_labels_of_pits_are_unbiased(teacher_source):
  # A live prefix becomes a pit because 3 probes failed. Were they stored, c
  # would be 0 throughout; made afresh, it is Binomial(3, q).
  source = teacher_source(rows_per_call=4096)
  strategy = dataclasses.replace(STRATEGY, num_probe=3, num_completions=3)
  targets, _ = strategy(source, ids(source, 300))
  n, c = targets.num_completions, targets.num_correct
  q = source.problem.teacher_values(rollout_of(targets))
  last = (n > 0).sum(-1) - 1
  row = np.arange(len(n))
  live = np.flatnonzero((targets.outcome == 0) & (q[row, last] > 0))
  # Rollouts that share a pit count once.
  owner = find_prefixes(source, rollout_of(targets)).owner
  pairs = np.stack([owner[live, last[live]], last[live]])
  live = live[np.unique(pairs, axis=1, return_index=True)[1]]
  at = live, last[live]
  assert (n[at] == 3).all()
  # The probes of these very prefixes, once more.
  rollouts = rollout_of(targets)
  first = owner[at], last[live]
  probes, _ = source.count(source.pilot, rollouts, Jobs(*first), 3)
  assert not probes.any()
  found = monte_carlo.fit(c[at], n[at], q[at])
  assert found.prefixes > 30
  assert abs(found.bias_z) < 4
  zeros = monte_carlo.fit(np.zeros(len(live)), n[at], q[at])
  assert zeros.bias_z < -6


def test_rollouts_begin_with_states_of_high_value(teacher_source):
  source = teacher_source()
  strategy = dataclasses.replace(STRATEGY, high=0.75, num_states=1)
  targets, _ = strategy(source, ids(source, 60))
  # The three rollouts of a problem share a prefix of which at least 3 of the 4
  # first completions were right. The bare problem's value is a product of four
  # factors .8 or .6, at most .41. By the labels, which had no part in the
  # choice, states are better.
  rollouts = rollout_of(targets)
  owner = find_prefixes(source, rollouts).owner
  rows = np.arange(len(owner))
  first = np.array(
    [np.flatnonzero(targets.problem_id == i)[0] for i in targets.problem_id]
  )
  shared = owner == first[:, None]
  group = targets.problem_id
  state = np.array(
    [shared[group == i].all(0).cumprod().sum() - 1 for i in group]
  )
  q = targets.num_correct[rows, state] / 16
  root = targets.num_correct[:, 0] / 16
  assert q.mean() > 0.45 > root.mean() + 0.1


def test_wrong_traces_alone(teacher_source):
  source = teacher_source()
  both, _ = STRATEGY(source, ids(source, 20))
  wrong, _ = dataclasses.replace(STRATEGY, keep_correct=False)(
    source, ids(source, 20)
  )
  assert (wrong.outcome == 0).all()
  some = jax.tree.map(lambda x: x[both.outcome == 0], both)
  np.testing.assert_array_equal(some.tokens, wrong.tokens)
  np.testing.assert_array_equal(some.num_completions, wrong.num_completions)


def test_problems_without_a_state_give_no_traces(teacher_source):
  source = teacher_source()

  class Whole:
    """Completes whole responses, which changes nothing."""

    slots = staticmethod(source.pilot.slots)

    def __call__(self, traces, prefixes, number):
      at_end = np.full_like(prefixes, traces.num_steps)
      return source.pilot(traces, at_end, number)

  hopeless = dataclasses.replace(source, pilot=Whole())
  # Pilots that return the seeds themselves: those of wrong seeds fail.
  wrong = [
    i
    for i in ids(source, 60)
    if not source.seeds(np.array([i], np.int32), 4).outcome.any()
  ]
  targets, spent = STRATEGY(hopeless, np.array(wrong[:3], np.int32))
  assert len(targets.tokens) == 0
  assert spent.stored == 0


def test_refuses_bad_settings():
  for name in ("num_seeds", "num_first", "num_rollouts", "num_probe"):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      dataclasses.replace(STRATEGY, **{name: 0})
  with pytest.raises(ValueError, match="high is 0"):
    dataclasses.replace(STRATEGY, high=0.0)
  with pytest.raises(ValueError, match="tolerance is 1"):
    dataclasses.replace(STRATEGY, tolerance=1.0)
