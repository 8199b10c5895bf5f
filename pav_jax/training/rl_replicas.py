"""Arms and seeds as they are trained: one by one, or many in one program.

`Alone` is an arm with a seed. `Together` is a group of arms that differ in
numbers only, with all of their seeds, in one compiled program: where problem,
policy and provers are pure JAX. A run treats both alike: `init`, then `advance`
until all iterations are done.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models import adapters, partitioning
from pav_jax.policies.base import Policy
from pav_jax.problems.base import Problem
from pav_jax.training import probes
from pav_jax.training.rl import Arm, Trainer, Turn
from pav_jax.training.rl_learning import RlState
from pav_jax.training.rl_placement import Hosted

# Metrics of some iterations: for each arm, name -> float[iterations, seeds].
Rows = list[dict[str, Float[np.ndarray, "I S"]]]


class Stream(enum.IntEnum):
  """What a seed's key is folded with, for randomness of each kind."""

  TRAIN = 0
  PARAMS = 1
  CREDIT = 2
  VALIDATE = 3
  TEST = 4
  HARD = 5

  def of(self, key: jax.Array) -> jax.Array:
    """The key of this kind, of a seed's."""
    return jax.random.fold_in(key, int(self))


@runtime_checkable
class Replicas(Protocol):
  """What trains at once: A arms with S seeds each.

  Attributes:
    arms: in the order of `Rows`.
    num_seeds: S.
    stride: iterations a call; calls begin at its multiples.
  """

  arms: Sequence[Arm]
  num_seeds: int
  stride: int

  def init(self) -> RlState:
    """The state before the first iteration."""
    ...

  def advance(
    self, state: RlState, start: int, scales: Sequence[float]
  ) -> tuple[RlState, Callable[[], Rows]]:
    """Some iterations.

    Args:
      state: before; its memory is used for the next one's.
      start: the first iteration, counted from 0.
      scales: of the learning rate, one an iteration; `stride` at most.

    Returns:
      The next state, and a function that waits for it and gives the metrics.
    """
    ...

  def params_of(self, state: RlState) -> list[list[PyTree]]:
    """The policy's parameters: of each arm, of each seed."""
    ...


@dataclasses.dataclass(frozen=True)
class Alone:
  """An arm with a seed; an iteration a call.

  Attributes:
    trainer: of the arm, with a `Hosted` placement.
    reference: parameters of the start, where policies are sampled from.
    key: of the seed.
  """

  trainer: Trainer
  reference: PyTree
  key: jax.Array

  num_seeds = 1
  stride = 1

  @property
  def arms(self) -> Sequence[Arm]:
    """The one arm."""
    return (self.trainer.arm,)

  def _start(self) -> PyTree:
    """The reference where training has parameters."""
    place: Hosted = self.trainer.placement
    return place.put(self.trainer.policy, self.reference)

  @functools.cached_property
  def base(self) -> PyTree:
    """Those of the parameters that are not trained; {} if all are."""
    _, base = adapters.split(self.reference)
    return adapters.split(self._start())[1] if base else base

  def init(self) -> RlState:
    """See `Replicas`."""
    key = Stream.CREDIT.of(self.key)
    state = self.trainer.init_state(key, self._start())
    return self.trainer.placement.lay_out(state)

  def advance(self, state, start, scales):
    """See `Replicas`."""
    (scale,) = scales
    trainer = self.trainer
    state, metrics, seen = trainer.iterate(
      state,
      self.reference,
      Stream.TRAIN.of(self.key),
      trainer.turn(start, scale),
      self.base,
    )

    def finish() -> Rows:
      q = None if seen.q is None else np.asarray(seen.q)
      rollout = jax.tree.map(np.asarray, seen.rollout)
      found = {name: float(x) for name, x in metrics.items()}
      found |= probes.measure(trainer.problem, rollout, q)
      return [{name: np.array([[x]]) for name, x in found.items()}]

    return state, finish

  def params_of(self, state):
    """See `Replicas`."""
    return [[adapters.join(state.params, self.base)]]


@dataclasses.dataclass(frozen=True)
class Together:
  """Arms of one structure with all seeds, in one compiled program.

  Attributes:
    trainer: of the first arm, with a `Traced` placement.
    arms: that differ from it in numbers only, see `group_arms`.
    keys: [S], one per seed.
    reference: parameters of the start, leaves [S, …].
    stride: iterations a call.

  Raises:
    ValueError: if the arms differ in more than numbers, or the batch does not
      divide over the mesh.
  """

  trainer: Trainer
  arms: Sequence[Arm]
  keys: jax.Array
  reference: PyTree
  stride: int = 10

  def __post_init__(self):
    if len(group_arms(self.arms)) > 1:
      raise ValueError(
        f"arms {[arm.name for arm in self.arms]} differ in structure, expected "
        "arms of one group"
      )
    partitioning.check_batch_size(
      self.trainer.placement.mesh,
      self.trainer.num_problems * self.trainer.num_samples,
    )

  @property
  def num_seeds(self) -> int:
    """S."""
    return len(self.keys)

  def init(self) -> RlState:
    """See `Replicas`; leaves [A, S, …], a seed's arms start alike."""
    whole = partitioning.replicated(self.trainer.placement.mesh)
    state = self._init(self._algorithms, self.keys, self.reference)
    return jax.device_put(state, whole)

  def advance(self, state, start, scales):
    """See `Replicas`; fewer iterations than `stride` are the same program."""
    turns = [
      self.trainer.turn(start + i, scale) for i, scale in enumerate(scales)
    ]
    turns += turns[-1:] * (self.stride - len(turns))
    turns = jax.tree.map(lambda *x: np.stack(x), *turns)
    active = np.arange(self.stride) < len(scales)
    state, metrics = self._chunk(
      self._algorithms, self.keys, state, self.reference, turns, active
    )

    def finish() -> Rows:
      done = {name: np.asarray(x)[: len(scales)] for name, x in metrics.items()}
      return [
        {name: x[:, arm] for name, x in done.items()}
        for arm in range(len(self.arms))
      ]

    return state, finish

  def params_of(self, state):
    """See `Replicas`."""
    return [
      [
        jax.tree.map(lambda x, a=arm, s=seed: x[a, s], state.params)
        for seed in range(len(self.keys))
      ]
      for arm in range(len(self.arms))
    ]

  def of_algorithm(self, algorithm: PyTree) -> Trainer:
    """The trainer with prover, credit and update of another arm."""
    prover, credit, update = algorithm
    arm = dataclasses.replace(
      self.trainer.arm, prover=prover, credit=credit, update=update
    )
    return dataclasses.replace(self.trainer, arm=arm)

  @functools.cached_property
  def _algorithms(self) -> PyTree:
    """Those of all arms, leaves [A, …]."""
    return jax.tree.map(
      lambda *leaves: jnp.stack([jnp.asarray(x, jnp.float32) for x in leaves]),
      *(arm.algorithm for arm in self.arms),
    )

  @functools.cached_property
  def _init(self):
    def of_one(algorithm, key, params):
      trainer = self.of_algorithm(algorithm)
      return trainer.init_state(Stream.CREDIT.of(key), params)

    return jax.jit(_over_arms_and_seeds(of_one, 2))

  @functools.cached_property
  def _chunk(self):
    def one_iteration(algorithms, keys, state, reference, now):
      def of_one(algorithm, key, state, reference):
        trainer = self.of_algorithm(algorithm)
        state, metrics, _ = trainer.iterate(
          state, reference, Stream.TRAIN.of(key), now
        )
        return state, metrics

      per_seed = jax.vmap(of_one, (None, 0, 0, 0))
      per_arm = jax.vmap(per_seed, (0, None, 0, None))
      return per_arm(algorithms, keys, state, reference)

    def chunk(algorithms, keys, state, reference, turns: Turn, active):
      first = jax.tree.map(lambda x: x[0], turns)
      _, shapes = jax.eval_shape(
        one_iteration, algorithms, keys, state, reference, first
      )

      def skip(state, now):
        del now
        nothing = jax.tree.map(
          lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes
        )
        return state, nothing

      def body(state, turn):
        now, is_active = turn
        return jax.lax.cond(
          is_active,
          lambda state, now: one_iteration(
            algorithms, keys, state, reference, now
          ),
          skip,
          state,
          now,
        )

      return jax.lax.scan(body, state, (turns, active))

    whole = partitioning.replicated(self.trainer.placement.mesh)
    return jax.jit(
      chunk, in_shardings=whole, out_shardings=whole, donate_argnums=2
    )


def _over_arms_and_seeds(fn: Callable, num_seeded: int) -> Callable:
  """`fn(algorithm, *seeded)` over arms, then over seeds: leaves [A, S, …]."""
  axes = (0,) * num_seeded
  nothing = (None,) * num_seeded
  return jax.vmap(jax.vmap(fn, (None, *axes)), (0, *nothing))


def group_arms(arms: Sequence[Arm]) -> list[list[Arm]]:
  """Arms by what has to be compiled: one program for each group."""
  groups: dict[Any, list[Arm]] = {}
  for arm in arms:
    rest = (
      arm.refresh_every,
      arm.num_rollouts,
      arm.num_updates,
      arm.num_minibatches,
    )
    structure = jax.tree.structure(arm.algorithm), rest
    groups.setdefault(structure, []).append(arm)
  return list(groups.values())


def is_pure(policy: Policy, problem: Problem, arms: Sequence[Arm]) -> bool:
  """Whether arms may be trained in one program, all parts being pure JAX."""
  parts = [policy, problem, *(arm.prover for arm in arms if arm.prover)]
  return all(part.placement == "device" for part in parts)


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def count_correct(
  policy: Policy,
  problem: Problem,
  params: PyTree,
  keys: jax.Array,
  num_samples: int,
  batch_size: int = 4096,
) -> Int[Array, "A S"]:
  """How many of `num_samples` fresh responses are correct; of a pure problem.

  Args:
    policy: static.
    problem: static.
    params: leaves [A, S, …].
    keys: [S]; samples are not those of training.
    num_samples: at least 1; of each arm and seed, over all problems.
    batch_size: responses sampled at a time.
  """
  num_batches = -(-num_samples // batch_size)
  problem_ids = jnp.asarray(
    problem.problem_ids("train", 0, problem.split_size("train"))
  )

  def of_one(params, key):
    def batch(index):
      address = index * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
      rollout = policy.sample(
        params,
        Stream.VALIDATE.of(key),
        problem_ids[address % len(problem_ids)],
        address // len(problem_ids),
      )
      counted = address < num_samples
      return jnp.sum(problem.grade(rollout) * counted).astype(jnp.int32)

    return jnp.sum(jax.lax.map(batch, jnp.arange(num_batches)))

  return jax.vmap(jax.vmap(of_one), (0, None))(params, keys)
