import numpy as np

from pav_jax.problems.chain import Chain
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.search.judging import Judge, network

PROBLEM = Chain(horizon=2, rho=0.0)


def demonstrations():
  ids = PROBLEM.problem_ids("test", 0, 6)
  return PROBLEM.demonstrations(ids, np.zeros(6, np.int32))


def test_the_provers_values_are_best_of_k():
  rollout = demonstrations()
  exact = ClosedForm(PROBLEM.teacher_values)
  q_policy, q_prover = Judge(exact, k=4.0)(None, rollout)
  np.testing.assert_allclose(q_policy, PROBLEM.teacher_values(rollout), 1e-6)
  want = BestOfK(exact, 4.0)(None, rollout)
  np.testing.assert_allclose(q_prover, want, rtol=1e-6)
  other = ClosedForm(PROBLEM.clean().teacher_values)
  _, q_other = Judge(exact, other)(None, rollout)
  np.testing.assert_allclose(q_other, other(None, rollout), rtol=1e-6)
  assert not Judge(exact).is_cached and network(exact) is None
