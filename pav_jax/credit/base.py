"""What a credit estimator is, and how estimators are put together.

A `Credit` turns graded rollouts and a prover's values into the weights of
`losses.policy_gradient_loss`: `(rollout, q, groups) -> float32[B, H]`, 0 for
steps that do not exist. Any function of that form is one. What has to learn
while it serves, as a value function does, is a `StatefulCredit`; `init` and
`apply` treat both alike, so that a training loop need not ask which it has.

Baselines combine with any estimator: `Centred` subtracts one and divides by a
scale, each a function `(rollout, rewards, groups) -> [B, H]`.
"""

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from pav_jax import checks, steps
from pav_jax.rollout import Rollout


@typing.runtime_checkable
class Credit(typing.Protocol):
  """What each step of each rollout deserves."""

  def __call__(
    self,
    rollout: Rollout,
    q: Float[Array, "B P"] | None,
    groups: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B H"]:
    """The weights.

    Args:
      rollout: B graded rollouts of at most H steps.
      q: values of their P = H + 1 prefixes under a prover; None for estimators
        that look at outcomes alone.
      groups: equal numbers mark rollouts that are compared with each other;
        None for `rollout.problem_id`, the samples of one problem.
    """
    ...


@typing.runtime_checkable
class Baseline(typing.Protocol):
  """What is subtracted from rewards, or what they are divided by."""

  def __call__(
    self,
    rollout: Rollout,
    rewards: Float[Array, "B H"],
    groups: Int[Array, "B"] | None = None,
  ) -> Float[Array, "B H"]:
    """One number for each step; `rewards` are 0 where no step exists."""
    ...


@typing.runtime_checkable
class StatefulCredit(typing.Protocol):
  """A credit estimator that learns: state in, state out."""

  def init(self, key: jax.Array, params: PyTree = None) -> PyTree:
    """The state before the first batch.

    Args:
      key: of random parameters.
      params: the policy's, where a value function starts from them.
    """
    ...

  def apply(
    self,
    state: PyTree,
    rollout: Rollout,
    q: Float[Array, "B P"] | None,
    groups: Int[Array, "B"] | None = None,
  ) -> tuple[Float[Array, "B H"], PyTree]:
    """The weights, from the state as it came, and the state fitted to them.

    To be called once for a batch, before the first of several updates on it: a
    value function that has been fitted to a batch knows its rewards, and what
    it is subtracted from then loses them.
    """
    ...


@typing.runtime_checkable
class HasReward(typing.Protocol):
  """An estimator that subtracts something from another's weights."""

  reward: Credit


def init(
  credit: Credit | StatefulCredit, key: jax.Array, params: PyTree = None
) -> PyTree:
  """The state of a credit estimator; () for one that has none."""
  if isinstance(credit, StatefulCredit):
    return credit.init(key, params)
  return ()


def apply(
  credit: Credit | StatefulCredit,
  state: PyTree,
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
  **more: Any,
) -> tuple[Float[Array, "B H"], PyTree]:
  """Weights and the next state, of estimators with and without one.

  Args:
    credit: the estimator.
    state: from `init`, or from the last call.
    rollout: graded.
    q: see `Credit`.
    groups: see `Credit`.
    **more: of the estimator, such as `q_policy` of an `EffectiveReward`.
  """
  if isinstance(credit, StatefulCredit):
    return credit.apply(state, rollout, q, groups, **more)
  return credit(rollout, q, groups, **more), state


def rewards(
  credit: Credit | StatefulCredit,
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
  **more: Any,
) -> Float[Array, "B H"] | None:
  """What an estimator centres, for the log; None if it centres nothing.

  Args:
    credit: the estimator.
    rollout: graded.
    q: see `Credit`.
    groups: see `Credit`.
    **more: see `apply`.
  """
  if not isinstance(credit, HasReward):
    return None
  return existing(rollout, credit.reward(rollout, q, groups, **more))


def as_pytree(function: Any) -> Any:
  """A plain function as a pytree without leaves; anything else as it is.

  So estimators whose numbers are leaves (`EffectiveReward`) and functions may
  be fields of one pytree, which jit and vmap take as an argument.
  """
  plain = callable(function) and jax.tree_util.all_leaves([function])
  return jax.tree_util.Partial(function) if plain else function


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["reward", "baseline", "scale"],
  meta_fields=[],
)
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Centred:
  """(r − b) / s: rewards less a baseline, over a scale.

  A baseline that depends on the state before a step and on other rollouts, and
  not on the step, changes the variance of the policy gradient and not its
  expectation (Williams, 1992). A scale changes its length.

  Attributes:
    reward: a `Credit` without state.
    baseline: a `Baseline`; None for 0.
    scale: a `Baseline` of positive numbers; None for 1.
  """

  reward: Credit
  baseline: Baseline | None = None
  scale: Baseline | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      part = as_pytree(getattr(self, field.name))
      object.__setattr__(self, field.name, part)

  def __call__(
    self,
    rollout: Rollout,
    q: Float[Array, "B P"] | None,
    groups: Int[Array, "B"] | None = None,
    **more: Any,
  ) -> Float[Array, "B H"]:
    """The weights, see `Credit`; `more` is the reward's."""
    rewards = existing(rollout, self.reward(rollout, q, groups, **more))
    weights = rewards
    if self.baseline is not None:
      weights = weights - self.baseline(rollout, rewards, groups)
    if self.scale is not None:
      weights = weights / self.scale(rollout, rewards, groups)
    return existing(rollout, weights)


def existing(
  rollout: Rollout, x: Float[ArrayLike, "B H"]
) -> Float[Array, "B H"]:
  """`x` where a step exists, and 0 past the end of a response."""
  x = checks.widen(x)
  return jnp.where(steps.step_mask(rollout.prefix_len), x, 0)


def group_of(
  rollout: Rollout, groups: Int[ArrayLike, "B"] | None
) -> Int[Array, "B"]:
  """`groups`, or the problem that each rollout answers.

  Raises:
    ValueError: there is not one number for each rollout.
  """
  groups = rollout.problem_id if groups is None else groups
  checks.check_shape("groups", groups, np.shape(rollout.outcome), "[B]")
  return jnp.asarray(groups)


def checked_values(
  rollout: Rollout, q: Float[ArrayLike, "B P"] | None
) -> Float[Array, "B P"]:
  """`q` in the dtype of arithmetic.

  Raises:
    ValueError: it is None, or not of the shape of `rollout.prefix_len`.
  """
  if q is None:
    raise ValueError(
      "q is None; expected values of prefixes, [B, H + 1]: this credit "
      "estimator needs a prover"
    )
  checks.check_shape("q", q, np.shape(rollout.prefix_len), "[B, H + 1]")
  return checks.widen(q)
