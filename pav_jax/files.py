"""Files and folders that appear whole or not at all, and are what was written.

Everything is written beside its place, under the name `.NAME.partial`, brought
to the disk, and renamed. What a killed writer leaves is overwritten by the next
one of the same name, and `remove_leftovers` deletes the rest. A path has one
writer at a time; who writes sees to that, as `runs.workdir` does for runs.

What is read back later is checked: a folder by the SHA-256 of its files in
`pav_jax.sha256` (`sha256sum -c` reads it too), a JSON file by a checksum inside
it, and parts of sharded work by receipts (`shards`).
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO, Any

SUMS = "pav_jax.sha256"

_CHECKSUM, _FILE = "checksum", "file"
_PARTIAL, _OLD = ".partial", ".replaced.partial"


@contextlib.contextmanager
def whole_file(
  path: str | os.PathLike, mode: str = "wb", *, writer: str = ""
) -> Iterator[IO]:
  """Opens a file that appears at `path` when the context ends without error.

      with whole_file(path, "w") as file:
        file.write(text)

  Args:
    path: of the file; one that is there is replaced, its directory exists.
    mode: "wb", or "w" for UTF-8 text.
    writer: tells apart those that may write this path at the same time.

  Raises:
    OSError: if the file cannot be written; what was at `path` stays.
  """
  path = pathlib.Path(path)
  partial = partial_of(path, writer)
  try:
    with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
      yield file
    put_in_place(partial, path)
  except BaseException as error:
    partial.unlink(missing_ok=True)
    if isinstance(error, OSError):
      raise could_not_write(path, error) from error
    raise


def partial_of(path: pathlib.Path, writer: str = "") -> pathlib.Path:
  """Where a file or folder is written before it appears at `path`."""
  by = f".{writer}" if writer else ""
  return path.with_name(f".{path.name}{by}{_PARTIAL}")


def put_in_place(partial: pathlib.Path, path: pathlib.Path) -> None:
  """Brings a file to the disk, then to its place."""
  sync(partial)
  os.replace(partial, path)
  sync(path.parent)


def write_bytes(
  path: str | os.PathLike, data: bytes, *, writer: str = ""
) -> None:
  """Writes a whole file; see `whole_file`."""
  with whole_file(path, writer=writer) as file:
    file.write(data)


def write_text(path: str | os.PathLike, text: str, *, writer: str = "") -> None:
  """Writes a whole file of UTF-8 text; see `whole_file`."""
  write_bytes(path, text.encode(), writer=writer)


def write_json(
  path: str | os.PathLike,
  content: Any,
  *,
  checked: bool = False,
  writer: str = "",
) -> None:
  """Writes a whole JSON file; see `whole_file`.

  Args:
    path: of the file.
    content: what JSON has, without infinities and NaN.
    checked: adds the file's name and a checksum to the content, an object, by
      which `read_json` tells damage and files under another's name.
    writer: see `whole_file`.
  """
  path = pathlib.Path(path)
  if checked:
    content = content | {_FILE: path.name}
    content[_CHECKSUM] = _checksum(content)
  text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
  write_bytes(path, text.encode() + b"\n", writer=writer)


def read_json(
  path: str | os.PathLike, *, checked: bool = False, way_out: str
) -> Any:
  """Reads a JSON file.

  Args:
    path: of the file.
    checked: whether it was written with a checksum, which is taken out.
    way_out: what to do if it is damaged, a sentence's end for the message.

  Raises:
    ValueError: if the file is not JSON, or was changed after it was written.
    OSError: if it cannot be read.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    reason = str(error) if isinstance(error, ValueError) else "nested too deep"
    raise ValueError(f"{path} cannot be read ({reason}); {way_out}") from error
  if not checked:
    return content
  if not isinstance(content, dict) or _CHECKSUM not in content:
    raise ValueError(f"{path} has no checksum; {way_out}")
  checksum = content.pop(_CHECKSUM)
  if checksum != _checksum(content):
    raise ValueError(
      f"{path} is not what was written: it does not match its checksum; "
      f"{way_out}"
    )
  if (name := content.pop(_FILE)) != path.name:
    raise ValueError(f"{path} was written as {name}; {way_out}")
  return content


def _checksum(content: dict[str, Any]) -> str:
  return digest(canonical(content))


def canonical(content: Any) -> bytes:
  """JSON that depends on the content alone, not on the order of keys."""
  return json.dumps(content, sort_keys=True).encode()


def describe(x: Any) -> str:
  """`repr` without addresses in memory: the same in every process.

  It is what a run's identity says of an object that may be a function.
  """
  return re.sub(r" at 0x[0-9a-f]+", "", repr(x))


@contextlib.contextmanager
def whole_folder(
  path: str | os.PathLike, *, replace: bool = False, checked: bool = False
) -> Iterator[pathlib.Path]:
  """Gives an empty folder that appears at `path` when the context ends.

      with whole_folder(path) as folder:
        (folder / "a.txt").write_text("…")

  Its files get the access rights that the umask says.

  Args:
    path: of the folder.
    replace: what is at `path` is replaced; without, an empty folder is.
    checked: writes `pav_jax.sha256`, see `check_folder`.

  Raises:
    ValueError: if there is something at `path` that is not to be replaced.
    OSError: if the folder cannot be written; what was at `path` stays.
  """
  path = pathlib.Path(path).absolute()
  _check_place(path, replace)
  partial, old = partial_of(path), path.with_name(f".{path.name}{_OLD}")
  try:
    for left in (partial, old):
      shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if checked:
      write_sums(partial)
    _settle(partial)
    _check_place(path, replace)
    if path.exists():
      path.rename(old)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
  except BaseException as error:
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(error, OSError):
      raise could_not_write(path, error) from error
    raise


def _check_place(path: pathlib.Path, replace: bool) -> None:
  if path.exists() and (
    not path.is_dir() or (not replace and any(path.iterdir()))
  ):
    raise ValueError(f"{path} exists, expected a new or empty directory")


def _settle(folder: pathlib.Path) -> None:
  """Files on the disk, with access rights as of the folder itself."""
  mode = folder.stat().st_mode & 0o666
  for path in folder.rglob("*"):
    if path.is_file():
      path.chmod(mode)
      sync(path)
  sync(folder)


def write_sums(folder: pathlib.Path) -> None:
  """Writes `pav_jax.sha256` of all other files in a folder."""
  lines = [
    f"{file_digest(folder / name)}  {name}\n" for name in files_in(folder)
  ]
  (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def files_in(folder: pathlib.Path) -> list[str]:
  """Relative names of all files in a folder but `pav_jax.sha256`, sorted."""
  return sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob("*")
    if path.is_file() and path.name != SUMS
  )


def check_folder(folder: str | os.PathLike) -> bool:
  """Whether a folder has checksums; they match then.

  Files that are not among them are not looked at.

  Raises:
    ValueError: naming the file that is missing or was changed.
  """
  folder = pathlib.Path(folder)
  try:
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
  except FileNotFoundError:
    return False
  except UnicodeDecodeError as error:
    raise ValueError(f"{folder / SUMS} is not text: it is damaged") from error
  for line in lines:
    expected, _, name = line.partition("  ")
    way_out = (
      f"make {folder} again or bring a good copy; if it was changed on "
      f"purpose, delete {folder / SUMS}"
    )
    try:
      came = file_digest(folder / name)
    except OSError as error:
      raise ValueError(
        f"{folder / name} cannot be read ({error.strerror}), and is in {SUMS}; "
        f"{way_out}"
      ) from error
    if came != expected:
      raise ValueError(
        f"{folder / name} is damaged: its SHA-256 is {came[:12]}…, expected "
        f"{expected[:12]}…; {way_out}"
      )
  return True


def digest(data: bytes) -> str:
  """SHA-256 in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def file_digest(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(directory: str | os.PathLike) -> None:
  """Deletes what killed writers have left in a directory and below it.

  Nobody may be writing there. What was to be replaced comes back, if the writer
  was killed before the new folder was in its place.
  """
  for path in sorted(pathlib.Path(directory).rglob(f".*{_PARTIAL}")):
    if path.name.endswith(_OLD):
      place = path.with_name(path.name[1 : -len(_OLD)])
      if not place.exists():
        path.rename(place)
        continue
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def sync(path: str | os.PathLike) -> None:
  """Waits until a file or a directory is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    # Some file systems cannot synchronise directories.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def is_full(error: BaseException) -> bool:
  """Whether an error, or what it came from, is that of a full disk."""
  # TensorFlow's name, and tensorstore's words.
  return (
    getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    or type(error).__name__ == "ResourceExhaustedError"
    or "No space left on device" in str(error)
    or (error.__cause__ is not None and is_full(error.__cause__))
  )


def could_not_write(path: str | os.PathLike, error: Exception) -> OSError:
  """An error that says what to do, in place of one from writing a path."""
  if is_full(error):
    return OSError(
      errno.ENOSPC,
      f"could not write {path}: the disk is full. Make room and start again "
      "with the same settings; what was finished is kept",
    )
  return OSError(
    getattr(error, "errno", None) or errno.EIO,
    f"could not write {path}: {error}. Start again with the same settings when "
    "that is mended; what was finished is kept",
  )
