"""Values of a policy that hardly ever succeeds, by importance sampling.

Where Q^π is 1e-5, completions sampled from π say nothing. Completions sampled
from a stronger policy, reweighted by the ratio of the two policies'
probabilities, are just as unbiased and succeed often.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.policies.made_policy import MadePolicy
from pav_jax.provers.procedural import Procedural
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["proposal", "params"],
  meta_fields=["problem", "num_samples", "policy"],
)
@dataclasses.dataclass(frozen=True)
class ImportanceSampling:
  """A prover that reweights completions of a stronger policy.

  Q^π(s) = E_{y ~ μ(·|s)} [ π(y|s) / μ(y|s) · Rex(y) ].

  Attributes:
    problem: that grades completions, on the device.
    proposal: μ, gives every completion a probability above 0.
    num_samples: completions of each prefix, at least 1.
    policy: π; None for the one in training.
    params: of π.

  Raises:
    ValueError: if there are no samples.
  """

  problem: Any
  proposal: Procedural
  num_samples: int
  policy: MadePolicy | None = None
  params: Any = ()

  placement = "device"

  def __post_init__(self):
    if self.num_samples < 1:
      raise ValueError(f"num_samples is {self.num_samples}, expected >= 1")

  def with_policy(self, policy: Any, params: Any) -> "ImportanceSampling":
    """The prover of a policy; itself if it has one already."""
    if self.policy is not None:
      return self
    return dataclasses.replace(self, policy=policy, params=params)

  def __call__(self, key: jax.Array, rollout: Rollout) -> Float[Array, "B P"]:
    """Unbiased estimates of Q^π, at least 0; one may exceed 1."""

    def of_row(row):
      tokens, prefix_len, problem_id, sample_id = row
      prefixes = jnp.arange(len(prefix_len))
      every = jnp.broadcast_to(tokens, (len(prefixes), *tokens.shape))
      address = problem_id, sample_id, prefixes
      return self._mean(key, every, prefix_len, address)

    return jax.lax.map(
      of_row,
      (
        rollout.tokens,
        rollout.prefix_len,
        rollout.problem_id,
        rollout.sample_id,
      ),
    )

  def action_values(
    self, key: jax.Array, rollout: Rollout
  ) -> Float[Array, "B H V"]:
    """Unbiased estimates of Q^π(s_h, a) for every token a before every step.

    Args:
      key: of the completions.
      rollout: whose prefixes 0 … H - 1 are the states. Entries of steps past a
        response's end mean nothing.

    Returns:
      float32[B, H, V], at least 0; an estimate may exceed 1.
    """
    num_steps = rollout.prefix_len.shape[-1] - 1
    vocab = self.policy.problem.vocab_size
    step, action = (
      grid.reshape(-1)
      for grid in jnp.meshgrid(
        jnp.arange(num_steps), jnp.arange(vocab), indexing="ij"
      )
    )

    def of_row(row):
      tokens, problem_id, sample_id = row
      every = jnp.broadcast_to(tokens, (len(step), *tokens.shape))
      every = every.at[jnp.arange(len(step)), step].set(action)
      address = problem_id, sample_id, step * vocab + action
      mean = self._mean(key, every, step + 1, address)
      return mean.reshape(num_steps, vocab)

    return jax.lax.map(
      of_row, (rollout.tokens, rollout.problem_id, rollout.sample_id)
    )

  def _mean(
    self,
    key: jax.Array,
    tokens: Int[Array, "N T"],
    num_given: Int[Array, "N"],
    address: tuple,
  ) -> Float[Array, "N"]:
    """Mean reweighted outcome of the completions of the first tokens of rows.

    Args:
      key: of the completions.
      tokens: of the rows.
      num_given: how many of them are given.
      address: problem, sample and state, each of all rows or of each.
    """
    rows, num = len(tokens), self.num_samples
    tokens = jnp.repeat(tokens, num, axis=0)
    num_given = jnp.repeat(num_given, num)
    address = [
      jnp.repeat(jnp.broadcast_to(part, rows), num) for part in address
    ]
    sample = jnp.tile(jnp.arange(num), rows)
    completed = self.proposal.complete(
      key, (*address, sample), tokens, num_given
    )
    sampled = jnp.arange(tokens.shape[-1]) >= num_given[:, None]
    log_ratio = jnp.sum(
      (self.policy.logp(self.params, completed) - completed.logp) * sampled,
      axis=-1,
    )
    weighted = jnp.exp(log_ratio) * self.problem.grade(completed)
    return jnp.mean(weighted.reshape(rows, num), axis=-1)
