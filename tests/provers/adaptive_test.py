import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import complementarity
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.provers.sampled_terms import sampled_terms
from pav_jax.rollout import Rollout

# One step from one state, π = (1/2, 1/4, 1/4) with Q = (0, 0.2, 0.6), so V is
# 0.2: every action as often as it is likely, and outcomes at their mean.
Q = np.array([0.0, 0.0, 0.2, 0.6], np.float32)
VALUES = jnp.stack([jnp.full(4, 0.2), jnp.asarray(Q)], axis=1)
LENGTHS = jnp.array([[1, 2]] * 4)


def test_terms_are_those_of_the_table_where_samples_are_the_table():
  ks = (1.0, 2.0, 8.0)
  found = sampled_terms(VALUES, jnp.asarray(Q), LENGTHS, jnp.array(ks))
  probs = jnp.full((1, 4), 0.25)
  q = jnp.asarray(Q)[None]
  adv_policy = complementarity.best_of_k_advantages(q, probs, 1)
  for i, k in enumerate(ks):
    adv = complementarity.best_of_k_advantages(q, probs, k)
    apart = complementarity.distinguishability(adv, probs)[0]
    aligned = complementarity.alignment(adv, adv_policy, probs)[0]
    np.testing.assert_allclose(found.distinguishability[i], apart, rtol=1e-4)
    np.testing.assert_allclose(found.alignment[i], aligned, rtol=1e-4)
    np.testing.assert_allclose(found.bound[i], apart + aligned, rtol=1e-4)
    # A quarter of the samples each; Q = 0 and 0 are below V, and 0.2 is V.
    want = (adv[0, 0] + adv[0, 1]) / 2 + adv[0, 3]
    np.testing.assert_allclose(found.progress[i], want / 4, rtol=1e-4)


def test_states_of_unlike_value_are_kept_apart():
  # Two states, V = 0.1 and 0.7, whose steps change nothing: A = 0. As one
  # state with one mean they still would not vary; their Q would.
  values = jnp.array([[0.1, 0.1], [0.1, 0.3], [0.7, 0.7], [0.7, 0.5]])
  found = sampled_terms(values, jnp.zeros(4), LENGTHS, jnp.array([1.0]))
  # Deviations ±0.1 in each state.
  np.testing.assert_allclose(found.distinguishability, [0.01], rtol=1e-4)
  np.testing.assert_allclose(found.alignment, [0.0], atol=1e-7)


def test_progress_is_largest_inside_and_the_bound_at_the_end():
  # A right step, of half the samples, takes V = 0.1 to 0.2; a wrong one to 0.
  # (0.9^K − 0.8^K) / 2 − (1 − 0.9^K) / 4 is .025, .037, −.225 at K = 1, 4, 32.
  # As K grows right steps become worth V and wrong ones 0: the variance grows.
  values = jnp.array([[0.1, 0.2], [0.1, 0.0]])
  found = sampled_terms(
    values, jnp.zeros(2), LENGTHS[:2], jnp.array([1.0, 4.0, 32.0])
  )
  want = [(0.9**k - 0.8**k) / 2 - (1 - 0.9**k) / 4 for k in (1, 4, 32)]
  np.testing.assert_allclose(found.progress, want, rtol=1e-3)
  assert np.argmax(found.progress) == 1 and np.argmax(found.bound) == 2


def rollout_of(q, outcome):
  """Rollouts of a step each, and the prover that gives them q."""
  rows = len(q)
  ids = np.arange(rows, dtype=np.int32)
  rollout = Rollout(
    tokens=np.ones((rows, 2), np.int32),
    logp=np.zeros((rows, 2), np.float32),
    prefix_len=np.array([[1, 2]] * rows, np.int32),
    outcome=np.asarray(outcome, np.float32),
    problem_id=ids,
    sample_id=ids,
  )
  return rollout, ClosedForm(lambda rollout: np.asarray(q))


@pytest.mark.parametrize("by, k", [("progress", 4.0), ("bound", 32.0)])
def test_values_are_best_of_the_k_that_is_best_on_these_rollouts(by, k):
  # The numbers of the test above.
  rollout, one = rollout_of([[0.1, 0.2], [0.1, 0.0]], [0.0, 0.0])
  prover = AdaptiveK(one, (1, 4, 32), by)
  np.testing.assert_allclose(
    prover(None, rollout), BestOfK(one, k)(None, rollout), rtol=1e-6
  )
  metrics = prover.metrics(one(None, rollout), rollout)
  assert metrics["k"] == k
  terms = sampled_terms(
    one(None, rollout), rollout.outcome, rollout.prefix_len, jnp.array([k])
  )
  for name, term in terms._asdict().items():
    np.testing.assert_allclose(metrics[name], term[0], rtol=1e-6)


def test_losses_that_do_not_count_leave_the_largest_gain():
  # (0.9^K − 0.8^K) / 2 grows up to K of about 7.
  rollout, one = rollout_of([[0.1, 0.2], [0.1, 0.0]], [0.0, 0.0])
  ks = (1, 4, 7, 32)
  assert AdaptiveK(one, ks).choose(one(None, rollout), rollout) == 4
  bold = AdaptiveK(one, ks, loss_weight=0.0)
  assert bold.choose(one(None, rollout), rollout) == 7


def test_rollouts_without_outcomes_are_refused():
  rollout, one = rollout_of([[0.1, 0.2]], [np.nan])
  with pytest.raises(ValueError, match="expected graded ones"):
    AdaptiveK(one)(None, rollout)


def test_steps_past_the_end_do_not_count():
  longer = jnp.concatenate([VALUES, jnp.full((4, 1), 0.9)], axis=1)
  lengths = jnp.concatenate([LENGTHS, LENGTHS[:, 1:]], axis=1)
  ks = jnp.array([2.0])
  a = sampled_terms(VALUES, jnp.asarray(Q), LENGTHS, ks)
  b = sampled_terms(longer, jnp.asarray(Q), lengths, ks)
  np.testing.assert_allclose(a.bound, b.bound, rtol=1e-6)
  np.testing.assert_allclose(a.progress, b.progress, rtol=1e-6)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"ks": ()}, r"ks are \(\)"),
    ({"ks": (0.5,)}, "expected numbers from 1 up"),
    ({"loss_weight": -1.0}, "loss_weight is -1.0"),
    ({"by": "luck"}, "by is 'luck'"),
  ],
)
def test_bad_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    AdaptiveK(PolicyValues(), **settings)
