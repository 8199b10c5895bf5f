"""Text problems as seqio tasks.

A task's examples have the features `inputs`, the prompt, and `targets`, the
response: int32 token ids, the end token included, for which seqio needs to add
nothing. `problem_id` and `sample_id` are carried along; a mixture keeps them if
it is asked to (`passthrough_features=tasks.IDS`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pav_jax.data.seqio_vocabulary import feature
from pav_jax.problems import text
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.frameworks import seqio, tf

IDS = ("problem_id", "sample_id")
NUM_PROBLEMS = (("train", 2**20), ("validation", 1000), ("test", 1000))
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
  problem: text.GeneratedProblem,
  num_problems: Mapping[str, int],
  num_samples: int,
) -> Callable[..., tf.data.Dataset]:
  """The function of a source of problem and sample ids."""

  def addresses(split, shuffle_files, seed=None, shard_info=None):
    number = num_problems[split]
    first = int(problem.problem_ids(split, 0, 1)[0])
    dataset = _indices(number * num_samples, shuffle_files, seed, shard_info)
    return dataset.map(
      lambda i: {
        "problem_id": tf.cast(i % number * len(text.SPLITS) + first, tf.int32),
        "sample_id": tf.cast(i // number, tf.int32),
      }
    )

  return addresses


def _demonstrate(
  problem: text.GeneratedProblem,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
  """The preprocessor that writes the demonstrations at given ids."""
  eos = problem.vocabulary.eos_id

  def write(problem_id, sample_id):
    responses = problem.responses(problem_id, sample_id)
    length = (responses == eos).argmax(-1) + 1
    prompts = problem.prompts(problem_id)
    return [x.astype(np.int32) for x in (prompts, responses, length)]

  def block(ids):
    prompts, responses, length = tf.numpy_function(
      write, [ids[name] for name in IDS], [tf.int32] * 3
    )
    return ids | {
      "inputs": tf.ensure_shape(prompts, [None, problem.prompt_len]),
      "targets": tf.ensure_shape(responses, [None, problem.max_response_len]),
      "length": tf.ensure_shape(length, [None]),
    }

  def cut(example):
    length = example.pop("length")
    targets = tf.ensure_shape(example["targets"][:length], [None])
    return example | {"targets": targets}

  def demonstrate(dataset: tf.data.Dataset) -> tf.data.Dataset:
    dataset = dataset.batch(_BLOCK)
    dataset = dataset.map(block, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.unbatch().map(cut, num_parallel_calls=tf.data.AUTOTUNE)

  return demonstrate


def _examples(
  problem: DataProblem | text.TextProblem, num_problems: Mapping[str, int]
) -> Callable[..., tf.data.Dataset]:
  """The function of a source of problems and their answers."""
  ids = tf.TensorSpec([None], tf.int32)
  scalar = tf.TensorSpec([], tf.int32)

  def examples(split, shuffle_files, seed=None, shard_info=None):
    def rows():
      for example in problem.examples(split, 0, num_problems[split]):
        target = example.answer
        if isinstance(problem, DataProblem):
          target = problem.solution(example.problem_id)
        yield {
          "inputs": np.asarray(example.prompt, np.int32),
          "targets": np.asarray(target, np.int32),
          "problem_id": example.problem_id,
          "sample_id": 0,
        }

    dataset = tf.data.Dataset.from_generator(
      rows,
      output_signature={"inputs": ids, "targets": ids}
      | dict.fromkeys(IDS, scalar),
    )
    if shard_info and shard_info.num_shards > 1:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle_files:
      dataset = dataset.shuffle(num_problems[split], seed)
    return dataset

  return examples


def register(
  name: str,
  problem: text.GeneratedProblem | DataProblem | text.TextProblem,
  *,
  num_problems: Mapping[str, int] | None = None,
  num_samples: int = 1,
) -> seqio.Task:
  """Registers a problem's demonstrations as a seqio task.

  Of a `GeneratedProblem` the first demonstration of each problem comes first,
  then the second of each, and so on; each host makes its own part alone. A
  `DataProblem` has one example each, with its solution for a response, and so
  has any other problem, with its answer.

  With `shuffle` all examples of a split are permuted, the same way for the same
  seed, and seqio's buffer shuffles what comes out, anew in each epoch.

  Args:
    name: of the task.
    problem: any text problem.
    num_problems: of each split; None for all of a `DataProblem`, and else for
      2²⁰ to train and 1000 for validation and test each.
    num_samples: demonstrations of each problem.

  Returns:
    The task, which `seqio.get_mixture_or_task(name)` finds from now on. It may
    be cached (`task_cache`).

  Raises:
    ValueError: if there is such a task already, a split or number is unknown or
      not positive, the vocabulary's padding is not 0, or the problem has no
      demonstrations and several are asked for.
  """
  if num_problems is None and isinstance(problem, DataProblem):
    num_problems = {name: problem.split_size(name) for name in text.SPLITS}
  num_problems = dict(NUM_PROBLEMS if num_problems is None else num_problems)
  if set(num_problems) - set(text.SPLITS) or not num_problems:
    raise ValueError(
      f"num_problems has {tuple(num_problems)}, expected some of {text.SPLITS}"
    )
  for split, number in num_problems.items():
    if number < 1:
      raise ValueError(
        f"num_problems of {split} is {number}, expected at least 1"
      )
  if num_samples < 1:
    raise ValueError(f"num_samples is {num_samples}, expected at least 1")
  if isinstance(problem, text.GeneratedProblem):
    for split, number in num_problems.items():
      problem.problem_ids(split, number - 1, number)
    function = _addresses(problem, num_problems, num_samples)
    preprocessors = [_demonstrate(problem)]
  elif num_samples == 1:
    function, preprocessors = _examples(problem, num_problems), []
  else:
    raise ValueError(
      f"num_samples is {num_samples}, expected 1 for a problem without "
      "demonstrations"
    )
  tokens = feature(problem.vocabulary)
  return seqio.TaskRegistry.add(
    name,
    source=_Source(
      function,
      splits=tuple(num_problems),
      num_input_examples={
        split: number * num_samples for split, number in num_problems.items()
      },
    ),
    preprocessors=[*preprocessors, seqio.CacheDatasetPlaceholder()],
    output_features={"inputs": tokens, "targets": tokens},
  )
