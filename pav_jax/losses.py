"""Losses of policies, value functions and verifiers, from arrays alone.

Each takes batches of B rollouts, `[..., B, T]` tokens, `[..., B, H]` steps or
`[..., B, P]` prefixes (P = H + 1), reduces over the batch, and keeps further
leading dimensions. Results are float32 (float64 for float64 input) whatever the
dtype of the inputs, as sums over a batch should be. What lies outside a
response does not enter, neither the value nor the gradient; a batch of no
rollouts has a loss of 0.

How the tokens of a batch are averaged (`normalization`), with |y| the tokens of
a response:

- `"responses"`: sums over each response, their mean: (1/B) Σ_b Σ_t;
- `"sequences"`: means over each response, their mean: (1/B) Σ_b (1/|y_b|) Σ_t,
  as in GRPO, where tokens of long responses count less;
- `"tokens"`: the mean over all tokens: Σ_b Σ_t / Σ_b |y_b|, as in DAPO;
- a number L: (1/BL) Σ_b Σ_t, as in Dr. GRPO, where L is the most tokens of a
  response, the same for every batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax import checks, steps

Normalization = str | int | float


def policy_gradient_loss(
  logp: Float[ArrayLike, "*N B T"],
  weights: Float[ArrayLike, "*N B H"],
  prefix_len: Int[ArrayLike, "*N B P"],
  *,
  normalization: Normalization = "responses",
  token_weights: Float[ArrayLike, "*N B T"] | None = None,
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
    normalization: how tokens are averaged, see the head of this module.
    token_weights: factors >= 0 of tokens, such as `credit.low_probability`;
      where lengths are divided by, their sums. No gradient flows into them.

  Returns:
    The surrogate, in nats times reward; its value has no meaning of its own.

  Raises:
    ValueError: shapes do not match, or there is no such normalization.
  """
  _check_tokens(prefix_len, logp=logp, token_weights=token_weights)
  _check_steps(prefix_len, weights=weights)
  step_logp = steps.sum_over_steps(
    _times(checks.widen(logp), token_weights), prefix_len
  )
  weights = jnp.where(steps.step_mask(prefix_len), checks.widen(weights), 0)
  weighted = jax.lax.stop_gradient(weights) * step_logp
  return -_average(
    jnp.sum(weighted, axis=-1), prefix_len, normalization, token_weights
  )


def clipped_policy_gradient_loss(
  logp: Float[ArrayLike, "*N B T"],
  logp_sampled: Float[ArrayLike, "*N B T"],
  weights: Float[ArrayLike, "*N B H"],
  prefix_len: Int[ArrayLike, "*N B P"],
  *,
  clip_low: float | Float[Array, ""] = 0.2,
  clip_high: float | Float[Array, ""] = 0.2,
  level: str = "tokens",
  normalization: Normalization = "responses",
  token_weights: Float[ArrayLike, "*N B T"] | None = None,
) -> Float[Array, "*N"]:
  """PPO's clipped surrogate (arXiv 1707.06347), with two bounds (DAPO).

  `−mean of min(ρ w, clip(ρ, 1 − ε_low, 1 + ε_high) w)` with the ratio
  `ρ = π / π_sampled`. Its gradient is 0 where the ratio has left the bounds in
  the direction in which the weight pushes. Where ρ = 1 it is that of
  `policy_gradient_loss`.

  Args:
    logp: log-probability of each token under the policy being trained, in nats.
    logp_sampled: the same when the tokens were sampled. No gradient flows into
      it.
    weights: of the steps. No gradient flows into them.
    prefix_len: non-decreasing prefix lengths, in tokens.
    clip_low: ε_low in [0, 1].
    clip_high: ε_high >= 0; DAPO (2503.14476) has 0.28, so that tokens that were
      unlikely may gain more than they may lose.
    level: "tokens", a ratio for each; or "steps", whose ratio is the product of
      their tokens'.
    normalization: how tokens are averaged, see the head of this module.
    token_weights: as in `policy_gradient_loss`; of tokens' ratios alone.

  Returns:
    The surrogate, in units of reward.

  Raises:
    ValueError: shapes do not match, or for another level or normalization.
  """
  _check_tokens(
    prefix_len,
    logp=logp,
    logp_sampled=logp_sampled,
    token_weights=token_weights,
  )
  _check_steps(prefix_len, weights=weights)
  weights = jax.lax.stop_gradient(checks.widen(weights))
  log_ratio = _log_ratio(logp, logp_sampled, prefix_len)
  if level == "steps":
    if token_weights is not None:
      raise ValueError("token_weights are given, expected level 'tokens'")
    log_ratio = steps.sum_over_steps(log_ratio, prefix_len)
    inside = steps.step_mask(prefix_len)
  elif level == "tokens":
    inside = steps.response_mask(prefix_len, log_ratio.shape[-1])
    weights = steps.spread_over_tokens(weights, prefix_len, inside.shape[-1])
  else:
    raise ValueError(f"level is {level!r}, expected 'tokens' or 'steps'")
  weights = jnp.where(inside, weights, 0)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  least = jnp.minimum(ratio * weights, clipped * weights)
  total = jnp.sum(_times(least, token_weights), axis=-1)
  return -_average(total, prefix_len, normalization, token_weights)


def importance_ratios(
  logp: Float[ArrayLike, "*N B T"],
  logp_sampled: Float[ArrayLike, "*N B T"],
  prefix_len: Int[ArrayLike, "*N B P"],
  *,
  max_ratio: float | Float[Array, ""],
  level: str = "steps",
) -> Float[Array, "*N B _"]:
  """π over its probability when it was sampled, truncated from above.

  The distribution over states stays that of the policy which sampled, as in
  Eq. 4; so a step has the ratio of its own tokens alone. Truncation trades
  variance for bias, as in V-trace (arXiv 1802.01561). For tokens this is
  truncated importance sampling, the factor that corrects for a sampler whose
  probabilities are not quite those of the trainer.

  Args:
    logp: of the tokens under the policy that is updated, in nats.
    logp_sampled: of the tokens when they were sampled.
    prefix_len: non-decreasing prefix lengths, in tokens.
    max_ratio: > 0; what is above counts as this.
    level: "steps" for [..., B, H], "tokens" for [..., B, T].

  Returns:
    Ratios in [0, max_ratio], through which no gradient passes. 1 for steps
    that do not exist and for tokens outside the response.

  Raises:
    ValueError: shapes do not match, or for another level.
  """
  _check_tokens(prefix_len, logp=logp, logp_sampled=logp_sampled)
  if level not in ("steps", "tokens"):
    raise ValueError(f"level is {level!r}, expected 'tokens' or 'steps'")
  log_ratio = _log_ratio(logp, logp_sampled, prefix_len)
  if level == "steps":
    log_ratio = steps.sum_over_steps(log_ratio, prefix_len)
  return jnp.minimum(jnp.exp(jax.lax.stop_gradient(log_ratio)), max_ratio)


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
  *,
  form: str = "k3+",
  ratios: Float[ArrayLike, "*N B H"] | None = None,
  normalization: Normalization = "responses",
) -> Float[Array, "*N"]:
  """KL(π‖π_ref) of whole responses, in nats, from responses of π (App. E).

  `(1/B) Σ_b Σ_t k_bt` over the tokens of responses, where with
  `r = log π_ref − log π` (Schulman, "Approximating KL divergence", 2020)

  - `"k1"`: `k = −r`, unbiased. Its gradient is that of log π, with mean 0:
    in a loss it is no penalty at all, and belongs into rewards (`kl_rewards`).
  - `"k2"`: `k = r² / 2`, biased. Its gradient `(log π − log π_ref) ∇log π`
    is, in the mean over tokens drawn from π, the exact gradient of the KL at
    each state visited.
  - `"k3"`: `k = exp(r) − 1 − r`, unbiased and never negative. Its gradient is
    in the mean that of the other divergence, KL(π_ref‖π).
  - with a `"+"`, the value of k1 or k3 and the gradient of k2 (verl's name).

  How the policy shifts the states visited is left out, as in Eq. 4.

  Args:
    logp: log-probability of each token under the policy being trained, in nats.
    logp_ref: the same under the reference. No gradient flows into it.
    prefix_len: non-decreasing prefix lengths, in tokens.
    form: which estimate, see above.
    ratios: importance ratios of steps whose tokens were sampled by an older
      policy, `importance_ratios`; None for tokens of π. No gradient flows into
      them.
    normalization: how tokens are averaged, see the head of this module.

  Returns:
    The mean over rollouts of the KL per response, in nats; infinite where the
    reference cannot give a token that was sampled.

  Raises:
    ValueError: shapes do not match, or for another form or normalization.
  """
  k = _divergence(logp, logp_ref, prefix_len, form)
  if ratios is None:
    total = jnp.sum(k, axis=-1)
  else:
    _check_steps(prefix_len, ratios=ratios)
    ratios = jax.lax.stop_gradient(checks.widen(ratios))
    total = jnp.sum(ratios * steps.sum_over_steps(k, prefix_len), axis=-1)
  return _average(total, prefix_len, normalization)


def kl_rewards(
  logp: Float[ArrayLike, "*N B T"],
  logp_ref: Float[ArrayLike, "*N B T"],
  prefix_len: Int[ArrayLike, "*N B P"],
  *,
  form: str = "k1",
) -> Float[Array, "*N B H"]:
  """KL(π‖π_ref) of every step, in nats, to be taken off its reward.

  With k1, `log π(a_h|s_h) − log π_ref(a_h|s_h)`: a policy gradient with β times
  this off the weights is less β times the gradient of the steps' KL.

  Args:
    logp: log-probability of each token under the policy being trained, in nats.
    logp_ref: the same under the reference.
    prefix_len: non-decreasing prefix lengths, in tokens.
    form: see `kl_penalty`.

  Raises:
    ValueError: as of `kl_penalty`.
  """
  k = _divergence(logp, logp_ref, prefix_len, form)
  return steps.sum_over_steps(k, prefix_len)


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
    The weighted mean, in nats, >= 0; 0 if there is no label; NaN where traced
    labels are outside [0, 1] or NaN.

  Raises:
    ValueError: shapes do not match; or labels or a mask that are known while
      tracing are out of range.
  """
  _check_batch(prefix_len)
  shape = np.shape(prefix_len)
  checks.check_shape("logits", logits, shape, "[..., B, P]")
  checks.check_shape("q_target", q_target, shape, "[..., B, P]")
  labelled = jnp.pad(
    steps.step_mask(prefix_len),
    [(0, 0)] * (len(shape) - 1) + [(1, 0)],
    constant_values=True,
  )
  if where is not None:
    checks.check_shape("where", where, shape, "[..., B, P]")
    labelled &= checks.as_mask("where", where)
  checks.check_probabilities("q_target", q_target, where=labelled)
  logit = jnp.where(labelled, checks.widen(logits), 0)
  label = jax.lax.stop_gradient(checks.widen(q_target))
  label = jnp.where((label >= 0) & (label <= 1), label, jnp.nan)
  log_loss = -label * jax.nn.log_sigmoid(logit)
  log_loss -= (1 - label) * jax.nn.log_sigmoid(-logit)
  buckets = [labelled]
  if balanced:
    buckets = [labelled & (label < 0.5), labelled & ~(label < 0.5)]
  sizes = [jnp.sum(bucket, axis=(-2, -1)) for bucket in buckets]
  means = [
    jnp.sum(jnp.where(bucket, log_loss, 0), axis=(-2, -1)) / jnp.maximum(n, 1)
    for bucket, n in zip(buckets, sizes, strict=True)
  ]
  num_filled = sum((n > 0).astype(logit.dtype) for n in sizes)
  return sum(means) / jnp.maximum(num_filled, 1)


def _divergence(logp, logp_ref, prefix_len, form):
  """An estimate of KL(π‖π_ref) for each token, 0 outside the response."""
  _check_tokens(prefix_len, logp=logp, logp_ref=logp_ref)
  if form not in ("k1", "k2", "k3", "k1+", "k3+"):
    raise ValueError(
      f"form is {form!r}, expected 'k1', 'k2', 'k3', 'k1+' or 'k3+'"
    )
  return _estimate(form, -_log_ratio(logp, logp_ref, prefix_len))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _estimate(form, r):
  match form[:2]:
    case "k1":
      return -r
    case "k2":
      return jnp.square(r) / 2
  # Where r is small, expm1(r) − r loses all its digits, its sign included.
  small = jnp.square(r) * (1 / 2 + r / 6 + jnp.square(r) / 24)
  return jnp.where(jnp.abs(r) < 1e-2, small, jnp.expm1(r) - r)


@_estimate.defjvp
def _estimate_jvp(form, primals, tangents):
  # By rule and not by the sum of a value and a surrogate that is held, which
  # infinity less infinity would make NaN.
  (r,), (r_dot,) = primals, tangents
  by_r = {"k1": -jnp.ones_like(r), "k3": jnp.expm1(r)}.get(form, r)
  return _estimate(form, r), by_r * r_dot


def _log_ratio(logp, logp_other, prefix_len):
  """log π − log of a policy that is held, of tokens; 0 outside the response.

  0 where neither can give the token.
  """
  logp = checks.widen(logp)
  other = jax.lax.stop_gradient(checks.widen(logp_other))
  inside = steps.response_mask(prefix_len, logp.shape[-1])
  neither = (logp == -jnp.inf) & (other == -jnp.inf)
  return jnp.where(inside & ~neither, logp - other, 0)


def _times(x, token_weights):
  if token_weights is None:
    return x
  factor = jax.lax.stop_gradient(checks.widen(token_weights))
  # What has no weight has no say, whatever it holds.
  return jnp.where(factor == 0, 0, x * factor)


def _average(per_response, prefix_len, normalization, token_weights=None):
  """Over the batch, of sums over responses [..., B]."""
  size = max(per_response.shape[-1], 1)
  if normalization == "responses":
    return jnp.sum(per_response, axis=-1) / size
  if not isinstance(normalization, str):
    if not 0 < normalization < float("inf"):
      raise ValueError(
        f"normalization is {normalization}, expected a positive number"
      )
    return jnp.sum(per_response, axis=-1) / (size * normalization)
  if token_weights is None:
    prefix_len = jnp.asarray(prefix_len)
    length = prefix_len[..., -1] - prefix_len[..., 0]
  else:
    inside = steps.response_mask(prefix_len, np.shape(token_weights)[-1])
    length = jnp.sum(jnp.where(inside, checks.widen(token_weights), 0), axis=-1)
  length = jax.lax.stop_gradient(length.astype(per_response.dtype))
  if normalization == "tokens":
    total = jnp.sum(length, axis=-1)
    return jnp.sum(per_response, axis=-1) / jnp.where(total > 0, total, 1)
  if normalization == "sequences":
    means = per_response / jnp.where(length > 0, length, 1)
    return jnp.sum(means, axis=-1) / size
  raise ValueError(
    f"normalization is {normalization!r}, expected 'responses', 'sequences', "
    "'tokens' or a number"
  )


def _check_batch(prefix_len: ArrayLike) -> None:
  shape = np.shape(prefix_len)
  if len(shape) < 2:
    raise ValueError(f"prefix_len has shape {shape}; expected [..., B, H + 1]")


def _check_tokens(prefix_len: ArrayLike, **arrays: ArrayLike | None) -> None:
  """Of [..., B, T] arrays of one T; None is passed over."""
  _check_batch(prefix_len)
  expected = (*np.shape(prefix_len)[:-1], None)
  for name, x in arrays.items():
    if x is not None:
      checks.check_shape(name, x, expected, "[..., B, T]")
      expected = np.shape(x)


def _check_steps(prefix_len: ArrayLike, **arrays: ArrayLike) -> None:
  *batch, num_prefixes = np.shape(prefix_len)
  for name, x in arrays.items():
    checks.check_shape(name, x, (*batch, num_prefixes - 1), "[..., B, H]")
