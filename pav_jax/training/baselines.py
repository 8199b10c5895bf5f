"""What is subtracted from rewards: by name for gin files, or learned.

A baseline that depends on the state before a step, and not on the step, changes
the variance of the policy gradient and not its expectation. `NoBaseline`,
`BatchMean` and `GroupMean` are those of `credit.centring` with their settings;
a `LearnedBaseline` is a value function, and needs a state.
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
from pav_jax.training.implicit_rewards import LearnedImplicit
from pav_jax.training.updates import check_mu_dtype

_static = functools.partial(jax.tree_util.register_dataclass, data_fields=[])


@functools.partial(_static, meta_fields=[])
@dataclasses.dataclass(frozen=True)
class NoBaseline:
  """Subtracts nothing."""

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, "B H"],
    groups: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B H"]:
    """Zeros."""
    del rollout, groups
    return jnp.zeros_like(rewards)


@functools.partial(_static, meta_fields=[])
@dataclasses.dataclass(frozen=True)
class BatchMean:
  """`credit.batch_mean`."""

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, "B H"],
    groups: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B H"]:
    """The means, the same in every row."""
    return credit.batch_mean(rollout, rewards, groups)


@functools.partial(_static, meta_fields=["own", "of"])
@dataclasses.dataclass(frozen=True)
class GroupMean:
  """`credit.group_mean`.

  Attributes:
    own: whether a sample's own reward is in the mean (as in GRPO, which scales
      the expected gradient by 1 - 1/n); if not, the samples are left out one at
      a time (RLOO) and the gradient stays unbiased. Static.
    of: "rewards", "outcomes" or "responses", see `credit.group_mean`. Static.

  Raises:
    ValueError: for another `of`.
  """

  own: bool = True
  of: str = "rewards"

  def __post_init__(self):
    if self.of not in ("rewards", "outcomes", "responses"):
      raise ValueError(
        f"of is {self.of!r}, expected 'rewards', 'outcomes' or 'responses'"
      )

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, "B H"],
    groups: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B H"]:
    """The means [B, H]."""
    return credit.group_mean(
      rollout, rewards, groups, of=self.of, leave_one_out=not self.own
    )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["learning_rate"],
  meta_fields=["value", "num_steps", "mu_dtype"],
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
    value: has `init(key, params)`, which may start from the policy's
      parameters, and `values(params, rollout) -> [B, H]`, the value of the
      state before each step; None for the policy's `value_network()`. Static.
    learning_rate: of Adam, > 0.
    num_steps: of Adam on each batch, at least 1, static.
    mu_dtype: of Adam's mean of gradients, see `updates.Gradient`. Static.

  Raises:
    ValueError: if a setting is out of its range.
  """

  value: Any = None
  learning_rate: Leaf = 1e-3
  num_steps: int = 1
  mu_dtype: str | None = None

  def __post_init__(self):
    check_mu_dtype(self.mu_dtype)
    checks.check_positive(
      learning_rate=self.learning_rate, num_steps=self.num_steps
    )

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """Parameters of the value function and Adam's state.

    Args:
      key: of random parameters.
      params: the policy's, where the value function starts from them.
    """
    params = self.value.init(key, params)
    return params, self._optimizer.init(params)

  @property
  def _optimizer(self) -> optax.GradientTransformation:
    return optax.adam(self.learning_rate, mu_dtype=self.mu_dtype)

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
      updates, optimizer_state = self._optimizer.update(
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
    **more: Any,
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """Weights, and the state fitted to the rewards; once for a batch."""
    exists = steps.step_mask(rollout.prefix_len)
    rewards = self.reward(rollout, q, groups, **more) * exists
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


def less_baseline(
  *, reward: credit.Credit, baseline: Any
) -> credit.Credit | credit.StatefulCredit:
  """An estimator from what steps are worth and what is subtracted from it.

  Args:
    reward: a `credit.Credit` without state.
    baseline: a `credit.Baseline`, or a `LearnedBaseline`.

  Raises:
    ValueError: if the baseline is neither.
  """
  if isinstance(baseline, LearnedBaseline):
    return LearnedCredit(reward, baseline)
  if not callable(baseline):
    raise ValueError(
      f"baseline is {baseline!r}, expected NoBaseline, BatchMean, GroupMean or "
      "LearnedBaseline, or another function of rollouts and rewards"
    )
  return credit.Centred(reward, baseline)


def without_prover(estimator: Any) -> Any:
  """An estimator for which no values are needed, if it has no use for them.

  An `EffectiveReward` with alpha 0 is the outcome. Where numbers are traced
  nobody can see that they are 0, so this comes before.
  """
  if not isinstance(estimator, credit.Centred | LearnedCredit):
    return estimator
  reward = estimator.reward
  if isinstance(reward, credit.EffectiveReward) and reward.is_outcome:
    return dataclasses.replace(estimator, reward=credit.outcome)
  return estimator


def for_policy(estimator: Any, policy: Any) -> Any:
  """An estimator whose value function or reward model is the policy's.

  Where it has one of its own, or needs none, it stays.

  Args:
    estimator: any, such as of `less_baseline`.
    policy: a `policies.base.Policy`.
  """
  if isinstance(estimator, LearnedImplicit) and estimator.model is None:
    return dataclasses.replace(estimator, model=policy)
  if not isinstance(estimator, LearnedCredit | LearnedGae):
    return estimator
  if estimator.baseline.value is not None:
    return estimator
  baseline = dataclasses.replace(
    estimator.baseline, value=policy.value_network()
  )
  return dataclasses.replace(estimator, baseline=baseline)


def on_base(estimator: Any, base: PyTree) -> Any:
  """An estimator whose value function shares the base that a policy has.

  Args:
    estimator: from `for_policy`.
    base: parameters of the policy that are not trained; {} for none.
  """
  if not base or not isinstance(estimator, LearnedCredit | LearnedGae):
    return estimator
  value = estimator.baseline.value.with_base(base)
  baseline = dataclasses.replace(estimator.baseline, value=value)
  return dataclasses.replace(estimator, baseline=baseline)
