"""MATH: competition mathematics, with the 500 test problems of Lightman et al.

The data set is `math_dataset`; how its splits keep clear of the test problems
is said in `math_files`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.prompt_format import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class MATH(DataProblem):
  """The problem's settings.

  Attributes:
    manual_dir: has the published files (`math_files`); needed once, to write
      the data set into `data_dir`.
    data_dir: of TFDS; None for its default.
    train: splits of the data set that are trained on. `("train", "test_rest")`
      is the training set of Lightman et al.: all but the 500 problems.
    test: splits of the data set that are tested on. `("test_500", "test_rest")`
      is nearly the published test split of 5,000: what is all but one of the
      500 problems is in neither.

  Raises:
    ValueError: if train and test have a split in common, or one is unknown.
  """

  # Where files lie is no part of what a run is.
  manual_dir: str | None = dataclasses.field(default=None, repr=False)
  data_dir: str | None = dataclasses.field(default=None, repr=False)
  train: Sequence[str] = ("train",)
  test: Sequence[str] = ("test_500",)

  def __post_init__(self):
    super().__post_init__()
    known = {"train": ("train", "test_rest"), "test": ("test_500", "test_rest")}
    for name, allowed in known.items():
      splits = tuple(getattr(self, name))
      object.__setattr__(self, name, splits)
      if not splits or set(splits) - set(allowed):
        raise ValueError(f"{name} is {splits}, expected some of {allowed}")
    if set(self.train) & set(self.test):
      raise ValueError(
        f"train is {self.train} and test {self.test}, expected nothing in both"
      )

  def records(self) -> Mapping[str, Sequence[Record]]:
    """All problems; the data set is written first if it is not there.

    Raises:
      ValueError: if it is not there and `manual_dir` is not set or not as
        `math_files` describes.
      MissingPackageError: without TensorFlow Datasets.
    """
    splits = _read(self.data_dir, self.manual_dir)
    return {
      "train": [record for name in self.train for record in splits[name]],
      "validation": splits["validation"],
      "test": [record for name in self.test for record in splits[name]],
    }


@functools.lru_cache(maxsize=2)
def _read(
  data_dir: str | None, manual_dir: str | None
) -> dict[str, list[Record]]:
  from pav_jax.problems import data_files, math_dataset, math_files

  make_builder = functools.partial(
    math_dataset.HendrycksMath, data_dir=data_dir
  )
  if manual_dir is None and not (builder := make_builder()).is_prepared():
    raise ValueError(
      f"there is no data set {builder.name} in {builder.data_dir} and no "
      "manual_dir, expected one of the two"
    )
  return data_files.read(
    make_builder,
    lambda row: Record(
      row["key"], row["problem"], row["solution"], row["answer"]
    ),
    manual_dir=manual_dir,
    splits=math_files.SPLITS,
  )
