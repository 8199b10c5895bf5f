"""Questions of one's own: a JSON object a line."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pav_jax import files, json_files
from pav_jax.problems.base import SPLITS
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.final_answers import final_answer
from pav_jax.problems.grading import Grader
from pav_jax.problems.prompt_format import Record

# The split of each tenth of all questions.
_SPLIT_OF_TENTH = ("train",) * 8 + ("validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(DataProblem):
  r"""Problems from a file of JSON lines, perhaps of gzip or zstd.

  A line has `problem` and `answer`, the final answer that is right; `solution`,
  a worked solution whose lines are its steps; and perhaps `split`. A solution
  that shows no final answer gets a last line `#### ANSWER`. Lines without
  solution are in validation or test. Where no line has a split, a hash of a
  problem's text decides: eight in ten are of train, one of validation and one
  of test.

  Attributes:
    path: of the file.

  Raises:
    ValueError: when problems are first asked for: for a file that is no JSON
      lines or has no solution, and, naming its line, for one that lacks a
      field, has another kind of value, or a solution that ends with another
      answer.
    OSError: if the file cannot be read.
  """

  path: str | os.PathLike = dataclasses.field(repr=False)
  digest: str = dataclasses.field(init=False, default="")

  def __post_init__(self):
    super().__post_init__()
    # What the file says is part of what a run is; where it lies is not.
    object.__setattr__(self, "digest", files.file_digest(self.path))

  def records(self) -> Mapping[str, Sequence[Record]]:
    """All problems, in the order of the file."""
    return _records(os.fspath(self.path), self.digest, self.grader)


@dataclasses.dataclass(frozen=True)
class _Line:
  where: str
  split: str
  record: Record


@functools.lru_cache(maxsize=2)
def _read(path: str, digest: str) -> list[_Line]:
  del digest  # for the cache
  found = list(_lines(path))
  if not any(line.split == "train" for line in found):
    raise ValueError(
      f"{path} has {len(found)} lines and none for training, expected lines "
      "with problem, solution and answer"
    )
  return found


@functools.lru_cache(maxsize=2)
def _records(path: str, digest: str, grader: Grader) -> dict[str, list[Record]]:
  """The problems of each split, whose solutions end with their answers."""
  lines = _read(path, digest)
  given = {
    line.where: final_answer(line.record.solution)
    for line in lines
    if line.record.solution
  }
  # In one call, for graders may compare in processes of their own.
  shown = [line for line in lines if given.get(line.where) is not None]
  right = grader(
    [line.record.solution for line in shown],
    [line.record.answer for line in shown],
  )
  for line, is_right in zip(shown, right, strict=True):
    if not is_right:
      raise ValueError(
        f"{line.where}: the solution ends with the answer "
        f"{given[line.where]!r}, expected that of the line, "
        f"{line.record.answer!r}"
      )
  splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
  for line in lines:
    record = line.record
    if record.solution and given[line.where] is None:
      solution = f"{record.solution}\n#### {record.answer}"
      record = record._replace(solution=solution)
    splits[line.split].append(record)
  return splits


def _lines(path: str) -> Iterator[_Line]:
  # Not `splitlines`, which splits at characters that JSON strings may hold.
  for number, text in enumerate(json_files.read_text(path).split("\n"), 1):
    if text.strip():
      yield _line(f"{path} line {number}", text)


def _line(where: str, text: str) -> _Line:
  try:
    content = json_files.parse(text)
  except ValueError as error:
    raise ValueError(f"{where} is no JSON: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(f"{where} is {text!r:.40}, expected a JSON object")
  problem = _text(where, content, "problem")
  answer = _text(where, content, "answer")
  solution = _text(where, content, "solution", missing="")
  digest = hashlib.sha256(" ".join(problem.split()).encode()).digest()
  record = Record(digest.hex()[:16], problem, solution, answer)
  tenth = int.from_bytes(digest[:8], "big") % 10
  if solution:
    split = _SPLIT_OF_TENTH[tenth]
  else:
    split = "validation" if tenth % 2 else "test"
  split = content.get("split", split)
  if split not in SPLITS:
    raise ValueError(f"{where}: split is {split!r}, expected one of {SPLITS}")
  if split == "train" and not solution:
    raise ValueError(f"{where} is of train, expected a solution in it")
  return _Line(where, split, record)


def _text(
  where: str,
  content: Mapping[str, Any],
  field: str,
  missing: str | None = None,
) -> str:
  if content.get(field, missing) is None:
    known = ", ".join(content) or "nothing"
    raise ValueError(f"{where} has {known}, expected {field} in it")
  value = content.get(field, missing)
  if isinstance(value, int | float) and not isinstance(value, bool):
    value = str(value)
  if not isinstance(value, str) or (missing is None and not value.strip()):
    raise ValueError(f"{where}: {field} is {value!r}, expected text")
  return value.strip()


def count(path: str | os.PathLike) -> tuple[int, ...]:
  """Lines of a file that are of train, validation and test.

  Raises:
    ValueError: as of `JsonLines`, but for what solutions end with; or if a
      split has none.
    OSError: if the file cannot be read.
  """
  lines = _read(os.fspath(path), files.file_digest(path))
  found = tuple(sum(line.split == split for line in lines) for split in SPLITS)
  for split, number in zip(SPLITS, found, strict=True):
    if not number:
      raise ValueError(
        f"{os.fspath(path)} has {len(lines)} lines and none for {split}, "
        "expected more lines, or a field split in each"
      )
  return found
