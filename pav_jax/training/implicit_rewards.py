"""PRIME: a reward model that learns from outcomes while it rewards steps."""

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from pav_jax import checks, credit, losses
from pav_jax.checks import Leaf
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["estimator", "beta", "learning_rate"],
  meta_fields=["model", "num_steps"],
)
@typing.no_type_check  # transformations unflatten it with any leaves
@dataclasses.dataclass(frozen=True)
class LearnedImplicit:
  """Credit from an implicit reward model, a `credit.StatefulCredit`.

  The model φ begins as the policy, which stays its reference. Batch by batch it
  learns to predict outcomes y of whole responses (arXiv 2502.01456, Sec. 3),

      −mean of y log σ(z) + (1 − y) log σ(−z),   z = β Σ_t log π_φ / π_ref,

  and what the terms of z add up to at each step is what the estimator is given
  for values, `credit.implicit_values`. Those of a batch are the model's before
  it learns from it, as in the authors' code by default ("after"); the paper
  finds little difference.

  Attributes:
    estimator: a `credit.Credit`, such as `credit.prime`.
    model: has `logp(params, rollout) -> [B, T]`; None for the policy. Static.
    beta: β > 0.
    learning_rate: of Adam, > 0.
    num_steps: of Adam on each batch, at least 1, static.

  Raises:
    ValueError: if a number is not positive.
  """

  estimator: Any = credit.prime
  model: Any = None
  beta: Leaf = 0.05
  learning_rate: Leaf = 1e-6
  num_steps: int = 1

  def __post_init__(self):
    object.__setattr__(self, "estimator", credit.as_pytree(self.estimator))
    checks.check_positive(
      beta=self.beta,
      learning_rate=self.learning_rate,
      num_steps=self.num_steps,
    )

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """The model's parameters, Adam's state, and the reference's parameters.

    Args:
      key: not used.
      params: the policy's.
    """
    del key
    return params, optax.adam(self.learning_rate).init(params), params

  def apply(
    self,
    state: PyTree,
    rollout: Rollout,
    q: Float[Array, "B P"] | None = None,
    groups: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """Weights, and the state fitted to the outcomes; once for a batch."""
    del q
    params, optimizer_state, reference = state
    logp_ref = self.model.logp(reference, rollout)

    def loss(params):
      logp = self.model.logp(params, rollout)
      ratios = losses.kl_rewards(logp, logp_ref, rollout.prefix_len)
      z = self.beta * jnp.sum(ratios, axis=-1)
      y = rollout.outcome
      entropy = y * jax.nn.log_sigmoid(z) + (1 - y) * jax.nn.log_sigmoid(-z)
      return -jnp.mean(entropy), logp

    def step(fitted):
      params, optimizer_state = fitted
      gradient, logp = jax.grad(loss, has_aux=True)(params)
      updates, optimizer_state = optax.adam(self.learning_rate).update(
        gradient, optimizer_state, params
      )
      return logp, (optax.apply_updates(params, updates), optimizer_state)

    logp, fitted = step((params, optimizer_state))
    if self.num_steps > 1:
      fitted = jax.lax.fori_loop(
        1, self.num_steps, lambda _, fitted: step(fitted)[1], fitted
      )
    values = credit.implicit_values(
      jax.lax.stop_gradient(logp), logp_ref, rollout.prefix_len, beta=self.beta
    )
    return self.estimator(rollout, values, groups), (*fitted, reference)
