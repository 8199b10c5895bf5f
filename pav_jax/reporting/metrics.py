"""What a run writes for programs: metrics.jsonl, event files, report.json."""

import contextvars
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX

from pav_jax import files
from pav_jax.reporting.trackers import Tracker

# Gives the settings that a run has used so far, as text to run it again.
CONFIG: contextvars.ContextVar[Callable[[], str]] = contextvars.ContextVar(
  "CONFIG", default=lambda: ""
)


class MetricsLog:
  """Appends rows to `metrics.jsonl` and scalars to TensorBoard event files.

  And to the tracker that the environment names, see `trackers`.

  A row is `{"iteration": i, "arm": name, metric: [value per seed], …}` with i
  counted from 1. A resumed run keeps the rows up to the checkpoint that it
  continues from and drops what was written after.

  Of several processes the first writes; the others keep rows in memory.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Opens the files, or makes them; `resume` comes before writing.

    Raises:
      ValueError: if a file is damaged, or as of `trackers.Tracker`.
      MissingPackageError: as of `trackers.Tracker`.
    """
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self._events = pathlib.Path(workdir) / "tensorboard"
    self._writers: dict[str, tensorboardX.SummaryWriter] = {}
    self._purge_step: dict[str, int] = {}
    self._rows = list(_complete_rows(self._path))
    self._file = None
    self._tracker = Tracker(workdir)

  def resume(
    self,
    arms: Iterable[str],
    iteration: int,
    *,
    expected: Mapping[str, Iterable[int]] | None = None,
  ) -> None:
    """Keeps the rows of these arms up to `iteration`, and all other rows.

    Args:
      arms: that go on.
      iteration: of the checkpoint from which they do; 0 for none, of which no
        row is kept, one of iteration 0 included.
      expected: arm -> iterations whose rows a report will need; later ones
        than `iteration` are not looked for.

    Raises:
      ValueError: if rows are missing, before anything is changed.
    """
    arms = set(arms)
    rows = [
      row
      for row in self._rows
      if row["arm"] not in arms or 0 <= row["iteration"] <= iteration > 0
    ]
    for arm, iterations in (expected or {}).items():
      there = {row["iteration"] for row in rows if row["arm"] == arm}
      wanted = {x for x in iterations if x <= iteration > 0}
      if missing := sorted(wanted - there):
        raise self._lacks(arm, f", the first of them of {missing[0]}")
    self._rows = rows
    self._purge_step |= dict.fromkeys(arms, iteration + 1)
    if jax.process_index():
      return
    if self._file:
      self._file.close()
    text = "".join(json.dumps(row) + "\n" for row in self._rows)
    files.write_text(self._path, text)
    self._file = self._path.open("a")

  def _lacks(self, arm: str, which: str = "") -> ValueError:
    return ValueError(
      f"{self._path} lacks rows of arm {arm!r}{which}; restore the file, or "
      "move the workdir away to start afresh"
    )

  def write(
    self, arm: str, iterations: Iterable[int], metrics: dict[str, np.ndarray]
  ) -> None:
    """Adds a row for each iteration of an arm.

    Args:
      arm: its name.
      iterations: counted from 1.
      metrics: name -> float[iterations, seeds].

    Raises:
      OSError: if the disk is full or fails, or the file was removed.
    """
    for index, iteration in enumerate(iterations):
      row = {"iteration": iteration, "arm": arm}
      row |= {
        name: [_rounded(value) for value in values[index]]
        for name, values in metrics.items()
      }
      self._rows.append(row)
      if jax.process_index():
        continue
      self._file.write(json.dumps(row) + "\n")
      means = {name: float(np.mean(x[index])) for name, x in metrics.items()}
      means = {name: x for name, x in means.items() if np.isfinite(x)}
      for name, value in means.items():
        self._writer(arm).add_scalar(name, value, iteration)
      self._tracker.log(arm, iteration, means, CONFIG.get())
    if self._file:
      try:
        self._file.flush()
        os.fsync(self._file.fileno())  # mounted buckets have it only then
      except OSError as error:
        raise files.could_not_write(self._path, error) from error
      if not self._path.exists():
        raise FileNotFoundError(
          f"{self._path} was removed while the run was at work; what it wrote "
          "is lost. The same command goes on from what is left"
        )

  def history(self, arm: str, metric: str, iterations: int) -> np.ndarray:
    """float[iterations, seeds] of the arm's first iterations.

    Raises:
      ValueError: if the file lacks rows of them.
    """
    rows = [row for row in self._rows if row["arm"] == arm][:iterations]
    if [row["iteration"] for row in rows] != list(range(1, iterations + 1)):
      raise self._lacks(arm)
    return np.array([row[metric] for row in rows], np.float64)

  def rows(self, arm: str) -> dict[str, list[Any]]:
    """All rows of an arm: `iteration` and every metric, a list each.

    Raises:
      ValueError: if there are none.
    """
    rows = [row for row in self._rows if row["arm"] == arm]
    if not rows:
      raise self._lacks(arm)
    return {
      name: [row[name] for row in rows] for name in rows[0] if name != "arm"
    }

  def close(self) -> None:
    """Flushes everything to disk."""
    if self._file:
      self._file.close()
    for writer in self._writers.values():
      writer.close()
    self._tracker.close()

  def _writer(self, arm: str) -> tensorboardX.SummaryWriter:
    if arm not in self._writers:
      self._writers[arm] = tensorboardX.SummaryWriter(
        str(self._events / arm), purge_step=self._purge_step[arm]
      )
    return self._writers[arm]


def _rounded(value: Any) -> float | None:
  """Seven significant digits, enough for float32; null for NaN."""
  value = float(value)
  return float(f"{value:.7g}") if math.isfinite(value) else None


def _complete_rows(path: pathlib.Path) -> Iterable[dict]:
  """Rows of a file whose last line may have been cut off."""
  if not path.exists():
    return
  lines = path.read_text().splitlines(keepends=True)
  for number, line in enumerate(lines, start=1):
    if not line.endswith("\n"):
      return
    try:
      yield json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(
        f"line {number} of {path} is not JSON ({error}); restore the file, or "
        "move the workdir away to start afresh"
      ) from error


def write_config(workdir: str | os.PathLike) -> None:
  """Writes `config.gin`, what `CONFIG` says, if it says anything.

  Of several processes the first writes it.
  """
  if jax.process_index():
    return
  if config := CONFIG.get()():
    # Programs that share the directory may all come here.
    path = pathlib.Path(workdir) / "config.gin"
    files.write_text(path, config, writer=str(os.getpid()))


def write_report(
  path: str | os.PathLike,
  *,
  experiment: str,
  arms: dict[str, dict[str, Any]],
  seconds: float,
  **more: Any,
) -> None:
  """Writes `report.json` at once or not at all.

  Of several processes the first writes it.

  Args:
    path: of the file.
    experiment: its name.
    arms: arm -> metric -> value, per seed where there are several; None for
      what never happened.
    seconds: wall time.
    **more: whatever else a program may want to know.
  """
  if jax.process_index():
    return
  path = pathlib.Path(path)
  report = {
    "experiment": experiment,
    "arms": arms,
    "seconds": round(seconds, 3),
    **more,
  }
  files.write_json(path, report)
