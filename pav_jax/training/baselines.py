"""What is subtracted from rewards to centre them, and what has to be learned.

A baseline that depends on the state before a step, and not on the step, changes
the variance of the policy gradient and not its expectation. Those that average
samples are in `credit.centring`; here they have the form that `training.rl`
calls, and `LearnedCredit` and `LearnedGae` are estimators with a value function
(`credit.StatefulCredit`).
"""

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from pav_jax import checks, credit, losses, steps
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
    """The means, the same for every row."""
    return credit.batch_mean(rollout, rewards), state


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=["own", "of"]
)
@dataclasses.dataclass(frozen=True)
class GroupMean:
  """The mean reward at step h among the samples of the same problem.

  Attributes:
    own: whether a sample's own reward is in the mean (as in GRPO, which scales
      the expected gradient by 1 - 1/n); if not, the samples are left out one at
      a time (RLOO) and the gradient stays unbiased. Static.
    of: "rewards", or "outcomes" for the mean outcome of the samples instead;
      see `credit.group_mean`. Static.

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
    mean = credit.group_mean(
      rollout, rewards, of=self.of, leave_one_out=not self.own
    )
    return mean, state


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["learning_rate"],
  meta_fields=["value", "num_steps"],
)
@dataclasses.dataclass(frozen=True)
class LearnedBaseline:
  """A value function that predicts the effective reward at a state (Sec. 5).

  A call uses it before it fits it to the batch, so that it cannot know the
  steps that it is subtracted from. That holds once for a batch: a second call
  on the same rollouts, as for another pass over them, would subtract what has
  been fitted to their rewards. So weights are computed once for all passes, as
  `LearnedCredit` does.

  Attributes:
    value: has `init(key)`, or `init(key, params)` to start from the policy's
      parameters, and `values(params, rollout) -> [B, H]`, the value of the
      state before each step; static.
    learning_rate: of Adam, > 0.
    num_steps: of Adam on each batch, at least 1, static.
  """

  value: Any
  learning_rate: Leaf = 1e-3
  num_steps: int = 1

  def __post_init__(self):
    checks.check_positive(
      learning_rate=self.learning_rate, num_steps=self.num_steps
    )

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """Parameters of the value function and Adam's state.

    Args:
      key: of random parameters.
      params: the policy's, where the value function starts from them.
    """
    params = self.value.init(key, *(() if params is None else (params,)))
    return params, optax.adam(self.learning_rate).init(params)

  def predict(self, state: PyTree, rollout: Rollout) -> Float[Array, "B H"]:
    """The value of the state before each step."""
    return jax.lax.stop_gradient(self.value.values(state[0], rollout))

  def fit(
    self, state: PyTree, rollout: Rollout, targets: Float[Array, "B H"]
  ) -> PyTree:
    """The state after `num_steps` steps of squared error to targets."""
    return self._fitted(state, rollout, targets)[1]

  def __call__(
    self, state: PyTree, rollout: Rollout, rewards: Float[Array, "B H"]
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """The predictions of the state as it came, and the state fitted."""
    return self._fitted(state, rollout, rewards)

  def _fitted(self, state, rollout, targets):
    """Predictions before the first step of the optimiser, state after all."""

    def loss_fn(params):
      predicted = self.value.values(params, rollout)
      loss = losses.value_loss(predicted, targets, rollout.prefix_len)
      return loss, predicted

    def step(state):
      params, optimizer_state = state
      gradient, predicted = jax.grad(loss_fn, has_aux=True)(params)
      updates, optimizer_state = optax.adam(self.learning_rate).update(
        gradient, optimizer_state, params
      )
      return predicted, (optax.apply_updates(params, updates), optimizer_state)

    predicted, state = step(state)
    if self.num_steps > 1:
      state = jax.lax.fori_loop(
        1, self.num_steps, lambda _, state: step(state)[1], state
      )
    return jax.lax.stop_gradient(predicted), state


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["reward", "baseline"],
  meta_fields=[],
)
@typing.no_type_check  # transformations unflatten it with any leaves
@dataclasses.dataclass(frozen=True)
class LearnedCredit:
  """An estimator less a learned value, a `credit.StatefulCredit` (Sec. 5).

  Attributes:
    reward: a `credit.Credit` without state.
    baseline: the value function, and how it is fitted to the rewards.
  """

  reward: Any
  baseline: LearnedBaseline

  def __post_init__(self):
    object.__setattr__(self, "reward", credit.as_pytree(self.reward))

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """The value function's state."""
    return self.baseline.init(key, params)

  def apply(
    self,
    state: PyTree,
    rollout: Rollout,
    q: Float[Array, "B P"] | None,
    groups: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """Weights, and the state fitted to the rewards; once for a batch."""
    exists = steps.step_mask(rollout.prefix_len)
    rewards = self.reward(rollout, q, groups) * exists
    expected, state = self.baseline(state, rollout, rewards)
    return (rewards - expected) * exists, state


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["baseline", "gae_lambda", "discount"],
  meta_fields=[],
)
@typing.no_type_check  # transformations unflatten it with any leaves
@dataclasses.dataclass(frozen=True)
class LearnedGae:
  """PPO's actor and critic: `credit.gae` from a learned value function.

  The value function is fitted to `Â_h + V_h`, the returns that λ mixes
  (Schulman et al., 2017). A prover has no part.

  Attributes:
    baseline: the value function, and how it is fitted.
    gae_lambda: λ in [0, 1].
    discount: γ in [0, 1], a step.
  """

  baseline: LearnedBaseline
  gae_lambda: Leaf = 0.95
  discount: Leaf = 1.0

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """The value function's state."""
    return self.baseline.init(key, params)

  def apply(
    self,
    state: PyTree,
    rollout: Rollout,
    q: Float[Array, "B P"] | None = None,
    groups: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """Advantages, and the state fitted to the returns; once for a batch."""
    del q, groups
    before = self.baseline.predict(state, rollout)
    # The value after the last step is not looked at: the outcome is.
    values = jnp.concatenate([before, before[:, -1:]], axis=-1)
    weights = credit.gae(
      rollout, values, gae_lambda=self.gae_lambda, discount=self.discount
    )
    return weights, self.baseline.fit(state, rollout, weights + before)
