"""Processes that compare answers, with limits; breaking them costs a process.

They are programs of their own (`grading_worker`), not forks: JAX has threads,
and the caller's main module need not be importable. What they write is lines of
JSON; nothing of it is executed or unpickled.
"""

import atexit
import collections
import contextlib
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_PROGRAM = pathlib.Path(__file__).with_name("grading_worker.py")
_READY, _BEGIN, _TIMEOUT, _NO_MEMORY = b"r", b"b", b"t", b"m"
_MOST_LOSSES = 10  # of processes that had not yet read what they were sent
_CHUNK = (4, 64)  # rows a process gets at a time, at least and at most
_START_SECONDS = 120


class _Worker:
  """A process, and the rows that it has been given and not answered."""

  def __init__(self, arguments: Sequence[str]):
    self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by `close`
    self.process = subprocess.Popen(
      [sys.executable, "-P", "-B", str(_PROGRAM), *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self.errors,
      bufsize=0,
      # So that signals to the run's group, Ctrl-C and the preemption of its
      # host, do not look like answers that crashed it.
      start_new_session=True,
      env=os.environ
      | {
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
      },
    )
    self.ready = self.reading = False
    self.rows: collections.deque[int] = collections.deque()
    self.unread = b""  # the beginning of a line
    self.deadline = time.monotonic() + _START_SECONDS

  def send(self, rows: Iterable[int], pairs: Sequence) -> None:
    self.reading = False
    self.rows.extend(rows)
    line = json.dumps([pairs[row] for row in rows]).encode() + b"\n"
    try:
      while line:
        line = line[self.process.stdin.write(line) :]
    except BrokenPipeError:
      pass  # its end is seen when it is read

  def said(self) -> list[bytes]:
    """The lines that it has written; none if it has ended."""
    more = os.read(self.process.stdout.fileno(), 1 << 16)
    if not more:
      return []
    *lines, self.unread = (self.unread + more).split(b"\n")
    return [*lines, b""]

  def close(self) -> int:
    """Ends it and leaves nothing of it; gives its exit status."""
    self.process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, signal.SIGKILL)  # its child too
    status = self.process.wait()
    self.process.stdout.close()
    self.errors.close()
    return status

  def forget(self) -> None:
    """In a fork of this program: it is the other's to end."""
    self.process.stdin.close()
    self.process.stdout.close()
    self.process.returncode = 0
    self.errors.close()


class Pool:
  """Processes with one set of limits; calls of several threads take turns."""

  def __init__(
    self, task: str, seconds: float, megabytes: int, num_workers: int
  ):
    self._arguments = (task, str(float(seconds)), str(megabytes))
    self._num_workers = num_workers
    # Of wall time for one row, should its processor time not be limited.
    self._patience = 10 * seconds + 30
    self._lock = threading.Lock()
    self._workers: list[_Worker] = []

  def compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Which pairs of answers are equal, in order.

    Raises:
      RuntimeError: as of `run`.
    """
    return [result is True for result in self.run(pairs)]

  def run(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """What the task makes of each row of arguments, in order, as JSON has it.

    None for a row that exceeds a limit or raises an error.

    Raises:
      RuntimeError: if processes cannot be started, with what they say, or the
        interpreter is exiting.
    """
    with self._lock:
      try:
        return self._run(rows)
      except BaseException:
        # A process in the middle of something would answer the next call.
        self._close()
        raise

  def close(self) -> None:
    """Ends all processes; they are started again when they are needed."""
    with self._lock:
      self._close()

  def forget(self) -> None:
    """In a fork of this program: lets go of processes, which are not its."""
    for worker in self._workers:
      worker.forget()
    self._workers.clear()
    self._lock = threading.Lock()

  def _close(self) -> None:
    while self._workers:
      self._workers.pop().close()

  def _run(self, all_rows):
    results = [None] * len(all_rows)
    waiting = collections.deque(_chunks(all_rows, self._num_workers))
    losses: collections.Counter[int] = collections.Counter()

    def give_up(worker, final=False):
      # Processor time is a row's own, so its excess is final. Other ends may
      # be due to rows before, or to the system: the row gets one more chance,
      # and more if it was not even read.
      rows = list(worker.rows)
      worker.rows.clear()
      if rows[1:]:
        waiting.appendleft(rows[1:])
      if rows and not final:
        losses[rows[0]] += _MOST_LOSSES // 2 if worker.reading else 1
        if losses[rows[0]] < _MOST_LOSSES:
          waiting.appendleft(rows[:1])

    while waiting or any(worker.rows for worker in self._workers):
      if _exiting:
        raise RuntimeError(
          "the interpreter exits, and compares no more answers"
        )
      self._start(len(waiting))
      for worker in self._workers:
        if waiting and worker.ready and not worker.rows:
          worker.send(waiting.popleft(), all_rows)
          worker.deadline = time.monotonic() + self._patience
      for worker, said in self._read():
        worker.deadline = time.monotonic() + self._patience
        for line in said:
          if line == _READY:
            worker.ready = True
          elif line == _BEGIN:
            worker.reading = True
          elif line in (_TIMEOUT, _NO_MEMORY):
            give_up(worker, final=line == _TIMEOUT)
          elif line:
            results[worker.rows.popleft()] = _read_json(line)
        if not said:
          self._bury(worker)
          give_up(worker)
    return results

  def _start(self, num_chunks: int) -> None:
    idle = sum(not worker.rows for worker in self._workers)
    room = self._num_workers - len(self._workers)
    for _ in range(min(num_chunks - idle, room)):
      self._workers.append(_Worker(self._arguments))

  def _read(self) -> Iterator[tuple[_Worker, list[bytes]]]:
    """Lines of processes, and an empty one; none of one that ended or hangs."""
    with selectors.DefaultSelector() as selector:
      for worker in self._workers:
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
      soonest = min(worker.deadline for worker in self._workers)
      ready = selector.select(max(0.0, soonest - time.monotonic()))
    for key, _ in ready:
      yield key.data, key.data.said()
    now = time.monotonic()
    for worker in list(self._workers) if not ready else ():
      busy = worker.rows or not worker.ready
      if busy and worker.deadline <= now:
        yield worker, []
      elif not busy:
        worker.deadline = now + self._patience

  def _bury(self, worker: _Worker) -> None:
    self._workers.remove(worker)
    worker.errors.seek(0)
    said = worker.errors.read().decode(errors="replace").strip()
    status = worker.close()
    if not worker.ready:
      last = said.splitlines()[-1] if said else "no message"
      raise RuntimeError(
        f"a process that compares ended when it started, with status {status}: "
        f"{last}"
      )


def _chunks(rows: Sequence, num_workers: int) -> Iterator[list[int]]:
  """Rows that are sent together."""
  least, most = _CHUNK
  number = min(most, max(least, -(-len(rows) // num_workers)))
  for begin in range(0, len(rows), number):
    yield list(range(begin, min(begin + number, len(rows))))


def _read_json(line: bytes) -> Any:
  """What a line says; None of one that was broken off."""
  try:
    return json.loads(line)
  except ValueError:
    return None


_pools: dict[tuple, Pool] = {}
_pools_lock = threading.Lock()
_exiting = False


def pool(
  *, task: str, seconds: float | int, megabytes: int, num_workers: int
) -> Pool:
  """The one pool with these settings; it lives until the interpreter exits.

  Args:
    task: what its processes do, one of `grading_worker.TASKS`.
    seconds: of processor time for a row.
    megabytes: of memory for a process.
    num_workers: processes.
  """
  key = (task, float(seconds), megabytes, num_workers)
  with _pools_lock:
    if key not in _pools:
      _pools[key] = Pool(*key)
    return _pools[key]


def close() -> None:
  """Ends all processes that compare; they start again when they are needed."""
  for each in list(_pools.values()):
    each.close()


def _exit() -> None:
  global _exiting
  _exiting = True
  for each in _pools.values():
    # Without its lock, which a thread that still grades may hold.
    each._close()


def _after_fork() -> None:
  global _pools_lock
  _pools_lock = threading.Lock()
  for each in _pools.values():
    each.forget()


atexit.register(_exit)
os.register_at_fork(after_in_child=_after_fork)
