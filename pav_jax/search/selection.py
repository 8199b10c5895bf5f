"""Which candidates of a beam survive.

B problems, N beams, C candidates of each, in M trees that do not compete.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes and variants of a search.

  Attributes:
    num_beams: N, prefixes that are kept.
    num_steps: H, most steps of a trace, and so most rounds.
    num_candidates: C, next steps that are sampled from each prefix (App. C: 3).
    num_trees: M, divides N. Each has N / M of the beams, and a candidate
      competes with those of its own tree only: diverse verifier tree search.
    lookahead: further steps that are sampled from a candidate, whose reward is
      made of the values after them; 0 for its own values.
    merge: of equal prefixes keep the first alone; what they leave free stays
      empty if there are too few others.
    temperature: None to keep the best; a number > 0 to draw survivors without
      replacement, in proportion to exp(reward / temperature).

  Raises:
    ValueError: if a number is out of its range.
  """

  num_beams: int
  num_steps: int
  num_candidates: int = 3
  num_trees: int = 1
  lookahead: int = 0
  merge: bool = False
  temperature: float | None = None

  def __post_init__(self):
    for name, least in (
      ("num_beams", 1),
      ("num_steps", 1),
      ("num_candidates", 1),
      ("num_trees", 1),
      ("lookahead", 0),
    ):
      if getattr(self, name) < least:
        raise ValueError(
          f"{name} is {getattr(self, name)}, expected >= {least}"
        )
    if self.num_beams % self.num_trees:
      raise ValueError(
        f"num_beams is {self.num_beams}, expected a multiple of num_trees, "
        f"{self.num_trees}"
      )
    if self.temperature is not None and not self.temperature > 0:
      raise ValueError(
        f"temperature is {self.temperature}, expected > 0, or None for the best"
      )


class Chosen(NamedTuple):
  """Survivors, in the order of their beams.

  Attributes:
    parent: the beam that each continues.
    candidate: which of its candidates.
    valid: whether there is one; if not, the others are arbitrary.
    stays: it is a trace that had ended before.
  """

  parent: Int[Array, "B N"]
  candidate: Int[Array, "B N"]
  valid: Bool[Array, "B N"]
  stays: Bool[Array, "B N"]


def choose(
  settings: Settings,
  keys: Key[Array, "B"],
  reward: Float[Array, "B N C"],
  valid: Bool[Array, "B N"],
  finished: Bool[Array, "B N"],
  q_policy: Float[Array, "B N"],
  identity: Int[Array, "B N C D"] | None = None,
) -> Chosen:
  """The candidates with the highest rewards, or a draw of them.

  Traces that ended before come first and keep a place; if there are more than
  places, those with the highest `q_policy` do. Equal rewards keep their order.

  Args:
    settings: of the search.
    keys: of the problems' draws; read with a temperature.
    reward: of the candidates.
    valid: which beams there are.
    finished: whose traces have ended, so that their candidates mean nothing.
    q_policy: values of the traces, for those that have ended.
    identity: candidates that agree in it are the same; None if `settings` do
      not merge.
  """
  batch, num_beams, num = reward.shape
  trees = settings.num_trees
  each = num_beams // trees
  if settings.temperature is not None:
    noise = jax.vmap(lambda key: jax.random.gumbel(key, reward.shape[1:]))(keys)
    reward = reward / settings.temperature + noise

  first = jnp.arange(num) == 0
  stays = (valid & finished)[..., None] & first
  fresh = jnp.broadcast_to((valid & ~finished)[..., None], reward.shape)

  def by_tree(x):
    return x.reshape(batch, trees, each * num, *x.shape[3:])

  stays, fresh = by_tree(stays), by_tree(fresh)
  score = by_tree(jnp.where(finished[..., None], q_policy[..., None], reward))
  if settings.merge:
    fresh &= ~_repeats(by_tree(identity), fresh)
  usable = stays | fresh
  order = jnp.lexsort((-score, ~stays, ~usable), axis=-1)[..., :each]

  def chosen(x):
    return jnp.take_along_axis(x, order, axis=-1).reshape(batch, num_beams)

  tree = jnp.arange(num_beams) // each
  order = order.astype(jnp.int32)
  # A problem whose traces have all ended stays as it is, so that it does not
  # matter how long others take.
  over = ~jnp.any(valid & ~finished, axis=1, keepdims=True)
  parent = (order // num).reshape(batch, num_beams) + tree * each
  return Chosen(
    parent=jnp.where(over, jnp.arange(num_beams), parent),
    candidate=jnp.where(over, 0, (order % num).reshape(batch, num_beams)),
    valid=jnp.where(over, valid, chosen(usable)),
    stays=jnp.where(over, valid, chosen(stays)),
  )


def _repeats(
  identity: Int[Array, "B M R D"], fresh: Bool[Array, "B M R"]
) -> Bool[Array, "B M R"]:
  """Whether an earlier fresh candidate of the tree is the same."""
  same = jnp.all(identity[:, :, :, None] == identity[:, :, None], axis=-1)
  earlier = jnp.tri(identity.shape[2], k=-1, dtype=bool)
  return jnp.any(same & earlier & fresh[:, :, None], axis=-1)
