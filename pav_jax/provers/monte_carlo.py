"""Values by rollouts: the fraction of completions of a prefix that succeed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax.types import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["policy", "problem", "num_rollouts"],
)
@dataclasses.dataclass(frozen=True)
class MonteCarlo:
  """A prover `(key, rollout) -> q` that completes every prefix with a policy.

  Attributes:
    params: the policy's parameters.
    policy: has `complete(params, key, rollout, num_samples=M)`.
    problem: has `grade(rollout)`.
    num_rollouts: M >= 1, completions of each prefix. The final prefix is its
      own outcome and costs its completions nothing: nothing is left to sample.
  """

  params: Any
  policy: Any
  problem: Any
  num_rollouts: int = 1

  def __post_init__(self):
    if self.num_rollouts < 1:
      raise ValueError(
        f"num_rollouts is {self.num_rollouts}, expected at least 1"
      )

  def __call__(self, key: jax.Array, rollout: Rollout) -> Float[Array, "B P"]:
    """q_mc[b, h], multiples of 1 / num_rollouts; unbiased for Q^π (Eq. 1)."""
    completions = self.policy.complete(
      self.params, key, rollout, num_samples=self.num_rollouts
    )
    outcome = self.problem.grade(completions)
    return jnp.mean(
      outcome.reshape(*rollout.prefix_len.shape, self.num_rollouts), axis=-1
    )
