import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.problems import base
from pav_jax.problems.chain import ErrorRateValues
from pav_jax.provers.budget import EarlyStopping
from pav_jax.training import closed_form
from pav_jax.training.collect_seeds import IndependentSeeds, find_prefixes
from pav_jax.training.target_splits import rollout_of

SEEDS = IndependentSeeds(num_seeds=4, num_completions=16)


def ids(source, number):
  return source.problem.problem_ids("train", 0, number)


def real(targets):
  return np.diff(targets.prefix_len, axis=-1, prepend=-1) > 0


def dead(source, targets):
  return source.problem.dead_prefixes(rollout_of(targets))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_values_agree_with_closed_form(teacher_source):
  source = teacher_source(rows_per_call=4096)
  targets, _ = SEEDS(source, ids(source, 300))
  rates = {o.symbol: o.error for o in source.problem.operations}
  fit = closed_form.compare(
    source.problem, targets, ErrorRateValues(source.problem, rates).described
  )
  # About 2,500 different prefixes; both z are about normal.
  assert fit["prefixes"] > 1500
  assert abs(fit["chi_square_z"]) < 4
  assert abs(fit["bias_z"]) < 4
  assert fit["impossible"] == 0
  assert len(fit["by_step"]) == source.problem.max_steps + 1
  # The gate notices rates that are 2 percent off.
  off = {symbol: rate + 0.02 for symbol, rate in rates.items()}
  wrong = closed_form.compare(
    source.problem, targets, ErrorRateValues(source.problem, off).described
  )
  assert wrong["bias_z"] > 5
  # Rates from the traces themselves are near.
  found = closed_form.compare(source.problem, targets)
  for symbol, rate in rates.items():
    assert found["error_rates"][symbol] == pytest.approx(rate, abs=0.05)


def test_dead_prefixes_are_free_and_labels_the_same(teacher_source):
  # A dead prefix's completions fail all, so counts are even equal.
  free = teacher_source()
  targets, spent = SEEDS(free, ids(free, 12))
  costly = dataclasses.replace(free, dead_are_free=False)
  same, more = SEEDS(costly, ids(free, 12))
  assert_equal(targets, same)
  assert more.free_dead == 0 and spent.free_dead > 0
  # Dead prefixes that several traces share cost once.
  assert more.stored > spent.stored


def test_what_is_free_and_what_is_not(teacher_source):
  source = teacher_source()
  targets, spent = SEEDS(source, ids(source, 12))
  n, c = targets.num_completions, targets.num_correct
  whole = real(targets) & (targets.prefix_len == targets.prefix_len[:, -1:])
  # Every prefix has its label, entries past the end none.
  np.testing.assert_array_equal(n, np.where(real(targets), 16, 0))
  np.testing.assert_array_equal(c[whole], 16 * targets.outcome)
  # Seeds share the bare problem, some of them more.
  root = c[:, 0].reshape(12, 4)
  assert (root == root[:, :1]).all() and len(np.unique(root)) > 3
  texts = {
    (int(i), row[:length].tobytes())
    for row, lengths, i, alive in zip(
      targets.tokens,
      targets.prefix_len,
      targets.problem_id,
      real(targets) & ~whole & ~dead(source, targets),
      strict=True,
    )
    for length in lengths[alive]
  }
  assert spent.stored == 16 * len(texts) == 16 * spent.prefixes
  parts = spent.free_final + spent.free_dead + spent.free_shared
  assert parts + spent.stored == n.sum()
  assert spent.saved == spent.deciding == 0
  assert spent.traces == len(targets.tokens) == 48


def test_labels_do_not_depend_on_what_is_done_together(teacher_source):
  source = teacher_source()
  together, _ = SEEDS(source, ids(source, 6))
  small = dataclasses.replace(source, rows_per_call=20)
  assert_equal(together, SEEDS(small, ids(source, 6))[0])
  alone = [SEEDS(source, ids(source, 6)[i : i + 1])[0] for i in range(6)]
  assert_equal(together, jax.tree.map(lambda *x: np.concatenate(x), *alone))
  # Calls have one shape, whole responses fill them up.
  shapes = {(n, prefixes.shape) for n, prefixes in small.complete.log}
  assert shapes >= {(16, (1, 2))}


def test_more_seeds_do_not_change_those_before(teacher_source):
  source = teacher_source()
  few, _ = SEEDS(source, ids(source, 5))
  more = dataclasses.replace(SEEDS, num_seeds=7)
  many, _ = more(source, ids(source, 5))
  kept = many.sample_id < 4
  assert_equal(few, jax.tree.map(lambda x: x[kept], many))


def test_equal_prefixes_of_other_problems_are_not_shared(teacher_source):
  source = teacher_source()
  traces = source.seeds(ids(source, 1), 2)
  twice = jax.tree.map(lambda x: np.concatenate([x, x]), traces)
  twice = dataclasses.replace(twice, problem_id=np.repeat([0, 3], 2))
  prefixes = find_prefixes(source, twice)
  assert prefixes.owner[2:].min() == 2
  assert prefixes.owner[:2].max() <= 1


def test_early_stopping_stays_unbiased_and_saves(teacher_source):
  source = teacher_source(rows_per_call=4096)
  stopping = EarlyStopping(pilot=6, least=2)
  strategy = dataclasses.replace(SEEDS, early_stopping=stopping)
  targets, spent = strategy(source, ids(source, 300))
  rates = {o.symbol: o.error for o in source.problem.operations}
  fit = closed_form.compare(
    source.problem, targets, ErrorRateValues(source.problem, rates).described
  )
  assert abs(fit["chi_square_z"]) < 4
  assert abs(fit["bias_z"]) < 4
  n = targets.num_completions
  assert set(np.unique(n[real(targets)])) == {2, 10}
  # Each prefix costs 16, or the pilot and 2.
  assert spent.deciding == 6 * spent.prefixes
  assert spent.saved == 8 * spent.decided > 0
  assert spent.stored + spent.deciding + spent.saved == 16 * spent.prefixes
  # Whole and dead ones get what their pilots would have led to.
  known = real(targets) & (targets.prefix_len == targets.prefix_len[:, -1:])
  known |= dead(source, targets) & real(targets)
  assert (n[known] == 2).all()


def test_early_stopping_treats_dead_prefixes_alike(teacher_source):
  stopping = EarlyStopping(pilot=6, least=2)
  strategy = dataclasses.replace(SEEDS, early_stopping=stopping)
  free = teacher_source()
  costly = dataclasses.replace(free, dead_are_free=False)
  assert_equal(
    strategy(free, ids(free, 8))[0], strategy(costly, ids(free, 8))[0]
  )


def test_refuses_bad_settings():
  with pytest.raises(ValueError, match="num_seeds is 0"):
    IndependentSeeds(0, 4)
  with pytest.raises(ValueError, match="num_completions is 0"):
    IndependentSeeds(4, 0)
  with pytest.raises(ValueError, match="expected at least 8"):
    IndependentSeeds(4, 7, EarlyStopping(pilot=6, least=2))


def test_padding_within_a_response(teacher_source):
  # A policy may sample padding; its trace then has steps that the problem does
  # not find, and no prefix of it is dead for certain.
  source = teacher_source()
  traces = source.seeds(ids(source, 4), 2)
  wrong = int(np.flatnonzero(traces.outcome == 0)[0])
  at = traces.prefix_len[wrong, 1] + 2
  tokens = traces.tokens.copy()
  tokens[wrong, at] = source.problem.vocabulary.pad_id
  odd = dataclasses.replace(traces, tokens=tokens)
  assert np.flatnonzero(~base.readable(source.problem, odd)).tolist() == [wrong]
  dead, before = (find_prefixes(source, x).dead for x in (odd, traces))
  others = np.arange(len(dead)) != wrong
  np.testing.assert_array_equal(dead[others], before[others])
  assert not dead[wrong].any() and before[wrong].any()
