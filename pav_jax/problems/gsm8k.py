"""GSM8K: word problems of grade school (Cobbe et al., arXiv 2110.14168)."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence

from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.prompt_format import Record

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_VALIDATION = 15  # one in so many


@dataclasses.dataclass(frozen=True, kw_only=True)
class GSM8K(DataProblem):
  """The data set `gsm8k` of TFDS.

  Test is the published test split; validation is one in 15 of the published
  train split, by a hash of the problem's text, and train is the rest. Solutions
  end with a line `#### 72`; their calculator annotations (`<<48/2=24>>`) are
  left out.

  Attributes:
    data_dir: of TFDS; None for its default. The data set is downloaded if it is
      not there.
  """

  data_dir: str | None = dataclasses.field(default=None, repr=False)

  def records(self) -> Mapping[str, Sequence[Record]]:
    """All problems.

    Raises:
      ValueError: if the data set is not there and cannot be downloaded.
      MissingPackageError: without TensorFlow Datasets.
    """
    return _read(self.data_dir)


@functools.lru_cache(maxsize=2)
def _read(data_dir: str | None) -> dict[str, list[Record]]:
  from pav_jax.problems import data_files
  from pav_jax.problems.frameworks import tfds

  published = data_files.read(
    lambda: tfds.builder("gsm8k", data_dir=data_dir),
    _record,
    splits=("train", "test"),
  )
  splits = {"train": [], "validation": [], "test": published["test"]}
  for record in published["train"]:
    digest = hashlib.sha256(" ".join(record.problem.split()).encode()).digest()
    number = int.from_bytes(digest[:8], "big")
    splits["train" if number % _VALIDATION else "validation"].append(record)
  return splits


def _record(row: Mapping[str, str]) -> Record:
  solution = _CALCULATOR.sub("", row["answer"])
  answer = row["short_answer"].strip()
  # Problems have no names; one that comes twice is one problem for shots.
  key = hashlib.sha256(row["question"].encode()).hexdigest()[:16]
  return Record(key, row["question"], solution, answer)
