"""Best-of-K of any prover, in closed form (Eq. 30)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from pav_jax import values
from pav_jax.checks import Leaf
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["prover", "k"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class BestOfK:
  """The prover that keeps the best of K samples of another.

  Attributes:
    prover: `(key, rollout) -> q`.
    k: float or float32[], at least 1; may be traced.
  """

  prover: Callable[[jax.Array, Rollout], Float[Array, "B P"]]
  k: Leaf

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[Array, "B P"]:
    """1 − (1 − q)^K of the other prover's q."""
    return values.best_of_k(self.prover(key, rollout), self.k)
