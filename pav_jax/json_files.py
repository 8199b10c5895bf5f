"""Files of JSON as people have them: compressed, with a byte-order mark, bad.

Compression is told by a file's first bytes, and not by its name.
"""

import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

from pav_jax import packages

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def read(path: str | os.PathLike) -> bytes:
  """A file's content, decompressed if it is of gzip or zstd.

  Raises:
    ValueError: if it is cut off or damaged.
    MissingPackageError: if it is of zstd and zstandard is not installed.
    OSError: if it cannot be read.
  """
  content = pathlib.Path(path).read_bytes()
  if content.startswith(_GZIP):
    decompress, errors = gzip.decompress, (OSError, EOFError, zlib.error)
  elif content.startswith(_ZSTD):
    zstandard = packages.require(
      "zstandard", package="zstandard", purpose=f"reading {os.fspath(path)}"
    )
    decompress, errors = _whole_frames(zstandard), zstandard.ZstdError
  else:
    return content
  try:
    return decompress(content)
  except errors as error:
    raise ValueError(
      f"{os.fspath(path)} cannot be decompressed: {error}"
    ) from error


def _whole_frames(zstandard: Any) -> Callable[[bytes], bytes]:
  def decompress(content: bytes) -> bytes:
    parts = []
    while content:
      decompressor = zstandard.ZstdDecompressor().decompressobj()
      parts.append(decompressor.decompress(content))
      if not decompressor.eof:
        raise zstandard.ZstdError("it ends within a frame")
      content = decompressor.unused_data
    return b"".join(parts)

  return decompress


def read_text(path: str | os.PathLike) -> str:
  """A file's text, without a byte-order mark.

  Raises:
    ValueError: if it is not UTF-8, or as of `read`.
    OSError: if it cannot be read.
  """
  try:
    return read(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{os.fspath(path)} is not UTF-8: {error}") from error


def parse(content: str | bytes) -> Any:
  """What JSON says.

  Raises:
    ValueError: if it is no JSON, or nested so deeply that it cannot be read.
  """
  if isinstance(content, bytes):
    content = content.decode("utf-8-sig")
  try:
    return json.loads(content)
  except RecursionError as error:
    raise ValueError("it is nested too deeply to be read") from error
