import gzip
import sys

import pytest

from pav_jax import json_files

TEXT = '{"a": "é"}\n'.encode() * 3


def test_gzip_is_told_by_content(tmp_path):
  path = tmp_path / "plain.gz"
  path.write_bytes(TEXT)
  assert json_files.read(path) == TEXT
  path = tmp_path / "a.jsonl"
  path.write_bytes(gzip.compress(TEXT) + gzip.compress(TEXT))
  assert json_files.read(path) == 2 * TEXT


def test_zstd(tmp_path):
  zstandard = pytest.importorskip("zstandard")
  path = tmp_path / "a.jsonl.zst"
  frame = zstandard.compress(TEXT)
  path.write_bytes(frame + frame)
  assert json_files.read(path) == 2 * TEXT
  path.write_bytes(frame[:-3])
  with pytest.raises(ValueError, match=r"a\.jsonl\.zst cannot be decompressed"):
    json_files.read(path)


def test_zstd_without_its_package(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "zstandard", None)
  path = tmp_path / "a.jsonl.zst"
  path.write_bytes(b"\x28\xb5\x2f\xfd")
  with pytest.raises(ImportError, match=r"a\.jsonl.*pip install zstandard"):
    json_files.read(path)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_files_are_named(tmp_path, damage):
  content = bytearray(gzip.compress(TEXT * 100))
  if damage == "cut":
    content = content[:-9]
  else:
    content[len(content) // 2] ^= 255
  path = tmp_path / "a.jsonl.gz"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"a\.jsonl\.gz cannot be decompressed"):
    json_files.read(path)


def test_texts_have_no_byte_order_mark(tmp_path):
  path = tmp_path / "a.json"
  path.write_bytes(b"\xef\xbb\xbf" + TEXT)
  assert json_files.read_text(path) == TEXT.decode()
  path.write_bytes(b"\xff")
  with pytest.raises(ValueError, match=r"a\.json is not UTF-8"):
    json_files.read_text(path)


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_deep_nesting_is_no_crash(bracket):
  with pytest.raises(ValueError, match="nested too deeply"):
    json_files.parse(bracket * 100_000)
  assert json_files.parse(b'\xef\xbb\xbf{"a": [1]}') == {"a": [1]}
