"""The command, on the made-up files that the readers are tested with."""

import pathlib
import sys

import gin
import jax
import numpy as np
import pytest

from pav_jax.cli import import_labels
from pav_jax.data import (
  step_labels,
  step_labels_math_shepherd,
  step_labels_prm800k,
  step_labels_trl,
  step_targets,
)

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"
PROBLEM = """
import dataclasses

import gin

from pav_jax.problems import vocabulary
from pav_jax.problems.plain_text import PlainText


@dataclasses.dataclass(frozen=True)
class Characters:
  vocab_size: int = 9000
  pad_id: int = 0
  eos_id: int = 1

  def token_text(self, token):
    return "" if token < 2 else chr(token - 2)

  def encode(self, text):
    return [ord(character) + 2 for character in text]

  def decode(self, ids):
    return "".join(self.token_text(i) for i in ids)


@gin.register
@dataclasses.dataclass(frozen=True)
class Plain(PlainText):
  vocabulary: Characters = Characters()

  @property
  def fingerprint(self):
    return vocabulary.fingerprint(self.vocabulary, self.delimiter)
"""


@pytest.fixture(name="problem_file", scope="module")
def problem_file_fixture(tmp_path_factory):
  # A module beside the gin file that imports it, as problems of one's own are.
  home = tmp_path_factory.mktemp("own")
  (home / "plain_characters.py").write_text(PROBLEM)
  path = home / "plain.gin"
  path.write_text("import plain_characters\nPROBLEM = @Plain()\n")
  yield str(path)
  sys.path.remove(str(home.resolve()))


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def problem():
  return gin.get_configurable("tokenized_as")()


READERS = [
  ("prm800k", "prm800k.jsonl", [], step_labels_prm800k.read),
  ("math_shepherd", "math_shepherd.jsonl", [], step_labels_math_shepherd.read),
  (
    "trl",
    "trl_bool.jsonl",
    ["--is_whole"],
    lambda path: step_labels_trl.read(path, is_whole=True),
  ),
]


@pytest.mark.parametrize(("name", "file", "flags", "read"), READERS)
def test_what_is_written_is_what_is_read(
  name, file, flags, read, problem_file, tmp_path, capsys
):
  source, target = str(DATA / file), tmp_path / "targets"
  arguments = [name, source, str(target), f"--problem_file={problem_file}"]
  assert import_labels.main([*arguments, *flags]) == 0
  want = step_labels.to_targets(read(source), problem())
  stored = step_targets.load(target, fingerprint=problem().fingerprint)
  jax.tree.map(np.testing.assert_array_equal, stored, want)
  labels = int((want.num_completions > 0).sum())
  assert f"{len(want.tokens)} responses to" in (said := capsys.readouterr().out)
  assert f"with {labels} labels" in said
  # The same again is there already; another file is not put in its place.
  assert import_labels.main([*arguments, *flags]) == 0
  arguments.insert(2, source)
  assert import_labels.main([*arguments, *flags]) == 2
  assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["trl", "absent.jsonl", "OUT"], "absent.jsonl"),
    (["trl", str(DATA / "prm800k.jsonl"), "OUT"], "prm800k.jsonl:1: field"),
    (
      ["prm800k", str(DATA / "prm800k.jsonl"), "OUT", "--neutral=2"],
      "neutral is 2.0",
    ),
    (
      ["prm800k", str(DATA / "prm800k.jsonl"), "OUT", "--finish_reasons=won"],
      "finish_reasons has ['won']",
    ),
  ],
)
def test_bad_input_is_said_in_a_line(
  arguments, message, problem_file, tmp_path, capsys
):
  arguments = [x.replace("OUT", str(tmp_path / "out")) for x in arguments]
  status = import_labels.main([*arguments, f"--problem_file={problem_file}"])
  said = capsys.readouterr().err
  assert status == 2 and message in said and said.count("\n") == 1
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["numina", "a", "b", "--problem_file=c"], "invalid choice: 'numina'"),
    (["trl", "a", "b"], "--problem_file"),
    (["trl", "a", "b", "--problem_file=c", "--neutral=0"], "no option of trl"),
    (["trl", "a", "b", "--problem_file=c", "--num_shard=2"], "--num_shards"),
  ],
)
def test_wrong_commands_say_what_is_expected(arguments, message, capsys):
  with pytest.raises(SystemExit) as ended:
    import_labels.main(arguments)
  assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_gin_file_without_a_problem_is_named(tmp_path, capsys):
  (tmp_path / "none.gin").write_text("# nothing\n")
  path = str(tmp_path / "none.gin")
  assert import_labels.main(["trl", "a", "b", f"--problem_file={path}"]) == 2
  assert capsys.readouterr().err == (
    f"error: {path} binds no PROBLEM, expected a line PROBLEM = @NAME()\n"
  )


def test_help_names_formats_and_flags(capsys):
  with pytest.raises(SystemExit) as ended:
    import_labels.main(["--help"])
  said = capsys.readouterr().out
  assert ended.value.code == 0
  for word in ("prm800k", "math_shepherd", "trl", "--problem_file", "TARGET"):
    assert word in said
