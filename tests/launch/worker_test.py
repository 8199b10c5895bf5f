"""launch/worker.sh where the machine's own Python is too old, as on TPU VMs."""

GIN_FILE = "gin/experiments/some.gin"

# Python 3.10, for which uv can be installed; uv knows a newer one.
OLD_PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$HOME/old"
case "$*" in
  "-m pip install --quiet --user uv") touch "$HOME/uv" ;;
  "-m uv --version") [ -f "$HOME/uv" ] ;;
  "-m uv python install --quiet 3.12") ;;
  "-m uv python find 3.12") echo "$HOME/fit/python3.12" ;;
  *) exit 1 ;;
esac
"""


def test_uv_brings_a_python_that_fits(cloud, tmp_path):
  home = tmp_path / "home"
  (home / "fit").mkdir(parents=True)
  (tmp_path / "bin" / "python3.12").rename(home / "fit" / "python3.12")
  for name in "python3", "python3.11", "python3.12", "python3.13":
    cloud.program(name, OLD_PYTHON)
  settings = {"HOME": str(home), "PAV_MOUNT": str(cloud.fake / "bucket")}
  for _ in range(2):
    result = cloud.run("worker.sh", "exec", "some", GIN_FILE, **settings)
    assert result.returncode == 0, result.stderr
  assert cloud.attempts() == ["worker0"] * 2
  # uv was installed once, the package too.
  assert (home / "old").read_text().count("pip install") == 1
  assert (home / "pip").read_text().count("[tpu,data,math]") == 1
  assert (cloud.root / "out").readlink() == cloud.fake / "bucket" / "runs"


def test_without_a_command_it_says_what_there_is(cloud):
  result = cloud.run("worker.sh")
  assert result.returncode == 2
  assert "worker.sh start BUCKET RUN GIN_FILE" in result.stderr


def test_other_extras_are_installed_anew(cloud):
  settings = {"HOME": str(cloud.fake), "PAV_MOUNT": str(cloud.fake / "bucket")}
  for extras in "tpu", "tpu", "math":
    result = cloud.run(
      "worker.sh", "exec", "some", GIN_FILE, EXTRAS=extras, **settings
    )
    assert result.returncode == 0, result.stderr
  pip = (cloud.fake / "pip").read_text()
  assert (pip.count("[tpu]"), pip.count("[math]")) == (1, 1)
