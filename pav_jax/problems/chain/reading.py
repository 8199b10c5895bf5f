"""How chains are written, and what the steps of responses say."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pav_jax.problems.chain import operations as chain_operations
from pav_jax.problems.chain.operations import Operation
from pav_jax.problems.vocabulary import Vocabulary

STEP = 6  # tokens of `37+25=62`, newline
NO_PROGRESS, ILLEGAL = -1, -2


class Steps(NamedTuple):
  """What the steps of responses say; `P = H + 1`, entry 0 is the problem.

  Attributes:
    legal: bool[B, P], every line so far copies the problem and the current
      value, and the end token, if it came, came after the last operation.
    right: bool[B, P], legal, and no result is wrong.
    value: int64[B, P], the current value, right or not; that of the last legal
      line.
    done: int64[B, P], operations carried out, 0 … horizon.
    ended: bool[B, P], the end token came.
    kind: int64[B, H], each step's index into `operations`, or NO_PROGRESS, or
      ILLEGAL; the latter also for empty steps and those past the end.
  """

  legal: Bool[np.ndarray, "B P"]
  right: Bool[np.ndarray, "B P"]
  value: Int[np.ndarray, "B P"]
  done: Int[np.ndarray, "B P"]
  ended: Bool[np.ndarray, "B P"]
  kind: Int[np.ndarray, "B P-1"]


class Contents(NamedTuple):
  """What describes problems.

  Attributes:
    start: the first value.
    kind: index of each of the N operations.
    operand: of each.
  """

  start: Int[np.ndarray, "B"]
  kind: Int[np.ndarray, "B N"]
  operand: Int[np.ndarray, "B N"]


@dataclasses.dataclass(frozen=True)
class Notation:
  """Turns the contents of problems into tokens and back, and reads steps.

  Attributes:
    vocabulary: has the integers below the modulus and all symbols.
    operations: the kinds.
    modulus: of the arithmetic.
    ends_step: the delimiter tokens, bool[V] as a tuple.
  """

  vocabulary: Vocabulary
  operations: tuple[Operation, ...]
  modulus: int
  ends_step: tuple[bool, ...]

  @functools.cached_property
  def symbol_ids(self) -> Int[np.ndarray, "K"]:
    """The token of each operation's symbol."""
    return np.array(
      [self.vocabulary.symbol_id(o.symbol) for o in self.operations]
    )

  def prompts(self, contents: Contents) -> Int[np.ndarray, "B L"]:
    """Token ids of `37+25*3:`, int32[B, 2 N + 2]."""
    start, kind, operand = contents
    integer = self.vocabulary.first_integer
    shape = (len(start), 2 * kind.shape[-1] + 2)
    prompts = np.full(shape, self.vocabulary.symbol_id(":"), np.int32)
    prompts[:, 0] = integer + start
    prompts[:, 1:-1:2] = self.symbol_ids[kind]
    prompts[:, 2:-1:2] = integer + operand
    return prompts

  def contents(self, prompts: Int[np.ndarray, "B L"]) -> Contents:
    """What prompts state.

    Raises:
      ValueError: if a prompt has other symbols or numbers.
    """
    integers = prompts.astype(np.int64) - self.vocabulary.first_integer
    start, operand = integers[:, 0], integers[:, 2:-1:2]
    matches = prompts[:, 1:-1:2, None] == self.symbol_ids
    stated = np.concatenate([start[:, None], operand], -1)
    legal = matches.any(-1).all() & (stated >= 0).all()
    if not (legal and (stated < self.modulus).all()):
      raise ValueError(
        "a rollout's prompt is none of this problem's; expected a start and "
        f"{operand.shape[-1]} operations modulo {self.modulus}"
      )
    return Contents(start, matches.argmax(-1), operand)

  def right(
    self,
    value: Int[np.ndarray, "..."],
    kind: Int[np.ndarray, "..."],
    operand: Int[np.ndarray, "..."],
  ) -> Int[np.ndarray, "..."]:
    """The right result of each operation; arguments broadcast."""
    return chain_operations.results(
      self.operations, self.modulus, value, kind, operand
    )

  def final(self, contents: Contents) -> Int[np.ndarray, "B"]:
    """The right final number."""
    value, kind, operand = contents
    for h in range(kind.shape[-1]):
      value = self.right(value, kind[:, h], operand[:, h])
    return value

  def line(
    self,
    value: Int[np.ndarray, "B"],
    kind: Int[np.ndarray, "B"],
    operand: Int[np.ndarray, "B"],
    result: Int[np.ndarray, "B"],
  ) -> Int[np.ndarray, "B 6"]:
    """Token ids of one operation each, newline included."""
    integer = self.vocabulary.first_integer
    newline, equals = map(self.vocabulary.symbol_id, "\n=")
    constant = np.zeros_like(value)
    parts = (
      integer + value,
      self.symbol_ids[kind],
      integer + operand,
      equals + constant,
      integer + result,
      newline + constant,
    )
    return np.stack(parts, -1).astype(np.int32)

  def closes(self, token: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Whether tokens, any numbers, close a line: delimiters and the end."""
    ends_step = np.asarray(self.ends_step)
    known = (token >= 0) & (token < len(ends_step))
    delimits = known & ends_step[np.where(known, token, 0)]
    return delimits | (token == self.vocabulary.eos_id)

  def read(
    self,
    tokens: Int[np.ndarray, "B T"],
    prefix_len: Int[np.ndarray, "B P"],
  ) -> Steps:
    """Reads the steps of responses.

    Args:
      tokens: prompt, response, padding.
      prefix_len: the offsets of all their steps.

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    prompt_len = int(prefix_len[0, 0])
    value, kinds, operand = self.contents(tokens[:, :prompt_len])
    horizon = kinds.shape[-1]
    # A column more, so that rows whose operations are done can be indexed.
    kinds, operand = (np.pad(x, ((0, 0), (0, 1))) for x in (kinds, operand))
    padded = np.pad(tokens, ((0, 0), (0, STEP))).astype(np.int64)
    rows = np.arange(len(tokens))
    integer = self.vocabulary.first_integer
    done, legal = np.zeros_like(value), np.ones(len(tokens), bool)
    right, ended = legal.copy(), ~legal
    states, step_kinds = [(legal, right, value, done, ended)], []
    for h in range(prefix_len.shape[-1] - 1):
      begin, length = prefix_len[:, h], np.diff(prefix_len[:, h : h + 2])[:, 0]
      line = padded[rows[:, None], begin[:, None] + np.arange(STEP)]
      kind, number = kinds[rows, done], operand[rows, done]
      result = line[:, 4] - integer
      want = self.line(value, kind, number, result)
      exists = length > 0
      closing = padded[rows, begin + np.maximum(length, 1) - 1]
      ends = closing == self.vocabulary.eos_id
      closed = self.closes(closing)

      open_ = exists & closed & legal & ~ended
      operates = open_ & (length == STEP) & (done < horizon)
      operates &= (line[:, :4] == want[:, :4]).all(-1)
      operates &= (result >= 0) & (result < self.modulus)
      restates = open_ & (length == 2) & (line[:, 0] == want[:, 0])
      stops = open_ & (length == 1) & ends

      expected = self.right(value, kind, number)
      done = done + operates
      legal = legal & (~exists | operates | restates | stops)
      legal = legal & (~exists | ~ends | (done == horizon))
      right = right & legal & (~operates | (result == expected))
      value = np.where(operates, result, value)
      ended = ended | (exists & ends)
      states.append((legal, right, value, done, ended))
      progress = np.where(operates, kind, ILLEGAL)
      step_kinds.append(np.where(restates, NO_PROGRESS, progress))
    fields = [np.stack(field, -1) for field in zip(*states, strict=True)]
    return Steps(*fields, np.stack(step_kinds, -1))
