"""Writing files of step targets, so that nothing finished is ever lost.

What a shard holds must be a function of the configuration and the shard's
number alone. Then a run may be killed at any moment: started again, it writes
the shards that are missing, and the finished data set is byte for byte that of
an uninterrupted run.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pav_jax import files
from pav_jax.data import step_targets
from pav_jax.data import step_targets_records as records
from pav_jax.data.step_targets import MANIFEST, Manifest, Shard
from pav_jax.rollout import StepTargets
from pav_jax.shards import Shards


class Writer:
  """Writes one data set, or the part of it that falls to one of several hosts.

  A shard appears at once or not at all, with a receipt beside it
  (`targets-….json`). Each writer has a lock on its part of the directory, which
  ends with its process. The directory is on a POSIX file system that all hosts
  share.

      with Writer(directory, config=…, …) as writer:
        for index in writer.missing_shards():
          writer.write_shard(index, collect(index))
        writer.finish()
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    seed: int,
    checkpoint: str,
    fingerprint: str,
    pad_id: int,
    num_shards: int,
    host: int = 0,
    num_hosts: int = 1,
  ):
    """Opens a directory, or makes it.

    Args:
      directory: of this data set alone.
      config: see `Manifest`, as are the next five.
      seed: of the collection.
      checkpoint: identifies the parameters.
      fingerprint: of vocabulary and delimiter.
      pad_id: the padding token.
      num_shards: files in the finished data set.
      host: this host's number; it writes shards `host`, `host + num_hosts`, …
      num_hosts: does not change what is written, and may differ when a data
        set is continued.

    Raises:
      ValueError: if the directory holds a data set of another configuration,
        a manifest that cannot be read or a damaged shard of this host.
      RuntimeError: if another process writes the same shards.
      OSError: if the directory cannot be written to.
    """
    if num_shards < 1:
      raise ValueError(f"num_shards is {num_shards}, expected at least 1")
    if not 0 <= host < num_hosts:
      raise ValueError(f"host is {host}, expected 0 … {num_hosts - 1}")
    manifest = Manifest(
      config=config,
      seed=seed,
      checkpoint=checkpoint,
      fingerprint=fingerprint,
      pad_id=pad_id,
      num_shards=num_shards,
    )
    # As JSON gives it back, so that it compares equal to what a file holds.
    self._manifest = Manifest.from_json(manifest.to_json())
    self._directory = pathlib.Path(directory).absolute()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._mine = range(host, num_shards, num_hosts)
    self._is_first = host == 0
    self._part = f"{host}-of-{num_hosts}"
    self._shards = Shards(
      self._directory, self._manifest.identity(), self._part
    )
    self._lock = self._take_lock(num_hosts)
    try:
      self._remove_partial_files(num_hosts)
      self._open_manifest()
      for index in self._mine:
        if shard := self._written(index):
          step_targets.check_shard(self._directory, shard)
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Gives the lock back."""
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None

  def missing_shards(self) -> list[int]:
    """The numbers of this host's shards that are not there yet, ascending."""
    return [index for index in self._mine if self._written(index) is None]

  def write_shard(self, index: int, targets: StepTargets) -> None:
    """Writes one shard.

    Args:
      index: one of `missing_shards()`.
      targets: its traces, possibly none.

    Raises:
      ValueError: if the shard is not missing or not this host's, or arrays are
        not what `StepTargets` says.
      OSError: if the disk is full or fails; the shard stays missing, and what
        was written before stays.
    """
    from pav_jax.problems.frameworks import tf

    if self._lock is None:
      raise ValueError("this writer is closed")
    if index not in self._mine:
      raise ValueError(
        f"shard {index} is not this host's, expected one of {self._mine}"
      )
    if self._written(index) is not None:
      raise ValueError(f"shard {index} is there already")
    records.check_targets(targets, self._manifest.pad_id)
    name = step_targets.shard_name(index, self._manifest.num_shards)

    def write(path: pathlib.Path) -> None:
      with tf.io.TFRecordWriter(str(path)) as file:
        for record in records.encode(targets):
          file.write(record)

    self._shards.write_by(name, write, **_describe(targets))

  def finish(self) -> Manifest:
    """Checks that all shards are there and sound, and completes the manifest.

    Host 0 has to call it when all hosts are through; for the others it checks
    their own shards and writes nothing.

    Returns:
      The manifest; on hosts other than 0 without its shards.

    Raises:
      ValueError: if shards are missing or damaged.
      OSError: if the disk is full or fails.
    """
    indices = range(self._manifest.num_shards) if self._is_first else self._mine
    shards = [self._written(index) for index in indices]
    missing = [
      index
      for index, shard in zip(indices, shards, strict=True)
      if shard is None
    ]
    if missing:
      raise ValueError(
        f"{self._directory} lacks {len(missing)} of {len(shards)} shards, "
        f"the first of them {missing[:5]}"
      )
    for shard in shards:
      step_targets.check_shard(self._directory, shard)
    if self._is_first:
      self._manifest = replace(self._manifest, shards=tuple(shards))
      self._write_manifest()
    return self._manifest

  def _written(self, index: int) -> Shard | None:
    """What the receipt says of a shard that is there."""
    name = step_targets.shard_name(index, self._manifest.num_shards)
    receipt = self._shards.receipt(name)
    if receipt is None:
      return None
    del receipt["run"]
    return Shard(file=name, **receipt)

  def _open_manifest(self) -> None:
    self._write_manifest(keep_existing=True)
    found = step_targets.read_manifest(self._directory).identity()
    wanted = self._manifest.identity()
    differences = [
      f"{name} was {a}, is now {b}"
      for name, a, b in _differences(found, wanted)
    ]
    if differences:
      raise ValueError(
        f"{self._directory} holds a data set of another configuration: "
        f"{'; '.join(differences)}. Choose another directory, or move this one "
        "away"
      )

  def _take_lock(self, num_hosts: int) -> int:
    lock = _try_lock(self._directory / f".lock-{self._part}", fcntl.LOCK_EX)
    if lock is None:
      raise RuntimeError(
        f"another process writes to {self._directory} as host {self._part}; "
        "end it, or choose another directory"
      )
    # Hosts of one division have disjoint shards, those of another do not.
    for path in self._directory.glob(".lock-*-of-*"):
      if not path.name.endswith(f"-of-{num_hosts}"):
        other = _try_lock(path, fcntl.LOCK_SH)
        if other is None:
          os.close(lock)
          raise RuntimeError(
            f"another process writes to {self._directory} as host "
            f"{path.name.removeprefix('.lock-')}, which shares shards with "
            f"{self._part}; end it, or choose another directory"
          )
        os.close(other)
    return lock

  def _remove_partial_files(self, num_hosts: int) -> None:
    # Those of this division belong to hosts that may be at work, but for one's
    # own; those of another belong to nobody.
    for path in self._directory.glob(".*.partial"):
      of_other_host = path.name.endswith(f"-of-{num_hosts}.partial")
      if not of_other_host or path.name.endswith(f".{self._part}.partial"):
        path.unlink()

  def _write_manifest(self, *, keep_existing: bool = False) -> None:
    path, data = self._directory / MANIFEST, self._manifest.to_json()
    if keep_existing and path.exists():
      return
    partial = files.partial_of(path, self._part)
    try:
      partial.write_bytes(data)
      files.sync(partial)
      if keep_existing:
        with contextlib.suppress(FileExistsError):  # another host was first
          os.link(partial, path)
        partial.unlink()
      else:
        os.replace(partial, path)
      files.sync(self._directory)
    except OSError as error:
      partial.unlink(missing_ok=True)
      raise files.could_not_write(path, error) from error


def write(
  directory: str | os.PathLike,
  targets: StepTargets,
  *,
  num_shards: int = 1,
  config: Mapping[str, Any],
  fingerprint: str,
  pad_id: int,
  seed: int = 0,
  checkpoint: str = "",
) -> Manifest:
  """Writes a data set of targets that are there already, such as imported ones.

  Args:
    directory: of this data set alone.
    targets: B traces, which are divided in their order.
    num_shards: files.
    config: what the traces are, such as their source and its digest; with it,
      a call that was cut short is continued, and another data set is refused.
    fingerprint: of vocabulary and delimiter.
    pad_id: the padding token.
    seed: see `Manifest`.
    checkpoint: see `Manifest`.

  Raises:
    ValueError, RuntimeError, OSError: as of `Writer`.
  """
  with Writer(
    directory,
    config=config,
    seed=seed,
    checkpoint=checkpoint,
    fingerprint=fingerprint,
    pad_id=pad_id,
    num_shards=num_shards,
  ) as writer:
    rows = np.array_split(np.arange(len(targets.tokens)), num_shards)
    for index in writer.missing_shards():
      some = jax.tree.map(lambda x, r=rows[index]: np.asarray(x)[r], targets)
      writer.write_shard(index, some)
    return writer.finish()


def _describe(targets) -> dict[str, int]:
  """What a shard's receipt says besides its digest and size."""
  prefix_len = np.asarray(targets.prefix_len)
  n = np.asarray(targets.num_completions)
  return {
    "num_traces": len(prefix_len),
    "num_labels": int((n > 0).sum()),
    "num_completions": int(n.sum(dtype=np.int64)),
    "max_tokens": int(prefix_len.max(initial=0)),
    "max_prefixes": int(records.num_prefixes_of(prefix_len).max(initial=1)),
  }


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple]:
  """`(name, a, b)` of the leaves in which two JSON objects differ."""
  if isinstance(was, dict) and isinstance(now, dict):
    for key in sorted(was.keys() | now.keys()):
      path = f"{name}.{key}" if name else key
      yield from _differences(
        was.get(key, "absent"), now.get(key, "absent"), path
      )
  elif was != now:
    yield name, was, now


def _try_lock(path: pathlib.Path, kind: int) -> int | None:
  """A descriptor that holds a lock, or None if another has it."""
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(descriptor)
    return None
  return descriptor
