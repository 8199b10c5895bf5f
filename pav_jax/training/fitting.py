"""What trainings of a network by gradients share: rates, state, sharding."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from pav_jax.checks import check_positive
from pav_jax.models import adapters, partitioning
from pav_jax.models.partitioning import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRates:
  """How many steps, and how fast: a linear warm-up from 0, then a cosine.

  Attributes:
    num_steps: optimiser steps.
    learning_rate: the highest.
    warmup_steps: steps before it is reached, fewer than `num_steps`.
    final_learning_rate: where the cosine leads.

  Raises:
    ValueError: if a number is out of its range.
  """

  num_steps: int
  learning_rate: float
  warmup_steps: int = 0
  final_learning_rate: float = 0.0

  def __post_init__(self):
    check_positive(num_steps=self.num_steps, learning_rate=self.learning_rate)
    if not 0 <= self.warmup_steps < self.num_steps:
      raise ValueError(
        f"warmup_steps is {self.warmup_steps}, expected 0 … "
        f"{self.num_steps - 1}, fewer than num_steps"
      )
    if not 0 <= self.final_learning_rate <= self.learning_rate:
      raise ValueError(
        f"final_learning_rate is {self.final_learning_rate}, expected 0 … "
        f"{self.learning_rate}, the learning rate"
      )

  @property
  def learning_rates(self) -> optax.Schedule:
    """Learning rates of steps 0, 1, …"""
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0 if self.warmup_steps else self.learning_rate,
      peak_value=self.learning_rate,
      warmup_steps=self.warmup_steps,
      decay_steps=self.num_steps,
      end_value=self.final_learning_rate,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitState:
  """What one step hands to the next.

  Attributes:
    params: that are trained.
    optimizer: the optimiser's state.
    base: parameters that stay as they are, of networks with adapters.
  """

  params: PyTree
  optimizer: PyTree
  base: PyTree = dataclasses.field(default_factory=dict)

  @property
  def network(self) -> PyTree:
    """All parameters."""
    return adapters.join(self.params, self.base)


# Parameters of a network to those that are trained and those that are not.
Split = Callable[[PyTree], tuple[PyTree, PyTree]]


def state_shardings(
  optimizer: optax.GradientTransformation,
  shapes: PyTree,
  params: PyTree,
  layout: Layout,
  split: Split = adapters.split,
) -> FitState:
  """How a layout splits the state: the optimiser's moments as parameters.

  Args:
    optimizer: makes the moments; it may leave out some parameters.
    shapes: of the network's parameters.
    params: their shardings.
    layout: of everything.
    split: which of them are trained.
  """
  whole = partitioning.replicated(layout.mesh)
  (shapes, _), (params, base) = split(shapes), split(params)

  def absent(leaf):
    return isinstance(leaf, optax.MaskedNode)

  moments = optax.tree_map_params(
    optimizer,
    lambda leaf, sharding: leaf if absent(leaf) else sharding,
    jax.eval_shape(optimizer.init, shapes),
    params,
    transform_non_params=lambda _: whole,
    is_leaf=absent,
  )
  return FitState(params, moments, base)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitter:
  """A step of training, laid out over a mesh.

  Attributes:
    step: `(state, batch) -> (state, metrics)`, pure.
    optimizer: of which a state holds the moments.
    shardings: of the state, from `state_shardings`.
    layout: where batches lie.
    split: which parameters of the network are trained.
  """

  step: Callable
  optimizer: optax.GradientTransformation
  shardings: FitState
  layout: Layout
  split: Split = adapters.split

  def init(self, params: PyTree) -> FitState:
    """The state before the first step, laid out over the mesh."""
    params, base = self.split(params)
    params = partitioning.put(params, self.shardings.params)
    base = partitioning.put(base, self.shardings.base)
    init = jax.jit(self.optimizer.init, out_shardings=self.shardings.optimizer)
    return FitState(params, init(params), base)

  def put(self, batches: Sequence[PyTree], size: int) -> PyTree:
    """Batches stacked to [I, B, …], filled up to I = `size`, on the mesh."""
    fill = [batches[-1]] * (size - len(batches))
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches, *fill)
    return partitioning.put(stacked, batch_sharding(self.layout))

  @functools.cached_property
  def train_chunk(self) -> Callable:
    """Several steps compiled into one program.

    `(state, batches, number) -> (state, metrics)`: steps on the first `number`
    of batches, whose leaves are [I, B, …]. Metrics are float32[I], NaN from
    `number` on. The state that is passed in is used up.
    """

    def train_chunk(state, batches, number):
      first = jax.tree.map(lambda x: x[0], batches)
      _, shapes = jax.eval_shape(self.step, state, first)
      length = jax.tree.leaves(batches)[0].shape[0]
      metrics = jax.tree.map(
        lambda x: jnp.full(length, jnp.nan, x.dtype), shapes
      )

      def body(index, carry):
        state, metrics = carry
        state, new = self.step(state, jax.tree.map(lambda x: x[index], batches))
        metrics = jax.tree.map(lambda x, y: x.at[index].set(y), metrics, new)
        return state, metrics

      return jax.lax.fori_loop(0, number, body, (state, metrics))

    whole = partitioning.replicated(self.layout.mesh)
    return jax.jit(
      train_chunk,
      in_shardings=(self.shardings, batch_sharding(self.layout), whole),
      out_shardings=(self.shardings, whole),
      donate_argnums=0,
    )


def batch_sharding(layout: Layout) -> NamedSharding:
  """Of stacked batches [I, B, …]: rows over the data and fsdp axes."""
  return NamedSharding(layout.mesh, PartitionSpec(None, ("data", "fsdp")))


def check_finite(
  loss: Float[np.ndarray, "I"], begin: int, kept: int | None, what: str = ""
) -> None:
  """Raises FloatingPointError at the first loss that is not finite.

  Args:
    loss: of steps `begin + 1`, `begin + 2`, …
    begin: steps before.
    kept: the last checkpoint's step, None for none.
    what: a word before "loss", such as "validation ".
  """
  bad = np.flatnonzero(~np.isfinite(loss))
  if len(bad):
    state = "no checkpoint was due" if kept is None else f"{kept} is kept"
    raise FloatingPointError(
      f"{what}loss is {loss[bad[0]]} at step {begin + bad[0] + 1}; {state}"
    )
