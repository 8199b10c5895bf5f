"""What each shard of a collection took, in a file beside the data set."""

import dataclasses
import json
import os
import pathlib

import numpy as np

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
  path = _file(directory, index)
  partial = path.with_suffix(".partial")
  what = dataclasses.asdict(spent) | {"seconds": round(seconds, 3)}
  partial.write_text(json.dumps(what) + "\n")
  os.replace(partial, path)


def read(
  directory: pathlib.Path, num_shards: int
) -> tuple[Spent, np.ndarray, np.ndarray]:
  """Sums over all shards; completions and seconds of each."""
  total, numbers, seconds = Spent(), [], []
  for index in range(num_shards):
    fields = json.loads(_file(directory, index).read_text())
    seconds.append(fields.pop("seconds"))
    spent = Spent(**fields)
    numbers.append(spent.completions)
    total += spent
  return total, np.array(numbers), np.array(seconds)
