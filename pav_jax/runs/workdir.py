"""A run's work directory: whose it is, and that one run at a time is in it.

    with workdir.occupied(path):
      workdir.accept(path, "planted", {"seed": "0", …})
      …

`occupied` makes the directory, sees to it that all processes of the run see the
same one, and keeps other runs out. `accept` refuses the directory of another
experiment before anything in it is changed, and writes config.gin. Runs that
are functions `(workdir, experiment, …)` are decorated: `@exclusive`.
"""

import contextlib
import datetime
import difflib
import errno
import fcntl
import functools
import json
import os
import pathlib
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from pav_jax import files
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config
from pav_jax.training import processes
from pav_jax.training.state import excerpt

IDENTITY, LOCK = "run.json", ".lock"
# What a network's file system may take until all processes see a new file.
_SECONDS_TO_SEE = 10.0
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Occupied(ValueError):
  """Another run is at work in a directory."""


# Directories that this process is in, so that a run may call another.
_held: set[pathlib.Path] = set()


def exclusive(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Decorates a run `(workdir, experiment, …)`: see `occupied`."""

  @functools.wraps(fn)
  def in_workdir(workdir, *args, **kwargs):
    with occupied(workdir):
      return fn(workdir, *args, **kwargs)

  return in_workdir


@contextlib.contextmanager
def occupied(
  workdir: str | os.PathLike, *, shared: bool = False
) -> Iterator[None]:
  """Has a directory to itself while the context lasts.

  All processes of a run enter together; entering a directory again that this
  process is in does nothing. What killed writers have left is deleted.

  Args:
    workdir: made if it is not there.
    shared: with other programs that say the same, which divide the work by
      means of their own.

  Raises:
    ValueError: if processes of this run do not see the same directory.
    Occupied: if another run is in it.
    OSError: if it cannot be written; or if it was removed in the meantime.
  """
  path = pathlib.Path(workdir).absolute()
  if path in _held:
    yield
    return
  together(lambda: _make(path))
  _check_same_directory(path)
  lock = together(lambda: _Lock(path, shared) if _is_first() else None)
  _held.add(path)
  try:
    if lock and not shared:
      files.remove_leftovers(path)
    if lock and lock.before:
      progress.say(
        f"the run before this one ({lock.before}) ended without a word, as "
        "killed ones do; this one goes on from what it kept"
      )
    processes.gather_objects([None])  # leftovers are gone before anyone writes
    try:
      yield
    except OSError:
      if lock:  # of a directory that is gone
        lock.check_still_there()
      raise
    if lock:
      lock.check_still_there()
  finally:
    _held.discard(path)
    if lock:
      lock.release()


def accept(
  workdir: str | os.PathLike, experiment: str, settings: Mapping[str, str]
) -> None:
  """Takes a directory for an experiment, if it is empty or of this experiment.

  Then config.gin is written, and not before. All processes call it.

  Args:
    workdir: of the run.
    experiment: its name, for messages.
    settings: what a run must agree on to go on with what another began, as
      printable strings. Those that were not there before are added.

  Raises:
    ValueError: if processes have other settings than the first one, or the
      directory is of another experiment, naming both.
  """
  settings = {name: str(value) for name, value in settings.items()}
  check_agreed(json.dumps(settings, indent=0, sort_keys=True))
  path = pathlib.Path(workdir) / IDENTITY
  together(lambda: _accept(path, experiment, settings))
  write_config(workdir)


def _accept(
  path: pathlib.Path, experiment: str, settings: dict[str, str]
) -> None:
  if not _is_first():
    return
  before = {"experiment": experiment, "settings": {}}
  if path.exists():
    before = files.read_json(
      path,
      checked=True,
      way_out="choose another workdir, or delete this file if the directory is "
      "of this experiment",
    )
  was = before["settings"]
  if was.get("run") != settings.get("run") and {"run"} <= was.keys() & settings:
    settings = {"run": settings["run"]}  # then nothing else is alike either
  differences = [
    f"{name} was {excerpt(was[name], now)}, now {excerpt(now, was[name])}"
    for name, now in settings.items()
    if was.get(name, now) != now
  ]
  if differences:
    raise ValueError(
      f"{path.parent} holds the run {before['experiment']!r}, and "
      f"{experiment!r} has another configuration: {'; '.join(differences)}. "
      "Choose another workdir, or move this one away"
    )
  if was | settings != was:
    # Programs that share the directory may all come here.
    files.write_json(
      path,
      before | {"settings": was | settings},
      checked=True,
      writer=str(os.getpid()),
    )


def check_agreed(text: str) -> None:
  """Raises ValueError in all processes if one has another text than the first.

  Args:
    text: settings, a line each.
  """
  digests = processes.gather_objects([files.digest(text.encode())])
  if len(set(digests)) == 1:
    return
  texts = [text.splitlines() for text in processes.gather_objects([text])]
  other = next(i for i, lines in enumerate(texts) if lines != texts[0])
  lines = difflib.unified_diff(texts[0], texts[other], n=0, lineterm="")
  changes = [line for line in lines if line[:3] not in ("---", "+++")]
  was, now = (
    "; ".join(line[1:].strip() for line in changes if line[0] == sign)
    for sign in "-+"
  )
  raise ValueError(
    f"processes have other settings: process 0 has {was[:300] or 'no such'}, "
    f"process {other} has {now[:300] or 'no such'}; expected the same in all"
  )


def together(fn: Callable[[], Any]) -> Any:
  """Calls a function in every process; if one fails, all do.

  Raises:
    Exception: this process's own.
    ValueError: if it has none and another process has.
  """
  result, error = None, None
  try:
    result = fn()
  except Exception as came:
    error = came
  failed = processes.gather_objects([None if error is None else str(error)])
  if error is not None:
    raise error
  for process, message in enumerate(failed):
    if message is not None:
      raise ValueError(f"process {process} ends: {message}")
  return result


def _is_first() -> bool:
  return jax.process_index() == 0


def _make(path: pathlib.Path) -> None:
  """Makes the directory, and makes sure that files can be written there."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".{secrets.token_hex(8)}.partial"
    probe.touch()
    probe.unlink()
  except OSError as error:
    reason = error.strerror
    if isinstance(error, FileExistsError | NotADirectoryError):
      reason = "there is a file in the way, expected a directory"
    raise OSError(
      error.errno, f"workdir {path} cannot be written ({reason})"
    ) from error


def _check_same_directory(path: pathlib.Path) -> None:
  """Raises ValueError in all processes if they do not see the first's files."""
  if jax.process_count() == 1:
    return
  # A name that nobody has looked for, so that no cache says it is not there.
  token = path / f".{processes.agree(secrets.token_hex(8))}.partial"
  if _is_first():
    token.touch()
  processes.gather_objects([None])
  end = time.monotonic() + _SECONDS_TO_SEE
  while not (seen := token.exists()) and time.monotonic() < end:
    time.sleep(0.1)
  seen = processes.gather_objects([seen])
  if _is_first():
    token.unlink()
  if not all(seen):
    blind = [str(process) for process, sees in enumerate(seen) if not sees]
    raise ValueError(
      f"processes {', '.join(blind)} of {len(seen)} do not see what process 0 "
      f"writes to {path}: expected a workdir that all processes share"
    )


class _Lock:
  """A lock on a directory, which ends with its process at the latest.

  Attributes:
    before: who had it before and did not give it back; empty for nobody.
  """

  def __init__(self, directory: pathlib.Path, shared: bool):
    self._directory, self.before = directory, ""
    self._file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
      fcntl.flock(self._file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
      who = self._read() or "which shares it with others"
      os.close(self._file)
      raise Occupied(
        f"another run ({who}) is at work in {directory}; wait for its end or "
        "end it, or choose another workdir"
      ) from None
    except OSError as error:
      if error.errno not in _CANNOT_LOCK:
        os.close(self._file)
        raise
      warnings.warn(
        f"{directory} cannot be locked ({error.strerror}); see to it that one "
        "run at a time works there",
        stacklevel=2,
      )
    if not shared:
      self.before = self._read()
      now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
      who = f"process {os.getpid()} on {socket.gethostname()}, begun {now}"
      self._write(who)

  def check_still_there(self) -> None:
    """Raises OSError if the directory was removed or replaced."""
    with contextlib.suppress(FileNotFoundError):
      (self._directory / LOCK).stat()
      if os.fstat(self._file).st_nlink:
        return
    raise OSError(
      errno.ENOENT,
      f"workdir {self._directory} was removed while the run was at work; what "
      "it wrote is lost. The same command starts afresh",
    )

  def release(self) -> None:
    """Gives the lock back."""
    with contextlib.suppress(OSError):
      self._write("")
    os.close(self._file)

  def _read(self) -> str:
    return os.pread(self._file, 1000, 0).decode(errors="replace").strip()

  def _write(self, text: str) -> None:
    os.ftruncate(self._file, 0)
    os.pwrite(self._file, text.encode(), 0)
