"""Text problems as seqio tasks.

A task's examples have the features `inputs`, the prompt, and `targets`, the
response: int32 token ids, the end token included, for which seqio needs to add
nothing. `problem_id` and `sample_id` are carried along; a mixture keeps them if
it is asked to (`passthrough_features=tasks.IDS`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.data.seqio_vocabulary import feature
from pav_jax.problems import base
from pav_jax.problems.frameworks import seqio, tf

IDS = ("problem_id", "sample_id")
_BLOCK = 256  # problems at a time


class _Source(seqio.FunctionDataSource):
  """A `FunctionDataSource` that hosts share without each making everything.

  `dataset_fn` is called with the part that is asked for. It shuffles the whole
  split, so seqio's advice against shuffling functions does not apply.
  """

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def get_dataset(
    self, split="train", shuffle=True, seed=None, shard_info=None, **unused
  ):
    return self._dataset_fn(
      split=split, shuffle_files=shuffle, seed=seed, shard_info=shard_info
    )


def _indices(
  size: int, shuffle: bool, seed: int | None, shard_info: Any
) -> tf.data.Dataset:
  """0 … size - 1, all of them permuted if asked to; or one host's part."""
  dataset = tf.data.Dataset.range(size)
  if shard_info and shard_info.num_shards > 1:
    dataset = dataset.shard(shard_info.num_shards, shard_info.index)
  if not shuffle or size == 1:
    return dataset
  if seed is None:
    seed = int(np.random.default_rng().integers(2**31))
  seeds = tf.constant([seed % 2**31, seed // 2**31 % 2**31], tf.int32)
  return dataset.map(
    lambda i: tf.random.experimental.index_shuffle(i, seeds, size - 1),
    num_parallel_calls=tf.data.AUTOTUNE,
  )


def _addresses(
  problem_ids: Mapping[str, np.ndarray], num_samples: int
) -> Callable[..., tf.data.Dataset]:
  """The function of a source of problem and sample ids."""

  def addresses(split, shuffle_files, seed=None, shard_info=None):
    ids = tf.constant(problem_ids[split], tf.int32)
    number = len(problem_ids[split])
    dataset = _indices(number * num_samples, shuffle_files, seed, shard_info)
    return dataset.map(
      lambda i: {
        "problem_id": ids[i % number],
        "sample_id": tf.cast(i // number, tf.int32),
      }
    )

  return addresses


def _demonstrate(problem: Any) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """The preprocessor that writes the demonstrations at given ids."""

  def write(problem_id, sample_id):
    rollout = base.demonstrations(problem, problem_id, sample_id)
    ends = rollout.prefix_len[:, [0, -1]]
    return [x.astype(np.int32) for x in (rollout.tokens, *ends.T)]

  def block(ids):
    tokens, begin, end = tf.numpy_function(
      write, [ids[name] for name in IDS], [tf.int32] * 3
    )
    return ids | {
      "tokens": tf.ensure_shape(tokens, [None, None]),
      "begin": tf.ensure_shape(begin, [None]),
      "end": tf.ensure_shape(end, [None]),
    }

  def cut(example):
    tokens, begin, end = map(example.pop, ("tokens", "begin", "end"))
    return example | {"inputs": tokens[:begin], "targets": tokens[begin:end]}

  def demonstrate(dataset: tf.data.Dataset) -> tf.data.Dataset:
    dataset = dataset.batch(_BLOCK)
    dataset = dataset.map(block, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.unbatch().map(cut, num_parallel_calls=tf.data.AUTOTUNE)

  return demonstrate


def register(
  name: str,
  problem: Any,
  *,
  num_problems: Mapping[str, int] | None = None,
  num_samples: int = 1,
) -> seqio.Task:
  """Registers a problem's demonstrations as a seqio task.

  The first demonstration of each problem comes first, then the second of each,
  and so on; each host makes its own part alone.

  With `shuffle` all examples of a split are permuted, the same way for the same
  seed, and seqio's buffer shuffles what comes out, anew in each epoch.

  Args:
    name: of the task.
    problem: a text problem with demonstrations.
    num_problems: of each split; None for all that there are, but of generated
      problems at most 2²⁰ for train and 1000 each for validation and test.
    num_samples: demonstrations of each problem.

  Returns:
    The task, which `seqio.get_mixture_or_task(name)` finds from now on. It may
    be cached (`task_cache`).

  Raises:
    ValueError: if there is such a task already, a split or number is unknown or
      not positive, or the vocabulary's padding is not 0.
  """
  if num_problems is None:
    num_problems = {split: _most(problem, split) for split in base.SPLITS}
  if set(num_problems) - set(base.SPLITS) or not num_problems:
    raise ValueError(
      f"num_problems has {tuple(num_problems)}, expected some of {base.SPLITS}"
    )
  for split, number in num_problems.items():
    if number < 1:
      raise ValueError(
        f"num_problems of {split} is {number}, expected at least 1"
      )
  if num_samples < 1:
    raise ValueError(f"num_samples is {num_samples}, expected at least 1")
  problem_ids = {
    split: problem.problem_ids(split, 0, number)
    for split, number in num_problems.items()
  }
  tokens = feature(problem.vocabulary)
  return seqio.TaskRegistry.add(
    name,
    source=_Source(
      _addresses(problem_ids, num_samples),
      splits=tuple(num_problems),
      num_input_examples={
        split: number * num_samples for split, number in num_problems.items()
      },
    ),
    preprocessors=[_demonstrate(problem), seqio.CacheDatasetPlaceholder()],
    output_features={"inputs": tokens, "targets": tokens},
  )


def _most(problem: Any, split: str) -> int:
  """Problems of a split that a task has."""
  generated = 2**20 if split == "train" else 1000
  size = problem.split_size(split)
  return size if size <= 2**24 else generated


def mixture(
  names: Sequence[str],
  problems: Sequence[Any],
  *,
  rates: Sequence[float | int] | None,
  split: str,
) -> str:
  """Registers one split of problems as tasks, and all of them as a mixture.

  What was registered under these names before is replaced.

  Args:
    names: of the tasks.
    problems: as many, see `register`.
    rates: how often each is drawn from, relative to the others; None for as
      often as it has examples.
    split: of the problems.

  Returns:
    The mixture's name.
  """
  sizes = [_most(problem, split) for problem in problems]
  for name, problem, size in zip(names, problems, sizes, strict=True):
    if name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(name)
    register(name, problem, num_problems={split: size})
  together = "mixture_" + "_".join(names)
  if together in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(together)
  rates = [float(rate) for rate in rates or sizes]
  seqio.MixtureRegistry.add(together, list(zip(names, rates, strict=True)))
  return together
