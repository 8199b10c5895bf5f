import pytest

from tools import mutants
from tools.mutants import Mutant


def tree(path, test):
  (path / "fixture_code.py").write_text("def split():\n  return 'validation'\n")
  (path / "code_test.py").write_text(test)
  mutants.subprocess.run(["git", "init", "-q"], cwd=path, check=True)
  return path


@pytest.mark.parametrize(
  "test, fate",
  [
    ("assert code.split() == 'validation'", "killed"),
    ("assert code.split()", "survived"),
    ("assert not code.split()", "broken"),
  ],
)
def test_fate_is_what_the_tests_say(tmp_path, test, fate):
  root = tree(
    tmp_path, f"import fixture_code as code\n\n\ndef test_it():\n  {test}\n"
  )
  mutant = Mutant(
    "x", "fixture_code.py", "'validation'", "'test'", ["code_test.py"]
  )
  assert mutants.fate(mutant, root) == fate


@pytest.mark.parametrize("before", ["absent", "i"])
def test_a_line_that_is_not_there_once_is_stale(tmp_path, before):
  root = tree(tmp_path, "")
  mutant = Mutant("x", "fixture_code.py", before, "", ["code_test.py"])
  assert mutants.fate(mutant, root) == "stale"


def test_the_projects_mutants_are_of_lines_that_are_there():
  listed = mutants.read()
  assert len(listed) >= 16
  assert not [mutant.name for mutant in listed if mutants.is_stale(mutant)]
