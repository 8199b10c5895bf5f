"""Also a program that writes a data set and is killed at every call.

`python step_targets_writer_test.py DIRECTORY` is run by one of the tests.
"""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.data import step_targets, step_targets_writer
from pav_jax.data.step_targets_writer import Writer
from pav_jax.rollout import StepTargets

pytest.importorskip(
  "pav_jax.problems.frameworks",
  reason="the extra `data` is not installed",
  exc_type=ImportError,
)

FINGERPRINT = "f" * 64
SETTINGS = {
  "config": {"num_mc": 4, "prover": {"name": "self", "k": 1}},
  "seed": 0,
  "checkpoint": "c" * 64,
  "fingerprint": FINGERPRINT,
  "pad_id": 0,
  "num_shards": 3,
}


def collect(index):
  """A pure function of the shard's number, as a collection is."""
  rng = np.random.default_rng(index)
  rows, width, prefixes = 4 + index, 9 + index, 4
  prefix_len = np.sort(rng.integers(1, width, (rows, prefixes)), -1)
  # Strictly increasing up to an end, and then constant.
  prefix_len = np.maximum.accumulate(prefix_len + np.arange(prefixes), -1)
  prefix_len = np.minimum(prefix_len, width).astype(np.int32)
  past = np.diff(prefix_len, prepend=-1) == 0
  n = np.where(past, 0, rng.integers(0, 5, (rows, prefixes))).astype(np.int32)
  tokens = rng.integers(1, 50, (rows, width)).astype(np.int32)
  tokens[np.arange(width) >= prefix_len[:, -1:]] = 0
  return StepTargets(
    tokens=tokens,
    prefix_len=prefix_len,
    num_completions=n,
    num_correct=rng.integers(0, n + 1).astype(np.float32),
    outcome=rng.choice([0, 1, np.nan], rows).astype(np.float32),
    problem_id=np.arange(rows, dtype=np.int32),
    sample_id=np.full(rows, index, np.int32),
  )


def write(directory, **settings):
  with Writer(directory, **(SETTINGS | settings)) as writer:
    for index in writer.missing_shards():
      writer.write_shard(index, collect(index))
    return writer.finish()


def contents(directory):
  """The bytes of all files but the locks, which are empty."""
  files = {p.name: p.read_bytes() for p in pathlib.Path(directory).iterdir()}
  assert not any(files[f] for f in files if f.startswith(".lock-"))
  return {f: data for f, data in files.items() if not f.startswith(".lock-")}


def shard(index, suffix="tfrecord"):
  return f"targets-{index:05d}-of-00003.{suffix}"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  directory = tmp_path_factory.mktemp("uninterrupted")
  write(directory)
  return contents(directory)


def test_a_data_set_is_a_manifest_and_shards_with_receipts(uninterrupted):
  expected = {"manifest.json"}
  for suffix in ("tfrecord", "json"):
    expected |= {shard(index, suffix) for index in range(3)}
  assert set(uninterrupted) == expected
  manifest = json.loads(uninterrupted["manifest.json"])
  given = {name: manifest[name] for name in SETTINGS}
  assert given == SETTINGS
  assert manifest["complete"] and manifest["version"] == 1
  for index, entry in enumerate(manifest["shards"]):
    receipt = json.loads(uninterrupted[shard(index, "json")])
    assert receipt.pop("file") == shard(index, "json")
    assert entry.pop("file") == shard(index)
    assert entry.items() <= receipt.items()
    assert receipt.keys() - entry.keys() == {"run", "checksum"}
    n = collect(index).num_completions
    assert entry["num_traces"] == len(n)
    assert entry["num_completions"] == n.sum()
    assert entry["num_labels"] == (n > 0).sum()
    assert entry["num_bytes"] == len(uninterrupted[shard(index)])


def kill_at(point):
  """Ends this process at the given call that changes files."""
  from pav_jax.problems.frameworks import tf

  calls = 0

  def counted(call, before=lambda *_: None):
    def wrapper(*args, **kwargs):
      nonlocal calls
      calls += 1
      if calls == point:
        before(*args)
        os.kill(os.getpid(), signal.SIGKILL)
      return call(*args, **kwargs)

    return wrapper

  for name in ("fsync", "replace", "link", "unlink"):
    setattr(os, name, counted(getattr(os, name)))

  class Dying(tf.io.TFRecordWriter):
    # What was written before reaches the file, and nothing after it.
    write = counted(tf.io.TFRecordWriter.write, lambda self, _: self.flush())

  tf.io.TFRecordWriter = Dying


def main(parent):
  """Kills a writer at its first call, at its second, …, and starts it again."""
  point, done = 0, False
  while not done:
    point += 1
    directory = pathlib.Path(parent, str(point))
    for again in (False, True):
      child = os.fork()
      if not child:
        if not again:
          kill_at(point)
        write(directory)
        os._exit(0)
      status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      if not again:
        left = [p.name for p in directory.glob("*")]
        has_partial = any(name.endswith(".partial") for name in left)
        done = status == 0
        print(status, len(left), has_partial)
      elif status:
        sys.exit(f"the second run ended with {status}")


def test_killed_at_any_call_and_started_again_it_writes_the_same_bytes(
  tmp_path, uninterrupted
):
  done = subprocess.run(
    [sys.executable, __file__, str(tmp_path)],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    check=False,
  )
  assert done.returncode == 0, done.stderr
  runs = [line.split() for line in done.stdout.splitlines()]
  # Each but the last was killed; a shard alone has 4 or more records, 3 calls
  # to sync, 2 to rename; and some were killed half way through a file.
  assert [status for status, *_ in runs[:-1]] == ["-9"] * (len(runs) - 1)
  assert len(runs) > 3 * (4 + 3 + 2)
  assert any(has_partial == "True" for *_, has_partial in runs)
  for directory in tmp_path.iterdir():
    assert contents(directory) == uninterrupted, directory


def test_hosts_write_disjoint_shards_of_the_same_data_set(
  tmp_path, uninterrupted
):
  settings = SETTINGS | {"num_hosts": 2}
  with (
    Writer(tmp_path, **settings, host=0) as first,
    Writer(tmp_path, **settings, host=1) as second,
  ):
    assert first.missing_shards() == [0, 2]
    assert second.missing_shards() == [1]
    with pytest.raises(ValueError, match="shard 1 is not this host's"):
      first.write_shard(1, collect(1))
    for index in (0, 2):
      first.write_shard(index, collect(index))
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards.*\[1\]"):
      first.finish()
    second.write_shard(1, collect(1))
    second.finish()
    assert step_targets.read_manifest(tmp_path).shards == ()
    assert first.finish().is_complete
    second.finish()
  assert contents(tmp_path) == uninterrupted


def test_another_number_of_hosts_may_continue(tmp_path, uninterrupted):
  with Writer(tmp_path, **SETTINGS, host=1, num_hosts=2) as writer:
    writer.write_shard(1, collect(1))
    # As a host that was killed would leave behind.
    partial = tmp_path / f".{shard(2)}.2-of-4.partial"
    partial.write_bytes(b"half")
  write(tmp_path)
  assert contents(tmp_path) == uninterrupted


def test_two_writers_of_the_same_shards_are_refused(tmp_path):
  with Writer(tmp_path, **SETTINGS, host=1, num_hosts=2):
    with pytest.raises(RuntimeError, match=r"another process.*as host 1-of-2"):
      Writer(tmp_path, **SETTINGS, host=1, num_hosts=2)
    with pytest.raises(RuntimeError, match=r"1-of-2, which shares.*0-of-1"):
      Writer(tmp_path, **SETTINGS)
    with Writer(tmp_path, **SETTINGS, host=0, num_hosts=2):
      pass
  write(tmp_path)  # The locks are gone with their writers.


def test_partial_files_of_another_host_at_work_are_left_alone(tmp_path):
  partial = tmp_path / f".{shard(1)}.1-of-2.partial"
  with Writer(tmp_path, **SETTINGS, host=1, num_hosts=2):
    partial.write_bytes(b"half")
    with Writer(tmp_path, **SETTINGS, host=0, num_hosts=2):
      assert partial.exists()


@pytest.mark.parametrize(
  ("changes", "what"),
  [
    ({"seed": 1}, "seed was 0, is now 1"),
    ({"checkpoint": "d"}, "checkpoint was c+, is now d"),
    ({"fingerprint": "e" * 64}, "fingerprint was f+, is now e+"),
    ({"num_shards": 4}, "num_shards was 3, is now 4"),
    ({"pad_id": 5}, "pad_id was 0, is now 5"),
    (
      {"config": {"num_mc": 8, "prover": {"name": "self"}, "new": 1}},
      r"config\.new was absent, is now 1; config\.num_mc was 4, is now 8; "
      r"config\.prover\.k was 1, is now absent\.",
    ),
  ],
)
def test_another_configuration_is_refused_and_nothing_is_lost(
  tmp_path, changes, what
):
  write(tmp_path)
  before = contents(tmp_path)
  with pytest.raises(ValueError, match=f"another configuration: {what}"):
    Writer(tmp_path, **(SETTINGS | changes))
  assert contents(tmp_path) == before


def test_configurations_are_compared_as_json_has_them(tmp_path):
  config = {"ops": ("+", "-"), "rate": 0.1}
  write(tmp_path, config=config)
  write(tmp_path, config=config | {"ops": ["+", "-"]})
  for bad in ({"x": float("nan")}, {"x": np.zeros(2)}):
    with pytest.raises(ValueError, match="expected what JSON has"):
      write(tmp_path / "other", config=bad)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"format": 3}'])
def test_an_unreadable_manifest_is_refused(tmp_path, data):
  write(tmp_path)
  (tmp_path / "manifest.json").write_bytes(data)
  with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
    Writer(tmp_path, **SETTINGS)
  assert (tmp_path / "manifest.json").read_bytes() == data


def test_another_format_version_is_refused(tmp_path):
  write(tmp_path)
  path = tmp_path / "manifest.json"
  path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
  with pytest.raises(ValueError, match="format version is 2, expected 1"):
    Writer(tmp_path, **SETTINGS)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_shard_is_named_and_alone_written_again(
  tmp_path, uninterrupted, damage
):
  write(tmp_path)
  path = tmp_path / shard(1)
  data = path.read_bytes()
  flipped = data[:20] + bytes([data[20] ^ 1]) + data[21:]
  path.write_bytes(
    {"truncated": data[:-1], "changed": flipped, "empty": b""}[damage]
  )
  what = r"shard .*targets-00001-of-00003\.tfrecord is damaged"
  with pytest.raises(ValueError, match=what):
    Writer(tmp_path, **SETTINGS)
  # Another host's damage is found at the end.
  with (
    Writer(tmp_path, **SETTINGS, host=0, num_hosts=2) as writer,
    pytest.raises(ValueError, match=what),
  ):
    writer.finish()
  # What the message says: move it away, start again.
  path.rename(tmp_path.with_suffix(".moved"))
  with Writer(tmp_path, **SETTINGS) as writer:
    assert writer.missing_shards() == [1]
  write(tmp_path)
  assert contents(tmp_path) == uninterrupted


def test_an_unreadable_receipt_is_named(tmp_path, uninterrupted):
  write(tmp_path)
  path = tmp_path / shard(2, "json")
  path.write_text("{")
  with pytest.raises(ValueError, match=r"00002-of-00003\.json cannot be read"):
    Writer(tmp_path, **SETTINGS)
  path.unlink()
  write(tmp_path)
  assert contents(tmp_path) == uninterrupted


@pytest.mark.skipif(
  not os.path.exists("/dev/full"), reason="no device that is always full"
)
def test_a_full_disk_costs_no_finished_shard(tmp_path, uninterrupted):
  with Writer(tmp_path, **SETTINGS) as writer:
    writer.write_shard(0, collect(0))
    # Writing there gives the system's own error, which TensorFlow translates.
    (tmp_path / f".{shard(1)}.0-of-1.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"00001-.*the disk is full") as raised:
      writer.write_shard(1, collect(1))
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob(".*.partial"))
    assert writer.missing_shards() == [1, 2]
  write(tmp_path)
  assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize(
  ("number", "what"),
  [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Start again with")],
)
def test_a_disk_that_fails_at_any_sync_costs_no_finished_shard(
  tmp_path, monkeypatch, uninterrupted, number, what
):
  sync = os.fsync
  for failing in range(1, 4):
    directory = tmp_path / str(failing)
    with Writer(directory, **SETTINGS) as writer:
      writer.write_shard(0, collect(0))
      calls = 0

      def fsync(descriptor, failing=failing):
        nonlocal calls
        calls += 1
        if calls == failing:
          raise OSError(number, os.strerror(number))
        sync(descriptor)

      with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=what) as raised:
          writer.write_shard(1, collect(1))
      assert raised.value.errno == number
      assert calls == failing
      assert not list(directory.glob(".*.partial"))
      assert writer.missing_shards() == [1, 2]
    write(directory)
    assert contents(directory) == uninterrupted


def test_misuse_is_refused(tmp_path):
  for bad, what in (
    ({"num_shards": 0}, "num_shards is 0"),
    ({"host": 2, "num_hosts": 2}, r"host is 2, expected 0 … 1"),
  ):
    with pytest.raises(ValueError, match=what):
      Writer(tmp_path / "none", **(SETTINGS | bad))
  assert not (tmp_path / "none").exists()
  with Writer(tmp_path, **SETTINGS) as writer:
    writer.write_shard(0, collect(0))
    with pytest.raises(ValueError, match="shard 0 is there already"):
      writer.write_shard(0, collect(0))
    with pytest.raises(ValueError, match="shard 3 is not this host's"):
      writer.write_shard(3, collect(3))
    with pytest.raises(ValueError, match=r"outcome has shape \(1, 2\)"):
      writer.write_shard(1, StepTargets(*[np.zeros((1, 2), int)] * 7))
  with pytest.raises(ValueError, match="this writer is closed"):
    writer.write_shard(1, collect(1))


def test_targets_at_hand_are_divided_in_order(tmp_path):
  targets = collect(3)  # seven traces: 3, 2 and 2
  settings = {**SETTINGS, "num_shards": 3}
  manifest = step_targets_writer.write(tmp_path, targets, **settings)
  assert [entry.num_traces for entry in manifest.shards] == [3, 2, 2]
  loaded = step_targets.load(tmp_path, fingerprint=FINGERPRINT)
  np.testing.assert_array_equal(loaded.problem_id, targets.problem_id)
  np.testing.assert_array_equal(loaded.num_correct, targets.num_correct)


if __name__ == "__main__":
  main(sys.argv[1])
