"""Initial policies: maximum likelihood on a prover's samples (App. B)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pav_jax.rollout import Rollout


def fit(
  policy: Any,
  params: PyTree,
  rollouts: Rollout,
  *,
  batch_size: int,
  learning_rate: float,
) -> tuple[PyTree, Float[Array, "I"]]:
  """One pass of Adam over rollouts, in their order.

  Args:
    policy: has `logp(params, rollout)`, 0 outside the response.
    params: to start from.
    rollouts: of I·batch_size rows.
    batch_size: rows an iteration.
    learning_rate: of Adam, constant.

  Returns:
    `(params, losses)`; losses are negative log-likelihoods of a response in
    nats, batch means.

  Raises:
    ValueError: if the rows do not divide into batches.
  """
  rows = rollouts.tokens.shape[0]
  if batch_size < 1 or rows % batch_size:
    raise ValueError(
      f"{rows} rollouts, expected a multiple of batch_size={batch_size}"
    )
  optimizer = optax.adam(learning_rate)

  def step(carry, batch):
    params, state = carry

    def loss_fn(params):
      return -jnp.mean(jnp.sum(policy.logp(params, batch), axis=-1))

    loss, gradient = jax.value_and_grad(loss_fn)(params)
    updates, state = optimizer.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), loss

  batches = jax.tree.map(
    lambda x: x.reshape(-1, batch_size, *x.shape[1:]), rollouts
  )
  (params, _), losses = jax.lax.scan(
    step, (params, optimizer.init(params)), batches
  )
  return params, losses


@dataclasses.dataclass(frozen=True)
class ImitateProver:
  """Initial parameters: a random policy fitted to a prover's samples (App. B).

  Attributes:
    prover: has `sample(key, problem_id, sample_id) -> Rollout`.
    num_iterations: 50 in the paper.
    batch_size: 64 in the paper.
    learning_rate: of Adam.
  """

  prover: Any
  num_iterations: int = 50
  batch_size: int = 64
  learning_rate: float = 1e-3

  def __call__(self, policy: Any, key: jax.Array) -> PyTree:
    """Parameters of one seed."""
    init_key, sample_key = jax.random.split(key)
    sample_id = jnp.arange(self.num_iterations * self.batch_size)
    rollouts = self.prover.sample(
      sample_key, jnp.zeros_like(sample_id), sample_id
    )
    params, _ = fit(
      policy,
      policy.init(init_key),
      rollouts,
      batch_size=self.batch_size,
      learning_rate=self.learning_rate,
    )
    return params
