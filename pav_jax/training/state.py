"""A run's state, and keeping it safe on disk."""

import dataclasses
import difflib
import errno
import hashlib
import os
import pathlib
import shutil
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from pav_jax import files
from pav_jax.checks import check_finite
from pav_jax.models import partitioning

_FINGERPRINT = "fingerprint"
# In the name of a checkpoint that orbax is writing.
_UNFINISHED = ".orbax-checkpoint-tmp"


def sha256(tree: PyTree) -> str:
  """Hexadecimal digest of the bytes of all leaves, in the tree's order.

  Leaves that are split over processes are gathered, one at a time.
  """
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    digest.update(np.ascontiguousarray(partitioning.to_host(leaf)).tobytes())
  return digest.hexdigest()


def checksum(tree: PyTree) -> str:
  """Hexadecimal digest of all leaves, wherever their parts lie.

  Devices add up what their own parts contribute, in integers; so it is the same
  however arrays are split, and no process has to hold one as a whole.
  """
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    digest.update(f"{leaf.dtype}{leaf.shape}".encode())
    if isinstance(leaf, jax.Array):
      if leaf.is_fully_addressable:
        sums = _sums(leaf)
      else:
        whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        sums = jax.jit(_sums, out_shardings=whole)(leaf)
      leaf = np.asarray(sums)
    digest.update(np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
  """Two sums over elements, of hashes of an element's bits and its place."""
  bits = (
    x
    if x.dtype == bool
    else jax.lax.bitcast_convert_type(
      x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    )
  )
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    at = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += at * np.uint32(stride % 2**32)
    stride *= x.shape[axis]
  mixed = _mix(_mix(place) ^ bits.astype(jnp.uint32))
  other = _mix(mixed + np.uint32(0x9E3779B9))
  return jnp.stack([x.sum(dtype=jnp.uint32) for x in (mixed, other)])


def _mix(x: jax.Array) -> jax.Array:
  """MurmurHash3's last step, in which each bit changes half of the others."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def _digest(tree: PyTree) -> dict[str, str]:
  """What a checkpoint says of its arrays, by the name of the way."""
  if partitioning.is_split(tree):
    return {"checksum": checksum(tree)}
  return {"sha256": sha256(tree)}


class Checkpoints:
  """The checkpoints of one run, each with a digest of what it must hold.

  A checkpoint appears at once or not at all, so a run may be killed at any
  moment. One that can no longer be read is set aside under `unreadable-…`, and
  the one before it is used with a warning.

  Several processes call every method together. Each writes and reads its parts
  of the arrays; how many there are, and how arrays are split, may differ when a
  run is continued.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    config: dict[str, str],
    fingerprint: str | None = None,
    max_to_keep: int = 3,
    afresh: str | os.PathLike | None = None,
  ):
    """Opens a directory, or makes it.

    Args:
      directory: of this run alone.
      config: what a run must agree on to continue from these checkpoints, as
        printable strings.
      fingerprint: of the problem's vocabulary and delimiter, on which they must
        agree too; None for problems without text.
      max_to_keep: older ones are deleted.
      afresh: what has to be moved away for the run to start afresh; None for
        the directory.
    """
    if fingerprint is not None:
      config = config | {_FINGERPRINT: fingerprint}
    self._directory = pathlib.Path(directory).absolute()
    self._afresh = pathlib.Path(afresh or directory).absolute()
    self._config = config
    if jax.process_index() == 0:
      for left in self._directory.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    import orbax.checkpoint as ocp  # a mistake is told without it

    self._args = ocp.args
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, enable_async_checkpointing=False
      ),
    )
    # The run decides when to stop; JAX's service is asked by it alone.
    self._manager.reached_preemption = lambda step: False

  def save(self, iteration: int, state: Any, seconds: float) -> None:
    """Writes a checkpoint, unless the iteration has one already.

    Later ones, of a run whose state was lost, are deleted.

    Args:
      iteration: number of iterations done.
      state: after them, a dataclass of pytrees such as `RlState`.
      seconds: the run's wall time so far.

    Raises:
      FloatingPointError: if its `params` are not finite; nothing is saved.
      OSError: if the disk is full or fails.
    """
    newest = self.newest
    kept = "no checkpoint was due" if newest is None else f"{newest} is kept"
    try:
      check_finite(f"parameters after {iteration}", state.params)
    except FloatingPointError as error:
      raise FloatingPointError(f"{error}; {kept}") from None
    if iteration in self._manager.all_steps():
      return
    self._check_room(iteration, state)
    for later in self._manager.all_steps():
      if later > iteration:
        self._manager.delete(later)
    meta = {
      "config": self._config,
      "seconds": seconds,
      "iteration": iteration,
    } | _digest(state)
    try:
      saved = self._manager.save(
        iteration,
        args=self._args.Composite(
          state=self._args.StandardSave(_to_dict(state)),
          meta=self._args.JsonSave(meta),
        ),
      )
    except Exception as error:  # Orbax wraps those of the file system.
      if not (isinstance(error, OSError) or files.is_full(error)):
        raise
      raise files.could_not_write(
        self._directory / str(iteration), error
      ) from error
    if not saved:
      raise RuntimeError(f"orbax declined to save iteration {iteration}")

  def _check_room(self, iteration: int, state: Any) -> None:
    """Raises OSError before a disk is filled with half a checkpoint."""
    size = sum(getattr(x, "nbytes", 8) for x in jax.tree.leaves(state))
    free = shutil.disk_usage(self._directory).free
    if free < size:
      raise files.could_not_write(
        self._directory / str(iteration),
        OSError(errno.ENOSPC, f"{size} bytes, {free} are free"),
      )

  def restore(self, like: Any) -> tuple[int, Any, float] | None:
    """The newest checkpoint that can be read.

    Args:
      like: a state, or shapes and shardings of one.

    Returns:
      `(iteration, state, seconds)` as saved, or None if nothing was ever saved.

    Raises:
      ValueError: if the checkpoint was made with another configuration, or if
        there are checkpoints and none can be read; of several processes, if one
        cannot read the newest.
    """
    iterations = sorted(self._manager.all_steps(), reverse=True)
    for iteration in iterations:
      try:
        meta = self._manager.restore(
          iteration, args=self._args.Composite(meta=self._args.JsonRestore())
        ).meta
        saved_config, seconds = meta["config"], float(meta["seconds"])
        saved_as = meta.get("iteration", iteration)
        if saved_as != iteration:
          raise ValueError(f"it was saved as {saved_as}")
      except Exception as error:  # Orbax raises many kinds on a broken file.
        self._set_aside(iteration, error)
        continue
      self._check_config(saved_config, iteration)
      try:
        restored = self._manager.restore(
          iteration,
          args=self._args.Composite(
            state=self._args.StandardRestore(_to_dict(like))
          ),
        )
        state = type(like)(**restored.state)
        if not _matches(state, meta):
          raise ValueError("its arrays do not match the digest saved with them")
      except Exception as error:
        self._set_aside(iteration, error)
        continue
      return iteration, state, seconds
    unreadable = list(self._directory.glob("unreadable-*"))
    if unreadable:
      raise ValueError(
        f"{self._directory} has {len(unreadable)} unreadable checkpoints and "
        f"none that can be read; move {self._afresh} away to start afresh"
      )
    return None

  def restore_needed(self, like: Any) -> tuple[int, Any, float]:
    """As `restore`, of a checkpoint that must be there.

    Raises:
      ValueError: if there is none, saying how to start afresh.
    """
    restored = self.restore(like)
    if restored is None:
      raise ValueError(
        f"{self._directory} has lost its checkpoint; move {self._afresh} away "
        "to start afresh"
      )
    return restored

  @property
  def newest(self) -> int | None:
    """The newest iteration that has a checkpoint, or None."""
    return max(self._manager.all_steps(), default=None)

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()

  def _check_config(self, saved: dict[str, str], iteration: int) -> None:
    if saved == self._config:
      return
    differences = [
      f"{name} was {excerpt(a, b)}, now {excerpt(b, a)}"
      for name in sorted(saved.keys() | self._config.keys())
      if (a := saved.get(name, "absent"))
      != (b := self._config.get(name, "absent"))
    ]
    raise ValueError(
      f"checkpoint {iteration} in {self._directory} belongs to another "
      f"configuration: {'; '.join(differences)}. Choose another workdir, or "
      "move this one away"
    )

  def _set_aside(self, iteration: int, error: Exception) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if jax.process_count() > 1:
      # The others may be able to read it, and wait for this one.
      raise ValueError(
        f"process {jax.process_index()} cannot read checkpoint {iteration} in "
        f"{self._directory} ({reason[:200]}); move it away to continue from "
        "the one before"
      ) from error
    path = self._directory / str(iteration)
    aside = self._directory / f"unreadable-{iteration}"
    number = 1
    while aside.exists():
      number += 1
      aside = self._directory / f"unreadable-{iteration}-{number}"
    if path.exists():
      path.rename(aside)
    self._manager.reload()
    warnings.warn(
      f"checkpoint {iteration} cannot be read ({reason[:200]}); it is now "
      f"{aside}, and the one before it is used",
      stacklevel=3,
    )


def _matches(state: Any, meta: dict[str, Any]) -> bool:
  if "checksum" in meta:
    return checksum(state) == meta["checksum"]
  return sha256(state) == meta["sha256"]


def _to_dict(state: Any) -> dict[str, Any]:
  return {
    field.name: getattr(state, field.name)
    for field in dataclasses.fields(state)
  }


def excerpt(text: str, other: str, context: int = 40) -> str:
  """The part of `text` that is unlike `other`, with a little around it."""
  blocks = difflib.SequenceMatcher(
    None, text, other, autojunk=False
  ).get_opcodes()
  changed = [block for block in blocks if block[0] != "equal"]
  if not changed or len(text) <= 2 * context:
    return text
  start = max(changed[0][1] - context, 0)
  end = min(changed[-1][2] + context, len(text))
  return (
    ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
  )
