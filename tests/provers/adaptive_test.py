import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import complementarity
from pav_jax.provers.adaptive import AdaptiveK, loss_weight_for, sampled_terms

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


def test_losses_weigh_what_they_are_told_to():
  # The same steps: gains of (0.9^K − 0.8^K) / 2 and losses of (1 − 0.9^K) / 2.
  values = jnp.array([[0.1, 0.2], [0.1, 0.0]])
  ks = np.array([1.0, 4.0, 8.0, 32.0])
  gain, loss = (0.9**ks - 0.8**ks) / 2, (1 - 0.9**ks) / 2
  for weight, best in ((0.0, 8), (0.5, 4), (1.0, 1)):
    terms = sampled_terms(
      values,
      jnp.zeros(2),
      LENGTHS[:2],
      jnp.asarray(ks, jnp.float32),
      loss_weight=weight,
    )
    want = gain - weight * loss
    np.testing.assert_allclose(terms.progress, want, atol=1e-6)
    # All at full weight the sum telescopes, and K = 1 is best.
    assert ks[np.argmax(terms.progress)] == best


def test_what_the_reward_does_not_punish_k_is_not_chosen_to_avoid():
  assert loss_weight_for(None, 1.0) == 0.5
  assert loss_weight_for(None, 0.0) == 0.0
  assert loss_weight_for(0.5, 0.0) == 0.5


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
    ({"every": 0}, "every is 0"),
    ({"by": "luck"}, "by is 'luck'"),
    ({"loss_weight": -0.5}, "loss_weight is -0.5"),
  ],
)
def test_bad_settings(settings, message):
  with pytest.raises(ValueError, match=message):
    AdaptiveK(**settings)
