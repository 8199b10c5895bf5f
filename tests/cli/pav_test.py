"""Which command is run, and what is said of others."""

import os
import subprocess
import sys

import pytest

from pav_jax.cli import (
  convert_model,
  export_verifier,
  import_labels,
  inspect_traces,
  list_experiments,
  pav,
  run_experiment,
  sample_answers,
  score_answers,
  search_answers,
  serve,
  show_experiment,
  train_on_questions,
)

MODULES = {
  "list": list_experiments,
  "show": show_experiment,
  "run": run_experiment,
  "train": train_on_questions,
  "sample": sample_answers,
  "score": score_answers,
  "search": search_answers,
  "inspect": inspect_traces,
  "convert": convert_model,
  "serve": serve,
  "import-labels": import_labels,
  "export-verifier": export_verifier,
}


def test_compiled_programs_are_kept_unless_told_where(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
  seen = []
  monkeypatch.setattr(
    list_experiments,
    "main",
    lambda _: seen.append(os.environ["JAX_COMPILATION_CACHE_DIR"]) or 0,
  )
  assert pav.main(["list"]) == 0
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  assert pav.main(["list"]) == 0
  assert seen == ["elsewhere", str(tmp_path / "pav_jax" / "jax")]


def test_every_command_is_a_modules():
  assert list(pav.COMMANDS) == list(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_command_gets_the_rest_and_gives_its_status(name, monkeypatch):
  asked = []
  monkeypatch.setattr(
    MODULES[name], "main", lambda arguments: asked.append(arguments) or 7
  )
  assert pav.main([name, "a", "--b"]) == 7
  assert asked == [["a", "--b"]]


def test_another_is_named_with_the_one_that_is_near(capsys):
  assert pav.main(["serv"]) == 2
  error = capsys.readouterr().err
  assert "no command 'serv'" in error and "did you mean serve?" in error


def test_without_a_command_it_says_which_there_are():
  command = [sys.executable, "-m", "pav_jax"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert all(f"pav {name}" in done.stdout for name in MODULES)
