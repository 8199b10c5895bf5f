"""The program as a user starts it: in processes of its own, and killed."""

import fcntl
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import gin
import pytest

import pav_jax
from pav_jax.cli import bindings, configuration, kinds
from pav_jax.cli import command as program

ROOT = pathlib.Path(pav_jax.__file__).parents[1]
TINY = ROOT / "tests" / "data" / "tiny.gin"
ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}


def command(workdir, *arguments, gin_file=TINY):
  return [
    sys.executable,
    "-m",
    "pav_jax.main",
    f"--gin_file={gin_file}",
    f"--workdir={workdir}",
    *arguments,
  ]


def run(workdir, *arguments, gin_file=TINY, cwd=ROOT):
  environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
  return subprocess.run(
    command(workdir, *arguments, gin_file=gin_file),
    capture_output=True,
    text=True,
    cwd=cwd,
    env=environment,
  )


def digests(workdir):
  arms = json.loads((workdir / "report.json").read_text())["arms"]
  return {name: metrics["params_sha256"] for name, metrics in arms.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The work directory of an uninterrupted run, and what it printed."""
  workdir = tmp_path_factory.mktemp("run") / "tiny"
  result = run(workdir)
  assert result.returncode == 0, result.stderr
  return workdir, result.stdout


def test_run_ends_with_a_table_and_the_paths_of_what_it_wrote(finished):
  workdir, printed = finished
  lines = [line for line in printed.splitlines() if line.startswith("wrote ")]
  for name in ("report.json", "metrics.jsonl", "accuracy.png"):
    assert f"wrote {workdir / name}" in lines
    assert (workdir / name).stat().st_size > 0
  assert "it-99" in printed and "pav" in printed and "outcome" in printed
  assert list((workdir / "checkpoints").rglob("commit_success.txt"))
  assert list((workdir / "tensorboard").rglob("events.out.tfevents.*"))


def test_resolved_config_reproduces_the_run(finished, tmp_path):
  workdir, _ = finished
  result = run(tmp_path / "again", gin_file=workdir / "config.gin")
  assert result.returncode == 0, result.stderr
  assert digests(tmp_path / "again") == digests(workdir)


def test_killed_at_any_moment_a_run_ends_with_the_same_parameters(
  finished, tmp_path
):
  workdir, _ = finished
  killed = tmp_path / "killed"
  metrics = killed / "metrics.jsonl"
  # Once before the first checkpoint can be there, then whenever a few more
  # iterations have been written: before, in or after saving them.
  for at_least in (1, 25, 55):
    process = subprocess.Popen(
      command(killed),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      cwd=ROOT,
      env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
      if metrics.exists() and metrics.read_bytes().count(b"\n") >= at_least:
        break
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before the kill"
    assert not (killed / "report.json").exists()
  result = run(killed)
  assert result.returncode == 0, result.stderr
  assert "continuing after iteration" in result.stdout
  assert digests(killed) == digests(workdir)
  uninterrupted = (workdir / "metrics.jsonl").read_text()
  assert metrics.read_text() == uninterrupted


def started(workdir):
  """A run that has written a few iterations."""
  process = subprocess.Popen(
    command(workdir),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env=ENVIRONMENT,
  )
  metrics = workdir / "metrics.jsonl"
  deadline = time.monotonic() + 120
  while process.poll() is None and time.monotonic() < deadline:
    if metrics.exists() and metrics.read_bytes().count(b"\n") >= 5:
      break
    time.sleep(0.002)
  return process


def test_told_to_stop_a_run_saves_and_goes_on(finished, tmp_path):
  workdir, _ = finished
  stopped = tmp_path / "stopped"
  process = started(stopped)
  process.send_signal(signal.SIGTERM)
  said, errors = process.communicate()
  assert process.returncode == 0, errors
  done = re.search(r"stopped after iteration (\d+) of 40; the same", said)[1]
  assert list((stopped / "checkpoints").glob(f"*/{done}"))
  result = run(stopped)
  assert result.returncode == 0, result.stderr
  assert f"continuing after iteration {done}" in result.stdout
  assert digests(stopped) == digests(workdir)


def test_a_run_whose_directory_is_removed_fails_and_says_so(tmp_path):
  process = started(tmp_path / "w")
  (tmp_path / "w").rename(tmp_path / "gone")
  _, errors = process.communicate()
  assert process.returncode == 2, errors
  assert "removed while the run was at work" in errors
  assert errors.count("\n") == 1


@pytest.fixture
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def fails(capsys, workdir, *arguments, gin_file=TINY):
  """The one line that bad input gets, and that it came before any training."""
  status = program.main(
    [f"--gin_file={gin_file}", f"--workdir={workdir}", *arguments]
  )
  captured = capsys.readouterr()
  assert status == 2
  assert captured.err.startswith("error: ")
  assert captured.err.count("\n") == 1, captured.err
  assert "compiling" not in captured.out
  return captured.err


@pytest.mark.usefixtures("clean_gin")
@pytest.mark.parametrize(
  "binding, message",
  [
    ("PLANTED=(1, 7)", "planted holds token 7, expected tokens of the vocab"),
    ("PLANTED=(1, 3)", "other than the end token 3"),
    ("PLANTED=(1, 0, 1, 0, 1)", "planted has 5 tokens, expected 1 to 4"),
    ("STRENGTH=0.0", "prover strength γ is 0.0, expected a positive number"),
    ("STRENGTH=-2", "prover strength γ is -2, expected a positive number"),
    ("ALPHA=float('nan')", """cannot parse "ALPHA=float('nan')"; expected"""),
    ("ALPHA=1e999", "alpha is inf, expected a finite number"),
    ("NUM_ITERATIONS=0", "num_iterations is 0, expected >= 1"),
    ("BATCH_SIZE=0", "num_samples is 0, expected >= 1"),
    ("NUM_ITERATION=5", "NUM_ITERATION; did you mean NUM_ITERATIONS?"),
    ("RlSettings.num_seed=5", "did you mean num_seeds?"),
    ("RlSetting.num_seeds=5", "'RlSetting'; did you mean RlSettings?\n"),
    ("UPDATE=@NaturalGradients()", "did you mean NaturalGradient?"),
    ("REWARD_KIND='values'", "expected 'advantage' or 'value'"),
    ("ALPHA='abc'", "ALPHA is 'abc', expected a number"),
    ("NUM_SEEDS='3'", "NUM_SEEDS is '3', expected a whole number"),
    ("NUM_ITERATIONS='ten'", "NUM_ITERATIONS is 'ten', expected a whole numb"),
    ("NaturalGradient.max_kl=-1.0", "max_kl is -1.0, expected a positive num"),
  ],
)
def test_bad_values_get_one_line(capsys, tmp_path, binding, message):
  error = fails(capsys, tmp_path / "w", f"--gin.{binding}")
  assert message in error
  assert not list((tmp_path / "w").glob("checkpoints/*/*"))


@pytest.mark.usefixtures("clean_gin")
def test_override_that_an_experiment_does_not_use_is_refused(tmp_path):
  # Each of its arms has an update of its own.
  experiment = ROOT / "studies" / "step_control" / "planted_step_control.gin"
  with pytest.raises(ValueError, match="nothing uses the gin name UPDATE"):
    configuration.parse_gin([str(experiment)], ["UPDATE = @sgd/Gradient()"])


@pytest.mark.usefixtures("clean_gin")
def test_name_that_a_file_misspells_is_refused(tmp_path):
  file = tmp_path / "mine.gin"
  file.write_text(f'include "{TINY}"\nNUM_SEED = 3\n')
  with pytest.raises(ValueError, match="NUM_SEED; did you mean NUM_SEEDS"):
    configuration.parse_gin([str(file)], [])


@pytest.mark.usefixtures("clean_gin")
def test_gin_file_without_an_experiment_is_refused(capsys, tmp_path):
  file = tmp_path / "mine.gin"
  file.write_text("import pav_jax.runs.reinforce\n")
  error = fails(capsys, tmp_path / "w", gin_file=file)
  assert "expected a gin file that binds run.experiment" in error


@pytest.mark.usefixtures("clean_gin")
@pytest.mark.parametrize(
  "text, message",
  [
    (
      'include "gin/runs/reinforce.gin"\nNUM_ITERATIONS = 3\n',
      "PROBLEM, START, ARMS, NUM_PROBLEMS, NUM_SAMPLES are required, expected "
      "--gin.PROBLEM=VALUE --gin.START=VALUE --gin.ARMS=VALUE ",
    ),
    (
      'include "gin/runs/pav.gin"\n',
      "FINE_TUNING, PROBLEM_FILE are required, expected "
      "--gin.FINE_TUNING=VALUE --gin.PROBLEM_FILE=VALUE",
    ),
    # The run is named by a macro that nothing sets.
    (
      "run.experiment = @reinforce\nreinforce.settings = @RlSettings()\n"
      + "RlSettings.seed = %SEED\n",
      "SEED is required",
    ),
  ],
)
def test_what_is_required_is_named_before_anything_runs(
  capsys, tmp_path, text, message
):
  file = tmp_path / "mine.gin"
  file.write_text(text)
  assert message in fails(capsys, tmp_path / "w", gin_file=file)
  assert not (tmp_path / "w").exists()


@pytest.mark.usefixtures("clean_gin")
def test_files_are_included_from_beside_the_file_first(tmp_path):
  (tmp_path / "gin" / "runs").mkdir(parents=True)
  (tmp_path / "gin" / "runs" / "reinforce.gin").write_text(
    "RlSettings.seed = 7\n"
  )
  file = tmp_path / "mine.gin"
  file.write_bytes(b'\xef\xbb\xbfinclude "gin/runs/reinforce.gin"  # mine\n')
  configuration.parse_gin([str(file)], [])
  assert gin.query_parameter("RlSettings.seed") == 7


@pytest.mark.usefixtures("clean_gin")
def test_a_file_that_includes_itself_is_refused(capsys, tmp_path):
  file = tmp_path / "mine.gin"
  file.write_text('include "mine.gin"\n')
  assert "includes itself" in fails(capsys, tmp_path / "w", gin_file=file)


@pytest.mark.usefixtures("clean_gin")
def test_errors_name_the_file_and_the_line(capsys, tmp_path):
  inner = tmp_path / "inner.gin"
  inner.write_text("# comment\n\nRlSettings.num_seed = 3\n")
  file = tmp_path / "mine.gin"
  file.write_text('\ninclude "inner.gin"\n')
  error = fails(capsys, tmp_path / "w", gin_file=file)
  assert f"{inner} line 3: " in error and "did you mean num_seeds?" in error


@pytest.mark.usefixtures("clean_gin")
def test_missing_gin_file_is_named(capsys, tmp_path):
  error = fails(capsys, tmp_path, gin_file=tmp_path / "no.gin")
  assert f"no gin file {tmp_path / 'no.gin'}" in error


@pytest.mark.usefixtures("clean_gin")
def test_workdir_that_cannot_be_written_is_named(capsys, tmp_path):
  (tmp_path / "file").write_text("in the way")
  error = fails(capsys, tmp_path / "file" / "w")
  assert f"workdir {tmp_path / 'file' / 'w'} cannot be written" in error


@pytest.mark.usefixtures("clean_gin")
def test_another_experiment_is_refused_and_changes_nothing(
  capsys, finished, tmp_path
):
  workdir = shutil.copytree(finished[0], tmp_path / "w")

  def contents():
    return {x: x.read_bytes() for x in workdir.rglob("*") if x.is_file()}

  before = contents()
  error = fails(capsys, workdir, "--gin.BATCH_SIZE=32")
  assert "batch was 1 × 16, now 1 × 32. Choose another workdir" in error
  file = tmp_path / "other.gin"
  file.write_text(f'include "{TINY}"\nPLANTED = (0, 1)\n')
  gin.clear_config()
  error = fails(capsys, workdir, gin_file=file)
  assert "holds the run 'tiny', and 'other' has another configu" in error
  assert contents() == before


@pytest.mark.usefixtures("clean_gin")
def test_a_second_run_in_the_same_directory_is_refused(capsys, tmp_path):
  (tmp_path / ".lock").write_text("process 7 on host, begun today")
  with (tmp_path / ".lock").open() as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    error = fails(capsys, tmp_path)
  assert "another run (process 7 on host, begun today) is at work" in error
  assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("clean_gin")
def test_a_missing_optional_package_gets_one_line(
  capsys, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "seqio", None)
  for name in [x for x in sys.modules if x.startswith("pav_jax.problems.fram")]:
    monkeypatch.delitem(sys.modules, name)

  def needs_it(*_):
    importlib.import_module("pav_jax.problems.frameworks")

  monkeypatch.setattr(program, "run_files", needs_it)
  error = fails(capsys, tmp_path / "w")
  assert "data sets of TFDS and seqio need TensorFlow" in error
  assert "pip install tensorflow " in error


@pytest.mark.parametrize(
  "argument, hint",
  [("--gin_files=x", "did you mean --gin_file?"), ("--gin.A", "--gin.A")],
)
def test_unknown_arguments_are_refused(capsys, argument, hint):
  with pytest.raises(SystemExit) as exit_status:
    program.main(["--gin_file=a", "--workdir=b", argument])
  assert exit_status.value.code == 2
  assert hint in capsys.readouterr().err


@pytest.mark.usefixtures("clean_gin")
@pytest.mark.parametrize(
  "path",
  sorted(
    [
      *(ROOT / "gin" / "experiments").glob("*.gin"),
      *(path for path in ROOT.glob("studies/*/*.gin") if "_" in path.stem),
    ]
  ),
  ids=lambda path: path.stem,
)
def test_experiments_parse_and_say_their_command(path):
  configuration.parse_gin([str(path)], [])
  bound = gin.get_bindings("run", resolve_references=False)
  found = list(bindings.calls(bound["experiment"], ["workdir", "experiment"]))
  kinds.check(found)
  assert found
  text = path.read_text()
  assert text.startswith("# ")
  assert f"launch/local.sh {path.relative_to(ROOT)}" in text
