"""A checkout, and a cloud that is pretended."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIN_FILE = "gin/experiments/some.gin"

# Python 3.12 that makes venvs of copies of itself; the experiment is a script.
FAKE_PYTHON = f"""#!/usr/bin/env bash
case $1 in
  -c)
    code=$2
    shift 2
    exec "{sys.executable}" -c "
import sys
sys._base_executable = '$0'
sys.version_info = (3, 12, 0)
$code" "$@"
    ;;
  -m)
    case $2 in
      venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
      pip) echo "$*" >>"$HOME/pip" ;;
      pav_jax.main) shift 2; exec bash "$FAKE/experiment" "$@" ;;
    esac
    ;;
esac
"""

# Notes its arguments, and adds a line to a file in its work directory.
EXPERIMENT = """
printf '%s\\n' "$@" >"$HOME/arguments"
for arg; do
  [[ $arg != --workdir=* ]] || workdir=${arg#*=}
done
echo "attempt of $FAKE_HOST"
echo "$FAKE_HOST" >>"$workdir/attempts"
attempts=$(grep -c "$FAKE_HOST" "$workdir/attempts")
"""

SMALL = {
  "hostname": 'echo "$FAKE_HOST"',
  "mountpoint": '[ -f "$HOME/mounted" ]',
  "gcsfuse": 'echo "$@" >"$HOME/mounted"; mkdir -p "$FAKE/bucket"',
  "sudo": '[ "$1" = mkdir ] || [ "$1" = chown ] || "$@"',
}


class Cloud:
  """Runs the launch scripts against `fake_cloud.py`."""

  def __init__(self, path):
    self.fake = path / "fake"
    self.fake.mkdir()
    (self.fake / "bucket").mkdir()
    self.root = path / "my repo"
    shutil.copytree(ROOT / "launch", self.root / "launch")
    for name in "setup.py", "pyproject.toml", "constraints.txt":
      shutil.copy(ROOT / name, self.root)
    (self.root / GIN_FILE).parent.mkdir(parents=True)
    (self.root / GIN_FILE).touch()
    (self.root / ".gitignore").write_text("out/\n")
    subprocess.run(["git", "init", "-q", self.root], check=True)
    self._bin = path / "bin"
    self._bin.mkdir()
    self.program("python3.12", FAKE_PYTHON)
    for name in "gcloud", "xpk", "kubectl":
      self.program(
        name,
        f'#!/bin/sh\nexec "{sys.executable}" -S '
        f'"{ROOT}/tests/launch/fake_cloud.py" {name} "$@"\n',
      )
    for name, body in SMALL.items():
      self.program(name, f"#!/usr/bin/env bash\n{body}\n")
    self.experiment("exit 0")
    inherited = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(("PAV_", "PYTHON", "JAX_", "EXTRAS"))
    }
    self.environment = inherited | {
      "FAKE": str(self.fake),
      "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
      "PAV_PROJECT": "my-project",
      "PAV_ZONE": "us-west4-a",
      "PAV_ACCELERATOR": "v5litepod-8",
      "PAV_BUCKET": "gs://my-bucket",
      "FAKE_HOST": "worker0",
    }

  def program(self, name, text):
    path = self._bin / name
    path.write_text(text)
    path.chmod(0o755)

  def experiment(self, code):
    """What the experiment does, in bash, with `$attempts` and `$workdir`."""
    (self.fake / "experiment").write_text(EXPERIMENT + code)

  def fails(self, **failures):
    """What is to go wrong, see `fake_cloud.py`."""
    (self.fake / "failures").write_text(json.dumps(failures))

  def run(self, script, *args, **environment):
    (self.fake / "calls").write_text("")
    return subprocess.run(
      [self.root / "launch" / script, *args],
      cwd="/",
      env=self.environment | environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=60,
    )

  def tpu_vm(self, *args, **environment):
    return self.run(
      "tpu_vm.sh",
      *args,
      "--poll_seconds=0",
      "--retry_seconds=0",
      **environment,
    )

  def calls(self, *words):
    """Calls so far, or those with all of these words."""
    lines = (self.fake / "calls").read_text().splitlines()
    return [line for line in lines if all(word in line for word in words)]

  def attempts(self, run="some"):
    path = self.fake / "bucket" / "runs" / run / "attempts"
    return path.read_text().split() if path.exists() else []

  def wait_until(self, condition):
    deadline = time.monotonic() + 30
    while not condition():
      assert time.monotonic() < deadline
      time.sleep(0.02)


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  yield cloud
  # Whatever a test has left running.
  subprocess.run(
    [
      sys.executable,
      "-c",
      "import sys; sys.path.insert(0, sys.argv[1]); import fake_cloud; "
      "fake_cloud.destroy()",
      ROOT / "tests" / "launch",
    ],
    env=cloud.environment,
    check=True,
  )
