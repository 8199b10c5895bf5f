"""Best-of-K of any prover, in closed form (Eq. 30)."""

import dataclasses
import functools
from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from pav_jax import values
from pav_jax.checks import Leaf
from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.provers.sampled_terms import terms_at
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["prover", "k"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class BestOfK(base.Wrapper):
  """The prover that keeps the best of K samples of another.

  Attributes:
    prover: any; its values are those of one sample.
    k: float or float32[], at least 1; may be traced.

  Raises:
    ValueError: if k is below 1, where that is not traced.
  """

  prover: Prover
  k: Leaf

  is_pointwise = True

  def __post_init__(self):
    if isinstance(self.k, int | float):
      values.check_k(self.k)

  def of_values(
    self, q: Float[ArrayLike, "*B"], rollout: Rollout | None = None
  ) -> Float[Array, "*B"]:
    """1 − (1 − q)^K."""
    del rollout
    return values.best_of_k(q, self.k)

  def metrics(
    self, q: Float[ArrayLike, "B P"], rollout: Rollout
  ) -> dict[str, Any]:
    """`k`, and the terms of Theorem 3.1 with it."""
    return terms_at(q, rollout, self.k)
