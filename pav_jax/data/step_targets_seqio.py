"""Files of step targets as seqio sources and tasks.

seqio and TensorFlow (the extra `data`) are imported when these are called.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pav_jax.data import step_targets


def data_source(
  directories: Mapping[str, str | os.PathLike], *, fingerprint: str
) -> Any:
  """A `seqio.TFExampleDataSource` of finished data sets.

  Args:
    directories: one data set for each split.
    fingerprint: of the vocabulary and delimiter that will read them.

  Returns:
    The source; its features are those of the table in
    `step_targets_records`, `num_correct` rounded to float32.

  Raises:
    ValueError: if a data set is unfinished, damaged, or was written with
      another vocabulary or delimiter.
  """
  from pav_jax.problems.frameworks import seqio, tf

  files, sizes = {}, {}
  for split, directory in directories.items():
    manifest = step_targets.finished_manifest(directory, fingerprint)
    for shard in manifest.shards:
      step_targets.check_shard(directory, shard)
    path = pathlib.Path(directory).absolute()
    files[split] = [str(path / shard.file) for shard in manifest.shards]
    sizes[split] = manifest.num_traces

  def sequence(dtype):
    return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)

  return seqio.TFExampleDataSource(
    split_to_filepattern=files,
    feature_description={
      "tokens": sequence(tf.int64),
      "prefix_len": sequence(tf.int64),
      "num_completions": sequence(tf.int64),
      "num_correct": sequence(tf.float32),
      "outcome": tf.io.FixedLenFeature([], tf.float32),
      "problem_id": tf.io.FixedLenFeature([], tf.int64),
      "sample_id": tf.io.FixedLenFeature([], tf.int64),
    },
    num_input_examples=sizes,
  )


def register_task(
  name: str,
  directories: Mapping[str, str | os.PathLike],
  *,
  fingerprint: str,
  vocab_size: int,
) -> Any:
  """Registers finished data sets as a seqio `Task`.

  Args:
    name: of the task.
    directories: one data set for each split.
    fingerprint: of the vocabulary and delimiter that will read them.
    vocab_size: V.

  Returns:
    The task. Its features are the fields of `StepTargets`, of one trace and
    without padding; integers are int32.

  Raises:
    ValueError: as of `data_source`, or if there is such a task already.
  """
  from pav_jax.problems.frameworks import seqio, tf

  source = data_source(directories, fingerprint=fingerprint)

  def narrow(dataset):
    return dataset.map(
      lambda example: {
        name: tf.cast(x, tf.int32) if x.dtype == tf.int64 else x
        for name, x in example.items()
      },
      num_parallel_calls=tf.data.AUTOTUNE,
    )

  def numbers(dtype=tf.int32, rank=1):
    return seqio.ContinuousFeature(dtype=dtype, rank=rank)

  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[narrow],
    output_features={
      "tokens": seqio.Feature(
        seqio.PassThroughVocabulary(vocab_size), add_eos=False
      ),
      "prefix_len": numbers(),
      "num_completions": numbers(),
      "num_correct": numbers(tf.float32),
      "outcome": numbers(tf.float32, rank=0),
      "problem_id": numbers(rank=0),
      "sample_id": numbers(rank=0),
    },
  )
