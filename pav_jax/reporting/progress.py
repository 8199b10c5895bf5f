"""What a person sees while a run goes on, and at its end."""

import io
import pathlib
import time
from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from pav_jax import files

_console = rich.console.Console(highlight=False)
if not _console.is_terminal:
  _console = rich.console.Console(highlight=False, width=120)


def silence() -> None:
  """From now on nothing is printed: another process says the same."""
  _console.quiet = True


def say(text: str) -> None:
  """Prints a line above the progress bar, if there is one."""
  _console.print(text, markup=False, soft_wrap=True)


class Progress:
  """A line with iteration, accuracies, rate and time left.

  On a terminal it is a bar that stays in place; into a file it is a line now
  and then.
  """

  def __init__(
    self,
    total: int,
    *,
    done: int = 0,
    label: str = "",
    seconds_between_lines: float = 10.0,
  ):
    """Starts at `done` of `total` iterations.

    Args:
      total: iterations in the run.
      done: iterations done before, in a resumed run.
      label: what is running.
      seconds_between_lines: where the output is no terminal.
    """
    self._total, self._label = total, label
    self._interval = seconds_between_lines
    self._last_line = time.monotonic()
    self._start = self._timed_from = None
    self._bar = None
    if _console.is_terminal:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[status]}"),
        rich.progress.TimeRemainingColumn(),
        console=_console,
      )
      self._task = self._bar.add_task(
        label, total=total, completed=done, status="compiling …"
      )

  def __enter__(self) -> "Progress":
    if self._bar:
      self._bar.start()
    else:
      say(f"{self._label}: compiling …")
    return self

  def __exit__(self, *exception) -> None:
    if self._bar:
      self._bar.stop()

  def update(
    self, done: int, accuracies: dict[str, float], *, note: str = ""
  ) -> None:
    """Shows where the run is.

    The first call starts the clock of the rate: what came before compiled.

    Args:
      done: iterations done.
      accuracies: arm -> mean accuracy of late, in [0, 1]; may be empty.
      note: what else is to be shown.
    """
    now = time.monotonic()
    parts = list(accuracies.items())
    if len(parts) > 4:
      best = max(parts, key=lambda part: part[1])
      worst = min(parts, key=lambda part: part[1])
      parts = [("best " + best[0], best[1]), ("worst " + worst[0], worst[1])]
    accuracy = " · ".join(f"{arm} {value:.3f}" for arm, value in parts)
    shown = [f"accuracy {accuracy}" if accuracy else "", note]
    left = ""
    if self._timed_from is None:
      self._start, self._timed_from = now, done
    elif done > self._timed_from:
      seconds = (now - self._start) / (done - self._timed_from)
      shown.append(pace(seconds))
      left = f" · {duration((self._total - done) * seconds)} left"
    status = " · ".join(part for part in shown if part)
    if self._bar:
      self._bar.update(self._task, completed=done, status=status)
    elif done == self._total or now - self._last_line >= self._interval:
      self._last_line = now
      say(f"{self._label}: iteration {done}/{self._total} · {status}{left}")


def pace(seconds: float) -> str:
  """Seconds of an iteration, or iterations a second, whichever is above one."""
  if seconds >= 1:
    return f"{seconds:.2g} s/it" if seconds < 10 else f"{seconds:.0f} s/it"
  rate = 1 / max(seconds, 1e-9)
  return f"{rate:.2g} it/s" if rate < 10 else f"{rate:.0f} it/s"


def duration(seconds: float) -> str:
  """A time in words: "40 s", "12 min" or "3.5 h"."""
  if seconds < 120:
    return f"{seconds:.0f} s"
  return (
    f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
  )


def finish(written: Iterable[pathlib.Path], verdict: str = "") -> None:
  """What a run says last.

  Args:
    written: files and directories with its results.
    verdict: what came of it, in a line.
  """
  for path in written:
    say(f"wrote {path}")
  if verdict:
    say(verdict)


def table(
  title: str,
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  path: pathlib.Path | None = None,
) -> None:
  """Prints a small table; the first column names the rows.

  Args:
    title: what it shows.
    columns: their names.
    rows: of cells.
    path: a file to write it to instead, for one that is too long to look at.
  """
  drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  for index, column in enumerate(columns):
    drawn.add_column(
      column, justify="left" if index == 0 else "right", no_wrap=True
    )
  for row in rows:
    drawn.add_row(*(rich.text.Text(cell) for cell in row))
  if path is None:
    say(title)
    _console.print(drawn)
  else:
    text = io.StringIO()
    rich.console.Console(file=text, width=200).print(drawn)
    files.write_text(path, f"{title}\n{text.getvalue()}")
