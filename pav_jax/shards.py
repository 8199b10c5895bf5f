"""Work in parts, a file each, that is kept when its run is killed.

What a part holds must be a function of the run's settings and the part's name
alone. Beside each file lies a receipt, `NAME.json` for `NAME.SUFFIX`: its own
name, the run, the SHA-256 and the size of the file. A part is there if both
are; so it appears at once or not at all, a damaged file is named, and one of
another run or another part is not taken for this one.
"""

import io
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pav_jax import files

_WAY_OUT = (
  "move it away and start again with the same settings: this part alone is "
  "made again"
)


class Shards:
  """The parts of one kind of work, in a directory.

  Several processes, or programs, may write unlike parts at the same time.
  """

  def __init__(
    self, directory: str | os.PathLike, run: Mapping[str, Any], writer: str = ""
  ):
    """Opens a directory, which need not be there.

    Args:
      directory: of the parts.
      run: everything that decides what parts hold, as JSON.
      writer: tells apart those that write at the same time.
    """
    self.directory = pathlib.Path(directory)
    self._run = identity_of(run)
    self._writer = writer

  def receipt(self, name: str) -> dict[str, Any] | None:
    """What was said of a part when it was written; None if it is missing.

    Raises:
      ValueError: if the receipt is damaged or another's.
    """
    path = self.directory / name
    if not path.exists() or not receipt_of(path).exists():
      return None
    receipt = _read_receipt(path)
    if receipt["run"] != self._run:
      raise ValueError(
        f"{path} was written by a run with another configuration; {_WAY_OUT}"
      )
    return receipt

  def missing(self, name: str) -> bool:
    """Whether a part has yet to be written."""
    return self.receipt(name) is None

  def write(self, name: str, data: bytes, **more: Any) -> None:
    """Writes a part that is missing; arguments as of `write_by`."""

    def write(path: pathlib.Path) -> None:
      path.write_bytes(data)

    self.write_by(name, write, **more)

  def write_by(
    self,
    name: str,
    write: Callable[[pathlib.Path], None],
    **more: Any,
  ) -> dict[str, Any]:
    """Writes a part that is missing.

    Args:
      name: of the file.
      write: writes it to a path.
      **more: what else the receipt says, as JSON.

    Returns:
      The receipt.

    Raises:
      OSError: if the disk is full or fails; the part stays missing.
    """
    path = self.directory / name
    partial = files.partial_of(path, self._writer)
    try:
      self.directory.mkdir(parents=True, exist_ok=True)
      write(partial)
      receipt = {
        "sha256": files.file_digest(partial),
        "num_bytes": partial.stat().st_size,
        "run": self._run,
        **more,
      }
      # The receipt first: so a file is never there without.
      files.write_json(
        receipt_of(path), receipt, checked=True, writer=self._writer
      )
      files.put_in_place(partial, path)
    except Exception as error:
      partial.unlink(missing_ok=True)
      if isinstance(error, OSError) or files.is_full(error):
        raise files.could_not_write(path, error) from error
      raise
    return receipt

  def read(self, name: str) -> bytes:
    """The bytes of a part.

    Raises:
      ValueError: if it is missing, damaged or another's.
    """
    if self.missing(name):
      raise ValueError(f"{self.directory / name} or its receipt is missing")
    return read(self.directory / name)

  def check(self, name: str) -> None:
    """Raises ValueError unless a part has the bytes it was written with."""
    self.read(name)


def identity_of(run: Mapping[str, Any]) -> str:
  """A digest of settings, however they are ordered."""
  return files.digest(files.canonical(run))


def receipt_of(path: pathlib.Path) -> pathlib.Path:
  """Where the receipt of a part is."""
  return path.with_suffix(".json")


def read(path: str | os.PathLike) -> bytes:
  """The bytes of a part, of whatever run.

  Raises:
    ValueError: if the file or its receipt is damaged, missing or another's.
  """
  path = pathlib.Path(path)
  receipt = _read_receipt(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error.strerror}); {_WAY_OUT}"
    ) from error
  if (came := files.digest(data)) != receipt["sha256"]:
    raise ValueError(
      f"{path} is damaged: its SHA-256 is {came[:12]}… ({len(data)} bytes), "
      f"and {receipt['sha256'][:12]}… ({receipt['num_bytes']} bytes) was "
      f"written; {_WAY_OUT}"
    )
  return data


def _read_receipt(path: pathlib.Path) -> dict[str, Any]:
  receipt = receipt_of(path)
  try:
    return files.read_json(receipt, checked=True, way_out=_WAY_OUT)
  except FileNotFoundError as error:
    raise ValueError(f"{receipt} is missing; {_WAY_OUT}") from error


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Arrays as the bytes of an npz file, the same ones each time."""
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()


def from_npz(data: bytes) -> dict[str, np.ndarray]:
  """The inverse of `to_npz`."""
  with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
    return dict(arrays)
