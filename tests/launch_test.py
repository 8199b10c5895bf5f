"""The launch scripts, with a fake Python in the place of installing."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted(ROOT.glob("launch/*.sh"))
GIN_FILE = "gin/experiments/a.gin"

# Claims to be Python 3.11 unless $FAKE_SYS says more, makes venvs out of copies
# of itself, logs the modules it runs, and prints the arguments of pav_jax.main.
FAKE_PYTHON = f"""#!/usr/bin/env bash
case $1 in
  -c)
    code=$2
    shift 2
    exec "{sys.executable}" -c "
import sys
sys._base_executable = '$0'
sys.version_info = (3, 11, 0)
${{FAKE_SYS:-}}
$code" "$@"
    ;;
  -m)
    echo "$2 ${{3:-}}" >>"$FAKE_LOG"
    case $2 in
      venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
      pip) echo "pip says hello"; exit "${{FAKE_PIP_STATUS:-0}}" ;;
      ruff) exit "${{FAKE_RUFF_STATUS:-0}}" ;;
      pav_jax.main) shift 2; printf '%s\\n' "$@" ;;
    esac
    ;;
esac
"""


class Checkout:
  """A copy of what the launch scripts read, at a path with a space."""

  def __init__(self, path):
    self.root = path / "my repo"
    self.log = path / "log"
    shutil.copytree(ROOT / "launch", self.root / "launch")
    for name in "setup.py", "pyproject.toml", "constraints.txt":
      shutil.copy(ROOT / name, self.root)
    (self.root / GIN_FILE).parent.mkdir(parents=True)
    (self.root / GIN_FILE).touch()
    self.python = path / "bin" / "python3.11"
    self.python.parent.mkdir()
    self.python.write_text(FAKE_PYTHON)
    self.python.chmod(0o755)

  def run(self, script, *args, cwd=None, **env):
    self.log.write_text("")
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHON"}
    path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
      [self.root / "launch" / script, *args],
      cwd=cwd or self.root,
      env=inherited | {"PATH": path, "FAKE_LOG": str(self.log)} | env,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=60,
    )

  def modules_run(self):
    return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_is_valid_bash(script):
  subprocess.run(["bash", "-n", script], check=True)


def test_without_arguments_lists_the_experiments(checkout):
  result = checkout.run("local.sh", cwd="/")
  assert result.returncode == 2
  assert result.stderr.endswith(f"experiments:\n  {GIN_FILE}\n")


def test_names_a_missing_gin_file(checkout):
  result = checkout.run("local.sh", "gin/experiments/absent.gin")
  assert result.returncode == 2
  assert "no gin file gin/experiments/absent.gin" in result.stderr
  assert not checkout.modules_run()


def test_passes_arguments_verbatim_from_any_directory(checkout, tmp_path):
  extra = ["--gin.NAME='a b'", '--gin.X="$HOME" \\ *', ""]
  result = checkout.run("local.sh", GIN_FILE, *extra, cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert result.stdout.split("\n")[:-1] == [
    f"--gin_file={checkout.root}/{GIN_FILE}",
    f"--workdir={checkout.root}/out/a",
    *extra,
  ]


@pytest.mark.parametrize("args", [["--workdir=here"], ["--workdir", "here"]])
def test_gives_the_work_directory_once(checkout, args):
  result = checkout.run("local.sh", GIN_FILE, *args)
  assert result.stdout.splitlines() == [f"--gin_file={GIN_FILE}", *args]


def test_installs_once_until_the_pins_change(checkout):
  checkout.run("local.sh", GIN_FILE)
  assert "pip install" in checkout.modules_run()
  second = checkout.run("local.sh", GIN_FILE)
  assert checkout.modules_run() == [f"pav_jax.main --gin_file={GIN_FILE}"]
  assert second.stderr == ""
  with (checkout.root / "constraints.txt").open("a") as f:
    f.write("another==1.0\n")
  checkout.run("local.sh", GIN_FILE)
  assert "pip install" in checkout.modules_run()


def test_shows_a_failed_installation_and_starts_afresh(checkout):
  failed = checkout.run("local.sh", GIN_FILE, FAKE_PIP_STATUS="1")
  assert failed.returncode == 1
  assert "pip says hello" in failed.stderr
  assert not any("pav_jax" in line for line in checkout.modules_run())
  leftover = checkout.root / ".venv" / "leftover"
  leftover.touch()
  assert checkout.run("local.sh", GIN_FILE).returncode == 0
  assert "pip install" in checkout.modules_run()
  assert not leftover.exists()


def test_leaves_a_foreign_venv_alone(checkout):
  (checkout.root / ".venv").mkdir()
  (checkout.root / ".venv" / "mine").touch()
  result = checkout.run("local.sh", GIN_FILE)
  assert result.returncode == 1
  assert "was not made by launch/" in result.stderr
  assert (checkout.root / ".venv" / "mine").exists()


def test_python_of_the_environment_gets_its_own_venv(checkout):
  result = checkout.run(
    "local.sh",
    GIN_FILE,
    PYTHON=str(checkout.python),
    FAKE_SYS="sys.version_info = (3, 12, 0)",
  )
  assert result.returncode == 0, result.stderr
  assert (checkout.root / ".venv-3.12").exists()
  assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize(
  ("fake_sys", "reason"),
  [
    ("sys.version_info = (3, 10, 0)", "is Python 3.10; need 3.11, 3.12 or"),
    ("sys.version_info = (3, 14, 0)", "is Python 3.14; need 3.11, 3.12 or"),
    ("sys.modules['ensurepip'] = None", "lacks venv or ensurepip"),
  ],
)
def test_refuses_an_unfit_python(checkout, fake_sys, reason):
  result = checkout.run(
    "local.sh", GIN_FILE, PYTHON=str(checkout.python), FAKE_SYS=fake_sys
  )
  assert result.returncode == 1
  assert result.stderr.startswith(f"error: PYTHON={checkout.python} {reason}")
  assert result.stderr.count("\n") == 1


def test_refuses_a_python_that_is_not_there(checkout):
  result = checkout.run("local.sh", GIN_FILE, PYTHON="no-such-python")
  assert result.returncode == 1
  assert result.stderr == "error: PYTHON=no-such-python not found\n"


def test_tests_run_and_fail_when_only_the_linter_fails(checkout):
  result = checkout.run("test.sh", "-k", "a", FAKE_RUFF_STATUS="1")
  assert checkout.modules_run()[-3:] == [
    "ruff check",
    "ruff format",
    "pytest -k",
  ]
  assert result.returncode == 1
  assert checkout.run("test.sh").returncode == 0


CHECK = ("compile_check.sh", GIN_FILE, "--topology=v5e:4x4", "--gin.A='b c'")


def test_compile_check_brings_the_compiler_once(checkout):
  absent, there = (f"sys.modules['libtpu'] = {x}" for x in ("None", "sys"))
  first = checkout.run(*CHECK, FAKE_SYS=absent)
  assert first.returncode == 0, first.stderr
  assert "Installing libtpu" in first.stderr
  last = f"tools.compile_check --gin_file={GIN_FILE}"
  assert checkout.modules_run()[-2:] == ["pip install", last]
  second = checkout.run(*CHECK, FAKE_SYS=there)
  assert checkout.modules_run() == [last]
  assert second.stderr == ""


def test_compile_check_hands_on_the_status_of_what_it_runs(checkout):
  there = "sys.modules['libtpu'] = sys"
  checkout.run(*CHECK, FAKE_SYS=there)
  python = checkout.root / ".venv" / "bin" / "python"
  python.write_text(
    python.read_text().replace(
      "    case $2 in",
      '    [ "$2" = tools.compile_check ] && { printf "%s\\n" '
      '"$JAX_PLATFORMS" "${@:3}"; exit 1; }\n    case $2 in',
    )
  )
  result = checkout.run(*CHECK, FAKE_SYS=there)
  assert result.returncode == 1
  assert result.stdout.splitlines() == [
    "cpu",
    f"--gin_file={GIN_FILE}",
    *CHECK[2:],
  ]


def test_compile_check_says_how_it_is_used(checkout):
  for arguments in ((), ("--topology=v5e:4x4",)):
    result = checkout.run("compile_check.sh", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: launch/compile_check.sh GIN_FILE")
  missing = checkout.run(
    "compile_check.sh", "none.gin", FAKE_SYS="sys.modules['libtpu'] = sys"
  )
  assert missing.returncode == 2
  assert "no gin file none.gin" in missing.stderr
