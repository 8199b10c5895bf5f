"""The published files of MATH, and splits that do not leak into MATH-500.

A directory holds what its authors publish (Hendrycks et al., arXiv 2103.03874),
unpacked, and the list of 500 test problems of Lightman et al. (arXiv
2305.20050), which is `test.jsonl` in PRM800K's `math_splits` and in MATH-500:

    [MATH/]train/<subject>/<n>.json
    [MATH/]test/<subject>/<n>.json
    test.jsonl

A JSON file is an object with the strings `problem`, `level`, `type` and
`solution`; a line of the list one with `unique_id`, as
`test/precalculus/807.json`, and `answer`.

    train        of `train/`, without what is nearly a problem of test_500
    validation   one in 15 of `train/`, with the same left out
    test_500     the 500 problems
    test_rest    the other problems of `test/`, without what is nearly one of
                 the 500 problems, and so fit to be trained on

Which problem of `train/` is for validation is decided by a hash of its words,
so equal problems are in one split.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from pav_jax.problems.final_answers import final_answer
from pav_jax.problems.near_duplicates import Match, near_duplicates, words

SPLITS = ("train", "validation", "test_500", "test_rest")
LIST = "test.jsonl"
_FIELDS = ("problem", "level", "type", "solution")
_VALIDATION = 15  # one in so many


class Files(NamedTuple):
  """What was read.

  Attributes:
    splits: of each split the problems by key, as `train/algebra/12.json`; a
      problem has the fields of its file and `answer`.
    removed: what is in no split, as it is nearly one of the 500 problems.
  """

  splits: Mapping[str, Mapping[str, Mapping[str, str]]]
  removed: tuple[Match, ...]


def read(directory: str | os.PathLike) -> Files:
  """Reads all files.

  Raises:
    ValueError: if the directory or a part of it is missing, a file is not as
      described, a solution has no boxed answer, or a split is empty.
  """
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    raise ValueError(
      f"there is no directory {directory}, expected MATH's files in it: "
      f"train/, test/ and {LIST}"
    )
  inner = directory / "MATH"
  archive = inner if inner.is_dir() else directory
  train, test = (_archive(archive, part) for part in ("train", "test"))
  listed = _listed(directory / LIST, test)
  splits = {name: {} for name in SPLITS}
  for key, problem in train.items():
    splits[_split(problem["problem"])][key] = problem
  for key, problem in test.items():
    if key in listed:
      splits["test_500"][key] = problem | {"answer": listed[key]}
    else:
      splits["test_rest"][key] = problem
  held_out = _texts(splits["test_500"])
  removed = []
  for name in ("train", "validation", "test_rest"):
    for match in near_duplicates(_texts(splits[name]), held_out):
      del splits[name][match.key]
      removed.append(match)
  for name in ("train", "validation"):
    if not splits[name]:
      raise ValueError(
        f"split {name} of {archive} is empty, expected at least one problem"
      )
  return Files(splits, tuple(removed))


def _texts(problems: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
  return {key: problem["problem"] for key, problem in problems.items()}


def _split(problem: str) -> str:
  digest = hashlib.sha256(" ".join(words(problem)).encode()).digest()
  number = int.from_bytes(digest[:8], "big")
  return "train" if number % _VALIDATION else "validation"


def _archive(archive: pathlib.Path, part: str) -> dict[str, dict[str, str]]:
  """The problems of `train/` or `test/`, in the order of subject and number."""
  paths = [p for p in (archive / part).glob("*/*.json") if p.stem.isdecimal()]
  if not paths:
    raise ValueError(
      f"{archive} has no {part}/<subject>/<n>.json, expected the layout of the "
      "published archive"
    )
  paths.sort(key=lambda path: (path.parent.name, int(path.stem)))
  return {f"{part}/{p.parent.name}/{p.name}": _problem(p) for p in paths}


def _problem(path: pathlib.Path) -> dict[str, str]:
  problem = _object(str(path), path.read_bytes(), _FIELDS)
  answer = final_answer(problem["solution"])
  if answer is None or not any(
    box in problem["solution"] for box in (r"\boxed", r"\fbox")
  ):
    raise ValueError(
      rf"the solution in {path} has no \boxed answer, expected one in every "
      "solution"
    )
  return problem | {"answer": answer}


def _listed(path: pathlib.Path, test: Mapping[str, Any]) -> dict[str, str]:
  """Answers of the 500 problems by key."""
  if not path.is_file():
    raise ValueError(
      f"there is no file {path}, expected the list of the 500 test problems, "
      "without which it is not known what must not be trained on"
    )
  answers = {}
  for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
    if line.strip():
      where = f"line {number} of {path}"
      entry = _object(where, line, ("unique_id", "answer"))
      key = entry["unique_id"].removeprefix("/")
      if key not in test:
        raise ValueError(
          f"{where} is of {key!r}, which is no problem of the archive's test/"
        )
      answers[key] = entry["answer"]
  if not answers:
    raise ValueError(f"{path} is empty, expected one problem a line")
  return answers


def _object(where: str, content: bytes, fields: tuple[str, ...]) -> dict:
  """The named strings of a JSON object."""
  try:
    entry = json.loads(content)
  except ValueError as error:
    raise ValueError(f"{where} is not JSON: {error}") from error
  if not isinstance(entry, dict):
    raise ValueError(f"{where} is no object, expected one with {fields}")
  for field in fields:
    if not isinstance(entry.get(field), str):
      raise ValueError(
        f"{field!r} in {where} is {entry.get(field)!r:.60}, expected a string"
      )
  return {field: entry[field] for field in fields}
