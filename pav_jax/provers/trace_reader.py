"""Scores of traces that grow: only what is new of them is read."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models import cached_values, trace_memory
from pav_jax.models.trace_memory import TraceMemory
from pav_jax.models.value_network import VerifierConfig

# `(head, hidden [B, T, D], at [B, H]) -> [B, H]`: log-odds at some tokens.
LogOdds = Callable[[Any, Array, Array], Array]


class TraceReader:
  """A verifier or a public reward model, with what it has read of M traces.

  Attributes:
    max_length: L, tokens of the longest trace.
    offset: of the token that is read, from the mark.
  """

  def __init__(
    self,
    config: VerifierConfig,
    params: dict,
    head: Any,
    log_odds: LogOdds,
    *,
    num_traces: int,
    max_length: int,
    offset: int = 0,
  ):
    """Makes room for the traces.

    Args:
      config: the network's shape.
      params: the network's: `"trunk"` and, if there is one, `"reader"`.
      head: parameters of `log_odds`.
      log_odds: of a good step, from what the network gives at its token.
      num_traces: M.
      max_length: L, at most the network's.
      offset: of the token that is read, from the mark.
    """
    self.max_length = min(max_length, config.trunk.max_length)
    self.offset = offset
    self._make = functools.partial(
      jax.jit(trace_memory.empty, static_argnums=(0, 1, 2)),
      config,
      num_traces,
      self.max_length,
    )
    self._params = cached_values.unstack(config, params), head
    self._read = jax.jit(
      functools.partial(_read, config, log_odds, offset),
      static_argnames="room",
      donate_argnums=1,
    )
    self.forget()

  @property
  def num_bytes(self) -> int:
    """Of the memory of traces."""
    return sum(x.nbytes for x in jax.tree.leaves(self._memory))

  def forget(self) -> None:
    """Begins with memory of nothing, as after an error."""
    self._memory: TraceMemory = self._make()

  def scores(
    self,
    source: Int[np.ndarray, "B"],
    target: Int[np.ndarray, "B"],
    tokens: Int[np.ndarray, "B T"],
    start: Int[np.ndarray, "B"],
    mark: Int[np.ndarray, "B H"],
    *,
    room: int,
  ) -> Float[np.ndarray, "B H"]:
    """Scores of steps in the new part of some traces, which are kept.

    Args:
      source: see `trace_memory.read_on`.
      target: see `trace_memory.read_on`.
      tokens: from `start` on, then anything.
      start: tokens of each row that are read already.
      mark: indices in the whole trace whose token to read, `offset` from the
        mark, is new; −1 for no step.
      room: see `trace_memory.read_on`.

    Returns:
      In [0, 1]; what is at −1 means nothing.
    """
    logits, self._memory = self._read(
      self._params, self._memory, source, target, tokens, start, mark, room=room
    )
    return np.asarray(jax.nn.sigmoid(logits))


def _read(
  config, log_odds, offset, params, memory, source, target, tokens, start, mark,
  *, room
):  # fmt: skip
  """Log-odds at marks, and the memory."""
  params, head = params
  read, memory = trace_memory.read_on(
    config, params, memory, source, target, tokens, start, room=room
  )
  at = jnp.clip(mark + offset - start[:, None], 0, tokens.shape[1] - 1)
  return log_odds(head, read, at), memory
