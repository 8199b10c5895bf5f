"""Tasks cached on disk, in seqio's format but without Apache Beam."""

import collections
import json
import os
import pathlib

from pav_jax import files
from pav_jax.problems.frameworks import seqio, tf

_BLOCK = 16  # seqio reads as many examples of a file, then of the next
MAX_SHARDS = 16  # and from as many files at a time


def cache(
  task: str | seqio.Task,
  directory: str | os.PathLike,
  *,
  num_shards: int = MAX_SHARDS,
) -> pathlib.Path:
  """Writes what precedes a task's `CacheDatasetPlaceholder` to files.

  It is read after `seqio.add_global_cache_dirs([directory])` with
  `use_cached=True`, unshuffled in the order of the task itself. The task's
  folder appears when it is complete, or not at all.

  Args:
    task: or its registered name.
    directory: that holds a folder for each cached task.
    num_shards: files of each split, at most `MAX_SHARDS`. As many hosts can
      read a part each.

  Returns:
    The task's folder.

  Raises:
    ValueError: if the task cannot be cached, its folder exists, a split is
      empty, or `num_shards` is out of range.
  """
  if not 1 <= num_shards <= MAX_SHARDS:
    raise ValueError(f"num_shards is {num_shards}, expected 1 … {MAX_SHARDS}")
  if isinstance(task, str):
    task = seqio.TaskRegistry.get(task)
  if not task.supports_caching:
    raise ValueError(
      f"task {task.name} cannot be cached, expected one with a "
      "CacheDatasetPlaceholder"
    )
  folder = pathlib.Path(
    directory, seqio.utils.get_task_dir_from_name(task.name)
  ).absolute()
  if folder.exists():
    raise ValueError(f"{folder} exists, expected none")
  with files.whole_folder(folder) as partial:
    for split in task.splits:
      _write_split(task, split, str(partial), num_shards)
    (partial / "COMPLETED").touch()
  return folder


def _write_split(task, split, folder, num_shards) -> None:
  dataset = task.preprocess_precache(
    task.source.get_dataset(split=split, shuffle=False)
  )
  prefix = seqio.utils.get_cached_tfrecord_prefix(folder, split)
  files = [
    tf.io.TFRecordWriter(f"{prefix}-{i:05}-of-{num_shards:05}")
    for i in range(num_shards)
  ]
  stats = collections.Counter(examples=0)
  for number, example in enumerate(dataset.as_numpy_iterator()):
    record = seqio.utils.dict_to_tfexample(example).SerializeToString()
    files[number // _BLOCK % num_shards].write(record)
    stats["examples"] += 1
    for name in task.output_features:
      tokens = int((example[name] != 0).sum())
      stats[f"{name}_tokens"] += tokens
      longest = f"{name}_max_tokens"
      stats[longest] = max(stats[longest], tokens)
  for file in files:
    file.close()
  if not stats["examples"]:
    raise ValueError(f"split {split} of task {task.name} has no examples")
  features = {
    name: {
      "shape": [None, *spec.shape[1:]] if spec.shape.rank else [],
      "dtype": spec.dtype.name,
    }
    for name, spec in dataset.element_spec.items()
  }
  info = {
    "num_shards": num_shards,
    "features": features,
    "seqio_version": seqio.__version__,
  }
  for path, content in (
    (seqio.utils.get_cached_info_path(folder, split), info),
    (seqio.utils.get_cached_stats_path(folder, split), dict(stats)),
  ):
    pathlib.Path(path).write_text(json.dumps(content, indent=2, sort_keys=True))
