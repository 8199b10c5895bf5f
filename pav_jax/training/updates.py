"""How a policy's parameters follow the effective rewards of its rollouts.

An update is a pytree: numbers that a sweep may vary are its leaves, and what
would need another compilation is its structure.

Besides rollouts and weights an update takes what a longer run needs: a factor
of its step, for schedules; log-probabilities under a reference, to which a KL
penalty keeps the policy near; and whether the rollouts are older than the
parameters, so that steps are to be weighted by their importance ratio.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pav_jax import checks, losses, steps
from pav_jax.checks import Leaf
from pav_jax.natural_gradient import natural_gradient
from pav_jax.rollout import Rollout

# Largest importance ratio of a step, as in V-trace (Espeholt et al., 2018).
MAX_RATIO = 2.0

LogpFn = Callable[[PyTree], Float[Array, "B T"]]
Metrics = dict[str, Float[Array, ""]]


def step_within_kl(
  step_size: float | Float[Array, ""], max_kl: float | Float[Array, ""]
) -> optax.GradientTransformationExtraArgs:
  """Scales an update by step_size, less where that would exceed a KL.

  The KL is a cap and not a target: where the update itself is small, as it is
  once a policy has converged, so is the step.

  Args:
    step_size: factor where the cap does not bind, > 0.
    max_kl: > 0, nats per sample, on the second-order prediction.

  Returns:
    An optax transformation whose `update` takes `predicted_kl`, the KL of the
    incoming update at factor 1 (`natural_gradient.Diagnostics`). Its state is
    the factor last used.
  """

  def init(params):
    del params
    return jnp.zeros([], jnp.float32)

  def update(updates, state, params=None, *, predicted_kl, **extra):
    del state, params, extra
    tiny = jnp.finfo(jnp.float32).tiny
    cap = jnp.sqrt(max_kl / jnp.maximum(predicted_kl, tiny))
    factor = jnp.minimum(step_size, cap).astype(jnp.float32)
    return jax.tree.map(lambda u: factor * u, updates), factor

  return optax.GradientTransformationExtraArgs(init, update)


def importance_ratios(
  logp: Float[Array, "B T"], rollout: Rollout
) -> Float[Array, "B H"]:
  """π(a_h|s_h) over its probability when the step was sampled, at most 2.

  The distribution over states stays that of the policy which sampled, as in
  Eq. 4; so a step has the ratio of its own tokens alone. No gradient passes.

  Args:
    logp: of the tokens under the policy that is updated, in nats.
    rollout: with `logp` of the policy that sampled it.
  """
  older = jax.lax.stop_gradient(logp) - rollout.logp
  ratio = jnp.exp(steps.sum_over_steps(older, rollout.prefix_len))
  return jnp.minimum(ratio, MAX_RATIO)


def _log_ratio_to(logp_ref, logp, rollout):
  """log π(a_h|s_h) − log π_ref(a_h|s_h) of every step, in nats."""
  return steps.sum_over_steps(logp - logp_ref, rollout.prefix_len)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["learning_rate", "kl_weight", "clip_norm"],
  meta_fields=["optimizer"],
)
@dataclasses.dataclass(frozen=True)
class Gradient:
  """Ascends the policy gradient (Eq. 5) with an optimiser.

  Attributes:
    optimizer: `"sgd"` or `"adam"`, static.
    learning_rate: > 0.
    kl_weight: of `losses.kl_penalty` to a reference, if one is given.
    clip_norm: gradients of a larger norm are scaled down to it; None for as
      they are.
  """

  optimizer: str = "sgd"
  learning_rate: Leaf = 1.0
  kl_weight: Leaf = 0.0
  clip_norm: Leaf | None = None

  def __post_init__(self):
    if self.optimizer not in ("sgd", "adam"):
      raise ValueError(
        f"optimizer is {self.optimizer!r}, expected 'sgd' or 'adam'"
      )
    checks.check_positive(
      learning_rate=self.learning_rate, clip_norm=self.clip_norm
    )

  def _transformation(self, scale) -> optax.GradientTransformation:
    return {"sgd": optax.sgd, "adam": optax.adam}[self.optimizer](
      self.learning_rate * scale
    )

  def init(self, params: PyTree) -> PyTree:
    """The optimiser's state."""
    return self._transformation(1.0).init(params)

  def __call__(
    self,
    params: PyTree,
    state: PyTree,
    logp_fn: LogpFn,
    rollout: Rollout,
    weights: Float[Array, "B H"],
    *,
    scale: float | Float[Array, ""] = 1.0,
    logp_ref: Float[Array, "B T"] | None = None,
    off_policy: bool = False,
  ) -> tuple[PyTree, PyTree, Metrics]:
    """One step on `losses.policy_gradient_loss`.

    Args:
      params: of the policy.
      state: of the optimiser.
      logp_fn: gives log-probabilities of the rollout's tokens in nats.
      rollout: whose steps are followed.
      weights: effective rewards of the steps, less a baseline.
      scale: of the learning rate, >= 0.
      logp_ref: log-probabilities of the tokens under the reference.
      off_policy: whether the rollout's policy was another. Static.
    """

    def loss_fn(params):
      logp = logp_fn(params)
      ratios = importance_ratios(logp, rollout) if off_policy else 1.0
      loss = losses.policy_gradient_loss(
        logp, ratios * weights, rollout.prefix_len
      )
      if logp_ref is not None:
        penalty = losses.kl_penalty(logp, logp_ref, rollout.prefix_len)
        loss += self.kl_weight * penalty
      return loss

    loss, gradient = jax.value_and_grad(loss_fn)(params)
    norm = optax.tree.norm(gradient)
    if self.clip_norm is not None:
      tiny = jnp.finfo(jnp.float32).tiny
      factor = jnp.minimum(1.0, self.clip_norm / jnp.maximum(norm, tiny))
      gradient = jax.tree.map(lambda g: factor * g, gradient)
    updates, state = self._transformation(scale).update(gradient, state, params)
    metrics = {"loss": loss, "gradient_norm": norm}
    return optax.apply_updates(params, updates), state, metrics


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["step_size", "damping", "max_kl", "kl_weight"],
  meta_fields=["num_cg_steps"],
)
@dataclasses.dataclass(frozen=True)
class NaturalGradient:
  """Natural gradient in sample space (Eq. 11), its step capped in KL.

  What keeps it both fast and stable (measured by
  `studies/step_control/planted_step_control.gin`):

  *   Damping is large beside the Fisher matrix of a policy that has converged.
      There the update turns into gradient / damping, which vanishes as the
      gradient does. With a tenth of the damping the update goes on dividing
      noise by noise, and policies that had converged break down.
  *   The KL of a step is capped. That keeps the quadratic model honest on the
      way up, and is what saves runs with too little damping. It is a cap and
      not a target, so it is idle where the update itself is small.
  *   Weights are centred by a baseline, so that a batch in which every rollout
      does equally well asks for no step; the last percents come sooner. (The
      baseline is the trainer's.)

  Attributes:
    step_size: γ > 0 of the update where the cap does not bind.
    damping: > 0, added to the Fisher matrix's diagonal.
    max_kl: > 0, nats per sampled step.
    num_cg_steps: most conjugate-gradient iterations, static.
    kl_weight: of a step's log-ratio to a reference, if one is given: what is
      taken off its weight, so that the expected update is less the gradient of
      the steps' KL.
  """

  step_size: Leaf = 30.0
  damping: Leaf = 0.1
  max_kl: Leaf = 0.005
  num_cg_steps: int = 10
  kl_weight: Leaf = 0.0

  def __post_init__(self):
    checks.check_positive(
      step_size=self.step_size,
      damping=self.damping,
      max_kl=self.max_kl,
      num_cg_steps=self.num_cg_steps,
    )

  def init(self, params: PyTree) -> PyTree:
    """The factor of the last step."""
    return step_within_kl(self.step_size, self.max_kl).init(params)

  def __call__(
    self,
    params: PyTree,
    state: PyTree,
    logp_fn: LogpFn,
    rollout: Rollout,
    weights: Float[Array, "B H"],
    *,
    scale: float | Float[Array, ""] = 1.0,
    logp_ref: Float[Array, "B T"] | None = None,
    off_policy: bool = False,
  ) -> tuple[PyTree, PyTree, Metrics]:
    """One step; samples are the rollouts' steps.

    Args:
      params: of the policy.
      state: the factor of the last step.
      logp_fn: gives log-probabilities of the rollout's tokens in nats.
      rollout: whose steps are followed.
      weights: effective rewards of the steps, less a baseline.
      scale: of the step size and of the root of the cap, >= 0.
      logp_ref: log-probabilities of the tokens under the reference.
      off_policy: whether the rollout's policy was another. Static.
    """

    def step_logp_fn(params):
      return steps.sum_over_steps(logp_fn(params), rollout.prefix_len)

    if off_policy or logp_ref is not None:
      logp = logp_fn(params)
      if off_policy:
        weights = importance_ratios(logp, rollout) * weights
      if logp_ref is not None:
        weights -= self.kl_weight * _log_ratio_to(logp_ref, logp, rollout)

    direction, solved = natural_gradient(
      step_logp_fn,
      params,
      weights,
      damping=self.damping,
      num_cg_steps=self.num_cg_steps,
    )
    transformation = step_within_kl(
      self.step_size * scale, self.max_kl * scale**2
    )
    updates, factor = transformation.update(
      direction, state, params, predicted_kl=solved.predicted_kl
    )
    metrics = {
      "loss": -factor * solved.improvement,
      "step_factor": factor,
      "predicted_kl": factor**2 * solved.predicted_kl,
      "cg_residual": solved.residual,
    }
    return optax.apply_updates(params, updates), factor, metrics
