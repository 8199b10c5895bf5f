"""The prover that ends its thinking at once (MRT, arXiv 2503.07572)."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class AnswerNow(base.OfAnother):
  """Another prover's values of prefixes that have to answer now.

  MRT's μ: a prefix is worth what the policy's best guess from it is, which it
  gives once its thinking is cut off by words to that effect; the progress of a
  step is by how much that grows. Here a marker of tokens is appended to every
  prefix but whole responses, and the other prover, such as `MonteCarlo`, says
  what that is worth. Which words are best the paper leaves to the model: it has
  "time is up" before the end of the thinking. The other prover sees rollouts of
  one step, marker included; one that completes prefixes completes bare problems
  too, which doubles its cost.

  Attributes:
    prover: of prefixes with the marker.
    marker: tokens, one or more.

  Raises:
    ValueError: if there is no marker.
  """

  prover: Prover
  marker: tuple[int, ...]

  placement = "host"

  def __post_init__(self):
    object.__setattr__(self, "marker", tuple(self.marker))
    if not self.marker:
      raise ValueError("marker is (), expected the tokens that ask for answers")

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes; whole responses are worth themselves."""
    q = base.values(self.prover, key, self.cut(rollout))
    return np.asarray(q, np.float32)[:, -1].reshape(rollout.prefix_len.shape)

  def cut(self, rollout: Rollout) -> Rollout:
    """Rollouts of one step: a prefix and the marker; B · P of them, in order.

    Each has a sample number of its own, P · sample + h, for its random numbers.

    Args:
      rollout: of B rows.
    """
    rollout = jax.tree.map(np.asarray, rollout)
    lengths = rollout.prefix_len
    size = lengths.shape[1]
    marker = np.array(self.marker, np.int32)
    tokens = np.repeat(rollout.tokens, size, axis=0)
    tokens = np.pad(tokens, ((0, 0), (0, len(marker))))
    logp = np.pad(
      np.repeat(rollout.logp, size, axis=0), ((0, 0), (0, len(marker)))
    )
    cut = lengths.reshape(-1, 1)
    whole = cut == np.repeat(lengths[:, -1:], size, axis=0)
    position = np.arange(tokens.shape[1])
    index = np.clip(position - cut, 0, len(marker) - 1)
    marked = (position >= cut) & (position < cut + len(marker)) & ~whole
    beyond = (position >= cut) & ~marked
    end = cut + np.where(whole, 0, len(marker))
    start = np.repeat(lengths[:, :1], size, axis=0)
    step = np.tile(np.arange(size), len(lengths))
    return Rollout(
      tokens=np.where(marked, marker[index], np.where(beyond, 0, tokens)),
      logp=np.where(position >= cut, 0, logp).astype(np.float32),
      prefix_len=np.concatenate([start, end], axis=1).astype(np.int32),
      outcome=np.repeat(rollout.outcome, size),
      problem_id=np.repeat(rollout.problem_id, size),
      sample_id=(np.repeat(rollout.sample_id, size) * size + step).astype(
        np.int32
      ),
    )
