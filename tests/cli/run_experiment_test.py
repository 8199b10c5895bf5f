import subprocess
import sys

import pytest

from pav_jax.cli import (
  command,
  gin_files,
  list_experiments,
  pav,
  run_experiment,
  show_experiment,
)


@pytest.mark.parametrize(
  "setting, bound",
  [
    ("SEED=1", "SEED=1"),
    ("RATE=1e-3", "RATE=1e-3"),
    ("NS=(1, 4)", "NS=(1, 4)"),
    ("DTYPE=None", "DTYPE=None"),
    ("UPDATE=@sgd/Gradient()", "UPDATE=@sgd/Gradient()"),
    ("NUM=%BATCH", "NUM=%BATCH"),
    ("ARMS=[@pav/Arm()]", "ARMS=[@pav/Arm()]"),
    ("POLICY=out/my run/policy", "POLICY='out/my run/policy'"),
    ('POLICY="out/policy"', 'POLICY="out/policy"'),
    ("KIND=it's", 'KIND="it\'s"'),
    ("large/Stage.name=a=b", "large/Stage.name='a=b'"),
  ],
)
def test_what_is_no_literal_is_a_text(setting, bound):
  assert run_experiment.binding(setting) == bound


def test_the_command_is_that_of_the_program(monkeypatch):
  asked = []
  monkeypatch.setattr(command, "main", lambda x: asked.append(x) or 7)
  assert pav.main(["run", "planted", "SEED=1", "--workdir", "w"]) == 7
  path = gin_files.ROOT / "gin/experiments/planted.gin"
  assert asked == [[f"--gin_file={path}", "--workdir=w", "--gin.SEED=1"]]
  pav.main(["run", "gin/runs/pav.gin", "FINE_TUNING=a.gin", "--gin.SEEDS=(1,)"])
  assert asked[1][1:] == [
    "--workdir=out/pav",
    "--gin.FINE_TUNING='a.gin'",
    "--gin.SEEDS=(1,)",
  ]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ("run plantd", "no experiment plantd; did you mean planted?"),
    ("run gin/runs/serch.gin", "did you mean gin/runs/search.gin?"),
    ("run qqqqqq", "no experiment qqqqqq; `pav list` names them"),
    ("run planted SEDE=1", "the gin name SEDE; did you mean SEED?"),
    ("run planted SEED", "'SEED' is no setting, expected NAME=VALUE"),
    ("run planted X=true", "X is true, expected True, or quotes"),
    ("run planted --workdr=x", "did you mean --workdir?"),
    ("run", "required: experiment; `pav run --help` says more"),
    ("show plantd", "no experiment plantd; did you mean planted?"),
    ("lits", "no command 'lits'"),
    ("serve", "required: model; `pav serve --help` says more"),
  ],
)
def test_mistakes_get_one_line(capsys, arguments, message):
  try:
    status = pav.main(arguments.split())
  except SystemExit as ended:
    status = ended.code
  printed = capsys.readouterr()
  assert status == 2 and not printed.out
  assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
  assert message in printed.err


def test_mistakes_are_told_before_anything_large_is_imported():
  code = (
    "import sys; from pav_jax.cli import pav; "
    "pav.main(['run', 'planted', 'SEDE=1']); pav.main(['--help']); "
    "print([x for x in ('jax', 'numpy', 'gin') if x in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.endswith("\n[]\n")


def test_a_summary_is_the_first_sentence():
  text = "Two lines\nof one (Sec. 4). Another.\n\nMore."
  assert list_experiments.summary(text) == "Two lines of one (Sec. 4)"
  lines = list_experiments.listed(60).splitlines()
  assert len(lines) == len(gin_files.experiments())
  assert max(map(len, lines)) <= 60


def test_what_may_be_set_is_what_headers_and_files_say(tmp_path):
  (tmp_path / "base.gin").write_text(
    "# Commonly overridden: SEED, PARTS (@a(), @b()), fast/Stage.steps, see\n"
    "# gin/runs/x.gin; NAME/Part.more.\n\nSEED = 0\nDATA = %gin.REQUIRED\n"
    'run.seed = %SEED\nrun.data = %DATA\nrun.problem = %PROBLEM\nKIND = "a"\n'
  )
  file = tmp_path / "mine.gin"
  file.write_text(
    'include "base.gin"\n\nSEED = 3\nPARTS = [\n  @a(), @b\n]\n'
    "fast/Stage.steps = 7\n"
  )
  required, common = show_experiment.settings(file)
  assert required == ["DATA", "PROBLEM"]
  assert common == {
    "SEED": "3",
    "PARTS": "[@a(), @b]",
    "fast/Stage.steps": "7",
  }
  assert "  DATA=…" in show_experiment.shown(str(file))


@pytest.mark.parametrize("name", gin_files.experiments())
def test_every_experiment_can_be_shown(name):
  assert f"pav run {name}" in show_experiment.shown(name)
