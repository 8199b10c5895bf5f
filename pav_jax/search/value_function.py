"""What guides a search: values of prefixes under policy and prover."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.provers import base
from pav_jax.provers.base import PolicyValues, Prover, Wrapper
from pav_jax.rollout import Rollout

# Q^π and Q^μ.
Values = tuple[Float[Array, "*B"], Float[Array, "*B"]]


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["readers", "of_policy", "of_prover"],
  meta_fields=["by_trace"],
)
@dataclasses.dataclass(frozen=True)
class ValueFunction:
  """Values under the policy and under the prover; made by `value_function`.

  Attributes:
    readers: what reads prefixes for the policy's values, and what does for the
      prover's; a single one for both if that is the same.
    of_policy: what makes the policy's values of the first reader's, in order.
    of_prover: what makes the prover's values of the last reader's.
    by_trace: whether whole traces are read for every step, even where readers
      have prefix caches.
  """

  readers: tuple[Prover, ...]
  of_policy: tuple[Wrapper, ...] = ()
  of_prover: tuple[Wrapper, ...] = ()
  by_trace: bool = False

  @property
  def is_cached(self) -> bool:
    """Whether steps are read behind prefix caches; else whole traces are."""
    return (
      not self.by_trace
      and all(base.prefix_cache(reader) for reader in self.readers)
      and all(one.is_pointwise for one in (*self.of_policy, *self.of_prover))
    )

  @property
  def networks(self) -> tuple[Any, ...]:
    """Shapes of the networks that read every token, each reader's once."""
    return tuple(x for reader in self.readers for x in base.networks(reader))

  def __call__(self, key: jax.Array | None, rollout: Rollout) -> Values:
    """`(q_policy, q_prover)` of all prefixes of whole traces, [B, P] each."""
    q = [base.values(reader, key, rollout) for reader in self.readers]
    return self._of(q, rollout)

  def start_caches(
    self,
    prompts: Int[Array, "B S"],
    prompt_len: Int[Array, "B"],
    *,
    num_beams: int,
    length: int,
  ) -> tuple[tuple[PyTree, ...], Values]:
    """Caches of the beams of problems, and the problems' values.

    Arguments are those of `base.HasPrefixCache`, like those of the other two.
    """
    caches, q = zip(
      *(
        reader.start_cache(
          prompts, prompt_len, num_beams=num_beams, length=length
        )
        for reader in self.readers
      ),
      strict=True,
    )
    return caches, self._of(q, None)

  def read_steps(
    self,
    caches: tuple[PyTree, ...],
    tokens: Int[Array, "G C U"],
    count: Int[Array, "G C"],
    prefix_len: Int[Array, "G"],
  ) -> tuple[tuple[PyTree, ...], Values]:
    """What readers keep of candidates' steps, and values after them."""
    steps, q = zip(
      *(
        reader.read_steps(cache, tokens, count, prefix_len)
        for reader, cache in zip(self.readers, caches, strict=True)
      ),
      strict=True,
    )
    return steps, self._of(q, None)

  def keep_steps(
    self,
    caches: tuple[PyTree, ...],
    steps: tuple[PyTree, ...],
    *survivors: Int[Array, "..."],
  ) -> tuple[PyTree, ...]:
    """The caches of survivors, which are told as to `base.HasPrefixCache`."""
    return tuple(
      reader.keep_steps(cache, step, *survivors)
      for reader, cache, step in zip(self.readers, caches, steps, strict=True)
    )

  def _of(self, q, rollout) -> Values:
    q_policy, q_prover = q[0], q[-1]
    for wrapper in self.of_policy:
      q_policy = wrapper.of_values(q_policy, rollout)
    for wrapper in self.of_prover:
      q_prover = wrapper.of_values(q_prover, rollout)
    return jnp.asarray(q_policy), jnp.asarray(q_prover)


def value_function(
  policy: Prover, prover: Prover | None = None, *, by_trace: bool = False
) -> ValueFunction:
  """The value function of a search that is guided by two provers.

  Args:
    policy: its values are Q^π.
    prover: its values are Q^μ. In the place of `PolicyValues` it has `policy`,
      whose traces are then read once; None for `PolicyValues` itself.
    by_trace: see `ValueFunction`.
  """
  if prover is None:
    prover = PolicyValues()
  reader, of_policy = base.split(policy)
  other, of_prover = base.split(base.of_policy(prover, policy))
  readers = (reader,) if other is reader else (reader, other)

  def alone(wrappers):
    # What reads prefixes is among the readers, and has leaves only there.
    return tuple(
      dataclasses.replace(x, prover=PolicyValues()) for x in wrappers
    )

  return ValueFunction(readers, alone(of_policy), alone(of_prover), by_trace)
