"""What a server of step scores is asked, and what it refuses."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pav_jax.checks import check_positive
from pav_jax.provers.public.step_joining import Joined


@dataclasses.dataclass(frozen=True)
class Served:
  """A model that scores steps.

  Attributes:
    name: by which requests name it.
    reader: of `Limits.kept_traces` traces, a `provers.trace_reader.TraceReader`
      or what has its `max_length`, `offset`, `scores` and `forget`; called from
      one thread at a time.
    vocab_size: V.
    step_tokens: ids at which steps are scored where a request gives no marks.
    encode: a text's tokens; None without a tokenizer.
    join: a problem's and its steps' sequence; None without a tokenizer.
  """

  name: str
  reader: Any
  vocab_size: int
  step_tokens: frozenset[int] = frozenset()
  encode: Callable[[str], list[int]] | None = None
  join: Callable[[str, Sequence[str]], Joined] | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
  """What bounds memory.

  Attributes:
    max_body: bytes of a request.
    max_sequences: in a request.
    max_waiting: sequences that wait to be read; more are told to come later.
    rows_per_call: sequences read at a time.
    max_kept: scores that are kept for later requests.
    kept_traces: sequences that the model keeps, to read on in them.

  Raises:
    ValueError: if a number is below 1, or fewer sequences are kept than read at
      a time.
  """

  max_body: int = 2**20
  max_sequences: int = 64
  max_waiting: int = 1024
  rows_per_call: int = 32
  max_kept: int = 2**17
  kept_traces: int = 32

  def __post_init__(self):
    check_positive(**dataclasses.asdict(self))
    if self.kept_traces < self.rows_per_call:
      raise ValueError(
        f"kept_traces is {self.kept_traces}, expected at least "
        f"{self.rows_per_call}, the rows_per_call"
      )


class RequestError(Exception):
  """A request that is not answered.

  Attributes:
    status: of HTTP.
  """

  def __init__(self, status: int, message: str):
    """Takes the status and a message for the client."""
    super().__init__(message)
    self.status = status


def parsed(body: bytes) -> dict[str, Any]:
  """The content of a request.

  Raises:
    RequestError: if it is no object with an input.
  """
  try:
    content = json.loads(body)
  except (ValueError, RecursionError) as error:
    raise RequestError(400, f"the request is no JSON: {error}") from error
  if not isinstance(content, dict) or "input" not in content:
    raise RequestError(400, "the request has no input, expected an object with")
  return content


def sequences(
  content: dict[str, Any], served: Served, limits: Limits
) -> list[tuple[Int[np.ndarray, "T"], list[int]]]:
  """Tokens and marks of a request's sequences.

  Raises:
    RequestError: saying what is wrong with which.
  """
  inputs, marks = content["input"], content.get("mark")
  if isinstance(inputs, str | dict) or _is_ids(inputs):
    inputs = [inputs]
    marks = None if marks is None else [marks]
  if not isinstance(inputs, list) or not inputs:
    raise RequestError(
      400,
      "input is empty, or is no sequence and no list of some; expected token "
      "ids, texts or objects with problem and steps",
    )
  if len(inputs) > limits.max_sequences:
    raise RequestError(
      400,
      f"input has {len(inputs)} sequences, expected at most "
      f"{limits.max_sequences}",
    )
  if marks is not None and not (
    isinstance(marks, list) and len(marks) == len(inputs)
  ):
    raise RequestError(400, f"mark is {marks!r:.60}, expected a list for each")
  return [
    _sequence(one, None if marks is None else marks[i], served, f"input {i}")
    for i, one in enumerate(inputs)
  ]


def _is_ids(value: Any) -> bool:
  """Whether it is a list of whole numbers; `true` is an int to Python."""
  return (
    isinstance(value, list)
    and bool(value)
    and all(type(token) is int for token in value)
  )


def _sequence(
  value: Any, marks: Any, served: Served, where: str
) -> tuple[Int[np.ndarray, "T"], list[int]]:
  """Tokens and marks of a sequence."""
  try:
    if isinstance(value, dict):
      value, marks = _joined(value, marks, served, where)
    elif isinstance(value, str):
      if served.encode is None:
        raise ValueError(f"{where} is a text, expected token ids: no tokenizer")
      value = served.encode(value)
    if not _is_ids(value):
      raise ValueError(f"{where} has no token ids, expected whole numbers")
    if len(value) > served.reader.max_length:
      raise ValueError(
        f"{where} has {len(value)} tokens, expected at most "
        f"{served.reader.max_length}, the model's longest sequence"
      )
    if not 0 <= min(value) <= max(value) < served.vocab_size:
      raise ValueError(
        f"{where} has tokens {min(value)} … {max(value)}, expected 0 … "
        f"{served.vocab_size - 1}"
      )
    if marks is None:
      marks = [i for i, x in enumerate(value) if x in served.step_tokens]
    least, length = -served.reader.offset, len(value)
    if not _is_ids(marks) or not all(least <= x < length for x in marks):
      raise ValueError(
        f"{where} is marked at {marks!r:.60}, expected one or more indices in "
        f"{least} … {length - 1}, or step tokens in it"
      )
  except ValueError as error:
    raise RequestError(400, str(error)) from error
  return np.array(value, np.int32), marks


def _joined(
  value: dict[str, Any], marks: Any, served: Served, where: str
) -> tuple[list[int], list[int]]:
  """A problem's and its steps' tokens, and marks."""
  asked, steps = value.get("problem"), value.get("steps")
  if not isinstance(asked, str) or not (
    isinstance(steps, list)
    and steps
    and all(isinstance(step, str) and step for step in steps)
  ):
    raise ValueError(
      f"{where} has problem {asked!r:.40} and steps {steps!r:.40}, expected "
      "a text and texts, none of these empty"
    )
  if marks is not None or served.join is None:
    raise ValueError(
      f"{where} is joined here, expected a model with a tokenizer and no mark"
    )
  joined = served.join(asked, steps)
  return joined.tokens, joined.marks
