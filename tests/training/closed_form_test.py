import dataclasses

import numpy as np
import pytest

from pav_jax.problems.chain import ErrorRateValues
from pav_jax.training import closed_form
from pav_jax.training.collect_seeds import IndependentSeeds
from pav_jax.training.target_splits import rollout_of


@pytest.fixture(name="exact")
def exact_fixture(teacher_source):
  """Problem, and targets whose c / n are the exact values, n = 1000."""
  source = teacher_source()
  problem = source.problem
  seeds = IndependentSeeds(num_seeds=3, num_completions=1)
  targets, _ = seeds(source, problem.problem_ids("train", 0, 10))
  n = 1000 * targets.num_completions
  q = problem.teacher_values(rollout_of(targets))
  return problem, dataclasses.replace(
    targets, num_completions=n, num_correct=n * q
  )


def rates(problem):
  return {o.symbol: o.error for o in problem.operations}


def test_exact_counts_fit_exactly(exact):
  problem, targets = exact
  found = closed_form.compare(
    problem, targets, ErrorRateValues(problem, rates(problem)).described
  )
  assert found["chi_square"] == pytest.approx(0, abs=1e-4)
  assert found["bias"] == pytest.approx(0, abs=1e-6)
  assert found["correlation"] == pytest.approx(1)
  assert found["impossible"] == 0 and found["illegal"] == 0
  # Ten bare problems, though each has three traces.
  assert found["by_step"][0]["prefixes"] == 10
  assert sum(x["prefixes"] for x in found["by_step"]) == found["prefixes"]


def test_a_success_of_a_dead_prefix_is_impossible(exact):
  problem, targets = exact
  length = targets.prefix_len
  dead = problem.dead_prefixes(rollout_of(targets))
  live_length = (np.diff(length, axis=-1) > 0) & (
    length[:, 1:] < length[:, -1:]
  )
  row, at = np.argwhere(dead[:, 1:] & live_length)[0] + [0, 1]
  c = targets.num_correct.copy()
  c[row, at] = 1
  wrong = dataclasses.replace(targets, num_correct=c)
  found = closed_form.compare(
    problem, wrong, ErrorRateValues(problem, rates(problem)).described
  )
  assert found["impossible"] == 1


def test_traces_that_cannot_be_read_do_not_count(exact):
  problem, targets = exact
  tokens = targets.tokens.copy()
  # Padding within the first step of the traces of the first problem.
  tokens[:3, problem.prompt_len + 1] = problem.vocabulary.pad_id
  odd = dataclasses.replace(targets, tokens=tokens)
  found = closed_form.compare(
    problem, odd, ErrorRateValues(problem, rates(problem)).described
  )
  assert found["by_step"][0]["prefixes"] == 9
