"""Provers whose values come from the host: a closed form, or completions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from pav_jax import steps
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.chain import Chain
from pav_jax.provers.completions import (
  Jobs,
  LanguageModelCompletions,
  count_correct,
)
from pav_jax.rollout import Rollout


def cut_at_padding(
  rollout: Rollout, pad_id: int
) -> tuple[Rollout, Bool[np.ndarray, "B P"]]:
  """Responses as problems read them: up to their first padding.

  A policy may sample the padding token, and go on. To problems that is the end,
  of a response that is wrong.

  Args:
    rollout: of numpy arrays.
    pad_id: the padding token.

  Returns:
    The rollout, and which prefixes go beyond such an end, bool[B, P].
  """
  tokens, length = rollout.tokens, rollout.prefix_len
  at = np.arange(tokens.shape[1])
  inside = (at >= length[:, :1]) & (at < length[:, -1:])
  padding = inside & (tokens == pad_id)
  end = np.where(padding.any(-1), padding.argmax(-1), tokens.shape[1])
  cut = dataclasses.replace(
    rollout,
    tokens=np.where(at < end[:, None], tokens, pad_id),
    prefix_len=np.minimum(length, end[:, None]).astype(length.dtype),
  )
  return cut, length > end[:, None]


@dataclasses.dataclass(frozen=True)
class ClosedForm:
  """A prover `(key, rollout) -> q` from a function of rollouts alone.

  Attributes:
    values: such as `Chain.teacher_values` or `ErrorRateValues`.
    pad_id: the padding token; a prefix with it is worth nothing.
  """

  values: Callable[[Rollout], Float[np.ndarray, "B P"]]
  pad_id: int = 0

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes; `key` has no part in them."""
    del key
    rollout, beyond = cut_at_padding(
      jax.tree.map(np.asarray, rollout), self.pad_id
    )
    return np.where(beyond, 0.0, self.values(rollout)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class WithinLimit:
  """Values of chains that count what a response has room for.

  A closed form knows no limit on responses. To it a restatement costs nothing,
  be it the hundredth; and what costs nothing is more than most steps are worth
  under a strong prover. Here a prefix that cannot be completed within the limit
  is worth 0.

  Attributes:
    values: closed form of a chain's values.
    problem: the chain.
    max_new_tokens: of a response; None for `policies.for_problem`'s.
  """

  values: Callable[[Rollout], Float[np.ndarray, "B P"]]
  problem: Chain
  max_new_tokens: int | None = None

  def __call__(self, rollout: Rollout) -> Float[np.ndarray, "B P"]:
    """float64[B, P]."""
    fits = _fits(self.problem, rollout, self.max_new_tokens)
    return np.where(fits, self.values(rollout), 0.0)


def _fits(
  problem: Any, rollout: Rollout, max_new_tokens: int | None
) -> Bool[np.ndarray, "B P"]:
  """Prefixes that can be completed within the limit on responses."""
  most = max_new_tokens or math.ceil(problem.max_response_len * 9 / 8)
  used = rollout.prefix_len - rollout.prefix_len[:, :1]
  left = problem.tokens_left(rollout)
  return (left == 0) | (used + left <= most)


@dataclasses.dataclass(frozen=True)
class WellFormed:
  """Another prover's values, and 0 of prefixes that are no solution's in form.

  A verifier has read what one policy writes. What it says of anything else
  means nothing, and a policy that is trained by it finds what it overrates:
  random tokens, or restatements until there is no room for a solution. Problems
  tell form from content.

  Attributes:
    prover: `(key, rollout) -> q`, such as a `provers.verifier.Verifier`.
    problem: has `well_formed(rollout)`; and if it has `tokens_left(rollout)`,
      what cannot be completed within the limit on responses has no form either.
    max_new_tokens: that limit; None for `policies.for_problem`'s.
    pad_id: the padding token; a prefix with it is worth nothing.
  """

  prover: Any
  problem: Any
  max_new_tokens: int | None = None
  pad_id: int = 0

  @property
  def layout(self) -> Any:
    """The prover's, if it has one."""
    return getattr(self.prover, "layout", None)

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes."""
    rollout = jax.tree.map(np.asarray, rollout)
    q = _values(self.prover, key, rollout)
    cut, beyond = cut_at_padding(rollout, self.pad_id)
    formed = self.problem.well_formed(cut) & ~beyond
    if hasattr(self.problem, "tokens_left"):
      formed &= _fits(self.problem, cut, self.max_new_tokens)
    return np.where(formed, np.asarray(q), 0.0).astype(np.float32)


def _values(prover, key, rollout):
  """A prover's values, by a compiled program if it is one for the device."""
  if hasattr(prover, "logits"):
    return compiled(prover, rollout)
  return prover(key, rollout)


@jax.jit
def compiled(prover: Any, rollout: Rollout) -> Float[Array, "B P"]:
  """Values of a prover that runs on the device and needs no key."""
  return prover(None, rollout)


@dataclasses.dataclass(frozen=True)
class OwnCompletions:
  """Monte-Carlo values on the fly, of the policy that is trained (Sec. 7).

  There is no verifier. `with_policy` gives the prover, of the parameters that
  the values are to be of: the present ones, or older ones.

  Attributes:
    problem: has `outcomes(rollout)`.
    num_completions: of each prefix, at least 1.
    rows_per_call: completions sampled at a time; bounds memory.

  Raises:
    ValueError: if a number is below 1.
  """

  problem: Any
  num_completions: int = 4
  rows_per_call: int = 1024

  def __post_init__(self):
    for name in ("num_completions", "rows_per_call"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}, expected >= 1")

  def with_policy(
    self, policy: LanguageModel, params: Any
  ) -> Callable[[jax.Array, Rollout], Float[np.ndarray, "B P"]]:
    """The prover."""

    def prover(key: jax.Array, rollout: Rollout) -> Float[np.ndarray, "B P"]:
      """q_mc[b, h], multiples of 1 / `num_completions`; ends are outcomes."""
      traces = jax.tree.map(np.asarray, rollout)
      open_prefix = self.open_prefixes(traces)
      correct, _ = count_correct(
        LanguageModelCompletions(policy, params, key),
        self.problem,
        traces,
        Jobs.of(open_prefix),
        num_completions=self.num_completions,
        rows_per_call=min(
          self.rows_per_call, open_prefix.size * self.num_completions
        ),
      )
      q = np.repeat(
        self.problem.outcomes(traces)[:, None], open_prefix.shape[1], axis=1
      ).astype(np.float32)
      q[open_prefix] = correct / self.num_completions
      return q

    return prover

  def open_prefixes(self, rollout: Rollout) -> np.ndarray:
    """Which prefixes are completed: those that are no whole response."""
    grew = np.asarray(steps.step_mask(rollout.prefix_len))
    length = np.asarray(rollout.prefix_len)
    exists = np.pad(grew, ((0, 0), (1, 0)), constant_values=True)
    return exists & (length < length[:, -1:])
