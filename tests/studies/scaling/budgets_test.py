import numpy as np
import pytest

from pav_jax.problems.chain import Chain, Operation
from studies.scaling.budgets import count

# Two additions, the first of which the teacher always gets wrong or right.
SURE = Chain(horizon=2, rho=0.0, operations=(Operation("+", error=0.0),))
WRONG = Chain(horizon=2, rho=0.0, operations=(Operation("+", error=1.0),))


def traces(problem, seeds):
  ids = np.repeat(problem.problem_ids("train", 0, 4), seeds)
  return problem.demonstrations(ids, np.tile(np.arange(seeds), 4))


@pytest.mark.parametrize("seeds", [1, 3])
def test_traces_that_are_all_right_are_one(seeds):
  # The bare problem and one step may still succeed, and are completed once;
  # drawn for every trace, the step was so many times.
  found = count(SURE, traces(SURE, 3), seeds, 5)
  assert (found.alive, found.dead) == (2 * 5, 0)
  assert found.drawn_before == (1 + seeds) * 5


def test_a_wrong_step_is_dead_and_costs_all_the_same():
  found = count(WRONG, traces(WRONG, 1), 1, 5)
  assert (found.alive, found.dead, found.drawn_before) == (5, 5, 5)
