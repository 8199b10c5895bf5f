"""A part is there whole, is the one that was written, or is named."""

import errno
import shutil

import numpy as np
import pytest

from pav_jax import shards
from pav_jax.shards import Shards

RUN = {"seed": 0, "problem": "p"}
NAMES = ["a.npz", "b.npz"]


@pytest.fixture
def parts(tmp_path):
  parts = Shards(tmp_path / "parts", RUN)
  for name in NAMES:
    assert parts.missing(name)
    parts.write(name, name.encode(), rows=3)
  return parts


def test_parts_are_read_as_they_were_written(parts):
  again = Shards(parts.directory, dict(reversed(RUN.items())))
  assert [again.read(name) for name in NAMES] == [b"a.npz", b"b.npz"]
  assert again.receipt("a.npz")["rows"] == 3
  assert shards.read(parts.directory / "b.npz") == b"b.npz"


def swap(directory, *suffixes):
  for suffix in suffixes:
    a, b = (directory / f"{name}{suffix}" for name in "ab")
    a.rename(directory / "c")
    b.rename(a)
    (directory / "c").rename(b)


@pytest.mark.parametrize(
  "damage, message",
  [
    ("flip", "a.npz is damaged: its SHA-256 is .* move it away"),
    ("cut", r"a.npz is damaged: .*\(4 bytes\), and .*\(5 bytes\) was written"),
    ("swap", "a.npz is damaged"),
    ("swap both", "a.json was written as b.json; move it away"),
    ("receipt", "a.json .* does not match its checksum; move it away"),
    ("cut receipt", "a.json cannot be read .*; move it away"),
    ("another run", "a.npz was written by a run with another configuration"),
  ],
)
def test_damage_is_named_and_the_way_out_works(parts, damage, message):
  directory = parts.directory
  path, receipt = directory / "a.npz", directory / "a.json"
  if damage == "flip":
    path.write_bytes(b"A.npz")
  elif damage == "cut":
    path.write_bytes(b"a.np")
  elif damage.startswith("swap"):
    swap(directory, ".npz", *([".json"] if "both" in damage else []))
  elif damage == "receipt":
    receipt.write_text(receipt.read_text().replace("3", "4"))
  elif damage == "cut receipt":
    receipt.write_text(receipt.read_text()[:-9])
  else:
    other = Shards(directory.with_name("other"), RUN | {"seed": 1})
    other.write("a.npz", b"a.npz")
    shutil.copytree(other.directory, directory, dirs_exist_ok=True)
  with pytest.raises(ValueError, match=message):
    parts.read("a.npz")
  # Whichever of the two is moved away, the part is missing, and alone so.
  (receipt if "receipt" in damage or "both" in damage else path).unlink()
  assert parts.missing("a.npz")
  if "swap" not in damage:
    assert parts.read("b.npz") == b"b.npz"
  parts.write("a.npz", b"a.npz", rows=3)
  assert parts.read("a.npz") == b"a.npz"


def test_a_part_that_could_not_be_written_is_missing(tmp_path):
  parts = Shards(tmp_path, RUN)

  def full(path):
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  with pytest.raises(OSError, match=r"a.npz: the disk is full. Make room"):
    parts.write_by("a.npz", full)
  assert parts.missing("a.npz") and not list(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"a\.npz or its receipt is missing"):
    parts.read("a.npz")


def test_arrays_make_the_same_bytes_each_time():
  arrays = {"a": np.arange(3), "b": np.array([[0.1, np.nan]])}
  data = shards.to_npz(arrays)
  assert data == shards.to_npz(arrays)
  came = shards.from_npz(data)
  assert came.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(came[name], array)
