import json
import pathlib
import shutil

import pytest

from pav_jax.problems import math_files

DATA = pathlib.Path(__file__).parents[1] / "data" / "math"


@pytest.fixture
def copy(tmp_path):
  return shutil.copytree(DATA, tmp_path / "files")


def test_splits_are_as_the_files_say():
  files = math_files.read(DATA)
  splits = files.splits
  assert list(splits) == list(math_files.SPLITS)
  assert list(splits["test_500"]) == [
    "test/algebra/7.json",
    "test/algebra/12.json",
    "test/prealgebra/3.json",
  ]
  assert list(splits["test_rest"]) == ["test/prealgebra/40.json"]
  # What was removed is all that is in no split: one problem of train and one of
  # the rest of test, each one of the listed problems in another form.
  assert [(m.key, m.other) for m in files.removed] == [
    ("train/algebra/7.json", "test/algebra/7.json"),
    ("test/algebra/31.json", "test/algebra/12.json"),
  ]
  every = [key for split in splits.values() for key in split]
  every += [match.key for match in files.removed]
  paths = [str(p.relative_to(DATA)) for p in DATA.rglob("*.json")]
  assert sorted(every) == sorted(paths)
  assert len(splits["train"]) == 13 and len(splits["validation"]) == 2


def test_problems_have_their_fields_and_answers():
  splits = math_files.read(DATA).splits
  key = "train/algebra/10.json"
  want = json.loads((DATA / key).read_text())
  assert splits["train"][key] == want | {"answer": r"\frac12"}
  # Answers of the listed problems are the list's, here without spaces.
  assert splits["test_500"]["test/algebra/12.json"]["answer"] == "(x-2)(x+2)"
  numbers = [key.split("/")[-1] for key in splits["train"]][1:]
  assert numbers == [f"{i}.json" for i in range(1, 13)]  # 2 before 10


def test_files_in_the_archives_own_folder_are_found(copy):
  (copy / "MATH").mkdir()
  for part in ("train", "test"):
    (copy / part).rename(copy / "MATH" / part)
  assert math_files.read(copy) == math_files.read(DATA)


def test_the_split_of_a_problem_is_that_of_its_words(copy):
  # Equal problems of two subjects; what else there is does not matter.
  key = next(iter(math_files.read(copy).splits["validation"]))
  path = copy / key
  again = json.loads(path.read_text())
  again["problem"] = again["problem"].replace(" ", "  ").lower()
  for number in range(100, 104):
    (copy / "train" / "algebra" / f"{number}.json").write_text(
      json.dumps(again)
    )
  splits = math_files.read(copy).splits
  assert len(splits["validation"]) == 6 and len(splits["train"]) == 13


def edit(path, **fields):
  content = json.loads(path.read_text())
  content.update(fields)
  path.write_text(json.dumps({k: v for k, v in content.items() if v != ...}))


FIRST = "train/prealgebra/1.json"


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda d: shutil.rmtree(d), "there is no directory"),
    (lambda d: shutil.rmtree(d / "train"), "has no train/<subject>/<n>.json"),
    (lambda d: shutil.rmtree(d / "test"), "has no test/<subject>/<n>.json"),
    (lambda d: (d / "test.jsonl").unlink(), r"no file .*test\.jsonl, expected"),
    (lambda d: (d / "test.jsonl").write_text("\n"), r"test\.jsonl is empty"),
    (
      lambda d: (d / "test.jsonl").write_text('{"answer": "1"}'),
      r"'unique_id' in line 1 of .*test\.jsonl is None, expected a string",
    ),
    (
      lambda d: (d / "test.jsonl").write_text(
        '{"answer": "1", "unique_id": "test/algebra/99.json"}'
      ),
      "is of 'test/algebra/99.json', which is no problem",
    ),
    (lambda d: (d / FIRST).write_text("{"), r"1\.json is not JSON"),
    (lambda d: (d / FIRST).write_bytes(b"\xff"), r"1\.json is not JSON"),
    (lambda d: (d / FIRST).write_text("[]"), r"1\.json is no object"),
    (lambda d: edit(d / FIRST, solution=...), "'solution' in .* is None"),
    (lambda d: edit(d / FIRST, problem=3), "'problem' in .* is 3, expected"),
    (lambda d: edit(d / FIRST, solution="7"), r"has no \\boxed answer"),
    (
      lambda d: edit(d / FIRST, solution="# Answer\n7"),
      r"has no \\boxed answer",
    ),
    (lambda d: edit(d / FIRST, solution=r"\boxed{7"), r"has no \\boxed answer"),
    (
      lambda d: [
        (d / "train" / "prealgebra" / f"{i}.json").unlink() for i in (13, 14)
      ],
      "split validation of .* is empty",
    ),
  ],
)
def test_wrong_files_get_one_sentence(copy, change, match):
  change(copy)
  with pytest.raises(ValueError, match=match) as error:
    math_files.read(copy)
  assert "\n" not in str(error.value)
