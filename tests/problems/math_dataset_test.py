import pathlib

import pytest

pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.problems import math_files
from pav_jax.problems.frameworks import tfds
from pav_jax.problems.math_dataset import HendrycksMath

DATA = pathlib.Path(__file__).parents[1] / "data" / "math"


class HendrycksMathTest(tfds.testing.DatasetBuilderTestCase):
  """TFDS's own checks, on made-up files in the layout of the archive."""

  DATASET_CLASS = HendrycksMath
  EXAMPLE_DIR = DATA
  SKIP_TF1_GRAPH_MODE = True
  # That all examples are of the split that they should be in is told by keys.
  SPLITS = {  # noqa: RUF012
    "train": 13,
    "validation": 2,
    "test_500": 3,
    "test_rest": 1,
  }


def test_what_was_removed_is_told_with_the_data_set(tmp_path):
  builder = HendrycksMath(data_dir=tmp_path)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=DATA)
  )
  again = HendrycksMath(data_dir=tmp_path)  # read from the directory
  files = math_files.read(DATA)
  assert again.info.metadata["removed"] == [
    match._asdict() for match in files.removed
  ]
  rows = tfds.as_numpy(again.as_dataset(split="test_500"))
  got = {
    row["key"].decode(): {
      name: text.decode() for name, text in row.items() if name != "key"
    }
    for row in rows
  }
  assert got == files.splits["test_500"]
