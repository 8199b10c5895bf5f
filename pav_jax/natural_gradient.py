"""Natural policy gradients: exact for a softmax table, sampled for networks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from pav_jax import checks


def softmax_update(
  logits: Float[ArrayLike, "*B A"],
  q_policy: Float[ArrayLike, "*B A"],
  adv_prover: Float[ArrayLike, "*B A"],
  *,
  alpha: float | Float[Array, ""],
  step_size: float | Float[Array, ""],
) -> Float[Array, "*B A"]:
  """Natural-gradient step of a tabular softmax policy (Lemma F.2).

  π'(a|s) ∝ π(a|s) · exp(γ (Q^π(s, a) + α A^μ(s, a))): in logits an addition.
  A state-wise constant in the effective reward moves no probability.

  Args:
    logits: [..., A], of the policy at each state.
    q_policy: [..., A], Q^π(s, a) in [0, 1].
    adv_prover: [..., A], A^μ(s, a) in [-1, 1].
    alpha: weight of the prover's advantage, Eq. 5.
    step_size: γ > 0.

  Returns:
    [..., A], the new logits, normalised so that their exponentials sum to 1.
  """
  shapes = [np.shape(x) for x in (logits, q_policy, adv_prover)]
  if not shapes[0] == shapes[1] == shapes[2]:
    raise ValueError(
      f"logits {shapes[0]}, q_policy {shapes[1]} and adv_prover {shapes[2]} "
      "must have one shape"
    )
  effective_reward = checks.widen(q_policy) + alpha * checks.widen(adv_prover)
  new_logits = checks.widen(logits) + step_size * effective_reward
  new_logits = jax.nn.log_softmax(new_logits, axis=-1)
  return new_logits.astype(checks.float_dtype(logits, q_policy, adv_prover))


class Diagnostics(NamedTuple):
  """How well the sample-space system was solved, and what the step would do.

  Attributes:
    residual: ‖w − (JJᵀ + damping·N·I) z‖ / ‖w‖; 0 for an exact solve.
    predicted_kl: nats per sample that counts, ½ dᵀFd, the second-order KL(π‖π')
      of adding the whole update d; that of adding c·d is c² times it.
    improvement: gᵀd, the first-order gain of the weighted objective.
  """

  residual: Float[Array, ""]
  predicted_kl: Float[Array, ""]
  improvement: Float[Array, ""]


def natural_gradient(
  logp_fn: Callable[[PyTree], Float[Array, "..."]],
  params: PyTree,
  weights: Float[Array, "..."],
  *,
  damping: float | Float[Array, ""],
  num_cg_steps: int,
  tol: float = 1e-5,
  where: Bool[ArrayLike, "..."] | None = None,
) -> tuple[PyTree, Diagnostics]:
  """Solves (F + damping·I) d = g in the space of samples (Eq. 11, 12).

  With J the N×P matrix of ∇log π of the N sampled steps and w their weights,
  F = JᵀJ / N and g = Jᵀw / N, hence

      d = Jᵀ (JJᵀ + damping·N·I)⁻¹ w.

  The inner system has N unknowns and is solved by conjugate gradients, one vjp
  and one jvp an iteration. J is never formed, and of the size of the parameters
  there are only d and the cotangent being transposed.

  As damping → 0 the update interpolates: it changes the log-probability of
  sampled step i by w_i wherever the model can do so. As damping → ∞ it becomes
  the plain gradient g / damping.

  Args:
    logp_fn: params -> log-probabilities of the sampled steps in nats, any
      shape.
    params: pytree at which to linearise.
    weights: effective rewards of the steps, less a baseline, shaped like the
      log-probabilities.
    damping: > 0, in units of F's eigenvalues.
    num_cg_steps: most conjugate-gradient iterations.
    tol: stop when the residual is below tol·‖w‖.
    where: which samples count, in N and at all; None for all. With it room for
      steps that do not exist changes neither d nor its KL.

  Returns:
    `(d, diagnostics)`; d is an ascent direction with the structure of params.

  Raises:
    ValueError: if shapes of weights, `where` and log-probabilities differ,
      num_cg_steps is not positive, or a damping known at trace time is not.
  """
  if num_cg_steps < 1:
    raise ValueError(f"num_cg_steps is {num_cg_steps}, expected at least 1")
  known = checks.concrete_value(damping)
  if known is not None and not (known > 0).all():
    raise ValueError(f"damping is {damping}, expected more than 0")
  logp, jvp_fn = jax.linearize(logp_fn, params)
  if logp.shape != weights.shape:
    raise ValueError(
      f"weights have shape {weights.shape}, expected {logp.shape}, the shape "
      "of the steps' log-probabilities"
    )
  if where is not None:
    checks.check_shape("where", where, logp.shape, "that of weights")
  transpose = jax.linear_transpose(jvp_fn, params)
  dtype = checks.widen(logp).dtype  # of vectors over samples
  weights = jax.lax.stop_gradient(weights).astype(dtype)
  counts = jnp.broadcast_to(True if where is None else where, logp.shape)
  weights = jnp.where(counts, weights, 0)
  number = jnp.maximum(jnp.sum(counts), 1).astype(dtype)
  ridge = jnp.asarray(damping * number, dtype)

  # Vectors over samples are 0 where no sample counts, and stay so.
  def vjp_fn(sample_vector):
    (cotangent,) = transpose(sample_vector.astype(logp.dtype))
    return cotangent

  solved = _conjugate_gradients(
    vjp_fn,
    lambda update: jnp.where(counts, jvp_fn(update), 0).astype(dtype),
    weights,
    ridge=ridge,
    num_steps=num_cg_steps,
    tol=tol,
  )
  update = jax.tree.map(lambda x, p: x.astype(p.dtype), solved.update, params)
  tiny = jnp.finfo(dtype).tiny
  residual = jnp.linalg.norm(solved.residual)
  return update, Diagnostics(
    residual=residual / jnp.maximum(jnp.linalg.norm(weights), tiny),
    predicted_kl=0.5 * (jnp.sum(solved.change**2) / number),
    improvement=jnp.sum(weights * solved.change) / number,
  )


class _Iterate(NamedTuple):
  """Of conjugate gradients for (JJᵀ + ridge) z = w, from z = 0 on.

  Attributes:
    number: of iterations so far.
    residual: w − (JJᵀ + ridge) z.
    direction: of the next change of z.
    square: of the residual's norm.
    update: Jᵀz.
    change: JJᵀz.
  """

  number: Array
  residual: Array
  direction: Array
  square: Array
  update: PyTree
  change: Array


def _conjugate_gradients(
  vjp_fn, jvp_fn, weights, *, ridge, num_steps, tol
) -> _Iterate:
  """The last iterate, at one vjp and one jvp an iteration.

  `jax.scipy.sparse.linalg.cg` would take one more of each for z = 0, and its
  caller another for what is asked of z here, Jᵀz and JJᵀz, which are sums over
  the iterations: with few of them that is half of the time.
  """
  square = jnp.vdot(weights, weights)

  def iterate(state: _Iterate) -> _Iterate:
    pulled = vjp_fn(state.direction)
    pushed = jvp_fn(pulled)
    image = pushed + ridge * state.direction
    size = state.square / jnp.vdot(state.direction, image)
    residual = state.residual - size * image
    left = jnp.vdot(residual, residual)
    return _Iterate(
      number=state.number + 1,
      residual=residual,
      direction=residual + left / state.square * state.direction,
      square=left,
      update=jax.tree.map(
        lambda total, x: total + size.astype(total.dtype) * x,
        state.update,
        pulled,
      ),
      change=state.change + size * pushed,
    )

  shapes = jax.eval_shape(vjp_fn, weights)
  return jax.lax.while_loop(
    lambda state: (state.number < num_steps) & (state.square > tol**2 * square),
    iterate,
    _Iterate(
      number=jnp.int32(0),
      residual=weights,
      direction=weights,
      square=square,
      update=jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
        shapes,
      ),
      change=jnp.zeros_like(weights),
    ),
  )
