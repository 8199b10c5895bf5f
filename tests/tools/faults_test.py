"""The campaign finds what is lost; and a short form of it finds nothing."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest

from tools import faults

ROOT = pathlib.Path(faults.__file__).parents[1]


class Runner:
  """Stands for runs that copy numbers, three changes of files each."""

  processes = 1

  def __init__(self, directory, breaks=()):
    self.directory, self.log = directory, directory / "log"
    self.log.touch()
    self._breaks = breaks

  def run(self, stage, workdir, deaths, changes=None):
    (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    done = len(list(workdir.glob("*.txt")))
    death = deaths.get(0, faults.Death())
    for number in range(done, 3):
      if changes:
        with changes.open("ab") as file:
          file.write(b".")
      if death.seconds is not None or death.change == number - done + 1:
        if "half" in self._breaks:
          (workdir / f"{number}.txt").write_text("half")
        return [-signal.SIGKILL]
      (workdir / f"{number}.txt").write_text(str(number))
    if done and "status" in self._breaks:
      self.log.write_text("error: it cannot\n")
      return [1]
    seconds = random.random()
    report = {"arms": [3], "seconds": seconds, "x": {"per_second": 3}}
    (workdir / "report.json").write_text(json.dumps(report))
    return [0]


def test_what_is_not_lost_is_counted(tmp_path):
  result = faults.campaign(Runner(tmp_path), "planted", 12, random.Random(0))
  assert result.kills >= 12 and not result.lost
  # At most six in one work directory.
  assert result.ends >= 2
  assert not (tmp_path / "planted" / "killed").exists()


@pytest.mark.parametrize(
  "breaks, message",
  [
    ("half", "txt is not the same after deaths at "),
    ("status", "ended with [1] after deaths at "),
  ],
)
def test_what_is_lost_is_named_with_the_deaths(tmp_path, breaks, message):
  runner = Runner(tmp_path, [breaks])
  result = faults.campaign(runner, "planted", 6, random.Random(0))
  assert result.lost and message in result.lost[0]
  assert breaks == "half" or "error: it cannot" in result.lost[0]


def test_files_are_told_apart_by_what_no_clock_has_measured(tmp_path):
  def written(name, content, seconds):
    home = tmp_path / name
    (home / "lanes" / "checkpoints").mkdir(parents=True)
    (home / "lanes" / "checkpoints" / name).touch()
    rows = [{"a": 1, "tokens_per_second": seconds}, content]
    (home / "lanes" / "metrics.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
    (home / "policy").write_bytes(b"policy")
    return faults.contents(home)

  whole = written("a", {"b": 1}, 1.0)
  assert whole.keys() == {"lanes/metrics.jsonl", "policy"}
  assert not faults.differences(whole, written("b", {"b": 1}, 2.0))
  other = written("c", {"b": 2}, 1.0)
  other["more"] = other.pop("policy")
  assert faults.differences(whole, other) == [
    "lanes/metrics.jsonl is not the same",
    "more is too many",
    "policy is missing",
  ]


def test_a_process_dies_at_the_change_that_it_was_told(tmp_path):
  code = (
    "import os, pathlib, sys; from tools import faults; "
    "faults.die(faults.Death(change=3), pathlib.Path('changes'));"
    "[os.mkdir(str(i)) for i in range(9)]"
  )
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  command = [sys.executable, "-c", code]
  died = subprocess.run(command, cwd=tmp_path, env=environment)
  assert died.returncode == -signal.SIGKILL
  assert sorted(os.listdir(tmp_path)) == ["0", "1", "changes"]
  assert (tmp_path / "changes").read_text() == "..."


@pytest.mark.parametrize(
  "arguments", [["--stages=no"], ["--stages=planted", "--processes=2"]]
)
def test_bad_arguments_are_refused(capsys, arguments):
  with pytest.raises(SystemExit):
    faults.parse(arguments)
  assert "expected some of" in (said := capsys.readouterr().err) or (
    "planted runs in one process" in said
  )


def test_a_short_campaign_loses_nothing(tmp_path):
  command = [sys.executable, "-m", "tools.faults", "--stages=planted"]
  result = subprocess.run(
    [*command, "--kills=2", f"--directory={tmp_path}"],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert "0 lost" in result.stdout
