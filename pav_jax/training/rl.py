"""Reinforcement learning: rollouts, effective rewards, an update, again.

The loop knows no policy, problem, prover or update: each is a value that it is
handed. A policy has `sample(params, key, problem_id, sample_id) -> Rollout` and
`logp(params, rollout)`; a problem has `num_problems` and `grade(rollout)`; the
rest makes up an `Arm`. Arms whose algorithms differ only in numbers run in one
compiled program, together with all of their seeds.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from pav_jax import steps
from pav_jax.models import partitioning
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.rollout import Rollout
from pav_jax.training.baselines import BatchMean
from pav_jax.training.state import TrainState
from pav_jax.training.updates import Batch

Algorithm = tuple[Any, Any, Any]  # reward, update and baseline of an Arm


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train, in a comparison of several.

  Attributes:
    name: what reports call it.
    reward: `(key, rollout, q_policy) -> [B, H]`, as `training.rewards.Reward`.
    update: an `updates.Update`.
    baseline: `init(key)` and `(state, rollout, rewards)`, see
      `training.baselines`.
  """

  name: str
  reward: Callable[..., Float[Array, "B H"]]
  update: Any
  baseline: Any = dataclasses.field(default_factory=BatchMean)

  @property
  def algorithm(self) -> Algorithm:
    """The arm as a pytree: its numbers are leaves, the rest structure."""
    return self.reward, self.update, self.baseline


def train_step(
  policy: Any,
  problem: Any,
  algorithm: Algorithm,
  key: jax.Array,
  state: TrainState,
  problem_id: Int[Array, "B"],
  sample_id: Int[Array, "B"],
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
  """Samples a batch of rollouts and follows their effective rewards once.

  Args:
    policy: see the module's docstring; also `complete` if the reward asks for
      Monte-Carlo values of the policy.
    problem: see the module's docstring.
    algorithm: reward, update and baseline, see `Arm`.
    key: the run's key, the same at every iteration.
    state: of the run.
    problem_id: int32[B], which problems to try.
    sample_id: int32[B], never used twice with a problem in a run.

  Returns:
    The next state, and scalars: `accuracy`, the batch's mean outcome;
    `reward` and `logp`, sums over a response, batch means; `num_steps` of a
    response; `loss` and whatever else the update reports.
  """
  reward_fn, update, baseline = algorithm
  sample_key, prover_key, policy_key = (
    jax.random.fold_in(key, stream) for stream in range(3)
  )
  rollout = policy.sample(state.params, sample_key, problem_id, sample_id)
  rollout = dataclasses.replace(rollout, outcome=problem.grade(rollout))
  exists = steps.step_mask(rollout.prefix_len)
  if reward_fn.num_rollouts:
    q_policy = MonteCarlo(
      state.params, policy, problem, reward_fn.num_rollouts
    )(policy_key, rollout)[:, 1:]
  else:
    q_policy = jnp.broadcast_to(rollout.outcome[:, None], exists.shape)
  rewards = reward_fn(prover_key, rollout, q_policy)
  return follow(policy, update, baseline, state, rollout, rewards)


def follow(
  policy: Any,
  update: Any,
  baseline: Any,
  state: TrainState,
  rollout: Rollout,
  rewards: Float[Array, "B H"],
  *,
  logp_ref: Float[Array, "B T"] | None = None,
  off_policy: bool = False,
  scale: float | Float[Array, ""] = 1.0,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
  """One update from graded rollouts and the rewards of their steps.

  Args:
    policy: has `logp(params, rollout)`.
    update: see `Arm`.
    baseline: see `Arm`.
    state: before.
    rollout: graded.
    rewards: of every step; those of steps that do not exist have no part.
    logp_ref: see `updates.Batch`.
    off_policy: see `updates.Batch`.
    scale: see `updates.Update`.

  Returns:
    As `train_step`.
  """
  exists = steps.step_mask(rollout.prefix_len)
  rewards = rewards * exists
  expected, baseline_state = baseline(state.baseline, rollout, rewards)
  params, update_state, metrics = update(
    state.params,
    state.update,
    lambda params: policy.logp(params, rollout),
    Batch(rollout, (rewards - expected) * exists, logp_ref, off_policy),
    scale=scale,
  )
  metrics |= {
    "accuracy": jnp.mean(rollout.outcome),
    "reward": jnp.mean(jnp.sum(rewards, axis=-1)),
    "logp": jnp.mean(jnp.sum(rollout.logp, axis=-1)),
    "num_steps": jnp.mean(jnp.sum(exists, axis=-1, dtype=jnp.float32)),
  }
  return TrainState(params, update_state, baseline_state), metrics


def stack_arms(arms: Sequence[Arm]) -> Algorithm:
  """The arms' algorithms as one pytree with a leading axis of arms.

  Raises:
    ValueError: if they differ in more than numbers (see `group_arms`).
  """
  if len(group_arms(arms)) > 1:
    raise ValueError(
      f"arms {[arm.name for arm in arms]} differ in structure, expected arms "
      "of one group"
    )
  return jax.tree.map(
    lambda *leaves: jnp.stack([jnp.asarray(x, jnp.float32) for x in leaves]),
    *(arm.algorithm for arm in arms),
  )


def group_arms(arms: Sequence[Arm]) -> dict[Any, list[Arm]]:
  """Arms by the structure of their algorithm: one compiled program each."""
  names = [arm.name for arm in arms]
  if not arms or len(set(names)) < len(names):
    raise ValueError(
      f"arms are named {names}, expected one or more, all unlike"
    )
  groups = {}
  for arm in arms:
    groups.setdefault(jax.tree.structure(arm.algorithm), []).append(arm)
  return groups


@functools.partial(jax.jit, static_argnums=(0, 2))
def initial_params(
  policy: Any, keys: jax.Array, init_params: Callable[[Any, jax.Array], PyTree]
) -> PyTree:
  """Parameters that all arms start from, leaves [S, …].

  Args:
    policy: static, passed to `init_params`.
    keys: [S] keys, one per seed.
    init_params: `(policy, key) -> params`, static.
  """

  def of_seed(key):
    return init_params(policy, jax.random.fold_in(key, 1))

  return jax.vmap(of_seed)(keys)


@jax.jit
def init_state(
  algorithms: Algorithm, keys: jax.Array, params: PyTree
) -> TrainState:
  """States of all arms and seeds, leaves [A, S, …]; a seed's arms start alike.

  Args:
    algorithms: of A arms, from `stack_arms`.
    keys: [S] keys, one per seed.
    params: from `initial_params`.
  """

  def of_lane(algorithm, key, params):
    _, update, baseline = algorithm
    return TrainState(
      params, update.init(params), baseline.init(jax.random.fold_in(key, 2))
    )

  per_seed = jax.vmap(of_lane, (None, 0, 0))
  return jax.vmap(per_seed, (0, None, None))(algorithms, keys, params)


def make_train_chunk(
  policy: Any,
  problem: Any,
  *,
  batch_size: int,
  chunk: int,
  mesh: Mesh,
) -> Callable:
  """Compiles up to `chunk` iterations of all lanes into one program.

  Args:
    policy: see the module's docstring.
    problem: see the module's docstring.
    batch_size: B, rollouts an iteration and lane, split over the mesh.
    chunk: iterations a call.
    mesh: from `partitioning.make_mesh`.

  Returns:
    `(algorithms, keys, state, start, end) -> (state, metrics)`: runs iterations
    start … min(start + chunk, end) - 1. Metrics are [chunk, A, S], NaN after
    the end. The state that is passed in is used up.
  """
  partitioning.check_batch_size(mesh, batch_size)
  batch_sharding = partitioning.over_batch(mesh)

  def one_iteration(algorithms, keys, state, iteration):
    address = iteration * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    address = jax.lax.with_sharding_constraint(address, batch_sharding)

    def lane(algorithm, key, state):
      return train_step(
        policy,
        problem,
        algorithm,
        jax.random.fold_in(key, 0),
        state,
        address % problem.num_problems,
        address // problem.num_problems,
      )

    lanes = jax.vmap(jax.vmap(lane, (None, 0, 0)), (0, None, 0))
    return lanes(algorithms, keys, state)

  def train_chunk(algorithms, keys, state, start, end):
    _, shapes = jax.eval_shape(one_iteration, algorithms, keys, state, start)

    def skip(algorithms, keys, state, iteration):
      del algorithms, keys, iteration
      return state, jax.tree.map(
        lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes
      )

    def body(state, iteration):
      return jax.lax.cond(
        iteration < end,
        one_iteration,
        skip,
        algorithms,
        keys,
        state,
        iteration,
      )

    return jax.lax.scan(body, state, start + jnp.arange(chunk, dtype=jnp.int32))

  return jax.jit(
    train_chunk,
    in_shardings=partitioning.replicated(mesh),
    out_shardings=partitioning.replicated(mesh),
    donate_argnums=2,
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def count_correct(
  policy: Any,
  problem: Any,
  params: Any,
  keys: jax.Array,
  num_samples: int,
  batch_size: int = 4096,
) -> Int[Array, "A S"]:
  """How many of `num_samples` fresh responses are correct, for every lane.

  Args:
    policy: static.
    problem: static.
    params: leaves [A, S, …].
    keys: [S]; samples are not those of training.
    num_samples: at least 1; of each lane.
    batch_size: responses sampled at a time.
  """
  num_batches = -(-num_samples // batch_size)

  def lane(params, key):
    def batch(index):
      address = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
      rollout = policy.sample(
        params,
        jax.random.fold_in(key, 3),
        address % problem.num_problems,
        address // problem.num_problems,
      )
      counted = address < num_samples
      return jnp.sum(problem.grade(rollout) * counted).astype(jnp.int32)

    return jnp.sum(jax.lax.map(batch, jnp.arange(num_batches)))

  return jax.vmap(jax.vmap(lane), (0, None))(params, keys)


def trailing_mean(accuracy: np.ndarray, *, window: int = 10) -> np.ndarray:
  """Mean of the last `window` entries, at every entry of float[iterations].

  The first window - 1 entries are NaN.
  """
  sums = np.cumsum(np.concatenate([[0.0], np.asarray(accuracy, np.float64)]))
  means = np.full(len(accuracy), np.nan)
  means[window - 1 :] = (sums[window:] - sums[:-window]) / window
  return means


def first_reaching(means: np.ndarray, level: float) -> int | None:
  """First iteration, counted from 1, at which `means` is ≥ `level`."""
  reached = np.flatnonzero(means >= level - 1e-9)
  return int(reached[0]) + 1 if len(reached) else None
