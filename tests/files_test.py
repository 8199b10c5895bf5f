import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from pav_jax import files


class Killed(BaseException):
  """Ends a writer as no `except Exception` stops it."""


def listing(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a.txt"
  files.write_text(path, "old")
  with pytest.raises(Killed), files.whole_file(path, "w") as file:
    file.write("ne")
    file.flush()
    assert path.read_text() == "old"
    raise Killed
  assert path.read_text() == "old" and listing(tmp_path) == ["a.txt"]
  with files.whole_file(path, "w") as file:
    file.write("né")
  assert path.read_bytes() == "né".encode()


def test_writers_of_one_path_at_a_time_do_not_meet(tmp_path):
  path = tmp_path / "a"
  with (
    files.whole_file(path, writer="1") as one,
    files.whole_file(path, writer="2") as two,
  ):
    one.write(b"one")
    two.write(b"two")
  assert path.read_bytes() == b"one"  # whose context ended last


@pytest.fixture
def umask():
  before = os.umask(0o027)
  yield
  os.umask(before)


@pytest.mark.usefixtures("umask")
def test_access_rights_are_those_of_the_umask(tmp_path):
  with files.whole_folder(tmp_path / "f") as folder:
    secret = folder / "secret"  # as safetensors writes its files
    os.close(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o600))
  assert (tmp_path / "f").stat().st_mode & 0o777 == 0o750
  assert (tmp_path / "f" / "secret").stat().st_mode & 0o777 == 0o640
  files.write_json(tmp_path / "a.json", [])
  assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / "deep" / "f"
  for text in ("old", "new"):
    with files.whole_folder(path, replace=True) as folder:
      (folder / "a").write_text(text)
      assert not (path / "a").exists() or (path / "a").read_text() == "old"
    assert listing(path) == ["a"]
  with pytest.raises(Killed), files.whole_folder(path, replace=True) as folder:
    (folder / "b").write_text("half")
    raise Killed
  assert listing(tmp_path) == ["deep", "deep/f", "deep/f/a"]
  assert (path / "a").read_text() == "new"


def test_what_is_in_the_way_is_not_replaced_unasked(tmp_path):
  with files.whole_folder(tmp_path / "empty") as folder:
    (folder / "a").touch()
  for name in ("empty", "empty/a"):
    with (
      pytest.raises(ValueError, match="exists, expected a new or empty"),
      files.whole_folder(tmp_path / name),
    ):
      pytest.fail("was entered")


CRASH = """
import os, pathlib, sys
from pav_jax import files
path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
if moment != "writing":
  real = pathlib.Path.rename
  def rename(self, to):
    if moment == "before" or self.name.endswith(".partial"):
      os._exit(9)
    return real(self, to)
  pathlib.Path.rename = rename
with files.whole_folder(path, replace=True) as folder:
  (folder / "a").write_text("new")
  if moment == "writing":
    os._exit(9)
"""


@pytest.mark.parametrize("moment", ["writing", "before", "between"])
def test_what_a_killed_writer_leaves_is_cleared(tmp_path, moment):
  """Killed while it writes, before the old folder is moved, and after."""
  path = tmp_path / "w" / "policy"
  with files.whole_folder(path) as folder:
    (folder / "a").write_text("old")
  command = [sys.executable, "-c", CRASH, str(path), moment]
  root = pathlib.Path(files.__file__).parents[1]
  killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)})
  assert killed.returncode == 9
  assert len(list((tmp_path / "w").iterdir())) == 2  # something was left
  again = shutil.copytree(tmp_path / "w", tmp_path / "again") / "policy"
  files.remove_leftovers(tmp_path / "w")
  assert listing(tmp_path / "w") == ["policy", "policy/a"]
  assert (path / "a").read_text() == "old"
  with files.whole_folder(again, replace=True) as folder:
    (folder / "a").write_text("newer")
  assert listing(tmp_path / "again") == ["policy", "policy/a"]


def test_leftovers_are_told_from_what_users_keep(tmp_path):
  for name in (".a.partial", "b.partial", ".hidden", "d/.x.1.partial"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  files.remove_leftovers(tmp_path)
  assert listing(tmp_path) == [".hidden", "b.partial", "d"]


def checked_folder(tmp_path):
  with files.whole_folder(tmp_path / "f", checked=True) as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_bytes(bytes(range(256)))
    (folder / "a").write_text("a")
  return tmp_path / "f"


def test_checksums_are_those_of_coreutils(tmp_path):
  folder = checked_folder(tmp_path)
  assert files.check_folder(folder)
  assert not files.check_folder(folder / "sub")  # which has none
  command = ["sha256sum", "--strict", "-c", files.SUMS]
  result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  assert result.stdout == "a: OK\nsub/b: OK\n"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap", "sums"])
def test_damage_is_named_and_the_ways_out_work(tmp_path, damage):
  folder = checked_folder(tmp_path)
  good = shutil.copytree(folder, tmp_path / "good")
  file, name = folder / "sub" / "b", "b"
  if damage == "flip":
    file.write_bytes(b"\1" + file.read_bytes()[1:])
  elif damage == "cut":
    file.write_bytes(file.read_bytes()[:-1])
  elif damage == "remove":
    file.unlink()
  elif damage == "swap":
    (folder / "a").replace(file)
    (folder / "a").write_bytes((good / "sub" / "b").read_bytes())
    name = "a"
  else:
    sums = folder / files.SUMS
    sums.write_text(sums.read_text().replace("b", "c"))
    name = "a"
  with pytest.raises(ValueError) as error:
    files.check_folder(folder)
  assert str(folder / ("a" if name == "a" else "sub/b")) in str(error.value)
  # It was changed on purpose; or a good copy is brought.
  kept = shutil.copytree(folder, tmp_path / "kept")
  (kept / files.SUMS).unlink()
  assert not files.check_folder(kept)
  shutil.rmtree(folder)
  shutil.copytree(good, folder)
  assert files.check_folder(folder)


def test_checked_json_tells_changes_and_other_names(tmp_path):
  path = tmp_path / "a.json"
  content = {"b": [1, None, "é"], "a": {"x": 0.1}}
  files.write_json(path, content, checked=True)
  read = {"checked": True, "way_out": "delete it"}
  assert files.read_json(path, **read) == content
  text = path.read_text()
  for wrong, message in (
    (text.replace("0.1", "0.2"), "does not match its checksum; delete it"),
    (text[:-9], r"a.json cannot be read \(.*\); delete it"),
    ("[" * 100_000, "nested too deep"),
    (b"\xff", "cannot be read"),
    ("[1]", "has no checksum"),
  ):
    path.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
    with pytest.raises(ValueError, match=message):
      files.read_json(path, **read)
  path.write_text(text)
  path.rename(tmp_path / "b.json")
  with pytest.raises(ValueError, match=r"b.json was written as a.json; delete"):
    files.read_json(tmp_path / "b.json", **read)
  with pytest.raises(ValueError):
    files.write_json(path, {"a": float("nan")})
  assert not path.exists()


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
  with (
    pytest.raises(
      OSError, match=r"could not write .*a: the disk is full. Make"
    ),
    files.whole_file(tmp_path / "a") as file,
    open("/dev/full", "wb", buffering=0) as full,
  ):
    file.write(b"half")
    full.write(b"x")
  assert not list(tmp_path.iterdir())
  with pytest.raises(OSError, match=r"Start again .* when that is mended"):
    files.write_json(tmp_path / "no" / "a", {})


def test_a_description_is_the_same_in_every_process():
  def fn():
    pass

  assert "0x" in repr({"f": fn})
  text = "{'f': <function test_a_description_is_the_same_in_every_process"
  assert files.describe({"f": fn}) == f"{text}.<locals>.fn>}}"
