"""Work in parts, each of them a file, which processes divide."""

import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from pav_jax.reporting import progress
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.shards import Shards
from pav_jax.training import processes

# What a network's file system may take until all see a file.
_SECONDS_TO_SEE = 60


class Division:
  """Who does which part.

      with Watch() as told_to_stop:
        division = Division(told_to_stop)
        division.write("drawing", shards, names, sizes, draw)
        …
        division.wait()
        … = [shards.read(name) for name in names]

  Processes take turns, in a directory that all of them see. Parts that are
  there already are left as they are: a run that was killed goes on with what is
  missing, in as many processes as there are then.
  """

  def __init__(self, told_to_stop: Watch):
    """Within the context of a watch, SIGTERM ends no part midway."""
    self._turn = 0
    self._parts: list[tuple[Shards, str]] = []
    self._told_to_stop = told_to_stop

  def write(
    self,
    label: str,
    shards: Shards,
    names: Sequence[str],
    sizes: Sequence[int],
    make: Callable[[int], tuple[bytes, dict[str, float]]],
  ) -> None:
    """Writes those of the missing parts that fall to this process.

    Args:
      label: what is made.
      shards: where parts are kept.
      names: of the parts; all processes call this with the same ones.
      sizes: of the parts, for the progress bar.
      make: a part's number to its bytes, and what the bar shows of it.

    Raises:
      ValueError: if a part that is there is damaged, or of another run.
      Preempted: once told to stop, in a single process; several find that out
        together when they `wait`.
    """
    count, index, turn = jax.process_count(), jax.process_index(), self._turn
    self._turn += len(names)
    self._parts += [(shards, name) for name in names]
    missing = [
      number for number, name in enumerate(names) if shards.missing(name)
    ]
    mine = [number for number in missing if (turn + number) % count == index]
    for number in set(range(len(names))) - set(missing):
      if (turn + number) % count == index:
        shards.check(names[number])
    if not mine:
      return

    def done():
      parts = zip(names, sizes, strict=True)
      return sum(size for name, size in parts if not shards.missing(name))

    with progress.Progress(sum(sizes), done=done(), label=label) as bar:
      for number in mine:
        if self._stop():
          return
        data, shown = make(number)
        shards.write(names[number], data)
        bar.update(done(), shown)

  def wait(self) -> None:
    """Returns when all processes have done their parts; the first sees all.

    Raises:
      Preempted: if any of them was told to stop.
      FileNotFoundError: in the first process, if it does not see what others
        have written.
    """
    if self._told_to_stop.agree():
      raise Preempted("stopped; what was begun is kept")
    if not processes.is_first():
      return
    end = time.monotonic() + _SECONDS_TO_SEE
    for shards, name in self._parts:
      while shards.missing(name):
        if time.monotonic() > end:
          raise FileNotFoundError(
            f"{shards.directory / name} is not here, though another process "
            "has written it: expected a workdir that all processes see"
          )
        time.sleep(1)

  def _stop(self) -> bool:
    stop = self._told_to_stop()
    if stop and jax.process_count() == 1:
      self.wait()
    return stop


def in_parts(
  rows: np.ndarray, each: int
) -> Iterator[tuple[int, np.ndarray, int]]:
  """Parts of one size: where each begins, its rows, how many of them count.

  The last part is filled up, so that all are one program.
  """
  for first in range(0, len(rows), each):
    part = np.take(rows, np.arange(first, first + each), axis=0, mode="clip")
    yield first, part, min(each, len(rows) - first)
