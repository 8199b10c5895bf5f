"""What is installed from a wheel works without the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import pav_jax

ROOT = pathlib.Path(pav_jax.__file__).parents[1]
SMALLEST = (
  "PLANTED=(1, 0)",
  "Planted.length=4",
  "Planted.vocab_size=4",
  "MadePolicy.hidden=(4,)",
  "ImitateProver.num_iterations=1",
  "NUM_ITERATIONS=2",
  "NUM_SEEDS=1",
  "BATCH_SIZE=4",
  "NUM_EVAL_SAMPLES=16",
  "UPDATE=@sgd/Gradient()",
  "BASELINE=@NoBaseline()",
  "ARMS=[@pav/Arm()]",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """A folder with the content of a wheel, and nothing else."""
  home = tmp_path_factory.mktemp("wheel")
  source = home / "source"
  source.mkdir()
  for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
    shutil.copy(ROOT / name, source)
  for name in ("pav_jax", "gin"):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  subprocess.run(
    [
      *(sys.executable, "-m", "pip", "wheel", str(source)),
      *("--no-deps", "--no-build-isolation", "--no-index", "-w", str(home)),
    ],
    check=True,
    capture_output=True,
  )
  (wheel,) = home.glob("*.whl")
  assert pav_jax.__version__ in wheel.name
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(home / "site")
  shutil.rmtree(source)
  return home / "site"


def pav(installed, cwd, *arguments):
  one_device = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
  return subprocess.run(
    [sys.executable, "-m", "pav_jax", *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": str(installed), "XLA_FLAGS": one_device},
  )


def test_every_gin_file_and_the_marker_of_types_travel(installed):
  package = installed / "pav_jax"
  there = {x.relative_to(package / "shipped") for x in package.rglob("*.gin")}
  assert there == {x.relative_to(ROOT) for x in (ROOT / "gin").rglob("*.gin")}
  assert (package / "py.typed").exists()
  (entry,) = installed.glob("*.dist-info/entry_points.txt")
  assert "pav = pav_jax.cli.pav:main" in entry.read_text()


def test_an_experiment_runs_in_an_empty_directory(installed, tmp_path):
  done = pav(installed, tmp_path, "run", "planted", *SMALLEST)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "out" / "planted" / "report.json").exists()
  assert str(ROOT) not in (tmp_path / "out/planted/config.gin").read_text()


def test_experiments_are_listed_and_shown_from_it(installed, tmp_path):
  listed = pav(installed, tmp_path, "list").stdout.splitlines()
  names = [line.split()[0] for line in listed]
  assert names == sorted(x.stem for x in ROOT.glob("gin/experiments/*.gin"))
  shown = pav(installed, tmp_path, "show", "planted").stdout
  assert str(installed / "pav_jax" / "shipped") in shown
