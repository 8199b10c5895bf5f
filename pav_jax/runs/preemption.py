"""Stopping when told to: a signal, then a checkpoint, then the end.

Machines that may be taken away are warned by SIGTERM; people press Ctrl-C. In
one process both are noted and asked for between pieces of work. (An exception
raised by the signal would be lost where it arrives in a callback, such as JAX's
on garbage collection.) In several, JAX's preemption service spreads the notice,
whichever process got it, and fixes a piece of work after which all of them
stop: the next one that none has begun
(`multihost_utils.reached_preemption_sync_point`).

After SIGTERM the exit status is 0, after Ctrl-C 130. A second Ctrl-C ends a
process where it is.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

# JAX's service counts, over the whole program, how often it was asked.
_asked = 0


class Preempted(Exception):
  """A run stopped because it was told to; the same command continues it."""


class Interrupted(KeyboardInterrupt):
  """A run stopped at Ctrl-C; what was begun is kept, see `Preempted`."""


class Watch:
  """Says when to stop; as a context, in which no signal ends the process.

      with Watch() as told_to_stop:
        for step in …:
          …
          if told_to_stop():
            save(…)
            raise Preempted(f"stopped after step {step}")

  All processes ask after each piece of work, equally often if they work in step
  with each other; else see `agree`. What a run is worth when it is told to stop
  is up to the run: outside this context SIGTERM ends a single process.

  Leaving it after Ctrl-C raises `Interrupted` in place of `Preempted`, and also
  if nothing was raised. In several processes Ctrl-C is as SIGTERM: all end so.
  """

  def __init__(self):
    self._told = False
    self._interrupts = 0
    self._before = {}

  def __enter__(self) -> "Watch":
    # Python handles signals in its main thread only.
    if threading.current_thread() is threading.main_thread():
      # In several processes SIGTERM is for JAX's service.
      if not jax.distributed.is_initialized():
        self._catch(signal.SIGTERM, self._note)
      self._catch(signal.SIGINT, self._interrupt)
    return self

  def _catch(self, which: int, handler: Callable[..., None]) -> None:
    self._before[which] = signal.signal(which, handler)

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for which, handler in self._before.items():
      signal.signal(which, handler)
    self._before = {}
    alone = not jax.distributed.is_initialized()
    if self._interrupts and alone and kind in (None, Preempted):
      raise Interrupted(str(error or "stopped at its end")) from error

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
    # Not by print: the signal may arrive within one.
    os.write(2, b"\nstopping after what was begun\n")

  def _interrupt(self, *_) -> None:
    self._interrupts += 1
    if self._interrupts > 1:
      raise KeyboardInterrupt
    if jax.distributed.is_initialized():
      os.kill(os.getpid(), signal.SIGTERM)  # whose notice reaches all
    else:
      self._told = True
    os.write(2, b"\nstopping after what was begun; Ctrl-C again ends at once\n")


@contextlib.contextmanager
def interruptible(*, seconds: float = 5.0) -> Iterator[None]:
  """Ends its content at Ctrl-C, wherever that arrives, but for a `Watch`.

  Where it arrives in a callback, whose exceptions nobody sees, it comes again.

  Args:
    seconds: until it does.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def interrupt(*_):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    raise KeyboardInterrupt

  before = {
    which: signal.signal(which, interrupt)
    for which in (signal.SIGINT, signal.SIGALRM)
  }
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for which, handler in before.items():
      signal.signal(which, handler)
