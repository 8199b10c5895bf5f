"""Where the parts of an iteration of reinforcement learning run.

`Traced` is for a problem, policy and prover that are pure JAX: an iteration is
one traced function. `Hosted` is for responses that the host grades: it calls a
compiled program for each part, copies between host and devices, and in several
processes samples a share in each and learns from all of them together
(`training.processes`).
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, PyTree

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies import sampling
from pav_jax.policies.base import Policy
from pav_jax.problems.base import Problem
from pav_jax.provers import base as provers
from pav_jax.provers.base import Prover
from pav_jax.rollout import Rollout
from pav_jax.training import processes, rl_learning
from pav_jax.training.rl_learning import Experience, Metrics, RlState


@runtime_checkable
class Placement(Protocol):
  """What `rl.Trainer.iterate` asks, in this order."""

  def choose(self, condition: Any, then: PyTree, otherwise: PyTree) -> PyTree:
    """A copy of `then`, or `otherwise`."""
    ...

  def sample(
    self,
    policy: Policy,
    params: PyTree,
    key: jax.Array,
    now: Any,
    num_samples: int,
  ) -> Rollout:
    """Responses to the problems of an `rl.Turn`, or this process's share."""
    ...

  def logp(
    self, policy: Policy, params: PyTree, rollout: Rollout
  ) -> Float[Array, "B T"]:
    """Log-probabilities of the rollout's tokens."""
    ...

  def values(
    self,
    prover: Prover,
    policy: Policy,
    params: PyTree,
    key: jax.Array,
    rollout: Rollout,
  ) -> Float[Array, "B P"]:
    """Values of a prover; of one made of a policy, with these parameters."""
    ...

  def grade(
    self, problem: Problem, policy: Policy, rollout: Rollout
  ) -> Rollout:
    """The rollout with its outcomes."""
    ...

  def gather(self, policy: Policy, seen: Experience) -> Experience:
    """The rows of all processes."""
    ...

  def learn(
    self,
    policy: Policy,
    algorithm: PyTree,
    state: RlState,
    seen: Experience,
    scale: Any,
    **more: Any,
  ) -> tuple[RlState, Metrics]:
    """`rl_learning.learn`."""
    ...


@dataclasses.dataclass(frozen=True)
class Traced:
  """Within one compiled program; rows are split over a mesh.

  Attributes:
    mesh: from `make_mesh`.
  """

  mesh: Mesh

  def choose(self, condition, then, otherwise):
    """See `Placement`."""
    return jax.tree.map(
      lambda a, b: jnp.where(condition, a, b), then, otherwise
    )

  def sample(self, policy, params, key, now, num_samples):
    """See `Placement`."""
    ids = sampling.sample_ids(now.problem_id, now.first_sample, num_samples)
    rows = jnp.repeat(now.problem_id, num_samples), ids.reshape(-1)
    rows = jax.lax.with_sharding_constraint(
      rows, partitioning.over_batch(self.mesh)
    )
    return policy.sample(params, key, *rows)

  def logp(self, policy, params, rollout):
    """See `Placement`."""
    return policy.logp(params, rollout)

  def values(self, prover, policy, params, key, rollout):
    """See `Placement`."""
    return prover.with_policy(policy, params)(key, rollout)

  def grade(self, problem, policy, rollout):
    """See `Placement`."""
    del policy
    return dataclasses.replace(rollout, outcome=problem.grade(rollout))

  def gather(self, policy, seen):
    """See `Placement`."""
    del policy
    return seen

  def learn(self, policy, algorithm, state, seen, scale, **more):
    """See `Placement`."""
    return rl_learning.learn(policy, algorithm, state, seen, scale, **more)


@dataclasses.dataclass(frozen=True)
class Hosted:
  """With the host between compiled programs.

  Attributes:
    layout: of the state, and of batches while they are learnt from; None to
      leave everything on one device. Several processes need one.
  """

  layout: Layout | None = None

  @property
  def is_split(self) -> bool:
    """Whether devices have parts of the policy."""
    return self.layout is not None and self.layout.splits_parameters

  def put(self, policy: Policy, params: PyTree) -> PyTree:
    """Parameters of the policy where training has them."""
    if self.layout is None:
      return params
    return partitioning.put(params, policy.shardings(self.layout))

  def lay_out(self, state: PyTree) -> PyTree:
    """A state whose counters and the like are on all devices too."""
    if self.layout is None:
      return state
    whole = partitioning.replicated(self.layout.mesh)
    return jax.tree.map(
      lambda x: (
        x
        if isinstance(x.sharding, NamedSharding)
        else partitioning.put(x, whole)
      ),
      state,
    )

  def placed(self, prover: Prover | None) -> Prover | None:
    """A prover whose parameters are where its rollouts will be.

    Raises:
      ValueError: if it is split over processes and the policy is not.
    """
    if prover is None or self.layout is None or self.is_split:
      return prover
    where = provers.layout_of(prover)
    if where is None or not where.spans_processes:
      return provers.placed(prover, self.layout.own)
    if where.splits_parameters:
      raise ValueError(
        "the prover is split over processes and the policy is not, expected "
        "its mesh to be the run's"
      )
    return provers.on_own_devices(prover)

  def choose(self, condition, then, otherwise):
    """See `Placement`."""
    return jax.tree.map(jnp.copy, then) if condition else otherwise

  def to_sample(self, policy: Policy, params: PyTree) -> tuple[Policy, PyTree]:
    """The policy and its parameters, see `processes.to_sample`."""
    return processes.to_sample(policy, params, self.layout)

  def sample(self, policy, params, key, now, num_samples):
    """See `Placement`."""
    policy, params = self.to_sample(policy, params)
    mine = processes.share_of(policy, len(now.problem_id))
    return policy.sample(
      params,
      key,
      now.problem_id[mine],
      now.first_sample[mine],
      num_samples=num_samples,
    )

  def logp(self, policy, params, rollout):
    """See `Placement`."""
    return logp(*self.to_sample(policy, params), rollout)

  def values(self, prover, policy, params, key, rollout):
    """See `Placement`."""
    if provers.follows_policy(prover):
      prover = prover.with_policy(*self.to_sample(policy, params))
    where = provers.layout_of(prover)
    if where is None or not where.spans_processes:
      return provers.values(prover, key, processes.on_own(rollout))
    # One program of all processes, whose networks need no key.
    return provers.values(prover, None, rollout)

  def grade(self, problem, policy, rollout):
    """See `Placement`."""
    host = jax.tree.map(np.asarray, rollout)
    sampler, _ = self.to_sample(policy, ())
    return dataclasses.replace(
      host, outcome=processes.grade(problem, host, sampler)
    )

  def gather(self, policy, seen):
    """See `Placement`."""
    if jax.process_count() == 1:
      return seen
    seen = jax.tree.map(np.asarray, seen)
    if processes.together(self.to_sample(policy, ())[0]):
      return seen
    return jax.tree.map(processes.gather, seen)

  def learn(self, policy, algorithm, state, seen, scale, **more):
    """See `Placement`; the state's memory is used for the next one's."""
    if self.layout is None:
      return learn(policy, algorithm, state, seen, scale, **more)
    where = jax.tree.map(lambda x: x.sharding, state)
    seen = partitioning.put(seen, partitioning.over_batch(self.layout.mesh))
    state, metrics = learn(
      policy.on(self.layout), algorithm, state, seen, scale, **more
    )
    return jax.device_put(state, where), metrics


@functools.partial(jax.jit, static_argnums=0)
def logp(
  policy: Policy, params: PyTree, rollout: Rollout
) -> Float[Array, "B T"]:
  """`policy.logp`, compiled."""
  return partitioning.constrain(policy.layout, policy.logp(params, rollout))


learn = jax.jit(
  rl_learning.learn,
  static_argnames=("policy", "num_updates", "num_minibatches"),
  donate_argnames="state",
)
