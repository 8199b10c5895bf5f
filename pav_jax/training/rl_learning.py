"""From graded rollouts to the next policy: credit, then updates; pure."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree, Real

from pav_jax import credit, losses, steps
from pav_jax.models import adapters, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.base import Policy
from pav_jax.provers import base as provers
from pav_jax.provers.sampled_terms import terms_at
from pav_jax.rollout import Rollout
from pav_jax.training import baselines
from pav_jax.training.updates import Batch, Update

Metrics = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class RlState:
  """What one iteration hands to the next.

  Attributes:
    params: of the policy, those that are trained.
    update: state of the update.
    credit: state of the credit estimator, a value function for instance.
    prover: parameters that the prover is made of; () if of none.
  """

  params: PyTree
  update: PyTree
  credit: PyTree
  prover: PyTree


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Experience:
  """What an iteration learns from.

  Attributes:
    rollout: graded.
    logp_ref: log-probabilities of the tokens under the start, in nats.
    q: the prover's values of prefixes, [B, P], before those of its wrappers
      that look at the whole batch; None without a prover.
    q_policy: Monte-Carlo values of the policy, [B, P], or None.
  """

  rollout: Rollout
  logp_ref: Float[Array, "B T"]
  q: Float[Array, "B P"] | None = None
  q_policy: Float[Array, "B P"] | None = None


def learn(
  policy: Policy,
  algorithm: tuple[Any, Any, Update],
  state: RlState,
  seen: Experience,
  scale: Any,
  *,
  base: PyTree = (),
  num_updates: int,
  num_minibatches: int,
) -> tuple[RlState, Metrics]:
  """Credit and updates from graded rollouts; pure.

  Args:
    policy: what is trained.
    algorithm: the prover's outer wrappers (`provers.base.split_pure`), the
      credit estimator and the update.
    state: before.
    seen: what to learn from.
    scale: of the learning rate.
    base: parameters of the policy that are not trained; empty if all are.
    num_updates: passes over the rollouts.
    num_minibatches: updates of a pass; divides the rollouts.

  Returns:
    The next state, and scalars: `accuracy`; `reward` and `logp`, sums over a
    response, batch means; `num_steps` of a response; `kl` to the start and
    `entropy` in nats a response; with a prover the terms of Theorem 3.1 and
    `k`; `loss` and what else updates report, means over the first pass.
  """
  outer, estimator, update = algorithm
  estimator = baselines.on_base(estimator, base)
  rollout, q = seen.rollout, seen.q
  more: dict[str, Any] = {}
  if q is not None:
    q = jnp.where(_cut_off(policy, rollout), 0.0, jnp.asarray(q))
    more |= provers.metrics(outer, q, rollout)
    if "k" not in more:
      more |= terms_at(q, rollout, 1.0)
    q = provers.of_values(outer, q, rollout)
  given = {} if seen.q_policy is None else {"q_policy": seen.q_policy}
  weights, credit_state = credit.apply(
    estimator, state.credit, rollout, q, **given
  )
  rewards = credit.rewards(estimator, rollout, q, **given)

  def follow(trained, batch):
    def logp_fn(params):
      return policy.logp(adapters.join(params, base), batch.rollout)

    params, update_state, metrics = update(
      *trained, logp_fn, batch, scale=scale
    )
    return (params, update_state), metrics

  def one_pass(trained, off_policy):
    batch = Batch(rollout, weights, seen.logp_ref, off_policy)
    if num_minibatches == 1:
      return follow(trained, batch)
    batch = dataclasses.replace(batch, off_policy=True)
    trained, metrics = jax.lax.scan(
      follow, trained, _minibatches(policy.layout, batch, num_minibatches)
    )
    return trained, jax.tree.map(jnp.mean, metrics)

  trained, metrics = one_pass((state.params, state.update), False)
  if num_updates > 1:
    trained = jax.lax.fori_loop(
      1, num_updates, lambda _, trained: one_pass(trained, True)[0], trained
    )
  logp = jnp.mean(jnp.sum(rollout.logp, axis=-1))
  exists = steps.step_mask(rollout.prefix_len)
  worth = weights if rewards is None else rewards
  metrics |= more | {
    "accuracy": jnp.mean(rollout.outcome),
    "reward": jnp.mean(jnp.sum(worth, axis=-1)),
    "logp": logp,
    "entropy": -logp,
    "num_steps": jnp.mean(jnp.sum(exists, axis=-1, dtype=jnp.float32)),
    "kl": losses.kl_penalty(rollout.logp, seen.logp_ref, rollout.prefix_len),
  }
  return RlState(*trained, credit_state, state.prover), metrics


def _cut_off(policy: Policy, rollout: Rollout) -> Bool[Array, "B P"]:
  """Prefixes that are a whole response which the length limit has cut off.

  Such a response is wrong, whatever a prover makes of its last step.
  """
  length = jnp.asarray(rollout.prefix_len)
  cut = ~jnp.asarray(policy.has_ended(rollout))
  return cut[:, None] & (length == length[:, -1:])


def _minibatches(layout: Layout | None, batch: PyTree, number: int) -> PyTree:
  """Rows that follow each other, in parts of which all devices have some.

  Args:
    layout: of the batch; None for one device.
    batch: arrays [B, …].
    number: M, which divides B.

  Returns:
    Arrays [M, B/M, …].
  """

  def of_array(x: Real[Array, "B ..."]) -> Real[Array, "M B/M ..."]:
    parts = x.reshape(number, len(x) // number, *x.shape[1:])
    if layout is None:
      return parts
    rows = partitioning.over_batch(layout.mesh)
    spec = PartitionSpec(None, *rows.spec)
    return jax.lax.with_sharding_constraint(
      parts, NamedSharding(layout.mesh, spec)
    )

  return jax.tree.map(of_array, batch)
