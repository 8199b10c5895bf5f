import pathlib

import pytest

pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.problems import data_files
from pav_jax.problems.math_dataset import HendrycksMath
from pav_jax.problems.prompt_format import Record

DATA = pathlib.Path(__file__).parents[1] / "data" / "math"


def read(data_dir, splits=("test_500",)):
  return data_files.read(
    lambda: HendrycksMath(data_dir=data_dir),
    lambda row: Record(row["key"], row["problem"], "", row["answer"]),
    splits=splits,
    manual_dir=str(DATA),
  )


def test_rows_are_in_the_order_of_their_keys(tmp_path):
  rows = read(tmp_path, ("test_500", "absent"))
  keys = [record.key for record in rows["test_500"]]
  assert keys == [
    "test/algebra/12.json",
    "test/algebra/7.json",
    "test/prealgebra/3.json",
  ]
  assert rows["absent"] == []


def test_another_process_may_be_faster(tmp_path, monkeypatch):
  # The other's directory is there when ours is to be put in its place.
  prepare = HendrycksMath.download_and_prepare

  def late(self, **kwargs):
    prepare(self, **kwargs)
    raise OSError("Directory not empty")

  want = read(tmp_path / "alone")
  monkeypatch.setattr(HendrycksMath, "download_and_prepare", late)
  assert read(tmp_path / "raced") == want


def test_other_failures_are_told(tmp_path, monkeypatch):
  def full(self, **kwargs):
    raise OSError("No space\nleft")

  monkeypatch.setattr(HendrycksMath, "download_and_prepare", full)
  with pytest.raises(ValueError, match="cannot be made there: No space left"):
    read(tmp_path)
