import errno
import json
import os

import numpy as np
import pytest

from pav_jax.reporting.metrics import MetricsLog, write_report


def test_history_is_what_was_written_across_a_resume(tmp_path):
  log = MetricsLog(tmp_path)
  log.resume(["a", "b"], 0)
  values = np.array([[0.25, 0.5], [0.125, 1.0], [0.75, 0.0]])
  log.write("a", range(1, 4), {"accuracy": values})
  log.write("b", range(1, 3), {"accuracy": values[:2]})
  log.close()
  # Arm a goes back to its second iteration; arm b keeps all it has.
  log = MetricsLog(tmp_path)
  log.resume(["a"], 2)
  log.write("a", [3], {"accuracy": values[:1]})
  log.close()
  log = MetricsLog(tmp_path)
  np.testing.assert_array_equal(
    log.history("a", "accuracy", 3), values[[0, 1, 0]]
  )
  np.testing.assert_array_equal(log.history("b", "accuracy", 2), values[:2])


def test_a_line_cut_off_is_dropped_and_a_broken_one_is_an_error(tmp_path):
  path = tmp_path / "metrics.jsonl"
  good = json.dumps({"iteration": 1, "arm": "a", "loss": [1.0]}) + "\n"
  path.write_text(good + '{"iteration": 2, "a')
  assert MetricsLog(tmp_path).history("a", "loss", 1).tolist() == [[1.0]]
  path.write_text("{broken}\n" + good)
  with pytest.raises(ValueError, match=r"line 1 of .* is not JSON"):
    MetricsLog(tmp_path)


def test_not_a_number_becomes_null_in_valid_json(tmp_path):
  log = MetricsLog(tmp_path)
  log.resume(["a"], 0)
  log.write("a", [1], {"loss": np.array([[np.nan, 1 / 3]])})
  log.close()
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert row == {"iteration": 1, "arm": "a", "loss": [None, 0.3333333]}


def test_report_is_strict_json(tmp_path):
  path = tmp_path / "report.json"
  write_report(
    path, experiment="x", arms={"a": {"it_50": [3, None]}}, seconds=1.23456
  )
  assert json.loads(path.read_text()) == {
    "experiment": "x",
    "arms": {"a": {"it_50": [3, None]}},
    "seconds": 1.235,
  }
  with pytest.raises(ValueError):
    write_report(
      path, experiment="x", arms={"a": {"m": [float("nan")]}}, seconds=0.0
    )
  assert json.loads(path.read_text())["experiment"] == "x"  # the old one stays


def rows(path, arm):
  lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
  return [row["iteration"] for row in lines if row["arm"] == arm]


def written(path, last):
  """A log of an arm that has rows from iteration 0 on, and of another one."""
  log = MetricsLog(path)
  log.resume(["a"], 0)
  log.write("a", range(last + 1), {"loss": np.zeros((last + 1, 1))})
  log.close()
  return log


@pytest.mark.parametrize("checkpoint, kept", [(0, []), (1, [0, 1]), (3, None)])
def test_rows_after_the_newest_checkpoint_are_dropped(
  tmp_path, checkpoint, kept
):
  """With no checkpoint iteration 0 is done again too, and written again."""
  written(tmp_path, 3)
  log = MetricsLog(tmp_path)
  log.resume(["a"], checkpoint)
  log.close()
  assert rows(tmp_path, "a") == ([0, 1, 2, 3] if kept is None else kept)


def test_lost_rows_are_told_before_the_run_goes_on(tmp_path):
  written(tmp_path, 3)
  path = tmp_path / "metrics.jsonl"
  whole = path.read_text()
  path.write_text("".join(whole.splitlines(keepends=True)[:2]))
  expected = {"a": range(6)}
  message = "lacks rows of arm 'a', the first of them of 2; restore the file, "
  with pytest.raises(ValueError, match=message + "or move the workdir away"):
    MetricsLog(tmp_path).resume(["a"], 3, expected=expected)
  assert path.read_text() != whole  # and nothing was changed
  MetricsLog(tmp_path).resume(["a"], 1, expected=expected)
  path.write_text(whole)  # the way out
  MetricsLog(tmp_path).resume(["a"], 3, expected=expected)
  with pytest.raises(ValueError, match="lacks rows of arm 'b'"):
    MetricsLog(tmp_path).rows("b")


def test_a_file_that_is_removed_under_a_run_ends_it(tmp_path):
  log = MetricsLog(tmp_path)
  log.resume(["a"], 0)
  (tmp_path / "metrics.jsonl").unlink()
  with pytest.raises(FileNotFoundError, match="removed while the run was at"):
    log.write("a", [1], {"loss": np.zeros((1, 1))})


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
  log = MetricsLog(tmp_path)
  log.resume(["a"], 0)

  def full(_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match=r"write .*metrics.jsonl: the disk is full"):
    log.write("a", [1], {"loss": np.zeros((1, 1))})
