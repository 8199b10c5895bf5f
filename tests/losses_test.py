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
