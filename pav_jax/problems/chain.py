"""Chains of operations modulo 100, with a teacher whose values are known.

A problem is a start and H operations, `37+25*3:`; the response carries them
out, one a line: `37+25=62`, `62*3=86`. A line that only restates the current
value, `62`, is legal and makes no progress. The teacher makes mistakes at a
rate known per operation and goes on from the wrong value, so the value of
every prefix under it is known exactly.
"""

import dataclasses
import functools
from typing import NamedTuple

import gin
import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.problems import chain_operations, hashing, text
from pav_jax.problems.chain_operations import OPERATIONS, SYMBOLS, Operation
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.types import Rollout

_STEP = 6  # tokens of `37+25=62`, newline
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


@gin.register
@dataclasses.dataclass(frozen=True)
class Chain(text.GeneratedProblem):
  """The problem's settings.

  Attributes:
    horizon: H, operations in a problem.
    modulus: of the arithmetic, at least 2.
    operations: the kinds, of different symbols.
    rho: probability that the teacher's next step restates the current value.
    max_no_progress: after as many restatements in a response the teacher
      makes no more; has no part in any value.
    grading: "every" for every result right; "final" for the last one alone,
      so that errors may cancel. The lines must be legal in both: a response
      that skips or alters an operation is wrong.
    seed: of problems and demonstrations.

  Raises:
    ValueError: if a setting is out of its range.
  """

  horizon: int = 10
  modulus: int = 100
  operations: tuple[Operation, ...] = OPERATIONS
  rho: float | int = 0.1
  max_no_progress: int = 5
  grading: str = "every"
  seed: int = 0

  def __post_init__(self):
    object.__setattr__(self, "operations", tuple(self.operations))
    if self.horizon < 1:
      raise ValueError(f"horizon is {self.horizon}, expected at least 1")
    if self.modulus < 2:
      raise ValueError(f"modulus is {self.modulus}, expected at least 2")
    symbols = [operation.symbol for operation in self.operations]
    if not symbols or len(set(symbols)) < len(symbols):
      raise ValueError(
        f"operations have the symbols {symbols}, expected at least one and "
        "each once"
      )
    for operation in self.operations:
      if max(operation.low, operation.high or 0) >= self.modulus:
        raise ValueError(
          f"operands of {operation.symbol!r} are {operation.low} … "
          f"{operation.high}, expected numbers below the modulus "
          f"{self.modulus}"
        )
    if not 0 <= self.rho < 1:
      raise ValueError(f"rho is {self.rho}, expected a number in [0, 1)")
    if self.max_no_progress < 0:
      raise ValueError(
        f"max_no_progress is {self.max_no_progress}, expected at least 0"
      )
    if self.grading not in ("every", "final"):
      raise ValueError(
        f"grading is {self.grading!r}, expected 'every' or 'final'"
      )

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """Integers below the modulus, and symbols."""
    return Vocabulary(num_integers=self.modulus)

  @property
  def prompt_len(self) -> int:
    """`37`, two tokens for each operation, `:`."""
    return 2 * self.horizon + 2

  @property
  def max_steps(self) -> int:
    """Operations and the most restatements that the teacher makes."""
    return self.horizon + (self.max_no_progress if self.rho else 0)

  @property
  def max_response_len(self) -> int:
    """Six tokens an operation and two a restatement."""
    return _STEP * self.horizon + 2 * (self.max_steps - self.horizon)

  def clean(self) -> "Chain":
    """The same problems with a teacher that makes no mistakes."""
    operations = tuple(
      dataclasses.replace(operation, error=0.0) for operation in self.operations
    )
    return dataclasses.replace(self, operations=operations)

  def propose(
    self, problem_id: Int[np.ndarray, "B"], attempt: int
  ) -> tuple[
    Int[np.ndarray, "B C"], Int[np.ndarray, "B K"], Bool[np.ndarray, "B"]
  ]:
    """The start, then H indices into `operations`, then H operands."""
    uniform = hashing.uniforms(
      text.PROBLEM,
      self.seed,
      problem_id[:, None],
      attempt,
      np.arange(2 * self.horizon + 1),
    )
    start = (uniform[:, :1] * self.modulus).astype(np.int64)
    weight = np.cumsum([operation.weight for operation in self.operations])
    scaled = uniform[:, 1 : self.horizon + 1] * weight[-1]
    kind = np.searchsorted(weight[:-1], scaled, side="right")
    low, high = self._operand_range[kind].transpose(2, 0, 1)
    spread = uniform[:, self.horizon + 1 :] * (high - low + 1)
    operand = low + spread.astype(np.int64)
    content = np.concatenate([start, kind, operand], -1)
    identity = np.concatenate([start, self._function[kind], operand], -1)
    return content, identity, np.ones(len(content), bool)

  @functools.cached_property
  def _operand_range(self) -> np.ndarray:
    return np.array(
      [
        (o.low, self.modulus - 1 if o.high is None else o.high)
        for o in self.operations
      ]
    )

  @functools.cached_property
  def _function(self) -> np.ndarray:
    return np.array([SYMBOLS.index(o.symbol) for o in self.operations])

  @functools.cached_property
  def _symbol_id(self) -> np.ndarray:
    return np.array(
      [self.vocabulary.symbol_id(o.symbol) for o in self.operations]
    )

  def _fields(self, content):
    """Start int64[B], kinds and operands int64[B, H] of problems' contents."""
    return (
      content[:, 0],
      content[:, 1 : self.horizon + 1],
      content[:, self.horizon + 1 :],
    )

  def _from_prompts(self, prompts: np.ndarray) -> np.ndarray:
    """The contents that prompts state, int64[B, 2 H + 1]."""
    integers = prompts.astype(np.int64) - self.vocabulary.first_integer
    start, operand = integers[:, 0], integers[:, 2:-1:2]
    matches = prompts[:, 1:-1:2, None] == self._symbol_id
    stated = np.concatenate([start[:, None], operand], -1)
    legal = matches.any(-1).all() & (stated >= 0).all()
    if not (legal and (stated < self.modulus).all()):
      raise ValueError(
        "a rollout's prompt is none of this problem's; expected a start and "
        f"{self.horizon} operations modulo {self.modulus}"
      )
    return np.concatenate([start[:, None], matches.argmax(-1), operand], -1)

  def prompts(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of `37+25*3:`, int32[B, 2 H + 2]."""
    start, kind, operand = self._fields(self.contents(problem_id))
    integer = self.vocabulary.first_integer
    prompts = np.full(
      (len(start), self.prompt_len), self.vocabulary.symbol_id(":"), np.int32
    )
    prompts[:, 0] = integer + start
    prompts[:, 1:-1:2] = self._symbol_id[kind]
    prompts[:, 2:-1:2] = integer + operand
    return prompts

  def answers(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B A"]:
    """The right response without restatements, int32[B, 6 H]."""
    start, kind, operand = self._fields(self.contents(problem_id))
    lines, value = [], start
    for h in range(self.horizon):
      result = self._right(value, kind[:, h], operand[:, h])
      lines.append(self._line(value, kind[:, h], operand[:, h], result))
      value = result
    answers = np.concatenate(lines, -1)
    answers[:, -1] = self.vocabulary.eos_id
    return answers

  def _line(self, value, kind, operand, result):
    """Token ids int32[B, 6] of one operation, newline included."""
    integer = self.vocabulary.first_integer
    newline, equals = map(self.vocabulary.symbol_id, "\n=")
    constant = np.zeros_like(value)
    parts = (
      integer + value,
      self._symbol_id[kind],
      integer + operand,
      equals + constant,
      integer + result,
      newline + constant,
    )
    return np.stack(parts, -1).astype(np.int32)

  def _right(self, value, kind, operand):
    return chain_operations.results(
      self.operations, self.modulus, value, kind, operand
    )

  def _teacher(self, value, kind, operand, other):
    return chain_operations.teacher(
      self.operations, self.modulus, value, kind, operand, other
    )

  def responses(
    self, problem_id: Int[np.ndarray, "B"], sample_id: Int[np.ndarray, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """The noisy teacher's responses, padded: int32[B, max_response_len]."""
    start, kind, operand = self._fields(self.contents(problem_id))
    other = np.roll(operand, -1, -1)
    rows = np.arange(len(start))
    uniform = hashing.uniforms(
      text.DEMONSTRATION,
      self.seed,
      problem_id[:, None, None],
      sample_id[:, None, None],
      np.arange(self.max_steps)[:, None],
      np.arange(2),
    )
    tokens = np.full(
      (len(start), self.max_response_len), self.vocabulary.pad_id, np.int32
    )
    newline = self.vocabulary.symbol_id("\n")
    value, done = start.copy(), np.zeros_like(start)
    restated, length = done.copy(), done.copy()
    for step in range(self.max_steps):
      busy = done < self.horizon
      restates = busy & (uniform[:, step, 0] < self.rho)
      restates &= restated < self.max_no_progress
      row = rows[restates]
      tokens[row, length[row]] = self.vocabulary.first_integer + value[row]
      tokens[row, length[row] + 1] = newline
      restated[row] += 1
      length[row] += 2

      row = rows[busy & ~restates]
      h = done[row]
      now = (value[row], kind[row, h], operand[row, h])
      results, probs = self._teacher(*now, other[row, h])
      chosen = np.sum(
        uniform[row, step, 1:] >= np.cumsum(probs, -1)[:, :-1], -1
      )
      # Rounding of the sum must not choose a mistake that cannot happen.
      chosen = np.where(probs[np.arange(len(row)), chosen] > 0, chosen, 0)
      result = results[np.arange(len(row)), chosen]
      at = length[row, None] + np.arange(_STEP)
      tokens[row[:, None], at] = self._line(*now, result)
      value[row] = result
      done[row] += 1
      length[row] += _STEP
    tokens[rows, length - 1] = self.vocabulary.eos_id
    return tokens

  def steps(self, rollout: Rollout) -> Steps:
    """Reads the steps of responses, at the rollout's own offsets.

    Args:
      rollout: of this problem; prefixes may end at delimiters and at the
        response's end only.

    Raises:
      ValueError: if a prompt is none of this problem's, or a prefix ends
        within a step.
    """
    tokens = np.asarray(rollout.tokens)
    prefix_len = np.asarray(rollout.prefix_len)
    at = self.steps_before(rollout)
    every = self._steps(tokens, self.prefix_lengths(tokens))
    fields = [np.take_along_axis(x, at, -1) for x in every[:-1]]
    last = np.maximum(at[:, 1:] - 1, 0)
    kind = np.take_along_axis(every.kind, last, -1)
    kind = np.where(at[:, 1:] > at[:, :-1], kind, ILLEGAL)
    kind = np.where(prefix_len[:, 1:] > prefix_len[:, :-1], kind, ILLEGAL)
    return Steps(*fields, kind)

  def _steps(self, tokens: np.ndarray, prefix_len: np.ndarray) -> Steps:
    contents = self._from_prompts(tokens[:, : self.prompt_len])
    value, kinds, operand = self._fields(contents)
    # A column more, so that rows whose operations are done can be indexed.
    kinds, operand = (np.pad(x, ((0, 0), (0, 1))) for x in (kinds, operand))
    padded = np.pad(tokens, ((0, 0), (0, _STEP))).astype(np.int64)
    rows = np.arange(len(tokens))
    integer = self.vocabulary.first_integer
    done, legal = np.zeros_like(value), np.ones(len(tokens), bool)
    right, ended = legal.copy(), ~legal
    states, step_kinds = [(legal, right, value, done, ended)], []
    for h in range(prefix_len.shape[-1] - 1):
      begin, length = prefix_len[:, h], np.diff(prefix_len[:, h : h + 2])[:, 0]
      line = padded[rows[:, None], begin[:, None] + np.arange(_STEP)]
      kind, number = kinds[rows, done], operand[rows, done]
      result = line[:, 4] - integer
      want = self._line(value, kind, number, result)
      exists = length > 0
      closing = padded[rows, begin + np.maximum(length, 1) - 1]
      ends = closing == self.vocabulary.eos_id
      known = (closing >= 0) & (closing < len(self.ends_step))
      closed = ends | (known & self.ends_step[np.where(known, closing, 0)])

      open_ = exists & closed & legal & ~ended
      operates = open_ & (length == _STEP) & (done < self.horizon)
      operates &= (line[:, :4] == want[:, :4]).all(-1)
      operates &= (result >= 0) & (result < self.modulus)
      restates = open_ & (length == 2) & (line[:, 0] == want[:, 0])
      stops = open_ & (length == 1) & ends

      expected = self._right(value, kind, number)
      done = done + operates
      legal = legal & (~exists | operates | restates | stops)
      legal = legal & (~exists | ~ends | (done == self.horizon))
      right = right & legal & (~operates | (result == expected))
      value = np.where(operates, result, value)
      ended = ended | (exists & ends)
      states.append((legal, right, value, done, ended))
      progress = np.where(operates, kind, ILLEGAL)
      step_kinds.append(np.where(restates, NO_PROGRESS, progress))
    fields = [np.stack(field, -1) for field in zip(*states, strict=True)]
    return Steps(*fields, np.stack(step_kinds, -1))

  def _final(self, rollout: Rollout) -> Rollout:
    """The rollout with its bare problem and its whole response alone."""
    prefix_len = self.prefix_lengths(rollout.tokens)[:, [0, -1]]
    return dataclasses.replace(rollout, prefix_len=prefix_len)

  def outcomes(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """The outcome reward of whole responses, float32[B].

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    final = self._final(rollout)
    return self._success(final, self.steps(final))[:, -1].astype(np.float32)

  def _success(self, rollout: Rollout, steps: Steps) -> np.ndarray:
    """Whether each prefix is a correct whole response, bool[B, P]."""
    if self.grading == "every":
      return steps.right & steps.ended
    contents = self._from_prompts(
      np.asarray(rollout.tokens)[:, : self.prompt_len]
    )
    value, kind, operand = self._fields(contents)
    for h in range(self.horizon):
      value = self._right(value, kind[:, h], operand[:, h])
    return steps.legal & steps.ended & (steps.value == value[:, None])

  def grade(self, response: text.Tokens, answer: text.Tokens) -> int:
    """1 for a correct response, else 0.

    Args:
      response: token ids, any at all; what follows the end token does not
        count, and one without end token is wrong.
      answer: from `answers`.

    Raises:
      ValueError: if the answer is none of this problem's.
    """
    answer = np.asarray(answer, np.int64)
    if answer.shape != (_STEP * self.horizon,):
      raise ValueError(
        f"answer has shape {answer.shape}, expected ({_STEP * self.horizon},)"
      )
    if not len(response):
      return 0
    lines = answer.reshape(self.horizon, _STEP)
    colon = self.vocabulary.symbol_id(":")
    prompt = [answer[:1], lines[:, 1:3].reshape(-1), [colon]]
    tokens = np.concatenate([*prompt, np.asarray(response, np.int64)])[None]
    rollout = Rollout(tokens, None, None, None, None, None)
    return int(self.outcomes(rollout)[0])

  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong for certain, whatever follows: bool[B, H + 1].

    Illegal ones; with every result graded, those with a wrong result; and
    wrong whole responses.
    """
    steps = self.steps(rollout)
    alive = steps.right if self.grading == "every" else steps.legal
    return ~np.where(steps.ended, self._success(rollout, steps), alive)

  def teacher_values(self, rollout: Rollout) -> Float[np.ndarray, "B P"]:
    """The probability that the teacher, going on from a prefix, is correct.

    Graded by every result, with e the error rates of the operations,

        q[h] = 1{no result so far is wrong} · Π_{operations left} (1 - e)

    and by the final number alone, with v the current value,

        q[h] = F_j(v),  F_j(v) = Σ_v' P_j(v' | v) F_{j+1}(v'),
        F_H(v) = 1{v is the right final number}

    where j operations are done. Restatements change neither. An illegal prefix
    has value 0, an ended response its outcome.

    Args:
      rollout: of this problem, from any policy.

    Returns:
      float64[B, H + 1], exact to rounding.

    Raises:
      ValueError: as of `steps`.
    """
    steps = self.steps(rollout)
    prompts = np.asarray(rollout.tokens)[:, : self.prompt_len]
    contents = self._from_prompts(prompts)
    if self.grading == "every":
      _, kind, _ = self._fields(contents)
      accuracy = 1 - np.array([o.error for o in self.operations])[kind]
      left = np.cumprod(accuracy[:, ::-1], -1)[:, ::-1]
      left = np.pad(left, ((0, 0), (0, 1)), constant_values=1.0)
      values = np.take_along_axis(left, steps.done, -1)
      values = np.where(steps.right, values, 0.0)
    else:
      block = 1024
      values = np.concatenate(
        [
          self._final_values(
            contents[i : i + block],
            steps.done[i : i + block],
            steps.value[i : i + block],
          )
          for i in range(0, len(contents), block)
        ]
      )
      values = np.where(steps.legal, values, 0.0)
    success = self._success(rollout, steps)
    return np.where(steps.ended, success.astype(np.float64), values)

  def _final_values(self, contents, done, value):
    start, kind, operand = self._fields(contents)
    other = np.roll(operand, -1, -1)
    final = start
    for h in range(self.horizon):
      final = self._right(final, kind[:, h], operand[:, h])
    every = np.arange(self.modulus)
    ahead = (every == final[:, None]).astype(np.float64)
    values = np.where(
      done == self.horizon, np.take_along_axis(ahead, value, -1), 0.0
    )
    for h in reversed(range(self.horizon)):
      now = (x[:, h, None] for x in (kind, operand, other))
      results, probs = self._teacher(every, *now)
      rows = np.arange(len(contents))[:, None, None]
      ahead = np.sum(ahead[rows, results] * probs, -1)
      at_value = np.take_along_axis(ahead, value, -1)
      values = np.where(done == h, at_value, values)
    return values
