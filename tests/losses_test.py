import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import losses, steps
from pav_jax.testing import tabular

# A problem of 1 token, steps of 2 and 1, padding; and one of 2 tokens with a
# single step of 1 token.
PREFIX_LEN = np.array([[1, 3, 4], [2, 3, 3]], np.int32)
NUM_TOKENS = 5


@pytest.fixture(scope="module")
def process():
  return tabular.random_process(
    jax.random.key(0), num_actions=3, num_steps=2, num_correct=3
  )


def token_logp(process, logits, rollout):
  """log π of a rollout's tokens as a function of the policy's table."""
  state = tabular.visited_prefixes(process, rollout)[:, :-1]
  logp = jax.nn.log_softmax(logits)[state, rollout.tokens[:, 1:]]
  return jnp.pad(logp, [(0, 0), (1, 0)])


def test_policy_gradient_loss_by_hand():
  # −½ [(2·(1 + 2) + 3·4) + 5·8]: the weight 7 belongs to no token.
  logp = jnp.array([[9.0, 1, 2, 4, 9], [9, 9, 8, 9, 9]])
  weights = jnp.array([[2.0, 3], [5, 7]])
  got = losses.policy_gradient_loss(logp, weights, PREFIX_LEN)
  assert got == -0.5 * (2 * 3 + 3 * 4 + 5 * 8)


def test_policy_gradient_loss_passes_each_token_its_steps_weight_alone():
  weights = jnp.array([[2.0, 3], [5, 7]])
  grad_logp, grad_weights = jax.grad(
    losses.policy_gradient_loss, argnums=(0, 1)
  )(-jnp.ones((2, NUM_TOKENS)), weights, PREFIX_LEN)
  want = -steps.spread_over_tokens(weights, PREFIX_LEN, NUM_TOKENS) / 2
  np.testing.assert_array_equal(grad_logp, want)
  np.testing.assert_array_equal(grad_weights, 0)


def test_policy_gradient_loss_has_the_gradient_of_eq_5(process):
  # Over all responses, weighted by probability: with w a function of state and
  # action, the gradient by logit(s, a) is d(s) π(a|s) (w − E_π w)(s, a).
  logits = jax.random.normal(jax.random.key(1), (process.num_states, 3))
  probs = jax.nn.softmax(logits)
  table = jax.random.normal(jax.random.key(2), probs.shape)
  rollout, prob = jax.jit(tabular.all_rollouts)(process, probs)
  state = tabular.visited_prefixes(process, rollout)[:, :-1]
  weights = table[state, rollout.tokens[:, 1:]]
  size = len(prob)

  def loss(logits):
    return losses.policy_gradient_loss(
      token_logp(process, logits, rollout),
      size * prob[:, None] * weights,
      rollout.prefix_len,
    )

  centred = table - (probs * table).sum(-1, keepdims=True)
  want = (
    jax.jit(tabular.state_visits)(process, probs)[:, None] * probs * centred
  )
  np.testing.assert_allclose(-jax.jit(jax.grad(loss))(logits), want, atol=1e-6)


def test_value_loss_by_hand():
  # Steps that exist: errors 1, −2 and 3; mean of squares 14/3.
  values = jnp.array([[1.0, 0], [5, 100]])
  targets = jnp.array([[0.0, 2], [2, np.nan]])
  fn = jax.value_and_grad(losses.value_loss, argnums=(0, 1))
  value, grads = fn(values, targets, PREFIX_LEN)
  np.testing.assert_allclose(value, 14 / 3, rtol=1e-6)
  # d/dv = 2 error / 3 on steps that exist; targets are held.
  np.testing.assert_allclose(grads[0], [[2 / 3, -4 / 3], [2, 0]], rtol=1e-6)
  np.testing.assert_array_equal(grads[1], 0)


def test_value_loss_without_any_step_is_0():
  none = np.array([[2, 2]])
  assert losses.value_loss(jnp.ones((1, 1)), jnp.zeros((1, 1)), none) == 0


def test_kl_penalty_by_hand():
  # Response tokens 1 … 3 and 2: with r = log 2, k = 2 − 1 − log 2 each time.
  logp = jnp.full((2, NUM_TOKENS), -3.0)
  got = losses.kl_penalty(logp, logp + jnp.log(2.0), PREFIX_LEN)
  np.testing.assert_allclose(got, 4 * (1 - np.log(2)) / 2, rtol=1e-6)


def test_kl_penalty_is_unbiased_by_enumeration(process):
  # Each response enters with its probability, so the batch mean times B is the
  # exact expectation. KL of responses = Σ_s d(s) KL(π(.|s)‖π_ref(.|s)), and its
  # gradient with the visits d held is Σ_s d(s) ∇KL(π(.|s)‖π_ref(.|s)).
  logits, ref = jax.random.normal(jax.random.key(3), (2, process.num_states, 3))
  probs = jax.nn.softmax(logits)
  visits = jax.jit(tabular.state_visits)(process, probs)
  rollout, prob = jax.jit(tabular.all_rollouts)(process, probs)

  def exact(logits):
    logp, logq = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref)
    return visits @ jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)

  def estimate(logits, ref):
    per_response = jax.vmap(losses.kl_penalty)(
      token_logp(process, logits, rollout)[:, None],
      token_logp(process, ref, rollout)[:, None],
      rollout.prefix_len[:, None],
    )
    return prob @ per_response

  fn = jax.jit(jax.value_and_grad(estimate, argnums=(0, 1)))
  value, grads = fn(logits, ref)
  np.testing.assert_allclose(value, exact(logits), rtol=1e-5)
  np.testing.assert_allclose(grads[0], jax.grad(exact)(logits), atol=2e-6)
  np.testing.assert_array_equal(grads[1], 0)


def test_kl_penalty_keeps_its_digits_and_sign_where_policies_nearly_agree():
  # exp(r) − 1 − r in float64; in float32 the terms agree to all digits.
  r = np.array([[0, 1e-6, -1e-4, 3e-3, -9.9e-3, 0.0101, 0.5, -5]], np.float32).T
  logp = np.zeros_like(r)
  prefix_len = np.array([[[0, 1]]] * len(r))
  got = jax.vmap(losses.kl_penalty)(logp[:, None], r[:, None], prefix_len)
  want = np.expm1(np.float64(r)) - np.float64(r)
  np.testing.assert_allclose(got, want[:, 0], rtol=2e-5, atol=0)


def test_kl_penalty_ignores_what_lies_outside_the_response():
  outside = ~np.asarray(steps.response_mask(PREFIX_LEN, NUM_TOKENS))
  logp = jnp.where(outside, jnp.nan, -1.0)
  ref = jnp.where(outside, -jnp.inf, -1.0)
  fn = jax.value_and_grad(losses.kl_penalty)
  value, grad = fn(logp, ref, PREFIX_LEN)
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


# --- averages, forms and ratios -----------------------------------------------

LOGP = jnp.array([[9.0, -1, -2, -4, 9], [9, 9, -8, 9, 9]])
WEIGHTS = jnp.array([[2.0, 3], [5, 7]])
# Of the two responses: −(2·3 + 3·4) = −18 in 3 tokens, −5·8 = −40 in 1.


@pytest.mark.parametrize(
  ("normalization", "want"),
  [
    ("responses", (18 + 40) / 2),
    ("sequences", (18 / 3 + 40 / 1) / 2),
    ("tokens", (18 + 40) / 4),
    (8, (18 + 40) / 2 / 8),
  ],
)
def test_averages_by_hand(normalization, want):
  got = losses.policy_gradient_loss(
    LOGP, WEIGHTS, PREFIX_LEN, normalization=normalization
  )
  np.testing.assert_allclose(got, want, rtol=1e-6)
  # A KL of r = −log 2 … a token averages likewise: each token has 1 − log 2.
  kl = losses.kl_penalty(
    LOGP, LOGP + jnp.log(2.0), PREFIX_LEN, normalization=normalization
  )
  scale = {"responses": 2, "sequences": 1, "tokens": 1, 8: 1 / 4}
  np.testing.assert_allclose(
    kl, scale[normalization] * (1 - np.log(2)), rtol=1e-5
  )


def test_token_weights_leave_out_tokens_and_their_length():
  # Tokens 2 and 3 of the first response: −(2·2 + 3·4) of two tokens.
  weight = jnp.array([[1.0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
  logp = jnp.where(weight > 0, LOGP, jnp.nan)
  for normalization, want in (
    ("responses", 28),
    ("sequences", 24),
    ("tokens", 56 / 3),
  ):
    got = losses.policy_gradient_loss(
      logp,
      WEIGHTS,
      PREFIX_LEN,
      normalization=normalization,
      token_weights=weight,
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_clipped_surrogate_by_hand():
  # Ratios of tokens 3/2, 1/2, 1 and 3/2; bounds .8 and 1.28. Weights 2, 2, 3
  # and −5: min(3, 2.56), min(1, 1.6), 3 and min(−7.5, −6.4).
  sampled = jnp.where(jnp.arange(5) > 0, LOGP, 0.0)
  ratio = jnp.array([[1, 1.5, 0.5, 1, 1], [1, 1, 1.5, 1, 1]])
  weights = WEIGHTS * jnp.array([[1], [-1]])
  fn = jax.value_and_grad(losses.clipped_policy_gradient_loss)
  loss, grad = fn(
    sampled + jnp.log(ratio), sampled, weights, PREFIX_LEN, clip_high=0.28
  )
  np.testing.assert_allclose(loss, -(2.56 + 1 + 3 - 7.5) / 2, rtol=1e-5)
  # No gradient where the minimum is the clipped ratio.
  want = -np.array([[0, 0, 1, 3, 0], [0, 0, -7.5, 0, 0]]) / 2
  np.testing.assert_allclose(grad, want, rtol=1e-5)
  # Of steps: the first has 3/4, below .8, and gains.
  loss = losses.clipped_policy_gradient_loss(
    sampled + jnp.log(ratio), sampled, weights, PREFIX_LEN, level="steps"
  )
  np.testing.assert_allclose(loss, -(0.75 * 2 + 3 - 7.5) / 2, rtol=1e-5)


@pytest.mark.parametrize("level", ["tokens", "steps"])
@pytest.mark.parametrize("normalization", ["responses", "sequences", "tokens"])
def test_on_policy_nothing_is_clipped(level, normalization):
  got = jax.grad(losses.clipped_policy_gradient_loss)(
    LOGP, LOGP, WEIGHTS, PREFIX_LEN, level=level, normalization=normalization
  )
  want = jax.grad(losses.policy_gradient_loss)(
    LOGP, WEIGHTS, PREFIX_LEN, normalization=normalization
  )
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_importance_ratios_are_truncated_products_of_a_step():
  # Token ratios 3, 1/2; 4; and 1/8 of one step each: 3/2, 4, 1/8.
  ratio = jnp.array([[9, 3, 0.5, 4, 9], [9, 9, 0.125, 9, 9]])
  args = LOGP + jnp.log(ratio), LOGP, PREFIX_LEN
  got = losses.importance_ratios(*args, max_ratio=2.0)
  np.testing.assert_allclose(got, [[1.5, 2], [0.125, 1]], rtol=1e-5)
  got = losses.importance_ratios(*args, max_ratio=2.0, level="tokens")
  want = [[1, 2, 0.5, 2, 1], [1, 1, 0.125, 1, 1]]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  grad = jax.grad(
    lambda logp: losses.importance_ratios(
      logp, LOGP, PREFIX_LEN, max_ratio=9.0
    ).sum()
  )(LOGP)
  np.testing.assert_array_equal(grad, 0)


@pytest.fixture(scope="module")
def divergences(process):
  """Exact means of estimates over a process's responses, and of gradients."""
  logits, ref = jax.random.normal(jax.random.key(3), (2, process.num_states, 3))
  probs = jax.nn.softmax(logits)
  visits = jax.jit(tabular.state_visits)(process, probs)
  rollout, prob = jax.jit(tabular.all_rollouts)(process, probs)

  def estimate(logits, form):
    per_response = jax.vmap(functools.partial(losses.kl_penalty, form=form))(
      token_logp(process, logits, rollout)[:, None],
      token_logp(process, ref, rollout)[:, None],
      rollout.prefix_len[:, None],
    )
    return prob @ per_response

  def exact(logits, other, reverse=False):
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    p, q = (q, p) if reverse else (p, q)
    return visits @ jnp.sum(jnp.exp(p) * (p - q), axis=-1)

  return logits, ref, estimate, exact


@pytest.mark.parametrize("form", ["k1", "k3", "k1+", "k3+"])
def test_unbiased_forms_have_the_value_of_the_divergence(divergences, form):
  logits, ref, estimate, exact = divergences
  np.testing.assert_allclose(
    estimate(logits, form), exact(logits, ref), rtol=1e-5
  )


def test_gradients_of_the_forms_are_what_the_docstring_says(divergences):
  logits, ref, estimate, exact = divergences
  grad = jax.grad(estimate)
  ahead = jax.grad(exact)(logits, ref)
  for form in ("k2", "k1+", "k3+"):
    np.testing.assert_allclose(grad(logits, form), ahead, atol=2e-6)
  np.testing.assert_allclose(grad(logits, "k1"), 0, atol=2e-6)
  reverse = jax.grad(functools.partial(exact, reverse=True))(logits, ref)
  np.testing.assert_allclose(grad(logits, "k3"), reverse, atol=2e-6)


def test_kl_of_older_samples_is_unbiased_with_their_ratios(process):
  # Responses of another policy, weighted by its probabilities: the KL of π at
  # the states which that one visits, and its gradient.
  logits, ref, old = jax.random.normal(
    jax.random.key(5), (3, process.num_states, 3)
  )
  probs = jax.nn.softmax(old)
  visits = jax.jit(tabular.state_visits)(process, probs)
  rollout, prob = jax.jit(tabular.all_rollouts)(process, probs)

  def exact(logits):
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref)
    return visits @ jnp.sum(jnp.exp(p) * (p - q), axis=-1)

  def estimate(logits):
    logp = token_logp(process, logits, rollout)
    ratios = losses.importance_ratios(
      logp, rollout.logp, rollout.prefix_len, max_ratio=1e9
    )
    per_response = jax.vmap(
      lambda *args: losses.kl_penalty(*args[:3], ratios=args[3])
    )(
      logp[:, None],
      token_logp(process, ref, rollout)[:, None],
      rollout.prefix_len[:, None],
      ratios[:, None],
    )
    return prob @ per_response

  value, grad = jax.jit(jax.value_and_grad(estimate))(logits)
  np.testing.assert_allclose(value, exact(logits), rtol=1e-5)
  np.testing.assert_allclose(grad, jax.grad(exact)(logits), atol=2e-6)


def test_kl_rewards_are_log_ratios_of_steps():
  # log π − log π_ref is 1 on every token: 2 and 1 in the first response.
  got = losses.kl_rewards(LOGP, LOGP - 1, PREFIX_LEN)
  np.testing.assert_allclose(got, [[2, 1], [1, 0]])


def test_kl_is_infinite_where_the_reference_cannot_follow():
  # And its gradient pushes without end; nothing is NaN.
  logp = jnp.full((2, NUM_TOKENS), -1.0)
  ref = logp.at[0, 2].set(-jnp.inf)
  for form in ("k1", "k2", "k3", "k1+", "k3+"):
    value, grad = jax.value_and_grad(losses.kl_penalty)(
      logp, ref, PREFIX_LEN, form=form
    )
    assert value == jnp.inf
    assert not jnp.isnan(grad).any()
  assert (losses.kl_rewards(logp, ref, PREFIX_LEN)[0, 0]) == jnp.inf
  # A token that neither can give has no part.
  both = losses.kl_penalty(ref, ref, PREFIX_LEN)
  assert both == 0


@pytest.mark.parametrize(
  "normalization", ["responses", "sequences", "tokens", 8]
)
def test_a_batch_of_no_rollouts_has_a_loss_of_0(normalization):
  tokens, per_step = jnp.zeros((0, 5)), jnp.zeros((0, 2))
  prefix_len = np.zeros((0, 3), np.int32)
  for loss in (
    losses.policy_gradient_loss(
      tokens, per_step, prefix_len, normalization=normalization
    ),
    losses.clipped_policy_gradient_loss(
      tokens, tokens, per_step, prefix_len, normalization=normalization
    ),
    losses.kl_penalty(tokens, tokens, prefix_len, normalization=normalization),
    losses.value_loss(per_step, per_step, prefix_len),
    losses.verifier_loss(jnp.zeros((0, 3)), jnp.zeros((0, 3)), prefix_len),
  ):
    assert loss == 0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: losses.kl_penalty(LOGP, LOGP, PREFIX_LEN, form="k4"),
      "form is 'k4', expected 'k1'",
    ),
    (
      lambda: losses.kl_penalty(LOGP, LOGP, PREFIX_LEN, normalization="mean"),
      "normalization is 'mean', expected 'responses'",
    ),
    (
      lambda: losses.policy_gradient_loss(
        LOGP, WEIGHTS, PREFIX_LEN, normalization=0
      ),
      "normalization is 0, expected a positive number",
    ),
    (
      lambda: losses.importance_ratios(
        LOGP, LOGP, PREFIX_LEN, max_ratio=2.0, level="rows"
      ),
      "level is 'rows'",
    ),
    (
      lambda: losses.clipped_policy_gradient_loss(
        LOGP, LOGP, WEIGHTS, PREFIX_LEN, level="rows"
      ),
      "level is 'rows'",
    ),
  ],
)
def test_unknown_forms_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def cross_entropy(logit, label):
  logit = np.float64(logit)
  return np.logaddexp(0, logit) - label * logit


LOGITS = np.array([[0.5, -1, 2], [1.5, 0.25, 99]], np.float32)
LABELS = np.array([[0.25, 0.5, 1], [0, 0.75, 0]], np.float32)


def test_verifier_loss_unbalanced_is_the_mean_over_distinct_prefixes():
  # The last prefix of row 1 repeats the one before it and does not count.
  each = cross_entropy(LOGITS, LABELS).ravel()[:5]
  got = losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN, balanced=False)
  np.testing.assert_allclose(got, each.mean(), rtol=1e-6)


def test_verifier_loss_balanced_gives_each_bucket_half_of_the_weight():
  # Below 0.5: labels 0.25 and 0. At or above: 0.5, 1 and 0.75.
  each = cross_entropy(LOGITS, LABELS)
  low = (each[0, 0] + each[1, 0]) / 2
  high = (each[0, 1] + each[0, 2] + each[1, 1]) / 3
  got = losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN)
  np.testing.assert_allclose(got, (low + high) / 2, rtol=1e-6)


def test_verifier_loss_with_one_bucket_empty_is_the_plain_mean():
  for labels in (LABELS / 4, LABELS / 4 + 0.5):
    plain, balanced = (
      losses.verifier_loss(LOGITS, labels, PREFIX_LEN, balanced=b)
      for b in (False, True)
    )
    np.testing.assert_allclose(balanced, plain, rtol=1e-6)


def test_verifier_loss_is_least_at_the_labels():
  # The gradient is c · (σ(l) − y), and c is 1/6 … as counted above.
  labels = jnp.clip(LABELS, 0.1, 0.9)
  at_labels = jnp.log(labels) - jnp.log1p(-labels)
  grad = jax.grad(losses.verifier_loss)
  np.testing.assert_allclose(grad(at_labels, labels, PREFIX_LEN), 0, atol=1e-7)
  share = np.array([[1 / 4, 1 / 6, 1 / 6], [1 / 4, 1 / 6, 0]])
  want = share * (jax.nn.sigmoid(LOGITS) - LABELS)
  np.testing.assert_allclose(grad(LOGITS, LABELS, PREFIX_LEN), want, atol=1e-7)


def test_verifier_loss_where_equals_cutting_out_and_ignores_missing_labels():
  where = np.array([[True, True, False], [True, False, True]])
  labels = np.where(where, LABELS, np.nan)
  got, grad = jax.value_and_grad(losses.verifier_loss)(
    LOGITS, labels, PREFIX_LEN, where=where
  )
  each = cross_entropy(LOGITS, LABELS)
  want = ((each[0, 0] + each[1, 0]) / 2 + each[0, 1]) / 2
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_array_equal(grad == 0, ~where | (LOGITS == 99))
  none = np.zeros_like(where)
  assert losses.verifier_loss(LOGITS, labels, PREFIX_LEN, where=none) == 0


@pytest.mark.parametrize("wrong", [np.nan, 1.5, -0.25, np.inf])
@pytest.mark.parametrize("balanced", [True, False])
def test_verifier_loss_refuses_labels_that_are_no_chances(wrong, balanced):
  labels = LABELS.copy()
  labels[1, 1] = wrong
  loss = functools.partial(losses.verifier_loss, balanced=balanced)
  with pytest.raises(ValueError, match="; expected probabilities"):
    loss(LOGITS, labels, PREFIX_LEN)
  # A trace cannot refuse: the loss says so, and not its gradient alone.
  assert jnp.isnan(jax.jit(loss)(LOGITS, labels, PREFIX_LEN))
  # Where it does not count it may be anything, past the end too.
  where = np.ones_like(labels, bool)
  where[1, 1] = False
  assert jnp.isfinite(loss(LOGITS, labels, PREFIX_LEN, where=where))
  labels = LABELS.copy()
  labels[1, 2] = wrong
  np.testing.assert_array_equal(
    loss(LOGITS, labels, PREFIX_LEN), loss(LOGITS, LABELS, PREFIX_LEN)
  )


@pytest.mark.usefixtures("no_shape_checks")
def test_verifier_loss_takes_masks_of_0_and_1():
  where = np.array([[1, 1, 0], [1, 0, 1]])
  want = losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN, where=where > 0)
  for dtype in (np.int32, np.uint8):
    got = losses.verifier_loss(
      LOGITS, LABELS, PREFIX_LEN, where=where.astype(dtype)
    )
    assert got == want
  with pytest.raises(ValueError, match="where holds 2; expected booleans"):
    losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN, where=2 * where)
  with pytest.raises(ValueError, match="where has dtype float32; expected"):
    losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN, where=where * 1.0)
  traced = jax.jit(
    lambda where: losses.verifier_loss(LOGITS, LABELS, PREFIX_LEN, where=where)
  )
  assert traced(2 * where) == want


def test_verifier_loss_keeps_extreme_logits_finite_and_exact():
  # Labels 0: −log σ(−200) = 200 and −log σ(200) = 0.
  got = losses.verifier_loss(
    jnp.array([[200.0, -200.0]]), jnp.zeros((1, 2)), np.array([[1, 2]])
  )
  assert got == 100


@jax.jit
def all_losses(logp, ref, per_step, other, logits, labels, prefix_len):
  return jnp.stack(
    [
      losses.policy_gradient_loss(logp, per_step, prefix_len),
      losses.value_loss(per_step, other, prefix_len),
      losses.kl_penalty(logp, ref, prefix_len),
      losses.verifier_loss(logits, labels, prefix_len),
    ]
  )


def random_args():
  rng = np.random.default_rng(4)
  logp, ref = -rng.exponential(size=(2, 2, NUM_TOKENS))
  per_step, other = rng.normal(size=(2, 2, 2))
  logits, labels = rng.normal(size=(2, 3)), rng.uniform(size=(2, 3))
  floats = (logp, ref, per_step, other, logits, labels)
  return *(x.astype(np.float32) for x in floats), PREFIX_LEN


def test_losses_do_not_change_with_padding_or_batch_order():
  args = random_args()
  want = all_losses(*args)
  swapped = all_losses(*(x[::-1] for x in args))
  np.testing.assert_allclose(swapped, want, rtol=1e-6)
  # One more token of padding, and one more step that does not exist.
  longer = [np.pad(x, [(0, 0), (0, 1)], constant_values=3.0) for x in args[:6]]
  prefix_len = np.concatenate([PREFIX_LEN, PREFIX_LEN[:, -1:]], axis=1)
  np.testing.assert_allclose(all_losses(*longer, prefix_len), want, rtol=1e-6)


def test_leading_dimensions_are_kept_and_agree_with_jit_and_vmap():
  args = random_args()
  stacked = [np.stack([x, x[::-1], x]) for x in args]
  deep = all_losses(*stacked)
  assert deep.shape == (4, 3)
  mapped = jax.jit(jax.vmap(all_losses, out_axes=1))(*stacked)
  np.testing.assert_allclose(mapped, deep, rtol=1e-5)
  np.testing.assert_allclose(deep[:, 0], all_losses(*args), rtol=1e-6)


def test_bfloat16_inputs_give_float32_losses_of_the_same_numbers():
  # Rounding the inputs is all that bfloat16 may do; the sums are float32's.
  *floats, prefix_len = random_args()
  narrow = [x.astype(jnp.bfloat16) for x in floats]
  wide = [x.astype(jnp.float32) for x in narrow]
  got, want = all_losses(*narrow, prefix_len), all_losses(*wide, prefix_len)
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, want)
  grad = jax.grad(losses.kl_penalty)(*narrow[:2], prefix_len)
  assert grad.dtype == jnp.bfloat16


@pytest.mark.usefixtures("no_shape_checks")
def test_shapes_that_do_not_belong_together_are_refused():
  tokens, per_step, prefixes = (jnp.zeros((2, n)) for n in (5, 2, 3))
  for call in (
    lambda: losses.policy_gradient_loss(tokens, prefixes, PREFIX_LEN),
    lambda: losses.policy_gradient_loss(tokens[:1], per_step, PREFIX_LEN),
    lambda: losses.policy_gradient_loss(tokens[0], per_step[0], PREFIX_LEN[0]),
    lambda: losses.value_loss(per_step, prefixes, PREFIX_LEN),
    lambda: losses.value_loss(per_step[0], per_step, PREFIX_LEN),
    lambda: losses.kl_penalty(tokens, tokens[:1], PREFIX_LEN),
    lambda: losses.verifier_loss(per_step, prefixes, PREFIX_LEN),
    lambda: losses.verifier_loss(prefixes, prefixes[:1], PREFIX_LEN),
    lambda: losses.verifier_loss(
      prefixes, prefixes, PREFIX_LEN, where=np.ones((2, 2), bool)
    ),
  ):
    with pytest.raises(ValueError, match=r"has shape .*expected"):
      call()
