"""Stopping when told to: SIGTERM, then a checkpoint, then exit status 0.

Machines that may be taken away are warned by SIGTERM. In one process the signal
is noted and asked for between pieces of work. In several, JAX's preemption
service spreads the notice, whichever process got it, and fixes a piece of work
after which all of them stop: the next one that none has begun
(`multihost_utils.reached_preemption_sync_point`).
"""

import signal
import threading
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

# JAX's service counts, over the whole program, how often it was asked.
_asked = 0


class Preempted(Exception):
  """A run stopped because it was told to; the same command continues it."""


class Watch:
  """Says when to stop; as a context, in which SIGTERM does not end the process.

      with Watch() as told_to_stop:
        for step in …:
          …
          if told_to_stop():
            save(…)
            raise Preempted(f"stopped after step {step}")

  All processes ask after each piece of work, equally often if they work in step
  with each other; else see `agree`. What a run is worth when it is told to stop
  is up to the run: outside this context SIGTERM ends a single process.
  """

  def __init__(self):
    self._told = False
    self._before = None

  def __enter__(self) -> "Watch":
    # Python handles signals in its main thread only.
    if (
      not jax.distributed.is_initialized()
      and threading.current_thread() is threading.main_thread()
    ):
      self._before = signal.signal(signal.SIGTERM, self._note)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
      self._before = None

  def __call__(self) -> bool:
    """Whether to stop now; once it does it always says so."""
    global _asked
    if jax.distributed.is_initialized():
      _asked += 1
      self._told |= multihost_utils.reached_preemption_sync_point(_asked)
    return self._told

  def agree(self) -> bool:
    """Whether any process was told to stop; waits for all of them.

    For processes that go through their work at a pace of their own, when each
    has stopped or is through.
    """
    global _asked
    if jax.distributed.is_initialized() and jax.process_count() > 1:
      found = multihost_utils.process_allgather(
        np.array([self._told, _asked], np.int32)
      )
      self._told, _asked = bool(found[:, 0].any()), int(found[:, 1].max())
    return self._told

  def _note(self, *_) -> None:
    self._told = True
