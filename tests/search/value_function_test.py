"""Which prover gives the policy's values, which the prover's, and how often."""

import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.provers import base
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm, WellFormed
from pav_jax.search.value_function import value_function

PROBLEM = Chain(horizon=2, rho=0.0)
IDS = PROBLEM.problem_ids("test", 0, 6)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))


@dataclasses.dataclass(frozen=True)
class Constant(base.FixedProver):
  """Gives every prefix one value, and notes that it was asked."""

  value: float
  asked: list = dataclasses.field(default_factory=list)

  placement = "host"

  def __call__(self, key, rollout):
    self.asked.append(key)
    return np.full(rollout.prefix_len.shape, self.value, np.float32)


@pytest.mark.parametrize(
  "prover, expected",
  [
    (None, 0.5),
    (PolicyValues(), 0.5),
    (Constant(0.25), 0.25),
    (BestOfK(PolicyValues(), 2), 0.75),
    (BestOfK(Constant(0.25), 2), 1 - 0.75**2),
    (BestOfK(BestOfK(PolicyValues(), 2), 2), 1 - 0.5**4),
  ],
)
def test_each_prover_gives_the_values_it_is_there_for(prover, expected):
  key = jax.random.key(0)
  policy = Constant(0.5)
  q_policy, q_prover = value_function(policy, prover)(key, ROLLOUT)
  np.testing.assert_array_equal(q_policy, 0.5)
  np.testing.assert_allclose(q_prover, expected, rtol=1e-6)
  assert policy.asked == [key]


def test_best_of_k_of_either_stays_with_it():
  policy = Constant(0.5)
  values = value_function(BestOfK(policy, 2), BestOfK(PolicyValues(), 3))
  q_policy, q_prover = values(None, ROLLOUT)
  np.testing.assert_allclose(q_policy, 0.75, rtol=1e-6)
  np.testing.assert_allclose(q_prover, 1 - 0.25**3, rtol=1e-6)
  assert len(policy.asked) == 1


def test_values_are_those_of_the_provers_alone():
  exact = ClosedForm(PROBLEM.teacher_values)
  formed = BestOfK(WellFormed(exact, PROBLEM), 4)
  q_policy, q_prover = value_function(exact, formed)(None, ROLLOUT)
  np.testing.assert_array_equal(q_policy, exact(None, ROLLOUT))
  np.testing.assert_array_equal(q_prover, formed(None, ROLLOUT))
  assert not value_function(exact, formed).is_cached


def test_k_that_outcomes_choose_is_refused_where_there_are_none():
  values = value_function(Constant(0.5), AdaptiveK(PolicyValues(), (1, 4)))
  searched = dataclasses.replace(ROLLOUT, outcome=np.full(6, np.nan))
  with pytest.raises(ValueError, match="a search takes BestOfK"):
    values(None, searched)


def test_nothing_stands_in_for_a_policy_outside_of_a_search():
  with pytest.raises(ValueError, match="stands for the verifier of a search"):
    PolicyValues()(None, ROLLOUT)
