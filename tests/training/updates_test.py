import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax import steps
from pav_jax.rollout import Rollout
from pav_jax.training import updates


def softmax_problem():
  """Three one-step rollouts of a softmax over 3 actions at zero logits."""
  params = {"logits": jnp.zeros(3)}
  tokens = jnp.array([[0], [1], [2]])
  rollout = Rollout(
    tokens=tokens,
    logp=jnp.full((3, 1), -jnp.log(3.0)),
    prefix_len=jnp.array([[0, 1]] * 3),
    outcome=jnp.zeros(3),
    problem_id=jnp.zeros(3, jnp.int32),
    sample_id=jnp.arange(3),
  )

  def logp_fn(params):
    return jax.nn.log_softmax(params["logits"])[tokens]

  return params, rollout, logp_fn


def batch(rollout, weights, **options):
  """With a weight for the one step of each rollout."""
  weights = jnp.asarray(weights, jnp.float32)[:, None]
  return updates.Batch(rollout, weights, **options)


def test_sgd_adds_the_mean_of_weighted_scores():
  # ∇log π(a) = e_a - 1/3; weights (1, 0, -1): Σ w ∇log π / 3 = (1, 0, -1) / 3.
  params, rollout, logp_fn = softmax_problem()
  update = updates.Gradient("sgd", 0.3)
  new, _, metrics = update(
    params, update.init(params), logp_fn, batch(rollout, [1.0, 0, -1])
  )
  np.testing.assert_allclose(new["logits"], [0.1, 0, -0.1], atol=1e-7)
  np.testing.assert_allclose(metrics["gradient_norm"], 2**0.5 / 3, rtol=1e-6)


def test_first_adam_step_is_the_learning_rate_along_the_sign():
  # m̂ / (√v̂ + eps) of the first step is the gradient's sign.
  params, rollout, logp_fn = softmax_problem()
  update = updates.Gradient("adam", 0.01)
  new, _, _ = update(
    params, update.init(params), logp_fn, batch(rollout, [1.0, 0, -1])
  )
  np.testing.assert_allclose(new["logits"], [0.01, 0, -0.01], rtol=1e-5)


def test_first_moments_in_bfloat16_are_rounded_and_nothing_else_is():
  # m = 0.1 g and v = 0.001 g² after one step from zero.
  params, rollout, logp_fn = softmax_problem()
  update = updates.Gradient("adam", 0.01, mu_dtype="bfloat16")
  new, state, _ = update(
    params, update.init(params), logp_fn, batch(rollout, [1.0, 0, -1])
  )
  moments = state[0]
  assert moments.mu["logits"].dtype == jnp.bfloat16
  assert moments.nu["logits"].dtype == new["logits"].dtype == jnp.float32
  gradient = np.array([-1.0, 0, 1]) / 3
  np.testing.assert_array_equal(
    moments.mu["logits"], jnp.asarray(0.1 * gradient, jnp.bfloat16)
  )
  np.testing.assert_allclose(
    moments.nu["logits"], 1e-3 * gradient**2, rtol=1e-5
  )
  np.testing.assert_allclose(new["logits"], [0.01, 0, -0.01], rtol=1e-2)


def test_natural_gradient_uncapped_is_the_softmax_update():
  # All actions are sampled once and π is uniform, so the sampled Fisher matrix
  # is exact; Lemma F.2 then says: logits + γ w, up to a constant: the mean of
  # weights, which is divided by the damping and cancels. In float64, which
  # leaves nothing of it.
  with jax.enable_x64(True):
    params, rollout, logp_fn = softmax_problem()
    params = {"logits": jnp.zeros(3, jnp.float64)}
    update = updates.NaturalGradient(
      step_size=0.2, damping=1e-6, max_kl=1e6, num_cg_steps=5
    )
    weights = jnp.array([[1.0], [0.25], [-1]])
    new, _, metrics = update(
      params, update.init(params), logp_fn, updates.Batch(rollout, weights)
    )
    change = np.asarray(new["logits"]) - np.mean(new["logits"])
    want = 0.2 * (weights[:, 0] - weights.mean())
    np.testing.assert_allclose(change, want, atol=1e-6)
    np.testing.assert_allclose(metrics["step_factor"], 0.2)


def test_cap_makes_the_predicted_kl_the_cap_and_keeps_the_direction():
  params, rollout, logp_fn = softmax_problem()
  weights = jnp.array([[1.0], [0.25], [-1]])
  results = {}
  for max_kl in (1e6, 1e-4):
    update = updates.NaturalGradient(
      step_size=1.0, damping=1e-3, max_kl=max_kl, num_cg_steps=5
    )
    results[max_kl] = update(
      params, update.init(params), logp_fn, updates.Batch(rollout, weights)
    )
  free, _, _ = results[1e6]
  capped, _, metrics = results[1e-4]
  np.testing.assert_allclose(metrics["predicted_kl"], 1e-4, rtol=1e-5)
  np.testing.assert_allclose(
    capped["logits"] / metrics["step_factor"], free["logits"], rtol=1e-5
  )
  kl = jnp.mean(logp_fn(params) - logp_fn(capped))  # π is uniform over rows
  np.testing.assert_allclose(kl, 1e-4, rtol=0.02)  # second order


def test_step_within_kl_composes_with_optax():
  # Cap 0.04 on a predicted KL of 1 scales by 0.2; then optax.scale halves.
  chain = optax.chain(updates.step_within_kl(1.0, 0.04), optax.scale(0.5))
  gradient = {"w": jnp.array([10.0, -10.0])}
  step, _ = chain.update(
    gradient, chain.init(gradient), predicted_kl=jnp.float32(1.0)
  )
  np.testing.assert_allclose(step["w"], [1.0, -1.0], rtol=1e-6)


def test_zero_update_stays_zero():
  chain = updates.step_within_kl(30.0, 0.01)
  step, factor = chain.update(
    jnp.zeros(2), jnp.float32(0), predicted_kl=jnp.float32(0)
  )
  np.testing.assert_array_equal(step, 0)
  assert factor == 30.0


def test_steps_that_do_not_exist_have_no_say():
  # The second row's response has ended after one step: a weight on its second
  # step is multiplied by a log-probability that is no function of params.
  params = {"logits": jnp.zeros(2)}
  tokens = jnp.array([[0, 1], [1, 0]])
  rollout = Rollout(
    tokens=tokens,
    logp=jnp.zeros((2, 2)),
    prefix_len=jnp.array([[0, 1, 2], [0, 1, 1]]),
    outcome=jnp.zeros(2),
    problem_id=jnp.zeros(2, jnp.int32),
    sample_id=jnp.arange(2),
  )
  index = steps.step_index(rollout.prefix_len, 2)

  def logp_fn(params):
    logp = jax.nn.log_softmax(params["logits"])[tokens]
    return jnp.where(index <= 2, logp, 0.0)

  for update in (updates.Gradient("sgd", 1.0), updates.NaturalGradient()):
    results = [
      update(
        params,
        update.init(params),
        logp_fn,
        updates.Batch(rollout, jnp.array([[1.0, 0.5], [0.25, phantom]])),
      )[0]["logits"]
      for phantom in (0.0, 100.0)
    ]
    if isinstance(update, updates.Gradient):
      np.testing.assert_array_equal(*results)
    else:
      np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: updates.Gradient("lion"), "optimizer is 'lion'"),
    (lambda: updates.Gradient("sgd", -1.0), "learning_rate is -1.0"),
    (lambda: updates.Gradient(max_ratio=0.0), "max_ratio is 0.0"),
    (lambda: updates.Gradient(mu_dtype="float16"), "mu_dtype is 'float16'"),
    (lambda: updates.NaturalGradient(damping=0.0), "damping is 0.0"),
    (lambda: updates.NaturalGradient(max_kl=float("nan")), "max_kl is nan"),
    (lambda: updates.NaturalGradient(num_cg_steps=0), "num_cg_steps is 0"),
  ],
)
def test_bad_settings_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_steps_scale_and_gradients_are_clipped():
  # The gradient is (1, 0, -1) / 3, of norm √2 / 3; clipped to 0.1 it is
  # (0.1, 0, -0.1) / √2, and half a learning rate of 2 leaves it there.
  params, rollout, logp_fn = softmax_problem()
  update = updates.Gradient("sgd", 2.0, clip_norm=0.1)
  new, _, metrics = update(
    params,
    update.init(params),
    logp_fn,
    batch(rollout, [1.0, 0, -1]),
    scale=0.5,
  )
  want = np.array([0.1, 0, -0.1]) / 2**0.5
  np.testing.assert_allclose(new["logits"], want, atol=1e-6)
  np.testing.assert_allclose(metrics["gradient_norm"], 2**0.5 / 3, rtol=1e-6)


@pytest.mark.parametrize(
  "update",
  [
    updates.Gradient("sgd", 0.5, kl_weight=1.0),
    updates.NaturalGradient(0.5, damping=1e-4, max_kl=1e6, kl_weight=1.0),
  ],
  ids=["gradient", "natural"],
)
def test_kl_penalty_leads_towards_the_reference(update):
  # No rewards. Towards the reference p: ∇KL(π‖p) of a uniform π, whose actions
  # were sampled once each, is Σ_a (log π_a − log p_a) (e_a − 1/3) / 3, the
  # deviations of −log p from their mean over 3; the natural gradient has no 3.
  params, rollout, logp_fn = softmax_problem()
  logp_ref = jnp.log(jnp.array([[0.5], [0.3], [0.2]]))
  new, _, _ = update(
    params,
    update.init(params),
    logp_fn,
    batch(rollout, [0.0, 0, 0], logp_ref=logp_ref),
  )
  ahead = np.array(logp_ref[:, 0] - logp_ref.mean())
  ahead /= 3 if isinstance(update, updates.Gradient) else 1
  change = np.array(new["logits"]) - np.mean(new["logits"])
  # The damping shortens it by 3e-4.
  np.testing.assert_allclose(change, 0.5 * ahead, atol=2e-4)


def older(rollout):
  """Sampled with probabilities 1/6, 1/2 and 1/9 where π has 1/3.

  The ratios are 2, 2/3 and 3.
  """
  logp = jnp.log(jnp.array([[1 / 6], [1 / 2], [1 / 9]]))
  return dataclasses.replace(rollout, logp=logp)


def test_older_rollouts_count_by_their_truncated_ratios():
  params, rollout, logp_fn = softmax_problem()
  rollout = older(rollout)

  def follow(update, weights, **options):
    state = update.init(params)
    return update(params, state, logp_fn, batch(rollout, weights, **options))[0]

  for max_ratio, ratios in ((2.0, [2, 2 / 3, 2]), (5.0, [2, 2 / 3, 3])):
    for update in (
      updates.Gradient("sgd", 1.0, max_ratio=max_ratio),
      updates.NaturalGradient(max_ratio=max_ratio),
    ):
      np.testing.assert_allclose(
        follow(update, [1.0, 3.0, -1.0], off_policy=True)["logits"],
        follow(update, np.multiply([1.0, 3.0, -1.0], ratios))["logits"],
        rtol=1e-4,
        atol=1e-6,
      )


@pytest.mark.parametrize(
  "update",
  [
    updates.Gradient("sgd", 0.5, kl_weight=1.0, max_ratio=9.0),
    updates.NaturalGradient(
      0.5, damping=1e-4, max_kl=1e6, kl_weight=1.0, max_ratio=9.0
    ),
  ],
  ids=["gradient", "natural"],
)
def test_kl_penalty_of_older_rollouts_has_their_ratios(update):
  # No rewards. Samples of probabilities p, each as often as it is likely; what
  # is expected is ∇KL(π‖ref) of π, uniform, as if π had been sampled.
  params, _, _ = softmax_problem()
  p = np.array([1, 2, 3]) / 6
  actions = np.repeat(np.arange(3), [1, 2, 3])
  rollout = Rollout(
    tokens=jnp.array(actions)[:, None],
    logp=jnp.log(jnp.array(p[actions], jnp.float32))[:, None],
    prefix_len=jnp.array([[0, 1]] * 6),
    outcome=jnp.zeros(6),
    problem_id=jnp.zeros(6, jnp.int32),
    sample_id=jnp.arange(6),
  )
  ref = np.log([0.5, 0.3, 0.2])

  def logp_fn(params):
    return jax.nn.log_softmax(params["logits"])[rollout.tokens]

  new, _, _ = update(
    params,
    update.init(params),
    logp_fn,
    batch(
      rollout,
      np.zeros(6),
      logp_ref=jnp.asarray(ref[actions], jnp.float32)[:, None],
      off_policy=True,
    ),
  )
  change = np.array(new["logits"]) - np.mean(new["logits"])
  ahead = ref - ref.mean()
  if isinstance(update, updates.Gradient):
    np.testing.assert_allclose(change, 0.5 * ahead / 3, rtol=1e-5)
  else:
    # By definition: (F + λ) d = g with the Fisher matrix of the samples.
    scores = np.eye(3)[actions] - 1 / 3
    weights = -(np.log(1 / 3) - ref[actions]) / (3 * p[actions])
    fisher = scores.T @ scores / 6 + 1e-4 * np.eye(3)
    direction = np.linalg.solve(fisher, scores.T @ weights / 6)
    np.testing.assert_allclose(change, 0.5 * direction, rtol=1e-3)


def test_clipped_updates_stop_at_their_bounds():
  # Ratios 2, 2/3 and 3 with bounds .4 and .5: the first gains and is above,
  # the second loses and is inside, the third loses and has no bound there.
  params, rollout, logp_fn = softmax_problem()
  rollout = older(rollout)
  update = updates.Gradient("sgd", 1.0, clip_range=(0.4, 0.5))
  got, _, _ = update(
    params,
    update.init(params),
    logp_fn,
    batch(rollout, [1.0, -1.0, -1.0], off_policy=True),
  )
  plain = updates.Gradient("sgd", 1.0)
  want, _, _ = plain(
    params,
    plain.init(params),
    logp_fn,
    batch(rollout, [0.0, -2 / 3, -3.0]),
  )
  np.testing.assert_allclose(got["logits"], want["logits"], rtol=1e-5)
  # On-policy there is nothing to clip.
  weights = batch(rollout, [1.0, -1.0, -1.0])
  np.testing.assert_array_equal(
    update(params, update.init(params), logp_fn, weights)[0]["logits"],
    plain(params, plain.init(params), logp_fn, weights)[0]["logits"],
  )


def test_normalization_and_form_reach_the_losses():
  # One token a response: sequences and tokens average as responses do, and a
  # constant length of 4 takes a quarter. k1 has no pull of its own where all
  # actions are sampled once.
  params, rollout, logp_fn = softmax_problem()

  def follow(update, **options):
    state = update.init(params)
    learnt = batch(rollout, [1.0, 0, -1], **options)
    return np.asarray(update(params, state, logp_fn, learnt)[0]["logits"])

  want = follow(updates.Gradient("sgd", 1.0))
  for normalization in ("sequences", "tokens"):
    got = follow(updates.Gradient("sgd", 1.0, normalization=normalization))
    np.testing.assert_allclose(got, want, rtol=1e-6)
  got = follow(updates.Gradient("sgd", 1.0, normalization=4))
  np.testing.assert_allclose(got, want / 4, rtol=1e-6)
  got = follow(
    updates.Gradient("sgd", 1.0, kl_weight=1.0, kl_form="k1"),
    logp_ref=jnp.log(jnp.array([[0.5], [0.3], [0.2]])),
  )
  np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize("room", [1, 15, 48])
def test_the_cap_is_of_steps_that_exist(room):
  # Two responses of one step in room for more: the KL of the step is the cap,
  # and the update that without room.
  def follow(room):
    rollout = Rollout(
      tokens=jnp.zeros((2, room), jnp.int32).at[1].set(1),
      logp=jnp.full((2, room), -jnp.log(3.0)),
      prefix_len=jnp.minimum(jnp.arange(room + 1), 1) * jnp.ones((2, 1), int),
      outcome=jnp.zeros(2),
      problem_id=jnp.zeros(2, jnp.int32),
      sample_id=jnp.arange(2),
    )

    def logp_fn(params):
      return jax.nn.log_softmax(params["logits"])[rollout.tokens]

    params = {"logits": jnp.zeros(3)}
    update = updates.NaturalGradient(
      step_size=1e3, damping=0.1, max_kl=1e-3, num_cg_steps=5
    )
    weights = jnp.zeros((2, room)).at[:, 0].set(jnp.array([1.0, -1.0]))
    return update(
      params, update.init(params), logp_fn, updates.Batch(rollout, weights)
    )

  new, _, metrics = follow(room)
  alone, _, wanted = follow(1)
  np.testing.assert_allclose(new["logits"], alone["logits"], rtol=1e-5)
  for name, x in wanted.items():
    np.testing.assert_allclose(metrics[name], x, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics["predicted_kl"], 1e-3, rtol=1e-5)
