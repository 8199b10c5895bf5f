"""How a policy's parameters follow the weights of its rollouts' steps.

An update is a pytree: numbers that a sweep may vary are its leaves, and what
would need another compilation is its structure. It gets a `Batch`, and a factor
of its step, for schedules.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from pav_jax import checks, losses, steps
from pav_jax.checks import Leaf
from pav_jax.natural_gradient import natural_gradient
from pav_jax.rollout import Rollout

LogpFn = Callable[[PyTree], Float[Array, "B T"]]
Metrics = dict[str, Float[Array, ""]]


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["rollout", "weights", "logp_ref"],
  meta_fields=["off_policy"],
)
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Batch:
  """What an update learns from: a frozen pytree.

  Attributes:
    rollout: whose steps are followed, with `logp` of the policy that sampled.
    weights: of the steps, from a credit estimator; 0 where none exists.
    logp_ref: log-probabilities of the tokens, in nats, under the reference to
      which a KL penalty keeps the policy near; None for no penalty.
    off_policy: whether the policy that is updated is no longer the one that
      sampled, so that steps have importance ratios. Static.
  """

  rollout: Rollout
  weights: Float[Array, "B H"]
  logp_ref: Float[Array, "B T"] | None = None
  off_policy: bool = False


@typing.runtime_checkable
class Update(typing.Protocol):
  """Parameters from weights."""

  def init(self, params: PyTree) -> PyTree:
    """The state before the first update, an optimiser's for instance."""
    ...

  def __call__(
    self,
    params: PyTree,
    state: PyTree,
    logp_fn: LogpFn,
    batch: Batch,
    *,
    scale: Float[ArrayLike, ""] = 1.0,
  ) -> tuple[PyTree, PyTree, Metrics]:
    """One step: new parameters, new state, and scalars to report.

    Args:
      params: of the policy.
      state: from `init`, or from the last call.
      logp_fn: parameters -> log-probabilities of the batch's tokens, in nats.
      batch: what to learn from.
      scale: factor of the step, >= 0.
    """
    ...


def check_mu_dtype(mu_dtype: str | None) -> None:
  """Raises ValueError unless first moments may be of a type."""
  allowed = (None, "float32", "bfloat16")
  if mu_dtype not in allowed:
    raise ValueError(f"mu_dtype is {mu_dtype!r}, expected one of {allowed}")


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
  logp: Float[Array, "B T"], batch: Batch, max_ratio: Leaf
) -> Float[Array, "B H"] | None:
  """`losses.importance_ratios` of the batch's steps; None on-policy."""
  if not batch.off_policy:
    return None
  return losses.importance_ratios(
    logp, batch.rollout.logp, batch.rollout.prefix_len, max_ratio=max_ratio
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=[
    "learning_rate",
    "kl_weight",
    "clip_norm",
    "max_ratio",
    "clip_range",
  ],
  meta_fields=["optimizer", "normalization", "kl_form", "mu_dtype"],
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
    max_ratio: what importance ratios of steps are truncated to, > 0; of the
      penalty too. The default is V-trace's (arXiv 1802.01561).
    clip_range: ε_low and ε_high of `losses.clipped_policy_gradient_loss`, with
      ratios of tokens, in place of truncated ones; None for these.
    normalization: how tokens are averaged, see `losses`. Static.
    kl_form: see `losses.kl_penalty`. Static.
    mu_dtype: of Adam's mean of gradients, "bfloat16" for half of its memory;
      None for that of the parameters. Static.

  Raises:
    ValueError: if a setting is out of its range.
  """

  optimizer: str = "sgd"
  learning_rate: Leaf = 1.0
  kl_weight: Leaf = 0.0
  clip_norm: Leaf | None = None
  max_ratio: Leaf = 2.0
  clip_range: tuple[Leaf, Leaf] | None = None
  normalization: losses.Normalization = "responses"
  kl_form: str = "k3+"
  mu_dtype: str | None = None

  def __post_init__(self):
    if self.optimizer not in ("sgd", "adam"):
      raise ValueError(
        f"optimizer is {self.optimizer!r}, expected 'sgd' or 'adam'"
      )
    check_mu_dtype(self.mu_dtype)
    checks.check_positive(
      learning_rate=self.learning_rate,
      clip_norm=self.clip_norm,
      max_ratio=self.max_ratio,
    )

  def _transformation(self, scale) -> optax.GradientTransformation:
    rate = self.learning_rate * scale
    if self.optimizer == "sgd":  # which keeps no moments
      return optax.sgd(rate)
    return optax.adam(rate, mu_dtype=self.mu_dtype)

  def init(self, params: PyTree) -> PyTree:
    """The optimiser's state."""
    return self._transformation(1.0).init(params)

  def __call__(
    self,
    params: PyTree,
    state: PyTree,
    logp_fn: LogpFn,
    batch: Batch,
    *,
    scale: Float[ArrayLike, ""] = 1.0,
  ) -> tuple[PyTree, PyTree, Metrics]:
    """One step on the loss; `scale` is of the learning rate. See `Update`."""

    def loss_fn(params):
      logp, prefix_len = logp_fn(params), batch.rollout.prefix_len
      ratios = importance_ratios(logp, batch, self.max_ratio)
      loss = self._surrogate(logp, batch, ratios)
      if batch.logp_ref is not None:
        loss += self.kl_weight * losses.kl_penalty(
          logp,
          batch.logp_ref,
          prefix_len,
          form=self.kl_form,
          ratios=ratios,
          normalization=self.normalization,
        )
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

  def _surrogate(self, logp, batch, ratios):
    weights, prefix_len = batch.weights, batch.rollout.prefix_len
    if self.clip_range is not None and batch.off_policy:
      return losses.clipped_policy_gradient_loss(
        logp,
        batch.rollout.logp,
        weights,
        prefix_len,
        clip_low=self.clip_range[0],
        clip_high=self.clip_range[1],
        normalization=self.normalization,
      )
    if ratios is not None:
      weights = ratios * weights
    return losses.policy_gradient_loss(
      logp, weights, prefix_len, normalization=self.normalization
    )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["step_size", "damping", "max_kl", "kl_weight", "max_ratio"],
  meta_fields=["num_cg_steps"],
)
@dataclasses.dataclass(frozen=True)
class NaturalGradient:
  """Natural gradient in sample space (Eq. 11), its step capped in KL.

  What keeps it both fast and stable (measured by
  `gin/experiments/planted_step_control.gin`):

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
    damping: > 0, added to the Fisher matrix's diagonal. The matrix is the mean
      over the steps that exist.
    max_kl: > 0, nats per step that exists.
    num_cg_steps: most conjugate-gradient iterations, static.
    kl_weight: of a step's log-ratio to a reference, if one is given: what is
      taken off its weight, so that the expected update is less the gradient of
      the steps' KL.
    max_ratio: what importance ratios of steps are truncated to, > 0.
  """

  step_size: Leaf = 30.0
  damping: Leaf = 0.1
  max_kl: Leaf = 0.005
  num_cg_steps: int = 10
  kl_weight: Leaf = 0.0
  max_ratio: Leaf = 2.0

  def __post_init__(self):
    checks.check_positive(
      step_size=self.step_size,
      damping=self.damping,
      max_kl=self.max_kl,
      num_cg_steps=self.num_cg_steps,
      max_ratio=self.max_ratio,
    )

  def init(self, params: PyTree) -> PyTree:
    """The factor of the last step."""
    return step_within_kl(self.step_size, self.max_kl).init(params)

  def __call__(
    self,
    params: PyTree,
    state: PyTree,
    logp_fn: LogpFn,
    batch: Batch,
    *,
    scale: Float[ArrayLike, ""] = 1.0,
  ) -> tuple[PyTree, PyTree, Metrics]:
    """One step, whose samples are the rollouts' steps. See `Update`.

    `scale` is of the step size and of the root of the cap.
    """
    prefix_len, weights = batch.rollout.prefix_len, batch.weights

    def step_logp_fn(params):
      return steps.sum_over_steps(logp_fn(params), prefix_len)

    if batch.off_policy or batch.logp_ref is not None:
      logp = logp_fn(params)
      if batch.logp_ref is not None:
        penalty = losses.kl_rewards(logp, batch.logp_ref, prefix_len)
        weights = weights - self.kl_weight * penalty
      ratios = importance_ratios(logp, batch, self.max_ratio)
      if ratios is not None:
        weights = ratios * weights

    direction, solved = natural_gradient(
      step_logp_fn,
      params,
      weights,
      damping=self.damping,
      num_cg_steps=self.num_cg_steps,
      where=steps.step_mask(prefix_len),
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
