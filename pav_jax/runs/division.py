"""Work in parts, each of them a file, which processes divide."""

import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from pav_jax.reporting import progress
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.training import processes

# What a network's file system may take until all see a file.
_SECONDS_TO_SEE = 60


class Division:
  """Who does which part.

      with Watch() as told_to_stop:
        division = Division(told_to_stop)
        division.write("drawing", files, sizes, draw)
        …
        division.wait()
        … = [path.read_bytes() for path in files]

  Processes take turns, in a directory that all of them see. Parts that are
  there already are left as they are: a run that was killed goes on with what is
  missing, in as many processes as there are then.
  """

  def __init__(self, told_to_stop: Watch):
    """Within the context of a watch, SIGTERM ends no part midway."""
    self._turn = 0
    self._files = []
    self._told_to_stop = told_to_stop

  def write(
    self,
    label: str,
    files: Sequence[pathlib.Path],
    sizes: Sequence[int],
    make: Callable[[int], tuple[bytes, dict[str, float]]],
  ) -> None:
    """Writes those of the missing parts that fall to this process.

    Args:
      label: what is made.
      files: of the parts; all processes call this with the same ones.
      sizes: of the parts, for the progress bar.
      make: a part's number to its bytes, and what the bar shows of it.

    Raises:
      Preempted: once told to stop, in a single process; several find that out
        together when they `wait`.
    """
    count, index, turn = jax.process_count(), jax.process_index(), self._turn
    self._turn += len(files)
    self._files += files
    missing = [
      number
      for number, file in enumerate(files)
      if (turn + number) % count == index and not file.exists()
    ]
    if not missing:
      return

    def done():
      parts = zip(files, sizes, strict=True)
      return sum(size for file, size in parts if file.exists())

    with progress.Progress(sum(sizes), done=done(), label=label) as bar:
      for number in missing:
        if self._stop():
          return
        file = files[number]
        file.parent.mkdir(parents=True, exist_ok=True)
        found, shown = make(number)
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(found)
        os.replace(partial, file)
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
    for file in self._files:
      while not file.exists():
        if time.monotonic() > end:
          raise FileNotFoundError(
            f"{file} is not here, though another process has written it: "
            "expected a workdir that all processes see"
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
