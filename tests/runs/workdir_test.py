"""One run at a time, in its own directory; several processes see the same."""

import contextlib
import json
import signal
import subprocess
import sys

import pytest

from pav_jax.reporting import metrics
from pav_jax.runs import workdir

SETTINGS = {"run": "compare", "seed": "0"}


@pytest.fixture
def config():
  """What config.gin says."""
  token = metrics.CONFIG.set(lambda: "compare.seed = 0\n")
  yield "compare.seed = 0\n"
  metrics.CONFIG.reset(token)


def test_a_run_makes_its_directory_and_leaves_it_tidy(tmp_path):
  path = tmp_path / "deep" / "w"
  with workdir.occupied(path):
    (path / "a").touch()
    with workdir.occupied(path):  # a run may call another one
      pass
    with workdir.occupied(path / "part"):  # and one in a part of it
      pass
  assert sorted(x.name for x in path.iterdir()) == [".lock", "a", "part"]
  assert (path / ".lock").read_text() == ""


HOLD = """
import sys
from pav_jax.runs import workdir
with workdir.occupied(sys.argv[1], shared=sys.argv[2] == "shared"):
  print("in", flush=True)
  sys.stdin.read()
"""


@contextlib.contextmanager
def another(path, kind="alone"):
  """A process of another run, that is in the directory."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(path), kind],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert process.stdout.readline() == "in\n"
    yield process
  finally:
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path, capsys):
  path = tmp_path / "w"
  with another(path) as process:
    (path / ".policy.partial").mkdir()
    message = rf"another run \(process {process.pid} on .*\) is at work in"
    with pytest.raises(workdir.Occupied, match=message), workdir.occupied(path):
      pytest.fail("was entered")
    assert (path / ".policy.partial").exists()  # it is the other's
    process.send_signal(signal.SIGKILL)
    process.wait()
    with workdir.occupied(path):
      assert not (path / ".policy.partial").exists()
  said = capsys.readouterr().out
  assert f"(process {process.pid} on " in said and "without a word" in said
  with workdir.occupied(path):
    assert not capsys.readouterr().out  # the last one ended well


def test_programs_that_divide_the_work_share_a_directory(tmp_path):
  path = tmp_path / "w"
  with another(path, "shared"):
    (path / ".a.partial").touch()
    with workdir.occupied(path, shared=True):
      assert (path / ".a.partial").exists()
    with (
      pytest.raises(workdir.Occupied, match="shares it with others"),
      workdir.occupied(path),
    ):
      pytest.fail("was entered")


def test_a_run_that_fails_gives_the_directory_back(tmp_path):
  with pytest.raises(KeyError), workdir.occupied(tmp_path):
    raise KeyError
  with workdir.occupied(tmp_path):
    pass


@pytest.mark.parametrize("remade", [False, True])
def test_a_directory_that_was_removed_is_not_the_end_of_a_good_run(
  tmp_path, remade
):
  path = tmp_path / "w"
  with (
    pytest.raises(OSError, match="was removed while the run was at work"),
    workdir.occupied(path),
  ):
    path.rename(tmp_path / "elsewhere")
    if remade:
      path.mkdir()
  with workdir.occupied(path):  # the same command starts afresh
    pass


def test_what_cannot_be_a_directory_is_named(tmp_path):
  (tmp_path / "a").touch()
  for path in (tmp_path / "a", tmp_path / "a" / "b"):
    message = f"workdir {path} cannot be written .*expected a directory"
    with pytest.raises(OSError, match=message), workdir.occupied(path):
      pytest.fail("was entered")


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(workdir.fcntl, "flock", flock)
  with (
    pytest.warns(UserWarning, match="cannot be locked .*one run at a time"),
    workdir.occupied(tmp_path),
  ):
    pass


def test_another_experiment_is_refused_and_changes_nothing(tmp_path, config):
  workdir.accept(tmp_path, "planted", SETTINGS)
  assert (tmp_path / "config.gin").read_text() == config
  before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
  metrics.CONFIG.set(lambda: "other\n")
  with pytest.raises(ValueError) as error:
    workdir.accept(tmp_path, "chain", {"run": "reinforce", "seed": "1"})
  for word in (
    f"{tmp_path} holds the run 'planted'",
    "'chain'",
    "run was compare, now reinforce. ",  # and not what else differs
    "Choose another workdir, or move this one away",
  ):
    assert word in str(error.value)
  assert before == {x.name: x.read_bytes() for x in tmp_path.iterdir()}
  # Both ways out.
  workdir.accept(tmp_path / "..", "chain", {"run": "reinforce", "seed": "1"})
  (tmp_path / "run.json").rename(tmp_path / "moved")
  workdir.accept(tmp_path, "chain", {"run": "reinforce", "seed": "1"})
  assert (tmp_path / "config.gin").read_text() == "other\n"


def test_settings_may_be_added_and_left_out(tmp_path):
  """Arms of a comparison, say; and the name decides nothing."""
  workdir.accept(tmp_path, "a", SETTINGS | {"arm x": "1"})
  workdir.accept(tmp_path, "b", SETTINGS | {"arm y": "2"})
  with pytest.raises(ValueError, match="arm x was 1, now 3"):
    workdir.accept(tmp_path, "a", {"arm x": "3"})


def test_a_damaged_identity_is_named_and_the_way_out_works(tmp_path):
  workdir.accept(tmp_path, "a", SETTINGS)
  path = tmp_path / "run.json"
  path.write_text(path.read_text().replace('"0"', '"1"'))
  with pytest.raises(ValueError, match=r"run.json .*; choose another .*delete"):
    workdir.accept(tmp_path, "a", SETTINGS)
  path.unlink()
  workdir.accept(tmp_path, "a", SETTINGS)


TWO = """
import json, sys
import jax
from pav_jax.runs import hosts, workdir
hosts.initialize()
me = jax.process_index()
paths, settings = sys.argv[1:3], sys.argv[3:5]
try:
  with workdir.occupied(paths[me]):
    workdir.accept(paths[me], "a", json.loads(settings[me]))
except ValueError as error:
  print(error)
  hosts.leave(2)
  sys.exit(2)
hosts.leave(0)
"""


@pytest.mark.parametrize(
  "shares, seeds, message",
  [
    (True, (1, 1), None),
    (False, (1, 1), "processes 1 of 2 do not see what process 0 writes to"),
    (True, (1, 2), 'process 0 has "seed": "1", process 1 has "seed": "2"'),
  ],
)
def test_two_processes_agree_or_both_say_why(
  processes, tmp_path, shares, seeds, message
):
  paths = [str(tmp_path / ("w" if shares else f"w{i}")) for i in range(2)]
  settings = [json.dumps({"a": "0", "seed": str(seed)}) for seed in seeds]
  command = [sys.executable, "-c", TWO, *paths, *settings]
  both = processes.start(2, None, None, command=command)
  statuses, printed = processes.finish(both, seconds=120)
  if message is None:
    assert statuses == [0, 0], printed
    assert not list(tmp_path.rglob("*.partial"))
  else:
    assert statuses == [2, 2], printed
    assert all(message in out for out, _ in printed), printed
    assert not (tmp_path / "w" / "run.json").exists()


def test_run_functions_have_their_directory_to_themselves(tmp_path):
  @workdir.exclusive
  def some_run(path, experiment, *, seed=0):
    """What it does."""
    assert (tmp_path / ".lock").read_text()
    return experiment, seed

  assert some_run(tmp_path, "a", seed=3) == ("a", 3)
  assert some_run.__doc__ == "What it does."


def test_an_error_that_came_of_a_removed_directory_says_so(tmp_path):
  path = tmp_path / "w"
  with (
    pytest.raises(OSError, match="was removed while the run was at work"),
    workdir.occupied(path),
  ):
    path.rename(tmp_path / "gone")
    (path / "a").touch()
  with pytest.raises(FileNotFoundError, match="b"), workdir.occupied(path):
    (path / "a" / "b").touch()
