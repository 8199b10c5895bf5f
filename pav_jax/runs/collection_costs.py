"""What each shard of a collection took, in a file beside the data set."""

import dataclasses
import pathlib

import numpy as np

from pav_jax import files
from pav_jax.training.collect_seeds import Spent


def _file(directory: pathlib.Path, index: int) -> pathlib.Path:
  return directory / f"{index:05d}.json"


def write(
  directory: pathlib.Path, index: int, spent: Spent, seconds: float
) -> None:
  """Writes what shard `index` took, at once or not at all.

  Args:
    directory: of these files.
    index: of the shard.
    spent: on it.
    seconds: of wall time.
  """
  what = dataclasses.asdict(spent) | {"seconds": round(seconds, 3)}
  files.write_json(_file(directory, index), what, checked=True)


def read(
  directory: pathlib.Path, num_shards: int
) -> tuple[Spent, np.ndarray, np.ndarray]:
  """Sums over all shards; completions and seconds of each.

  Raises:
    ValueError: naming a file that is missing or damaged.
  """
  total, numbers, seconds = Spent(), [], []
  for index in range(num_shards):
    path = _file(directory, index)
    way_out = (
      f"move it and shard {index} of the targets away and start again: that "
      "shard alone is written again"
    )
    try:
      fields = files.read_json(path, checked=True, way_out=way_out)
    except FileNotFoundError as error:
      raise ValueError(f"{path} is missing; {way_out}") from error
    seconds.append(fields.pop("seconds"))
    spent = Spent(**fields)
    numbers.append(spent.completions)
    total += spent
  return total, np.array(numbers), np.array(seconds)
