"""Policies and value functions on a masked autoregressive network.

For problems with an empty prompt and a step per token, as the planted
sub-sequence is.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax import randomness, steps
from pav_jax.models import made, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies import sampling
from pav_jax.problems.planted import Planted
from pav_jax.rollout import Rollout


def rollout_from_tokens(
  problem: Planted,
  tokens: Int[Array, "B T"],
  logp: Float[Array, "B T"],
  problem_id: Int[Array, "B"],
  sample_id: Int[Array, "B"],
) -> Rollout:
  """Marks where responses end: tokens past the end token become padding.

  Padding is the end token with log-probability 0. The outcome is NaN until
  `problem.grade` has set it.
  """
  ended = problem.ended(tokens)
  ended_before = jnp.cumsum(ended, axis=-1) - ended > 0
  length = jnp.sum(~ended_before, axis=-1, dtype=jnp.int32)
  prefixes = jnp.arange(problem.length + 1, dtype=jnp.int32)
  return Rollout(
    tokens=jnp.where(ended_before, problem.end_token, tokens),
    logp=jnp.where(ended_before, 0.0, logp),
    prefix_len=jnp.minimum(prefixes, length[:, None]),
    outcome=jnp.full(tokens.shape[:1], jnp.nan),
    problem_id=problem_id,
    sample_id=sample_id,
  )


def _config(
  problem: Planted, hidden: tuple[int, ...], num_outputs: int
) -> made.MadeConfig:
  return made.MadeConfig(
    length=problem.length,
    vocab_size=problem.vocab_size,
    num_outputs=num_outputs,
    hidden=hidden,
  )


@dataclasses.dataclass(frozen=True)
class MadePolicy:
  """A `policies.base.Policy`, pure JAX throughout.

  Attributes:
    problem: gives vocabulary, length and end token.
    hidden: units per hidden layer.
  """

  problem: Planted
  hidden: tuple[int, ...] = (128, 128, 128)

  placement = "device"
  layout = None

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    _ = self.config

  @property
  def config(self) -> made.MadeConfig:
    """The network's shape."""
    return _config(self.problem, self.hidden, self.problem.vocab_size)

  def on(self, layout: Layout | None) -> "MadePolicy":
    """Itself: its parameters are small, and whole on every device."""
    del layout
    return self

  def shardings(self, layout: Layout) -> dict:
    """Whole copies on every device."""
    whole = partitioning.replicated(layout.mesh)
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return jax.tree.map(lambda _: whole, shapes)

  def value_network(self) -> "MadeValue":
    """A network like the policy's with one output."""
    return MadeValue(self.problem, self.hidden)

  def init(self, key: jax.Array) -> dict:
    """Random parameters."""
    return made.init(self.config, key)

  def logits(
    self, params: dict, tokens: Int[Array, "*B T"]
  ) -> Float[Array, "*B T V"]:
    """Next-token logits before every token; those at t see tokens before t."""
    return made.apply(self.config, params, tokens)

  def logp(self, params: dict, rollout: Rollout) -> Float[Array, "B T"]:
    """Teacher-forced log-probabilities in nats; 0 outside the response."""
    logp = jax.nn.log_softmax(self.logits(params, rollout.tokens))
    logp = jnp.take_along_axis(logp, rollout.tokens[..., None], axis=-1)[..., 0]
    step = steps.step_index(rollout.prefix_len, rollout.tokens.shape[-1])
    num_prefixes = rollout.prefix_len.shape[-1]
    return jnp.where((step > 0) & (step < num_prefixes), logp, 0.0)

  def has_ended(self, rollout: Rollout) -> Bool[Array, "B"]:
    """All have: a response of full length is whole."""
    return jnp.ones(rollout.prefix_len.shape[:-1], bool)

  def sample(
    self,
    params: dict,
    key: jax.Array,
    problem_id: Int[ArrayLike, "D"],
    first_sample: Int[ArrayLike, "D"] | int = 0,
    *,
    num_samples: int = 1,
  ) -> Rollout:
    """See `policies.base.Policy`; `problem_id` may be any addresses."""
    problem_id = jnp.asarray(problem_id)
    sample_id = sampling.sample_ids(problem_id, first_sample, num_samples)
    sample_id = sample_id.reshape(-1)
    problem_id = jnp.repeat(problem_id, num_samples)
    length = self.problem.length
    keys = randomness.token_keys(key, (problem_id, sample_id), length)
    nothing = jnp.zeros((*problem_id.shape, length), jnp.int32)
    return self._continue(
      params,
      keys,
      nothing,
      jnp.zeros_like(problem_id),
      problem_id,
      sample_id,
    )

  def complete(
    self,
    params: dict,
    key: jax.Array,
    rollout: Rollout,
    *,
    num_samples: int,
    prefixes: Int[ArrayLike, "B Q"] | None = None,
  ) -> Rollout:
    """See `policies.base.Policy`; rows begin with their prefix."""
    batch, num_prefixes = rollout.prefix_len.shape
    if prefixes is None:
      prefixes = jnp.broadcast_to(
        jnp.arange(num_prefixes), (batch, num_prefixes)
      )
    prefixes = jnp.asarray(prefixes)
    shape = (*prefixes.shape, num_samples)

    def rows(x):
      x = x.reshape(batch, -1, 1, *x.shape[2:])
      return jnp.broadcast_to(x, (*shape, *x.shape[3:])).reshape(
        -1, *x.shape[3:]
      )

    prefix = rows(prefixes)
    completion = jnp.broadcast_to(jnp.arange(num_samples), shape).reshape(-1)
    problem_id = rows(rollout.problem_id)
    sample_id = rows(rollout.sample_id)
    keys = randomness.token_keys(
      key, (problem_id, sample_id, prefix, completion), self.problem.length
    )
    return self._continue(
      params,
      keys,
      rows(rollout.tokens[:, None, :]),
      rows(jnp.take_along_axis(rollout.prefix_len, prefixes, axis=1)),
      problem_id,
      sample_id,
    )

  def _continue(
    self, params, keys, tokens, num_given, problem_id, sample_id
  ) -> Rollout:
    """Samples what follows the first `num_given` of `tokens` in each row."""

    def next_token(position, logits):
      drawn, _ = randomness.categorical(keys[:, position], logits)
      given = position < num_given
      return jnp.where(given, tokens[:, position], drawn)

    sampled, logits = made.decode(
      self.config, params, next_token, problem_id.shape[0]
    )
    logp = jnp.take_along_axis(
      jax.nn.log_softmax(logits), sampled[..., None], axis=-1
    )[..., 0]
    return rollout_from_tokens(
      self.problem, sampled, logp, problem_id, sample_id
    )


@dataclasses.dataclass(frozen=True)
class MadeValue:
  """A value function of prefixes, for learned baselines.

  Attributes:
    problem: gives vocabulary and length.
    hidden: units per hidden layer.
  """

  problem: Planted
  hidden: tuple[int, ...] = (128, 128, 128)

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    _ = self.config

  @property
  def config(self) -> made.MadeConfig:
    """The network's shape."""
    return _config(self.problem, self.hidden, num_outputs=1)

  def init(self, key: jax.Array, params: dict | None = None) -> dict:
    """Random parameters; the policy's, `params`, are of another shape."""
    del params
    return made.init(self.config, key)

  def values(self, params: dict, rollout: Rollout) -> Float[Array, "B H"]:
    """A number for the state before each step, from the tokens before it."""
    return made.apply(self.config, params, rollout.tokens)[..., 0]
