import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.provers.answer_now import AnswerNow
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.rollout import Rollout

MARKER = (8, 9)


@pytest.fixture
def rollout():
  """Problems of one token; steps of 2 and 1 tokens, and of 1."""
  return Rollout(
    tokens=jnp.array([[7, 1, 2, 3], [7, 4, 0, 0]]),
    logp=jnp.array([[0.0, -0.5, -0.25, -1.0], [0.0, -2.0, 0.0, 0.0]]),
    prefix_len=jnp.array([[1, 3, 4], [1, 2, 2]]),
    outcome=jnp.array([1.0, 0.0]),
    problem_id=jnp.array([3, 5]),
    sample_id=jnp.array([0, 2]),
  )


def test_prefixes_are_cut_and_marked_and_whole_responses_are_not(rollout):
  cut = AnswerNow(ClosedForm(abs), MARKER).cut(rollout)
  np.testing.assert_array_equal(
    cut.tokens,
    [
      [7, 8, 9, 0, 0, 0],
      [7, 1, 2, 8, 9, 0],
      [7, 1, 2, 3, 0, 0],
      [7, 8, 9, 0, 0, 0],
      [7, 4, 0, 0, 0, 0],
      [7, 4, 0, 0, 0, 0],
    ],
  )
  np.testing.assert_array_equal(
    cut.prefix_len, [[1, 3], [1, 5], [1, 4], [1, 3], [1, 2], [1, 2]]
  )
  np.testing.assert_allclose(cut.logp[1], [0, -0.5, -0.25, 0, 0, 0])
  np.testing.assert_array_equal(cut.problem_id, [3, 3, 3, 5, 5, 5])
  # No two prefixes of a problem share random numbers.
  np.testing.assert_array_equal(cut.sample_id, [0, 1, 2, 6, 7, 8])


def test_values_are_the_others_of_what_was_cut(rollout):
  def last_token(rollout):
    at = rollout.prefix_len - 1
    return np.take_along_axis(rollout.tokens, at, axis=1) / 10

  prover = AnswerNow(ClosedForm(last_token), MARKER)
  q = prover(None, rollout)
  np.testing.assert_allclose(q, [[0.9, 0.9, 0.3], [0.9, 0.4, 0.4]], rtol=1e-6)
  # Progress of MRT: what a step adds to the best guess, and the outcome.
  got = credit.EffectiveReward(1.0)(rollout, jnp.asarray(q))
  np.testing.assert_allclose(got, [[1, 0.4], [-0.5, 0]], atol=1e-6)


def test_it_is_made_of_the_policy_that_its_prover_is_made_of():
  class Follows(ClosedForm):
    def with_policy(self, policy, params):
      return ClosedForm(params)

  prover = AnswerNow(Follows(abs), MARKER)
  assert prover.with_policy(MadePolicy, len) == AnswerNow(
    ClosedForm(len), MARKER
  )
  fixed = AnswerNow(ClosedForm(abs), MARKER)
  assert fixed.with_policy(MadePolicy, len) is fixed


def test_a_marker_is_needed():
  with pytest.raises(ValueError, match=r"marker is \(\), expected"):
    AnswerNow(ClosedForm(abs), ())
