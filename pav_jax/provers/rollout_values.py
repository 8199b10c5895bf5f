"""Provers on the host: closed forms, and rules of what is worth nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from pav_jax.policies.for_problem import default_new_tokens
from pav_jax.problems import base as problems
from pav_jax.problems.prefixes import cut_at_padding
from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class ClosedForm(base.FixedProver):
  """A prover from a function of rollouts alone.

  Attributes:
    values: such as a problem's own, see `problems.base.HasExactValues`.
    pad_id: the padding token; a prefix with it is worth nothing.
  """

  values: Callable[[Rollout], Float[np.ndarray, "B P"]]
  pad_id: int = 0

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes; the key is not looked at."""
    del key
    rollout = jax.tree.map(np.asarray, rollout)
    cut, beyond = cut_at_padding(rollout, self.pad_id)
    return np.where(beyond, 0.0, self.values(cut)).astype(np.float32)


class _Unless(base.Wrapper):
  """Another prover's values, and 0 of some prefixes; runs on the host."""

  placement = "host"

  def of_values(
    self, q: Float[ArrayLike, "B P"], rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes."""
    rollout = jax.tree.map(np.asarray, rollout)
    cut, beyond = cut_at_padding(rollout, self.pad_id)
    worth = self._worth(cut) & ~beyond
    return np.where(worth, np.asarray(q), 0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class WithinLimit(_Unless):
  """Another prover's values, and 0 of what a response has no room for.

  A closed form knows no limit on responses. To it a restatement costs nothing,
  be it the hundredth; and what costs nothing is more than most steps are worth
  under a strong prover. Here a prefix that cannot be completed within the limit
  is worth 0.

  Attributes:
    prover: any.
    problem: tells how many tokens are left (`problems.base.HasTokensLeft`);
      with one that does not tell, nothing changes.
    max_new_tokens: of a response; None for `policies.for_problem`'s.
    pad_id: the padding token; a prefix with it is worth nothing.
  """

  prover: Prover
  problem: Any
  max_new_tokens: int | None = None
  pad_id: int = 0

  def _worth(self, rollout):
    most = self.max_new_tokens or default_new_tokens(self.problem)
    used = rollout.prefix_len - rollout.prefix_len[:, :1]
    left = problems.tokens_left(self.problem, rollout)
    return (left == 0) | (used + left <= most)


@dataclasses.dataclass(frozen=True)
class WellFormed(_Unless):
  """Another prover's values, and 0 of prefixes that are no solution's in form.

  A verifier has read what one policy writes. What it says of anything else
  means nothing, and a policy that is trained by it finds what it overrates:
  random tokens, or restatements until there is no room for a solution
  (`WithinLimit`).

  Attributes:
    prover: any, such as a `provers.verifier.Verifier`.
    problem: tells form from content (`problems.base.HasForm`); with one that
      does not, nothing changes.
    pad_id: the padding token; a prefix with it is worth nothing.
  """

  prover: Prover
  problem: Any
  pad_id: int = 0

  def _worth(self, rollout):
    return problems.well_formed(self.problem, rollout)
