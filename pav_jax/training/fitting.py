"""What trainings of a network by gradients share: state, sharding, the loop."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, PyTree

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitState:
  """What one step hands to the next.

  Attributes:
    params: of the network.
    optimizer: the optimiser's state.
  """

  params: PyTree
  optimizer: PyTree


def state_shardings(
  optimizer: optax.GradientTransformation,
  shapes: PyTree,
  params: PyTree,
  layout: Layout,
) -> FitState:
  """How a layout splits the state: the optimiser's moments as parameters.

  Args:
    optimizer: makes the moments; it may leave out some parameters.
    shapes: of the parameters.
    params: their shardings.
    layout: of everything.
  """
  whole = partitioning.replicated(layout.mesh)

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
  return FitState(params, moments)


def init_state(
  optimizer: optax.GradientTransformation, params: PyTree, shardings: FitState
) -> FitState:
  """The state before the first step, laid out over the mesh."""
  params = partitioning.put(params, shardings.params)
  init = jax.jit(optimizer.init, out_shardings=shardings.optimizer)
  return FitState(params, init(params))


def make_train_chunk(
  step: Callable, shardings: FitState, layout: Layout
) -> Callable:
  """Compiles several steps into one program.

  Args:
    step: `(state, batch) -> (state, metrics)`, pure.
    shardings: from `state_shardings`.
    layout: where batches lie.

  Returns:
    `(state, batches, number) -> (state, metrics)`: steps on the first `number`
    of batches, whose leaves are [I, B, …]. Metrics are float32[I], NaN from
    `number` on. The state that is passed in is used up.
  """

  def train_chunk(state, batches, number):
    first = jax.tree.map(lambda x: x[0], batches)
    _, shapes = jax.eval_shape(step, state, first)
    length = batches.tokens.shape[0]
    metrics = jax.tree.map(lambda x: jnp.full(length, jnp.nan, x.dtype), shapes)

    def body(index, carry):
      state, metrics = carry
      state, new = step(state, jax.tree.map(lambda x: x[index], batches))
      metrics = jax.tree.map(lambda x, y: x.at[index].set(y), metrics, new)
      return state, metrics

    return jax.lax.fori_loop(0, number, body, (state, metrics))

  whole = partitioning.replicated(layout.mesh)
  return jax.jit(
    train_chunk,
    in_shardings=(shardings, batch_sharding(layout), whole),
    out_shardings=(shardings, whole),
    donate_argnums=0,
  )


def batch_sharding(layout: Layout) -> NamedSharding:
  """Of stacked batches [I, B, …]: rows over the data and fsdp axes."""
  return NamedSharding(layout.mesh, PartitionSpec(None, ("data", "fsdp")))


def check_finite(
  loss: Float[np.ndarray, "I"], begin: int, kept: int | None
) -> None:
  """Raises FloatingPointError at the first loss that is not finite.

  Args:
    loss: of steps `begin + 1`, `begin + 2`, …
    begin: steps before.
    kept: the last checkpoint's step, None for none.
  """
  bad = np.flatnonzero(~np.isfinite(loss))
  if len(bad):
    state = "no checkpoint was due" if kept is None else f"{kept} is kept"
    raise FloatingPointError(
      f"loss is {loss[bad[0]]} at step {begin + bad[0] + 1}; {state}"
    )
