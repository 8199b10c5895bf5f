"""Public step-labelled data as step targets, and back.

A reader of one source (`step_labels_prm800k`, `step_labels_math_shepherd`,
`step_labels_trl`) makes `Trace`s of a file; `to_targets` tokenises them. Step
offsets are those of the steps as the file has them, recorded while their tokens
are put together; text is never split at delimiters.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from pav_jax import json_files
from pav_jax.problems import vocabulary as vocabularies
from pav_jax.rollout import StepTargets


@runtime_checkable
class EncodesText(Protocol):
  """What importers need of a text problem.

  Attributes:
    vocabulary: the tokenizer of the problem's policy.
    delimiter: ends a step.
  """

  vocabulary: vocabularies.TextTokens
  delimiter: str

  def encode_problem(self, problem: str) -> list[int]:
    """A problem's text as its prompt's token ids, as policies see problems."""
    ...

  def decode_problem(self, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of the problem of such a prompt."""
    ...


@dataclasses.dataclass(frozen=True)
class Trace:
  """One labelled response.

  Attributes:
    prompt: the problem.
    steps: their texts, without delimiters; at least one.
    labels: of each step: true or false, 0 or 1, or a float in [0, 1], the
      probability of success (all of one type); None where nothing is known.
    outcome: 1 for a correct final answer, 0 for a wrong one, NaN if unknown.
    is_whole: whether the response ends with its last step, and is not cut off.
    where: file and line, for messages.

  Raises:
    ValueError: if a label is something else, or there is not one for each step.
  """

  prompt: str
  steps: Sequence[str]
  labels: Sequence[Any]
  outcome: float = math.nan
  is_whole: bool = False
  where: str = ""

  def __post_init__(self):
    if len(self.steps) != len(self.labels) or not self.steps:
      raise ValueError(
        f"there are {len(self.steps)} steps and {len(self.labels)} labels; "
        "expected as many, at least one"
      )
    for step, label in enumerate(self.labels):
      if not _is_label(label):
        raise ValueError(
          f"label {step} is {label!r}, expected true or false, 0 or 1, or a "
          "float in [0, 1]"
        )
    check_one_kind({type(x) for x in self.labels if x is not None})


def _is_label(x: Any) -> bool:
  # bool is an int to Python; an int such as -100 is True to bool().
  if x is None or isinstance(x, bool):
    return True
  if isinstance(x, int):
    return x in (0, 1)
  return isinstance(x, float) and 0 <= x <= 1


def check_one_kind(kinds: set[type]) -> None:
  """Raises ValueError if labels are of several types."""
  if len(kinds) > 1:
    names = sorted(kind.__name__ for kind in kinds)
    raise ValueError(
      f"labels are of types {' and '.join(names)}, expected one type "
      "throughout (write 1.0 and 0.0 among floats)"
    )


def read_jsonl(
  path: str | os.PathLike,
  parse: Callable[[dict[str, Any]], Iterable[Trace]],
  *,
  max_bad_lines: int = 0,
) -> list[Trace]:
  """Reads a file of one JSON object a line.

  Args:
    path: of the file, UTF-8, compressed with gzip or zstd or not. Blank lines
      are passed over.
    parse: makes the traces of one object; raises ValueError if it cannot.
    max_bad_lines: so many lines that cannot be used are left out, with a
      warning each; one more is an error.

  Returns:
    The traces in the order of the file.

  Raises:
    ValueError: naming file and line, if a line is no JSON object or not what
      `parse` expects; or if the file holds no trace.
  """
  traces, bad_lines = [], 0
  # Bytes, as text would also be cut at U+2028 and the like.
  for number, line in enumerate(json_files.read(path).split(b"\n"), 1):
    if not line.strip():
      continue
    where = f"{os.fspath(path)}:{number}"
    try:
      for trace in parse(_object(line)):
        traces.append(dataclasses.replace(trace, where=where))
    except ValueError as error:
      bad_lines += 1
      if bad_lines > max_bad_lines:
        raise ValueError(
          f"{where}: {error}; expected at most max_bad_lines = "
          f"{max_bad_lines} lines that cannot be used"
        ) from error
      warnings.warn(f"{where} is left out: {error}", stacklevel=3)
  if not traces:
    raise ValueError(f"{os.fspath(path)} holds no labelled response")
  return traces


def _object(line: bytes) -> dict[str, Any]:
  try:
    row = json_files.parse(line)
  except ValueError as error:
    raise ValueError(f"not a line of JSON: {error}") from error
  if not isinstance(row, dict):
    raise ValueError(f"a JSON object is expected, not {_excerpt(row)}")
  return row


def field(row: Mapping[str, Any], name: str, *kinds: type | None) -> Any:
  """A field of a JSON object.

  Args:
    row: the object.
    name: of the field, which has to be there.
    *kinds: types that it may have; None for null.

  Raises:
    ValueError: if it is not there or of another type.
  """
  if name not in row:
    raise ValueError(f"field {name!r} is missing; there are {sorted(row)}")
  # Types are compared and not inherited: a bool is no int here.
  if type(row[name]) not in [type(None) if k is None else k for k in kinds]:
    names = [k.__name__ if k else "null" for k in kinds]
    raise ValueError(
      f"field {name!r} is {_excerpt(row[name])}, expected {' or '.join(names)}"
    )
  return row[name]


def _excerpt(x: Any) -> str:
  text = repr(x)
  return text if len(text) <= 60 else text[:60] + "…"


def tokenize(
  traces: Sequence[Trace], problem: EncodesText
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B P"]]:
  """The tokens and `prefix_len` of traces, see `to_targets`."""
  vocabulary = problem.vocabulary
  end = _delimiter_ids(vocabulary, problem.delimiter)
  # Traces of a file share most of their texts.
  prompts: dict[str, list[int]] = {}
  steps: dict[str, list[int]] = {}
  # A prompt may have these: a chat ends each of its messages.
  ends = {vocabulary.eos_id, vocabulary.pad_id}
  encoders = (
    (prompts, problem.encode_problem, set()),
    (steps, vocabulary.encode, ends),
  )
  tokens, prefix_len = [], []
  for trace in traces:
    parts = ([trace.prompt], trace.steps)
    for (ids_of, encode, refused), texts in zip(encoders, parts, strict=True):
      for part in texts:
        if part not in ids_of:
          ids_of[part] = _encoded(part, encode, refused, trace.where)
    row = list(prompts[trace.prompt])
    lengths = [len(row)]
    for number, step in enumerate(trace.steps, 1):
      is_end = trace.is_whole and number == len(trace.steps)
      row += steps[step]
      row += [vocabulary.eos_id] if is_end else end
      lengths.append(len(row))
    tokens.append(row)
    prefix_len.append(lengths)
  return (
    _padded(tokens, [vocabulary.pad_id] * len(tokens)),
    _padded(prefix_len, [row[-1] for row in prefix_len]),
  )


def to_targets(traces: Sequence[Trace], problem: EncodesText) -> StepTargets:
  """Tokenises traces.

  A row is the tokens of the prompt, as policies of the problem see it
  (`encode_problem`), then for each step those of its text and of the delimiter;
  the last step of a whole response has the end token in the delimiter's place,
  as responses have that are sampled (`problems.text`).

  Args:
    traces: B of them.
    problem: of the policy, so that prompts, tokens and steps are.

  Returns:
    Step targets of numpy arrays: a label is one completion (n = 1), the bare
    problem has none. Problems, and the traces of each, are numbered in the
    order in which they first come. T and P are as large as the longest trace
    needs.

  Raises:
    ValueError: if there are no traces, the vocabulary cannot produce the
      delimiter, or a text has no tokens or holds padding or end.
  """
  if not traces:
    raise ValueError("there are no traces, expected at least one")
  tokens, prefix_len = tokenize(traces, problem)
  problems: dict[str, int] = {}
  num_samples: dict[str, int] = {}
  ids = []
  for trace in traces:
    number = problems.setdefault(trace.prompt, len(problems))
    sample = num_samples.get(trace.prompt, 0)
    num_samples[trace.prompt] = sample + 1
    ids.append((number, sample))

  shape = prefix_len.shape
  num_completions = np.zeros(shape, np.int32)
  num_correct = np.zeros(shape, np.float64)
  for row, trace in enumerate(traces):
    for h, label in enumerate(trace.labels, 1):
      if label is not None:
        num_completions[row, h] = 1
        num_correct[row, h] = label
  coarse = num_correct.astype(np.float32)
  return StepTargets(
    tokens=tokens,
    prefix_len=prefix_len,
    num_completions=num_completions,
    num_correct=coarse if (coarse == num_correct).all() else num_correct,
    outcome=np.array([trace.outcome for trace in traces], np.float32),
    problem_id=np.array([number for number, _ in ids], np.int32),
    sample_id=np.array([sample for _, sample in ids], np.int32),
  )


def _padded(rows: list[list[int]], fill: list[int]) -> np.ndarray:
  width = max(map(len, rows))
  return np.array(
    [row + [x] * (width - len(row)) for row, x in zip(rows, fill, strict=True)],
    np.int32,
  )


def _encoded(
  part: str,
  encode: Callable[[str], Sequence[int]],
  refused: set[int],
  where: str,
) -> list[int]:
  try:
    ids = [int(i) for i in encode(part)]
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  if refused & set(ids):
    raise ValueError(
      f"{where}: text {_excerpt(part)} has padding or end among its tokens"
    )
  return ids


def _delimiter_ids(
  vocabulary: vocabularies.TextTokens, delimiter: str
) -> list[int]:
  ends_step = vocabularies.delimiter_table(vocabulary, delimiter)
  ids = [int(i) for i in vocabulary.encode(delimiter)]
  if not ids or not ends_step[ids[-1]]:
    raise ValueError(
      f"delimiter {delimiter!r} is encoded as {ids}, expected tokens of which "
      "the last contains it"
    )
  return ids
