"""Losses of policies, value functions and verifiers, from arrays alone.

Each takes batches of B rollouts, `[..., B, T]` tokens, `[..., B, H]` steps or
`[..., B, P]` prefixes (P = H + 1), reduces over the batch, and keeps further
leading dimensions. Results are float32 (float64 for float64 input) whatever the
dtype of the inputs, as sums over a batch should be. What lies outside a
response does not enter, neither the value nor the gradient.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax import checks, steps


def policy_gradient_loss(
  logp: Float[ArrayLike, "*N B T"],
  weights: Float[ArrayLike, "*N B H"],
  prefix_len: Int[ArrayLike, "*N B P"],
) -> Float[Array, "*N"]:
  """A surrogate whose negative gradient is Eq. 5, for on-policy rollouts.

  `−(1/B) Σ_b Σ_h w_bh Σ_{t in step h} log π(token_bt)`, with w held constant.
  A step's weight touches its own tokens alone: advantages are not summed into
  returns, where they would telescope to a difference of values (Sec. 3.2).

  Args:
    logp: log-probability of each token under the policy being trained, in nats.
    weights: effective rewards of the steps, less a baseline if any. No gradient
      flows into them.
    prefix_len: non-decreasing prefix lengths, in tokens.

  Returns:
    The surrogate, in nats times reward; its value has no meaning of its own.

  Raises:
    ValueError: shapes do not match.
  """
  _check_batch(prefix_len)
  *batch, num_prefixes = jnp.shape(prefix_len)
  checks.check_shape("logp", logp, (*batch, None), "[..., B, T]")
  checks.check_shape(
    "weights", weights, (*batch, num_prefixes - 1), "[..., B, H]"
  )
  step_logp = steps.sum_over_steps(checks.widen(logp), prefix_len)
  weights = jnp.where(steps.step_mask(prefix_len), checks.widen(weights), 0)
  weighted = jax.lax.stop_gradient(weights) * step_logp
  return -jnp.mean(jnp.sum(weighted, axis=-1), axis=-1)


def value_loss(
  values: Float[ArrayLike, "*N B H"],
  targets: Float[ArrayLike, "*N B H"],
  prefix_len: Int[ArrayLike, "*N B P"],
) -> Float[Array, "*N"]:
  """Mean squared error of a baseline over the steps that exist (App. E).

  `Σ_bh m_bh (v_bh − y_bh)² / Σ_bh m_bh`, with m the `step_mask` and y held
  constant. The baseline of step h sees the prefix before it and predicts
  `E_{a~π}[Q^π + α A^μ]` there.

  Args:
    values: predictions, one per step.
    targets: effective rewards of the steps taken. No gradient flows into them.
    prefix_len: non-decreasing prefix lengths, in tokens.

  Returns:
    The mean, >= 0, in squared units of reward; 0 if no step exists.

  Raises:
    ValueError: shapes do not match.
  """
  _check_batch(prefix_len)
  exists = steps.step_mask(prefix_len)
  checks.check_shape("values", values, exists.shape, "[..., B, H]")
  checks.check_shape("targets", targets, exists.shape, "[..., B, H]")
  error = checks.widen(values) - jax.lax.stop_gradient(checks.widen(targets))
  total = jnp.sum(jnp.square(jnp.where(exists, error, 0)), axis=(-2, -1))
  return total / jnp.maximum(jnp.sum(exists, axis=(-2, -1)), 1)


def kl_penalty(
  logp: Float[ArrayLike, "*N B T"],
  logp_ref: Float[ArrayLike, "*N B T"],
  prefix_len: Int[ArrayLike, "*N B P"],
) -> Float[Array, "*N"]:
  """KL(π‖π_ref) of whole responses, in nats, from responses of π (App. E).

  `(1/B) Σ_b Σ_t k_bt` over the tokens of responses, where with
  `r = log π_ref − log π`

  - the value is that of `k = exp(r) − 1 − r`: unbiased and never negative;
  - the gradient is that of `k = r² / 2`, `(log π − log π_ref) ∇log π`. Its mean
    over tokens drawn from π is the exact gradient of the KL at each state
    visited, which that of the value's estimator is not. How the policy shifts
    the states visited is left out, as in Eq. 4.

  Args:
    logp: log-probability of each token under the policy being trained, in nats;
      the tokens are samples of this policy.
    logp_ref: the same under the reference. No gradient flows into it.
    prefix_len: non-decreasing prefix lengths, in tokens.

  Returns:
    The mean over rollouts of the KL per response, in nats, >= 0.

  Raises:
    ValueError: shapes do not match.
  """
  _check_batch(prefix_len)
  batch = jnp.shape(prefix_len)[:-1]
  checks.check_shape("logp", logp, (*batch, None), "[..., B, T]")
  checks.check_shape("logp_ref", logp_ref, jnp.shape(logp), "[..., B, T]")
  response = steps.response_mask(prefix_len, jnp.shape(logp)[-1])
  r = jax.lax.stop_gradient(checks.widen(logp_ref)) - checks.widen(logp)
  r = jnp.where(response, r, 0)
  # Where r is small, expm1(r) − r loses all its digits, its sign included.
  small = jnp.square(r) * (1 / 2 + r / 6 + jnp.square(r) / 24)
  value = jnp.where(jnp.abs(r) < 1e-2, small, jnp.expm1(r) - r)
  surrogate = jnp.square(r) / 2
  hold = jax.lax.stop_gradient
  per_token = hold(value) + (surrogate - hold(surrogate))
  return jnp.mean(jnp.sum(per_token, axis=-1), axis=-1)


def verifier_loss(
  logits: Float[ArrayLike, "*N B P"],
  q_target: Float[ArrayLike, "*N B P"],
  prefix_len: Int[ArrayLike, "*N B P"],
  *,
  balanced: bool = True,
  where: Bool[ArrayLike, "*N B P"] | None = None,
) -> Float[Array, "*N"]:
  """Cross-entropy against soft labels at scoring tokens (Sec. 4.2, App. D).

  `Σ_bh c_bh [−y log σ(l) − (1 − y) log σ(−l)]_bh` with weights c that sum to 1
  over the batch. Only a scoring token that ends a prefix for the first time
  counts: those past the end of a response repeat and have c = 0.

  Two-bucket balancing: labels below 0.5 share half of the weight, those at or
  above 0.5 the other half, which in expectation is class-balanced sampling. If
  one bucket is empty the other has all the weight.

  Args:
    logits: predicted log-odds of success at the scoring token of each prefix.
    q_target: labels in [0, 1], such as Monte-Carlo means.
    prefix_len: non-decreasing prefix lengths, in tokens.
    balanced: whether to balance the buckets; else all labels weigh the same.
    where: prefixes that have a label, if not all do (as in first-pit data).

  Returns:
    The weighted mean, in nats, >= 0; 0 if there is no label.

  Raises:
    ValueError: shapes do not match.
  """
  _check_batch(prefix_len)
  shape = jnp.shape(prefix_len)
  checks.check_shape("logits", logits, shape, "[..., B, P]")
  checks.check_shape("q_target", q_target, shape, "[..., B, P]")
  labelled = jnp.pad(
    steps.step_mask(prefix_len),
    [(0, 0)] * (len(shape) - 1) + [(1, 0)],
    constant_values=True,
  )
  if where is not None:
    checks.check_shape("where", where, shape, "[..., B, P]")
    labelled &= jnp.asarray(where)
  logit = jnp.where(labelled, checks.widen(logits), 0)
  label = jax.lax.stop_gradient(checks.widen(q_target))
  log_loss = -label * jax.nn.log_sigmoid(logit)
  log_loss -= (1 - label) * jax.nn.log_sigmoid(-logit)
  buckets = [labelled]
  if balanced:
    buckets = [labelled & (label < 0.5), labelled & (label >= 0.5)]
  sizes = [jnp.sum(bucket, axis=(-2, -1)) for bucket in buckets]
  means = [
    jnp.sum(jnp.where(bucket, log_loss, 0), axis=(-2, -1)) / jnp.maximum(n, 1)
    for bucket, n in zip(buckets, sizes, strict=True)
  ]
  num_filled = sum((n > 0).astype(logit.dtype) for n in sizes)
  return sum(means) / jnp.maximum(num_filled, 1)


def _check_batch(prefix_len: ArrayLike) -> None:
  shape = jnp.shape(prefix_len)
  if len(shape) < 2:
    raise ValueError(f"prefix_len has shape {shape}; expected [..., B, H + 1]")
