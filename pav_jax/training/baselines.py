"""What is subtracted from the effective rewards to centre them.

A baseline depends on the state before a step and not on the step, and so
changes the variance of the policy gradient but not its expectation.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pav_jax import checks, losses, steps
from pav_jax.checks import Leaf
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class NoBaseline:
  """Subtracts nothing."""

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """No state."""
    del key, params
    return ()

  def __call__(
    self, state: PyTree, rollout: Rollout, rewards: Float[Array, "B H"]
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """Zeros."""
    return jnp.zeros_like(rewards), state


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class BatchMean:
  """The batch's mean effective reward at step h, among rollouts that have one.

  A rollout's own reward is in the mean, which scales the expected gradient by
  1 − 1/n, n being the rollouts with a step h.
  """

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """No state."""
    del key, params
    return ()

  def __call__(
    self, state: PyTree, rollout: Rollout, rewards: Float[Array, "B H"]
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """The means [1, H], for every row."""
    exists = steps.step_mask(rollout.prefix_len)
    total = jnp.sum(rewards * exists, axis=0, keepdims=True)
    count = jnp.sum(exists, axis=0, keepdims=True)
    mean = total / jnp.maximum(count, 1)
    return jnp.broadcast_to(mean, rewards.shape), state


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=["own", "of"]
)
@dataclasses.dataclass(frozen=True)
class GroupMean:
  """The mean reward at step h among the samples of the same problem.

  Where no other sample counts that has a step h, this is the reward itself: the
  step is not followed.

  Attributes:
    own: whether a sample's own reward is in the mean (as in GRPO, which scales
      the expected gradient by 1 - 1/n); if not, the samples are left out one at
      a time (RLOO) and the gradient stays unbiased. Static.
    of: "rewards", or "outcomes" for the mean outcome of the samples instead.
      A prover's advantages are differences of values and need no other
      baseline; their mean even adds noise: behind an error advantages are 0,
      and a mean of what others lost at the same step would be a reward there.
      Static.

  Raises:
    ValueError: for another `of`.
  """

  own: bool = True
  of: str = "rewards"

  def __post_init__(self):
    if self.of not in ("rewards", "outcomes"):
      raise ValueError(f"of is {self.of!r}, expected 'rewards' or 'outcomes'")

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """No state."""
    del key, params
    return ()

  def __call__(
    self, state: PyTree, rollout: Rollout, rewards: Float[Array, "B H"]
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """The means [B, H]."""
    if self.of == "outcomes":
      rewards = jnp.broadcast_to(rollout.outcome[:, None], rewards.shape)
    exists = steps.step_mask(rollout.prefix_len).astype(rewards.dtype)
    same = rollout.problem_id[:, None] == rollout.problem_id
    if not self.own:
      same &= ~jnp.eye(len(same), dtype=bool)
    same = same.astype(rewards.dtype)
    total, count = same @ (rewards * exists), same @ exists
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), rewards)
    return mean, state


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["learning_rate"],
  meta_fields=["value"],
)
@dataclasses.dataclass(frozen=True)
class LearnedBaseline:
  """A value function that predicts the effective reward at a state (Sec. 5).

  It is used before it is fitted to the batch, so that it cannot know the steps
  that it is subtracted from.

  Attributes:
    value: has `init(key)`, or `init(key, params)` to start from the policy's
      parameters, and `values(params, rollout) -> [B, H]`, the value of the
      state before each step; static.
    learning_rate: of Adam, > 0.
  """

  value: Any
  learning_rate: Leaf = 1e-3

  def __post_init__(self):
    checks.check_positive(learning_rate=self.learning_rate)

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """Parameters of the value function and Adam's state.

    Args:
      key: of random parameters.
      params: the policy's, where the value function starts from them.
    """
    params = self.value.init(key, *(() if params is None else (params,)))
    return params, optax.adam(self.learning_rate).init(params)

  def __call__(
    self, state: PyTree, rollout: Rollout, rewards: Float[Array, "B H"]
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """The predictions, and the state after one step of squared error."""
    params, optimizer_state = state

    def loss_fn(params):
      predicted = self.value.values(params, rollout)
      loss = losses.value_loss(predicted, rewards, rollout.prefix_len)
      return loss, predicted

    gradient, predicted = jax.grad(loss_fn, has_aux=True)(params)
    updates, optimizer_state = optax.adam(self.learning_rate).update(
      gradient, optimizer_state, params
    )
    params = optax.apply_updates(params, updates)
    return jax.lax.stop_gradient(predicted), (params, optimizer_state)
