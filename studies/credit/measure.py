"""Bias, variance and alignment of an arm's gradients, at one policy."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from studies.credit import arms, processes
from studies.credit.arms import Arm, Context
from studies.credit.processes import Process


class Moments(typing.NamedTuple):
  """Of the gradients of independent units, for one seed.

  Attributes:
    mean_square: an unbiased estimate of ‖E ĝ‖².
    variance: an unbiased estimate of E‖ĝ − E ĝ‖², the trace.
    along: ⟨E ĝ, g⟩ with the exact gradient g.
    exact: ‖g‖².
    tokens: that a unit costs, with the draws that had to be repeated.
  """

  mean_square: Float[np.ndarray, "..."]
  variance: Float[np.ndarray, "..."]
  along: Float[np.ndarray, "..."]
  exact: Float[np.ndarray, "..."]
  tokens: Float[np.ndarray, "..."]

  @property
  def bias(self) -> Float[np.ndarray, "..."]:
    """‖E ĝ − g‖ / ‖g‖; 0 where sampling hides it."""
    square = self.mean_square - 2 * self.along + self.exact
    return np.sqrt(np.maximum(square, 0) / self.exact)

  @property
  def scale(self) -> Float[np.ndarray, "..."]:
    """⟨E ĝ, g⟩ / ‖g‖²: how long the expected gradient is, along the exact."""
    return self.along / self.exact

  @property
  def direction(self) -> Float[np.ndarray, "..."]:
    """The cosine of the expected gradient to the exact one."""
    return self.cosine(np.inf)

  @property
  def noise(self) -> Float[np.ndarray, "..."]:
    """Tokens at which the variance is as large as the square of ⟨E ĝ, g⟩ / ‖g‖.

    A variance of the gradient scaled to the exact one's length: of estimators
    that point the same way, the one with half of it needs half of the tokens.
    """
    return self.variance * self.tokens * self.exact / np.square(self.along)

  def cosine(self, budget: float) -> Float[np.ndarray, "..."]:
    """⟨E ĝ, g⟩ / (‖g‖ √E‖ĝ‖²), with the units that a budget of tokens buys.

    What a step of a given length, in the root mean square, gains to first
    order, in units of what the exact gradient would gain.

    Args:
      budget: tokens; infinity for no variance.
    """
    square = np.maximum(self.mean_square, 0) + self.variance * (
      self.tokens / budget
    )
    return self.along / np.sqrt(self.exact * square)


def context_of(process: Process, strength: float, prover: float) -> Context:
  """A policy at which training begins, and a fixed prover."""
  logits = process.policy(strength)
  return Context(process, logits, logits, process.policy(prover), ())


def moments(
  arm: Arm, context: Context, *, num_units: int, seeds: tuple[int, ...]
) -> Moments:
  """Moments of an arm's units, of each seed.

  Args:
    arm: which.
    context: of the policy. What learns has learnt, anew for every eighth unit,
      from `arms.HISTORY` rollouts of that policy, whose tokens are not counted:
      they are those of earlier batches.
    num_units: of a seed, a multiple of 8.
    seeds: one or more.
  """
  exact = processes.exact_gradient(context.process, context.logits)
  rows = []
  for seed in seeds:
    units = draws(arm, context, num_units, seed)
    rows.append(_moments(exact, units.gradient, units.num_tokens, units.counts))
  return Moments(*(np.array(x, np.float64) for x in zip(*rows, strict=True)))


def draws(arm: Arm, context: Context, num_units: int, seed: int) -> arms.Units:
  """Units of one policy, [R, N] with R · N of them.

  Args:
    arm: which.
    context: of the policy.
    num_units: see `moments`.
    seed: of the units, and of what a learner has seen.
  """
  shape = (1, num_units) if arm.memory is None else (num_units // 8, 8)
  key, history = jax.random.split(jax.random.key(seed, impl="rbg"))
  several = context._replace(
    logits=jnp.broadcast_to(context.logits, (shape[0], *context.logits.shape))
  )
  if arm.memory is not None:
    size = shape[0], processes.NUM_STEPS, arms.HISTORY
    several = several._replace(
      memory=_learnt(arm.memory, jax.random.uniform(history, size), context)
    )
  return arms.draw(arm, arms.noise(arm.num_rollouts, key, *shape), several)


@functools.partial(jax.jit, static_argnames="memory")
def _learnt(memory, uniforms, context):
  def one(uniforms):
    walk = processes.sample(uniforms, context.process, context.logits)
    return memory.fit(memory.init(context), context, walk, passes=20)

  return jax.vmap(one)(uniforms)


@jax.jit
def _moments(exact, gradient, tokens, counts):
  """Of units that were drawn again the tokens count, and nothing else."""
  number = jnp.maximum(jnp.sum(counts), 2)
  gradient = gradient.reshape(-1, exact.size)
  mean = jnp.sum(gradient, axis=0) / number
  squares = jnp.sum(jnp.square(gradient - mean) * counts.reshape(-1, 1))
  variance = squares / (number - 1)
  square = jnp.sum(jnp.square(mean))
  return (
    square - variance / number,
    variance,
    jnp.sum(mean * exact.ravel()),
    jnp.sum(jnp.square(exact)),
    jnp.sum(tokens) / number,
  )
