"""Problems of reasoning-gym and their scores, within `grading_worker`.

An entry's address is its seed. Entries are drawn and scored in processes with a
fixed hash seed, since some data sets go through sets of strings in the order of
their hashes; and with limits, since some evaluate an answer as Python. These
are limits of time, memory and files: answers of people who mean harm need more.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

BLOCK = 8  # seeds whose entries are drawn together


def draw(
  name: str, configuration: str, block: int
) -> list[dict[str, Any]] | str:
  """The entries of seeds `BLOCK * block` … `BLOCK * (block + 1) - 1`.

  Args:
    name: of the data set.
    configuration: its settings besides seed and size, as JSON.
    block: a number from 0 up.

  Returns:
    For each `question`, `answer` and `metadata`, as JSON has them; the answer
    is None if the data set gives none. Where problems are made of templates,
    also `template`, its number. Or else what is wrong with the arguments.
  """
  from reasoning_gym.factory import DATASETS

  if name not in DATASETS:
    return f"name is {name!r}, expected one of {', '.join(sorted(DATASETS))}"
  try:
    data_set = _data_set(name, configuration, block)
  except Exception as error:
    return (
      f"configuration of {name} is {configuration}, expected what it takes "
      f"({type(error).__name__}: {error})"
    )
  return [_plain(_entry(data_set, index)) for index in range(BLOCK)]


def score(answer: str, name: str, configuration: str, seed: int) -> float:
  """What a data set makes of an answer to one of its problems.

  Args:
    answer: any text.
    name: of the data set.
    configuration: as of `draw`.
    seed: of the problem.

  Returns:
    A number in [0, 1], 1 for a right answer.
  """
  data_set = _data_set(name, configuration, seed // BLOCK)
  value = float(data_set.score_answer(answer, _at(name, configuration, seed)))
  return min(1.0, max(0.0, value)) if value == value else 0.0


@functools.lru_cache(maxsize=256)
def _data_set(name: str, configuration: str, block: int) -> Any:
  from reasoning_gym.factory import create_dataset

  settings = json.loads(configuration)
  return create_dataset(name, seed=BLOCK * block, size=BLOCK, **settings)


@functools.lru_cache(maxsize=1024)
def _at(name: str, configuration: str, seed: int) -> dict[str, Any]:
  block, index = divmod(seed, BLOCK)
  return _entry(_data_set(name, configuration, block), index)


def _entry(data_set: Any, index: int) -> dict[str, Any]:
  entry = data_set[index]
  templates = getattr(data_set, "task_indices", None)
  return entry if templates is None else entry | {"template": templates[index]}


def _plain(value: Any) -> Any:
  """A value as JSON has it; what JSON lacks becomes its text."""
  if isinstance(value, Mapping):
    return {str(key): _plain(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(x) for x in value]
  if value is None or type(value) in (bool, int, float, str):
    return value
  return str(value)
