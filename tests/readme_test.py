import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *ROOT.glob("docs/*.md"),
  *ROOT.glob("studies/*/*.md"),
]


def title(path):
  return f"{path.parent.name}/{path.name}"


def python_blocks(document):
  text = (ROOT / document).read_text()
  return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_python_example_does_what_it_says():
  (code,) = python_blocks("README.md")
  names = {}
  exec(compile(code, "README.md", "exec"), names)
  np.testing.assert_allclose(names["advantages"], [[0.2, 0, -0.3]], atol=1e-7)
  # Steps of 2, 3 and 1 tokens after a problem of 4; 2 · advantage on each.
  np.testing.assert_allclose(
    names["weights"],
    [[0, 0, 0, 0, 0.4, 0.4, 0, 0, 0, -0.6, 0, 0]],
    atol=1e-6,
  )
  np.testing.assert_allclose(names["best_of_4"][0, 0], 1 - 0.9**4, rtol=1e-6)


@pytest.mark.parametrize(
  "path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_links_lead_somewhere(path):
  links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
  for link in links:
    if not link.startswith("http"):
      assert (path.parent / link).exists(), link


@pytest.mark.parametrize(
  "path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_experiments_that_are_named_exist(path):
  for name in re.findall(r"(?:gin|studies)/[\w/]+\.gin", path.read_text()):
    assert (ROOT / name).exists(), name


def test_own_problem_is_the_one_in_docs():
  problem, *gin_files = python_blocks("docs/own_problem.md")
  home = ROOT / "docs/own_problem"
  assert problem == (home / "sums.py").read_text()
  for block in gin_files:
    name, text = re.fullmatch(
      r"# (\w+\.gin)\n\n(.*)", block, re.DOTALL
    ).groups()
    assert text == (home / name).read_text().split("\n\n", 1)[1], name


def test_own_problem_trains_and_every_part_after_it_is_found(tmp_path):
  home = ROOT / "docs/own_problem"
  # In a process of its own: `sums` is a module of the current directory.
  command = (
    sys.executable,
    "-m",
    "pav_jax.main",
    f"--workdir={tmp_path / 'w'}",
  )
  one_device = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
  environment = os.environ | {"PYTHONPATH": f"{ROOT}", "XLA_FLAGS": one_device}
  run = functools.partial(
    subprocess.run, cwd=home, env=environment, capture_output=True, text=True
  )
  small = {
    "Stage.num_steps": 60,
    "EVAL_EVERY": 60,
    "TEST_SAMPLES": 2,
    "FinetuneEvaluationConfig.test_problems": 8,
    "FinetuneEvaluationConfig.num_problems": 8,
  }
  settings = [f"--gin.{name}={value}" for name, value in small.items()]
  result = run([*command, "--gin_file=sums_sft.gin", *settings])
  assert result.returncode == 0, result.stderr
  rows = (tmp_path / "w/metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, rows) if row["arm"] == "train"]
  assert rows[-1]["loss"][0] < 0.5 * rows[0]["loss"][0]
  # A part with bad settings is named before anything is run.
  command = [*command[:-1], f"--workdir={tmp_path / 'pav'}"]
  result = run(
    [
      *command,
      "--gin_file=gin/runs/pav.gin",
      '--gin.FINE_TUNING="sums_sft.gin"',
      '--gin.PROBLEM_FILE="absent.gin"',
    ]
  )
  assert result.returncode == 2 and "no gin file absent.gin" in result.stderr
