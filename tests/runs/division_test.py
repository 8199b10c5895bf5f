"""Parts of work in files; several processes are in hosts_test."""

import os
import signal

import jax
import numpy as np
import pytest

from pav_jax.runs import division
from pav_jax.runs.division import Division, in_parts
from pav_jax.runs.preemption import Preempted, Watch
from pav_jax.shards import Shards

NAMES = [f"{number}.txt" for number in range(4)]


def shards(directory, run=0):
  return Shards(directory / "parts", {"run": run})


def written(directory):
  parts = shards(directory)
  return [
    parts.read(name).decode() for name in NAMES if not parts.missing(name)
  ]


def test_what_is_there_is_not_made_again(tmp_path):
  made = []

  def make(number):
    made.append(number)
    return str(number).encode(), {}

  shards(tmp_path).write(NAMES[2], b"before")
  with Watch() as told_to_stop:
    work = Division(told_to_stop)
    work.write("test", shards(tmp_path), NAMES, [1] * 4, make)
    work.wait()
  assert made == [0, 1, 3]
  assert written(tmp_path) == ["0", "1", "before", "3"]
  assert len(list((tmp_path / "parts").iterdir())) == 8  # with receipts


def test_told_to_stop_it_ends_the_part_that_was_begun(tmp_path):
  def make(number):
    if number == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return str(number).encode(), {}

  with pytest.raises(Preempted), Watch() as told_to_stop:
    Division(told_to_stop).write("test", shards(tmp_path), NAMES, [1] * 4, make)
  assert written(tmp_path) == ["0", "1"]


def test_processes_take_turns_across_calls(tmp_path, monkeypatch):
  """Three parts, then one more: 0 and 2, then 3 fall to the even process."""

  def make(number):
    return str(number).encode(), {}

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for index, expected in ((0, ["0", "2"]), (1, ["0", "1", "2", "0"])):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    work = Division(Watch())
    work.write("test", shards(tmp_path), NAMES[:3], [1] * 3, make)
    work.write("test", shards(tmp_path), NAMES[3:], [1], make)
    assert written(tmp_path) == expected


def test_files_that_do_not_appear_are_named(tmp_path, monkeypatch):
  monkeypatch.setattr(division, "_SECONDS_TO_SEE", 0)
  work = Division(Watch())
  parts = shards(tmp_path)
  work.write("test", parts, NAMES, [1] * 4, lambda number: (b"", {}))
  (parts.directory / NAMES[3]).unlink()
  with pytest.raises(FileNotFoundError, match=r"3\.txt is not here.*all pro"):
    work.wait()


def test_a_damaged_part_is_named_and_the_way_out_works(tmp_path):
  def work():
    Division(Watch()).write(
      "test",
      shards(tmp_path),
      NAMES,
      [1] * 4,
      lambda number: (str(number).encode(), {}),
    )

  work()
  path = tmp_path / "parts" / NAMES[1]
  path.write_text("2")
  with pytest.raises(ValueError, match=r"1\.txt is damaged: .*move it away"):
    work()
  path.unlink()
  work()
  assert written(tmp_path) == ["0", "1", "2", "3"]


def test_the_last_part_is_filled_up():
  found = [
    (first, rows.tolist(), valid)
    for first, rows, valid in in_parts(np.array([5, 6, 7]), 2)
  ]
  assert found == [(0, [5, 6], 2), (2, [7, 7], 1)]
