"""Learning curves of arms at equal sampled tokens, all tuned alike."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from studies.credit import arms, processes
from studies.credit.arms import Arm, Context


class Curves(typing.NamedTuple):
  """Of an arm from one start.

  Attributes:
    success: exact rates before each of the updates and after the last, of every
      seed with the chosen learning rate, [N, U + 1].
    learning_rate: chosen.
    tokens: sampled for an update, the mean over all.
    area: mean success over the curves of the tuning seeds, of each rate.
  """

  success: Float[np.ndarray, "N U"]
  learning_rate: float
  tokens: float
  area: Float[np.ndarray, "L"]


def curves(
  arm: Arm,
  context: Context,
  *,
  num_units: int,
  num_updates: int,
  learning_rates: tuple[float, ...],
  tuning_seeds: tuple[int, ...],
  seeds: tuple[int, ...],
) -> Curves:
  """Trains with every learning rate, and again with the best of them.

  The best is the one with the largest mean success over the tuning seeds'
  curves; what is reported are other seeds.

  Args:
    arm: which.
    context: of the start.
    num_units: for an update.
    num_updates: of Adam.
    learning_rates: of Adam, on logits.
    tuning_seeds: that choose.
    seeds: that are reported, all unlike them.

  Raises:
    ValueError: if a seed is in both.
  """
  if set(seeds) & set(tuning_seeds):
    raise ValueError(
      f"seeds are {seeds} and tuning_seeds {tuning_seeds}, expected no seed in "
      "both"
    )
  every = (*tuning_seeds, *seeds)
  rates, runs = np.meshgrid(learning_rates, every, indexing="ij")
  success, tokens = (
    np.asarray(x, np.float64).reshape(*rates.shape, -1)
    for x in _train(
      arm,
      context,
      jnp.float32(rates.ravel()),
      jnp.array(runs.ravel()),
      num_units,
      num_updates,
    )
  )
  area = success[:, : len(tuning_seeds)].mean((1, 2))
  best = int(np.argmax(area))
  reported = np.s_[best, len(tuning_seeds) :]
  return Curves(
    success[reported],
    learning_rates[best],
    float(tokens[reported].mean()),
    area,
  )


def _train(arm, context, rates, seeds, num_units, num_updates):
  several = (len(seeds), *context.logits.shape)
  logits = jnp.broadcast_to(context.logits, several)
  zeros = jnp.zeros_like(logits)
  optimizer = zeros, zeros, jnp.float32(0)
  memory = ()
  if arm.memory is not None:
    memory = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (len(seeds), *jnp.shape(x))),
      arm.memory.init(context),
    )
  success, tokens = [], []
  for index in range(num_updates):
    noise = _noise(arm.num_rollouts, index, seeds, num_units)
    now = context._replace(logits=logits, memory=memory)
    units = arms.draw(arm, noise, now, index / num_updates)
    if arm.memory is not None:
      memory = _fit(arm.memory, memory, context, units.walk)
    before, used, logits, optimizer = _update(
      context.process, logits, optimizer, rates, units._replace(walk=None)
    )
    success.append(before)
    tokens.append(used)
  success.append(_success(context.process, logits))
  return jnp.stack(success, axis=-1), jnp.stack(tokens, axis=-1)


@functools.partial(jax.jit, static_argnames=("num_rollouts", "num_units"))
def _noise(num_rollouts, index, seeds, num_units):
  """Numbers of a seed are its own, whatever the other runs are."""

  def one(seed):
    key = jax.random.fold_in(jax.random.key(seed, impl="rbg"), index)
    return arms.noise(num_rollouts, key, num_units)

  return jax.lax.map(one, seeds)


@functools.partial(jax.jit, static_argnames="learner")
def _fit(learner, memory, context, walk):
  def one(memory, walk):
    walk = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), walk)
    return learner.fit(memory, context, walk, passes=4)

  # Rollouts of all units together, of which there is one number of tokens.
  walk = walk._replace(num_tokens=None)
  return jax.vmap(one)(memory, walk)


@jax.jit
def _success(process, logits):
  return jax.vmap(lambda x: processes.success(process, x))(logits)


@jax.jit
def _update(process, logits, optimizer, rates, units):
  kept = jnp.maximum(jnp.sum(units.counts, axis=1), 1)
  gradient = jnp.sum(units.gradient, axis=1) / kept[:, None, None, None]
  direction, optimizer = arms.adam(gradient, optimizer)
  after = logits + rates[:, None, None, None] * direction
  return (
    _success(process, logits),
    jnp.sum(units.num_tokens, axis=1),
    after,
    optimizer,
  )
