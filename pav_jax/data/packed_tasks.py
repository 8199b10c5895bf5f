"""Packed training batches from seqio tasks and mixtures."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pav_jax.problems.frameworks import seqio, tf
from pav_jax.rollout import PackedTokens

_FIELDS = {
  "tokens": "decoder_target_tokens",
  "segments": "decoder_segment_ids",
  "positions": "decoder_positions",
  "loss_mask": "decoder_loss_weights",
}


def _check(row_length: int):
  """A map that stops at examples which packing would cut or garble."""

  def check(example):
    inputs, targets = example["inputs"], example["targets"]
    length = tf.size(inputs) + tf.size(targets)
    padding = tf.reduce_any(tf.concat([inputs, targets], -1) == 0)
    with tf.control_dependencies(
      [
        tf.debugging.assert_less_equal(
          length,
          row_length,
          f"an example is too long for row_length = {row_length}",
        ),
        tf.debugging.assert_positive(
          tf.size(targets), "an example has no targets"
        ),
        tf.debugging.assert_equal(
          padding, False, "an example has padding, token 0, within"
        ),
      ]
    ):
      return {"inputs": tf.identity(inputs), "targets": targets}

  return check


def packed_batches(
  provider: Any,
  *,
  num_rows: int,
  row_length: int,
  split: str = "train",
  seed: int = 0,
  shuffle: bool = True,
  use_cached: bool = False,
  num_epochs: int | None = None,
  host: int = 0,
  num_hosts: int = 1,
  start: int = 0,
) -> Iterator[PackedTokens]:
  """Batches of a task or mixture, packed by seqio.

  Examples are never cut: each is in one row as a whole. Batches are the same
  for the same arguments; to start at a later one costs making those before.

  Args:
    provider: a `seqio.Task` or `Mixture`, or its registered name; with the
      features `inputs` and `targets`.
    num_rows: B, of each host.
    row_length: T, at least the longest example.
    split: of the provider.
    seed: of the order.
    shuffle: whether to shuffle; else in the provider's order.
    use_cached: whether to read what was cached on disk.
    num_epochs: passes over the split; None for no end. The last batch is filled
      up with rows of padding.
    host: this host's number; between them hosts get each example once.
    num_hosts: how many there are.
    start: number of the first batch.

  Yields:
    Batches of numpy arrays, int32[B, T] and for `loss_mask` bool[B, T].

  Raises:
    ValueError: if a number is out of its range, there is no such provider or
      split, or an example is too long, has no targets or contains padding.
    RuntimeError: if the provider fails, with its message.
  """
  for name, number, least in (
    ("num_rows", num_rows, 1),
    ("row_length", row_length, 2),
    ("num_epochs", 1 if num_epochs is None else num_epochs, 1),
    ("num_hosts", num_hosts, 1),
    ("start", start, 0),
  ):
    if number < least:
      raise ValueError(f"{name} is {number}, expected at least {least}")
  if not 0 <= host < num_hosts:
    raise ValueError(f"host is {host}, expected 0 … {num_hosts - 1}")
  if isinstance(provider, str):
    provider = seqio.get_mixture_or_task(provider)
  if split not in provider.splits:
    raise ValueError(
      f"split is {split!r}, expected one of {tuple(provider.splits)}"
    )
  options = {"log_mixing_proportions": False}
  dataset = provider.get_dataset(
    split=split,
    use_cached=use_cached,
    shuffle=shuffle,
    seed=seed,
    shard_info=seqio.ShardInfo(host, num_hosts) if num_hosts > 1 else None,
    num_epochs=num_epochs,
    trim_output_features=False,
    **(options if isinstance(provider, seqio.Mixture) else {}),
  )
  dataset = dataset.map(_check(row_length), num_parallel_calls=tf.data.AUTOTUNE)
  # Prompts and responses are concatenated: only the sum of lengths counts.
  converter = seqio.DecoderFeatureConverter(pack=True, apply_length_check=False)
  dataset = converter(dataset, {"inputs": 1, "targets": row_length - 1})
  dataset = dataset.map(
    lambda row: {name: row[theirs] for name, theirs in _FIELDS.items()}
  )
  return _batches(dataset.batch(num_rows).skip(start), num_rows)


def _batches(dataset: tf.data.Dataset, num_rows: int) -> Iterator[PackedTokens]:
  iterator = dataset.prefetch(2).as_numpy_iterator()
  while True:
    batch, wrong = None, None
    try:
      batch = next(iterator, None)
    except tf.errors.OpError as error:
      wrong = error.message
    if wrong is not None:
      # A failed iterator that an error's traceback keeps stalls Python's exit.
      del iterator
      ours = re.search(r"an example [^].\n]*", wrong)
      raise ValueError(ours[0]) if ours else RuntimeError(wrong)
    if batch is None:
      return
    missing = num_rows - len(batch["tokens"])
    padded = {
      name: np.pad(rows, ((0, missing), (0, 0))) for name, rows in batch.items()
    }
    padded["loss_mask"] = padded["loss_mask"] > 0
    yield PackedTokens(**padded)


@dataclasses.dataclass(frozen=True)
class PackedTask:
  """A task's or mixture's batches, as `packing.Batches`: by position.

  Batch after batch is read on from one iterator; any other position starts a
  new one, which costs making the batches before it.

  Attributes:
    provider: as of `packed_batches`, and so are the others.
  """

  provider: Any
  num_rows: int
  row_length: int
  split: str = "train"
  seed: int = 0
  use_cached: bool = False
  host: int = 0
  num_hosts: int = 1
  _open: dict[int, Iterator[PackedTokens]] = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  def __call__(self, position: int) -> tuple[PackedTokens, int]:
    """Batch number `position`, and the number of the next."""
    batches = self._open.pop(position, None)
    if batches is None:
      self._open.clear()
      batches = packed_batches(
        self.provider,
        num_rows=self.num_rows,
        row_length=self.row_length,
        split=self.split,
        seed=self.seed,
        use_cached=self.use_cached,
        host=self.host,
        num_hosts=self.num_hosts,
        start=position,
      )
    batch = next(batches)
    self._open[position + 1] = batches
    return batch, position + 1
