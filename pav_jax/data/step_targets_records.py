"""Step targets as records of TFRecord files, and back.

A record (a `tf.train.Example`) is one trace, with neither padding nor entries
past its end:

| feature | type | |
|---|---|---|
| `tokens` | int64 list | problem and response |
| `prefix_len`, `num_completions` | int64 list | of each of its prefixes |
| `num_correct` | float list | of each of its prefixes |
| `num_correct_float64` | bytes | only where floats do not hold them |
| `outcome` | float | NaN where it is not known |
| `problem_id`, `sample_id` | int64 | |

Needs TensorFlow (the extra `data`), which is imported when records are made or
read.
"""

import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from pav_jax.rollout import StepTargets

# The kinds of number that a field may have, in numpy's letters.
_KINDS = {
  "tokens": "iu",
  "prefix_len": "iu",
  "num_completions": "iu",
  "num_correct": "fiu",
  "outcome": "f",
  "problem_id": "iu",
  "sample_id": "iu",
}


def check_targets(targets: StepTargets, pad_id: int) -> None:
  """Raises ValueError unless arrays are what `StepTargets` says.

  Args:
    targets: B traces of numpy or JAX arrays.
    pad_id: the token that follows the end of each response.
  """
  fields = {name: np.asarray(getattr(targets, name)) for name in _KINDS}
  tokens, prefix_len = fields["tokens"], fields["prefix_len"]
  if tokens.ndim != 2 or prefix_len.ndim != 2 or not prefix_len.shape[1]:
    raise ValueError(
      f"tokens and prefix_len have shapes {tokens.shape} and "
      f"{prefix_len.shape}, expected [B, T] and [B, P] with P >= 1"
    )
  per_prefix = ("prefix_len", "num_completions", "num_correct")
  for name, x in fields.items():
    shape = prefix_len.shape if name in per_prefix else (len(tokens),)
    shape = tokens.shape if name == "tokens" else shape
    if x.shape != shape:
      raise ValueError(f"{name} has shape {x.shape}, expected {shape}")
    if x.dtype.kind not in _KINDS[name]:
      raise ValueError(
        f"{name} has type {x.dtype}, expected one of numpy's kinds "
        f"{_KINDS[name]!r}"
      )
  n, c = fields["num_completions"], fields["num_correct"]
  outcome = fields["outcome"]
  position = np.arange(tokens.shape[1])
  follows = np.diff(prefix_len, prepend=prefix_len[:, :1])
  past = (follows == 0) & (np.arange(prefix_len.shape[1]) > 0)
  wrong = {
    "prefix_len decreases": (follows < 0).any(-1),
    f"prefix_len is not in 0 … {tokens.shape[1]}": (
      (prefix_len < 0) | (prefix_len > tokens.shape[1])
    ).any(-1),
    "prefix_len increases past the end": (past[:, :-1] & ~past[:, 1:]).any(-1),
    "tokens are negative": (tokens < 0).any(-1),
    f"tokens after the last prefix are not padding, {pad_id}": (
      (position >= prefix_len[:, -1:]) & (tokens != pad_id)
    ).any(-1),
    "num_completions is negative": (n < 0).any(-1),
    "num_completions is not 0 past the end": (past & (n > 0)).any(-1),
    "num_correct is not in 0 … num_completions": ~((c >= 0) & (c <= n)).all(-1),
    "outcome is not in [0, 1] or NaN": (outcome < 0) | (outcome > 1),
  }
  for what, rows in wrong.items():
    if rows.any():
      row = int(rows.argmax())
      raise ValueError(
        f"{what} in row {row} of {len(rows)}: prefix_len {prefix_len[row]}, "
        f"num_completions {n[row]}, num_correct {c[row]}, outcome "
        f"{outcome[row]}"
      )


def encode(targets: StepTargets) -> Iterator[bytes]:
  """Serialises the rows of checked targets, to the same bytes everywhere."""
  from pav_jax.problems.frameworks import tf

  def ints(x):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=x.tolist()))

  def floats(x):
    return tf.train.Feature(float_list=tf.train.FloatList(value=x.tolist()))

  rows = {name: np.asarray(getattr(targets, name)) for name in _KINDS}
  for b, num_prefixes in enumerate(num_prefixes_of(rows["prefix_len"])):
    row = {name: x[b] for name, x in rows.items()}
    num_correct = row["num_correct"][:num_prefixes]
    coarse = num_correct.astype(np.float32)
    # One NaN of all.
    outcome = np.where(np.isnan(row["outcome"]), np.nan, row["outcome"])
    features = {
      "tokens": ints(row["tokens"][: row["prefix_len"][-1]]),
      "prefix_len": ints(row["prefix_len"][:num_prefixes]),
      "num_completions": ints(row["num_completions"][:num_prefixes]),
      "num_correct": floats(coarse),
      "outcome": floats(outcome[None]),
      "problem_id": ints(row["problem_id"][None]),
      "sample_id": ints(row["sample_id"][None]),
    }
    if (coarse != num_correct).any():
      data = num_correct.astype("<f8").tobytes()
      features["num_correct_float64"] = tf.train.Feature(
        bytes_list=tf.train.BytesList(value=[data])
      )
    example = tf.train.Example(features=tf.train.Features(feature=features))
    yield example.SerializeToString(deterministic=True)


def num_prefixes_of(
  prefix_len: Int[np.ndarray, "B P"],
) -> Int[np.ndarray, "B"]:
  """How many prefixes each trace has, the bare problem included: int64[B]."""
  return 1 + (np.diff(prefix_len) > 0).sum(-1)


def read(
  path: str | os.PathLike, *, num_tokens: int, num_prefixes: int, pad_id: int
) -> StepTargets:
  """Reads a file of records.

  Args:
    path: of the file.
    num_tokens: T, room for the tokens of every trace.
    num_prefixes: P, room for the prefixes of every trace.
    pad_id: fills up rows of tokens.

  Returns:
    Step targets of numpy arrays, one row a record.
  """
  from pav_jax.problems.frameworks import tf

  records = list(tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator())

  def lists(dtype):
    return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)

  parsed = tf.io.parse_example(
    tf.constant(records, tf.string, shape=[len(records)]),
    {
      "tokens": lists(tf.int64),
      "prefix_len": lists(tf.int64),
      "num_completions": lists(tf.int64),
      "num_correct": lists(tf.float32),
      "num_correct_float64": tf.io.FixedLenFeature([], tf.string, b""),
      "outcome": tf.io.FixedLenFeature([], tf.float32),
      "problem_id": tf.io.FixedLenFeature([], tf.int64),
      "sample_id": tf.io.FixedLenFeature([], tf.int64),
    },
  )

  def padded(name, width, fill, dtype):
    ragged = parsed[name]
    lengths = ragged.row_lengths().numpy()
    rows = np.empty((len(lengths), width), dtype)
    rows[:] = fill
    rows[np.arange(width) < lengths[:, None]] = ragged.values.numpy()
    return rows

  length = parsed["tokens"].row_lengths().numpy()
  num_correct = padded("num_correct", num_prefixes, 0, np.float32)
  exact = parsed["num_correct_float64"].numpy()
  if any(exact):
    num_correct = num_correct.astype(np.float64)
    for row, data in zip(num_correct, exact, strict=True):
      counts = np.frombuffer(data, "<f8")
      row[: len(counts)] = counts
  return StepTargets(
    tokens=padded("tokens", num_tokens, pad_id, np.int32),
    prefix_len=padded("prefix_len", num_prefixes, length[:, None], np.int32),
    num_completions=padded("num_completions", num_prefixes, 0, np.int32),
    num_correct=num_correct,
    outcome=parsed["outcome"].numpy(),
    problem_id=parsed["problem_id"].numpy().astype(np.int32),
    sample_id=parsed["sample_id"].numpy().astype(np.int32),
  )
