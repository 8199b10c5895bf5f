import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural
from pav_jax.training import imitation

PROBLEM = Planted((1, 0), length=3, vocab_size=3)
POLICY = MadePolicy(PROBLEM, hidden=(8,))


def samples(strength, rows):
  prover = Procedural(PROBLEM, strength)
  ids = jnp.arange(rows)
  return prover.sample(jax.random.key(0), jnp.zeros_like(ids), ids)


def test_fits_the_distribution_that_it_was_given():
  # Cross-entropy is the data's entropy plus a KL, so the loss on fresh samples
  # of μ comes within a little of their own negative log-likelihood.
  rollouts = samples(4.0, 64 * 200)
  params, losses = jax.jit(
    lambda params: imitation.fit(
      POLICY, params, rollouts, batch_size=64, learning_rate=2e-2
    )
  )(POLICY.init(jax.random.key(1)))
  entropy = -float(jnp.mean(jnp.sum(rollouts.logp, axis=-1)))
  assert losses[0] > entropy + 0.3
  np.testing.assert_allclose(jnp.mean(losses[-50:]), entropy, atol=0.05)
  first = jax.nn.softmax(POLICY.logits(params, rollouts.tokens[:1]))[0, 0]
  np.testing.assert_allclose(first, [1 / 6, 4 / 6, 1 / 6], atol=0.04)


def test_one_batch_is_one_adam_step_on_the_mean_log_likelihood():
  # The first step of Adam is the learning rate along the gradient's sign.
  rollouts = samples(4.0, 8)
  params = POLICY.init(jax.random.key(1))
  new, losses = jax.jit(
    lambda params: imitation.fit(
      POLICY, params, rollouts, batch_size=8, learning_rate=1e-3
    )
  )(params)

  def loss_fn(params):
    return -jnp.mean(jnp.sum(POLICY.logp(params, rollouts), axis=-1))

  loss, gradient = jax.jit(jax.value_and_grad(loss_fn))(params)
  np.testing.assert_allclose(losses, [loss], rtol=1e-6)
  for name, g in gradient.items():
    large = np.abs(g) > 1e-4
    np.testing.assert_allclose(
      (new[name] - params[name])[large], -1e-3 * np.sign(g)[large], rtol=1e-2
    )


def test_rows_that_do_not_fill_the_batches_are_refused():
  with pytest.raises(ValueError, match="10 rollouts, expected a multiple"):
    imitation.fit(
      POLICY,
      POLICY.init(jax.random.key(1)),
      samples(1.0, 10),
      batch_size=4,
      learning_rate=1e-3,
    )


def test_imitation_depends_on_its_key_alone():
  imitate = imitation.ImitateProver(Procedural(PROBLEM, 4.0), num_iterations=2)
  first, again, other = (
    imitate(POLICY, jax.random.key(seed)) for seed in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first["kernel_0"], other["kernel_0"])
