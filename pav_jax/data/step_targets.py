"""Files of step targets: what is in them, and reading them.

A data set is a directory of TFRecord files and a JSON manifest, written by
`step_targets_writer.Writer`; `step_targets_records` has the format of records,
and `step_targets_seqio` makes it a seqio source. TensorFlow (the extra `data`)
is imported when records are read or written, and not before.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from pav_jax.data import step_targets_records
from pav_jax.rollout import StepTargets

FORMAT, VERSION = "pav_jax step targets", 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a data set.

  Attributes:
    file: its name.
    sha256: of its bytes, hexadecimal.
    num_bytes: its size.
    num_traces: records.
    num_labels: prefixes with n > 0.
    num_completions: the sum of n.
    max_tokens: tokens of the longest trace.
    max_prefixes: prefixes of the trace with the most.
  """

  file: str
  sha256: str
  num_bytes: int
  num_traces: int
  num_labels: int
  num_completions: int
  max_tokens: int
  max_prefixes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a data set is made of and by what.

  Attributes:
    config: what determines the data besides the other attributes, as JSON has
      it: numbers, texts, lists, objects.
    seed: of the collection.
    checkpoint: identifies the parameters that completed prefixes, such as
      their digest; empty for imported labels.
    fingerprint: of vocabulary and delimiter, `vocabulary.fingerprint`.
    pad_id: the padding token, which the files leave out.
    num_shards: files in the finished data set.
    shards: the files, in order; empty until all are there.
  """

  config: Mapping[str, Any]
  seed: int
  checkpoint: str
  fingerprint: str
  pad_id: int
  num_shards: int
  shards: tuple[Shard, ...] = ()

  @property
  def is_complete(self) -> bool:
    """Whether all shards are there."""
    return len(self.shards) == self.num_shards

  @property
  def num_traces(self) -> int:
    """Traces in all shards."""
    return sum(shard.num_traces for shard in self.shards)

  @property
  def max_tokens(self) -> int:
    """T that holds every trace."""
    return max((shard.max_tokens for shard in self.shards), default=0)

  @property
  def max_prefixes(self) -> int:
    """P that holds every trace."""
    return max((shard.max_prefixes for shard in self.shards), default=0)

  def identity(self) -> dict[str, Any]:
    """What two runs must agree on to write one data set."""
    fields = dataclasses.asdict(self)
    del fields["shards"]
    return fields

  def to_json(self) -> bytes:
    """The bytes of the manifest file, which depend on the attributes alone.

    Raises:
      ValueError: if the configuration is nothing that JSON has.
    """
    what = {"format": FORMAT, "version": VERSION, "complete": self.is_complete}
    what |= dataclasses.asdict(self)
    try:
      text = json.dumps(what, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f"config is {self.config!r}, expected what JSON has: {error}"
      ) from error
    return text.encode() + b"\n"

  @classmethod
  def from_json(cls, data: bytes) -> "Manifest":
    """The inverse of `to_json`.

    Raises:
      ValueError: if these bytes are no manifest, or one of another version.
    """
    fields = json.loads(data)
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
      raise ValueError(f"not a manifest of {FORMAT}")
    version = fields.pop("version", None)
    if version != VERSION:
      raise ValueError(f"format version is {version}, expected {VERSION}")
    fields.pop("complete", None)
    try:
      shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
      return cls(**fields, shards=shards)
    except (KeyError, TypeError) as error:
      raise ValueError(f"fields are missing or unknown: {error}") from error


def shard_name(index: int, num_shards: int) -> str:
  """The file name of a shard."""
  return f"targets-{index:05d}-of-{num_shards:05d}.tfrecord"


def read_manifest(directory: str | os.PathLike) -> Manifest:
  """Reads the manifest of a data set, finished or not.

  Raises:
    ValueError: if there is none, or it cannot be read.
  """
  path = pathlib.Path(directory) / MANIFEST
  try:
    return Manifest.from_json(path.read_bytes())
  except FileNotFoundError as error:
    raise ValueError(
      f"{directory} has no {MANIFEST}: it is no data set of step targets"
    ) from error
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from error


def finished_manifest(
  directory: str | os.PathLike, fingerprint: str
) -> Manifest:
  """Reads the manifest of a data set that is to be used.

  Raises:
    ValueError: if it is unfinished, or was written with another vocabulary or
      delimiter than the fingerprint's.
  """
  manifest = read_manifest(directory)
  if manifest.fingerprint != fingerprint:
    raise ValueError(
      f"{directory} was written with the vocabulary and delimiter of "
      f"fingerprint {manifest.fingerprint[:12]}…, and is to be read with "
      f"{fingerprint[:12]}…: they have other tokens or other steps"
    )
  if not manifest.is_complete:
    raise ValueError(
      f"{directory} is unfinished; start what writes it again with the same "
      "settings, and it continues"
    )
  return manifest


def check_shard(directory: str | os.PathLike, shard: Shard) -> None:
  """Raises ValueError unless the file has the bytes it was written with."""
  path = pathlib.Path(directory) / shard.file
  try:
    with path.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
      size = file.tell()
  except OSError as error:
    reason = f"cannot be read ({error.strerror})"
  else:
    if digest == shard.sha256:
      return
    reason = (
      f"is damaged: its SHA-256 is {digest[:12]}… ({size} bytes), and "
      f"{shard.sha256[:12]}… ({shard.num_bytes} bytes) was written"
    )
  raise ValueError(
    f"shard {path} {reason}. Move it away and start what wrote the data set "
    "again with the same settings: this shard alone is written again"
  )


def read_shards(
  directory: str | os.PathLike,
  *,
  fingerprint: str,
  num_tokens: int | None = None,
  num_prefixes: int | None = None,
  multiple_of: int = 1,
  host: int = 0,
  num_hosts: int = 1,
) -> Iterator[StepTargets]:
  """Reads a finished data set shard by shard, all padded alike.

  Args:
    directory: of the data set.
    fingerprint: of the vocabulary and delimiter that will read it.
    num_tokens: T, room for tokens; None for as much as the longest trace needs.
    num_prefixes: P, room for prefixes; None for as much as they need.
    multiple_of: T is rounded up to a multiple of it.
    host: this host's number; it gets every `num_hosts`-th shard.
    num_hosts: between them, hosts get each shard once.

  Yields:
    Step targets of numpy arrays, one row a trace, in the order written.

  Raises:
    ValueError: at the call if the data set is unfinished, was written with
      another vocabulary or delimiter, or has traces that are too long; and
      when a damaged shard is reached.
  """
  if not 0 <= host < num_hosts:
    raise ValueError(f"host is {host}, expected 0 … {num_hosts - 1}")
  if multiple_of < 1:
    raise ValueError(f"multiple_of is {multiple_of}, expected at least 1")
  manifest = finished_manifest(directory, fingerprint)
  tokens = _room("num_tokens", num_tokens, manifest.max_tokens)
  tokens = -(-tokens // multiple_of) * multiple_of
  prefixes = _room("num_prefixes", num_prefixes, manifest.max_prefixes)

  def shards():
    for shard in manifest.shards[host::num_hosts]:
      check_shard(directory, shard)
      yield step_targets_records.read(
        pathlib.Path(directory) / shard.file,
        num_tokens=tokens,
        num_prefixes=prefixes,
        pad_id=manifest.pad_id,
      )

  return shards()


def load(
  directory: str | os.PathLike,
  *,
  fingerprint: str,
  num_tokens: int | None = None,
  num_prefixes: int | None = None,
  multiple_of: int = 1,
) -> StepTargets:
  """Reads a finished data set whole; arguments as of `read_shards`.

  Returns:
    Step targets of numpy arrays: all traces, shard after shard.

  Raises:
    ValueError: as of `read_shards`.
  """
  shards = read_shards(
    directory,
    fingerprint=fingerprint,
    num_tokens=num_tokens,
    num_prefixes=num_prefixes,
    multiple_of=multiple_of,
  )
  return jax.tree.map(lambda *rows: np.concatenate(rows), *shards)


def batch_rows(
  num_rows: int, *, batch_size: int, seed: int, step: int
) -> Int[np.ndarray, "N"]:
  """The rows of one batch of an endless shuffled sequence.

  Rows come in a new order in each pass over the data, and a batch may span
  two passes. Nothing but the step has to be remembered to continue.

  Args:
    num_rows: of the data.
    batch_size: N >= 1.
    seed: of all orders.
    step: the batch's number, >= 0.

  Returns:
    int64[N], in 0 … num_rows - 1.

  Raises:
    ValueError: if there are no rows, or a number is out of its range.
  """
  if num_rows < 1 or batch_size < 1 or step < 0 or seed < 0:
    raise ValueError(
      f"num_rows, batch_size, step and seed are {num_rows}, {batch_size}, "
      f"{step} and {seed}; expected at least 1, 1, 0 and 0"
    )
  at = step * batch_size + np.arange(batch_size)
  epochs, places = np.divmod(at, num_rows)
  return np.array(
    [
      _order(num_rows, seed, epoch)[place]
      for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)
    ]
  )


def batches(
  targets: StepTargets, *, batch_size: int, seed: int, start: int = 0
) -> Iterator[StepTargets]:
  """Endless shuffled batches, from batch `start` on; see `batch_rows`."""
  step = start
  while True:
    rows = batch_rows(
      len(targets.tokens), batch_size=batch_size, seed=seed, step=step
    )
    yield jax.tree.map(lambda x, rows=rows: x[rows], targets)
    step += 1


@functools.lru_cache(maxsize=4)
def _order(num_rows: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(num_rows)


def _room(name, asked, needed):
  if asked is not None and asked < needed:
    raise ValueError(f"{name} is {asked}, expected at least {needed}")
  return needed if asked is None else asked
