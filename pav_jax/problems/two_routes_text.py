"""Two routes as text: guess the result of a sum, or work it out.

A problem is a start and H - 1 numbers to add modulo m, `37+5+8:`, and a
response has H lines. It may work the sum out: the first line states the start,
`37`, the others add one number each, `37+5=42`, `42+8=50`. Or it may guess: all
lines are `?` but the last one, which is any number below m, `81`.

A teacher that guesses with probability x, uniformly, and adds rightly with
probability p, is exactly the process `two_routes.TwoRoutes` with f = 1 / m: a
guess keeps its odds through all its `?`, and what is worked out is worth more
with every right line. A wrong line cannot be mended, since all of them are
graded. So values of prefixes are known, and a language model that learnt from
the teacher has them as far as it learnt its odds (`diagnostics`).
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.problems import hashing, text
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.rollout import Rollout

_LINE = 6  # tokens of `37+5=42`, newline


class _Contents(NamedTuple):
  """What describes problems.

  Attributes:
    start: the first number.
    operand: what is added to it, one after another.
  """

  start: Int[np.ndarray, "B"]
  operand: Int[np.ndarray, "B S"]


class _Read(NamedTuple):
  """What prefixes are; the bare problem is all four.

  Attributes:
    guesses: it keeps to the form of a guess.
    works: it keeps to the form of work, its results right or not.
    right_guess: it is a guess, and not a wrong one.
    right_work: it is work, and no result is wrong.
  """

  guesses: Bool[np.ndarray, "B P"]
  works: Bool[np.ndarray, "B P"]
  right_guess: Bool[np.ndarray, "B P"]
  right_work: Bool[np.ndarray, "B P"]


@dataclasses.dataclass(frozen=True)
class TwoRoutesText(text.GeneratedProblem):
  """The problem's settings.

  Attributes:
    num_steps: H >= 2, lines of a response.
    p: probability in [0, 1] that the teacher adds a number rightly; all wrong
      results are equally likely.
    x: probability in [0, 1] that the teacher guesses.
    modulus: m >= 2; a guess is right with probability 1 / m.
    max_operand: the numbers to add are 1 … max_operand, below the modulus.
    seed: of problems and demonstrations.

  Raises:
    ValueError: if a setting is out of its range.
  """

  num_steps: int = 8
  p: float | int = 0.4
  x: float | int = 0.1
  modulus: int = 200
  max_operand: int = 9
  seed: int = 0

  def __post_init__(self):
    for name in ("num_steps", "modulus"):
      if getattr(self, name) < 2:
        raise ValueError(
          f"{name} is {getattr(self, name)}, expected at least 2"
        )
    for name in ("p", "x"):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f"{name} is {getattr(self, name)}, expected a probability in [0, 1]"
        )
    if not 1 <= self.max_operand < self.modulus:
      raise ValueError(
        f"max_operand is {self.max_operand}, expected 1 … {self.modulus - 1}, "
        "below the modulus"
      )

  @property
  def f(self) -> float:
    """Probability that a guess is right, 1 / m."""
    return 1 / self.modulus

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """Integers below the modulus, and symbols."""
    return Vocabulary(num_integers=self.modulus, symbols="\n+=:?")

  @property
  def prompt_len(self) -> int:
    """`37`, two tokens for each number to add, `:`."""
    return 2 * self.num_steps

  @property
  def max_steps(self) -> int:
    """Every demonstration has H steps."""
    return self.num_steps

  @property
  def max_response_len(self) -> int:
    """The start and six tokens for each number to add."""
    return 2 + _LINE * (self.num_steps - 1)

  def propose(
    self, problem_id: Int[np.ndarray, "B"], attempt: int
  ) -> tuple[
    Int[np.ndarray, "B C"], Int[np.ndarray, "B K"], Bool[np.ndarray, "B"]
  ]:
    """The start and H - 1 numbers to add, all uniform."""
    uniform = hashing.uniforms(
      text.PROBLEM,
      self.seed,
      problem_id[:, None],
      attempt,
      np.arange(self.num_steps),
    )
    start = uniform[:, :1] * self.modulus
    operand = 1 + uniform[:, 1:] * self.max_operand
    content = np.concatenate([start, operand], -1).astype(np.int64)
    return content, content, np.ones(len(content), bool)

  def prompts(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of `37+5+8:`, int32[B, 2 H]."""
    return self._prompts(self._fields(self.contents(problem_id)))

  def responses(
    self, problem_id: Int[np.ndarray, "B"], sample_id: Int[np.ndarray, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """The teacher's responses, padded: int32[B, 2 + 6 (H - 1)]."""
    contents = self._fields(self.contents(problem_id))
    uniform = hashing.uniforms(
      text.DEMONSTRATION,
      self.seed,
      problem_id[:, None],
      sample_id[:, None],
      np.arange(self.num_steps),
    )
    guess = (uniform[:, 1] * self.modulus).astype(np.int64)
    guessed = self._guessed(guess)
    room = ((0, 0), (0, self.max_response_len - guessed.shape[1]))
    guessed = np.pad(guessed, room, constant_values=self.vocabulary.pad_id)

    results, value = [], contents.start
    for step in range(self.num_steps - 1):
      drawn = uniform[:, step + 1]
      wrong = (drawn - self.p) / max(1 - self.p, 1e-300) * (self.modulus - 1)
      wrong = 1 + np.clip(wrong, 0, self.modulus - 2).astype(np.int64)
      off = np.where(drawn < self.p, 0, wrong)
      value = (value + contents.operand[:, step] + off) % self.modulus
      results.append(value)
    worked = self._worked(contents, np.stack(results, -1))
    return np.where(uniform[:, :1] < self.x, guessed, worked)

  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """1 for the right work or guess, written as the teacher does.

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    tokens = np.asarray(rollout.tokens)
    end = self.prefix_lengths(tokens)[:, -1:]
    read = self._read(tokens, end)
    length = end - self.prompt_len
    right = read.right_guess & (length == 2 * self.num_steps)
    right |= read.right_work & (length == self.max_response_len)
    return right[:, 0].astype(np.float32)

  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong for certain, whatever follows: bool[B, H + 1].

    Those that keep to neither form, and those with a wrong result or guess.

    Raises:
      ValueError: if a prompt is none of this problem's, or a prefix ends
        within a step.
    """
    self.steps_before(rollout)
    read = self._read(self.written(rollout), rollout.prefix_len)
    return ~(read.right_guess | read.right_work)

  def well_formed(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that keep to a form, right or not: bool[B, H + 1].

    Raises:
      ValueError: as of `dead_prefixes`.
    """
    self.steps_before(rollout)
    read = self._read(self.written(rollout), rollout.prefix_len)
    return read.guesses | read.works

  def teacher_values(self, rollout: Rollout) -> Float[np.ndarray, "B P"]:
    """The probability that the teacher, going on from a prefix, is correct.

        q[0] = x f + (1 − x) p^(H−1)
        q[h] = f             after h < H lines of a guess
               p^(H−h)       after h lines of work, all right
               1             after a right guess
               0             after anything else

    Args:
      rollout: of this problem, from any policy.

    Returns:
      float64[B, H + 1], exact to rounding.

    Raises:
      ValueError: as of `dead_prefixes`.
    """
    done = self.steps_before(rollout)
    read = self._read(self.written(rollout), rollout.prefix_len)
    length = np.asarray(rollout.prefix_len) - self.prompt_len
    of_work = float(self.p) ** np.maximum(self.num_steps - done, 0)
    of_guess = np.where(length == 2 * self.num_steps, 1.0, self.f)
    values = np.where(read.right_guess, of_guess, 0.0)
    values = np.where(read.right_work, of_work, values)
    start = self.x * self.f + (1 - self.x) * self.p ** (self.num_steps - 1)
    return np.where(length == 0, start, values)

  def diagnostics(self, rollout: Rollout) -> dict[str, float]:
    """The odds of the policy that wrote some responses.

    Args:
      rollout: of this problem, from any policy; its `prefix_len` is not read.

    Returns:
      Shares in [0, 1], NaN of nothing: `guesses`, of responses that begin as a
      guess, the teacher's x; `step_accuracy`, of lines that add to a right
      prefix, those that are right, its p; `guess_accuracy`, of complete
      guesses, its f; `malformed`, of responses that leave both forms or stop
      early, 0 of its.

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    tokens = np.asarray(rollout.tokens)
    prefix_len = self.prefix_lengths(tokens)
    read = self._read(tokens, prefix_len)
    grew = np.diff(prefix_len) > 0
    length = prefix_len - self.prompt_len
    adds = grew & read.right_work[:, :-1] & read.works[:, 1:]
    adds[:, 0] = False  # it states the start
    guess = read.guesses[:, -1] & (length[:, -1] == 2 * self.num_steps)
    work = read.works[:, -1] & (length[:, -1] == self.max_response_len)
    return {
      "guesses": _share(read.guesses[:, 1] & (length[:, 1] > 0)),
      "step_accuracy": _share(read.right_work[:, 1:][adds]),
      "guess_accuracy": _share(read.right_guess[:, -1][guess]),
      "malformed": _share(~(guess | work)),
    }

  def _fields(self, content) -> _Contents:
    return _Contents(content[:, 0], content[:, 1:])

  def _prompts(self, contents):
    plus, colon = map(self.vocabulary.symbol_id, "+:")
    prompts = np.full((len(contents.start), self.prompt_len), plus, np.int32)
    prompts[:, 0] = self.vocabulary.first_integer + contents.start
    prompts[:, 2:-1:2] = self.vocabulary.first_integer + contents.operand
    prompts[:, -1] = colon
    return prompts

  def _stated(self, tokens) -> _Contents:
    """What prompts say."""
    prompts = tokens[:, : self.prompt_len].astype(np.int64)
    stated = prompts - self.vocabulary.first_integer
    contents = _Contents(stated[:, 0], stated[:, 2:-1:2])
    start, operand = contents
    legal = (self._prompts(contents) == prompts).all()
    legal &= ((start >= 0) & (start < self.modulus)).all()
    legal &= ((operand >= 1) & (operand <= self.max_operand)).all()
    if not legal:
      raise ValueError(
        "a rollout's prompt is none of this problem's; expected a start below "
        f"{self.modulus} and {self.num_steps - 1} numbers 1 … "
        f"{self.max_operand} to add to it"
      )
    return contents

  def _worked(self, contents, results):
    """Responses that work, with any results int64[B, H - 1]."""
    start, operand = contents
    integer = self.vocabulary.first_integer
    plus, equals, newline = map(self.vocabulary.symbol_id, "+=\n")
    before = np.concatenate([start[:, None], results[:, :-1]], -1)
    lines = np.empty((*results.shape, _LINE), np.int32)
    lines[..., [1, 3, 5]] = plus, equals, newline
    lines[..., 0] = integer + before
    lines[..., 2] = integer + operand
    lines[..., 4] = integer + results
    lines[:, -1, -1] = self.vocabulary.eos_id
    first = np.full((len(start), 2), newline, np.int32)
    first[:, 0] = integer + start
    return np.concatenate([first, lines.reshape(len(start), -1)], -1)

  def _guessed(self, guess):
    """Responses that guess the numbers int64[B]."""
    mark, newline = map(self.vocabulary.symbol_id, "?\n")
    tokens = np.full((len(guess), 2 * self.num_steps), mark, np.int32)
    tokens[:, 1::2] = newline
    tokens[:, -2] = self.vocabulary.first_integer + guess
    tokens[:, -1] = self.vocabulary.eos_id
    return tokens

  def _read(self, tokens, prefix_len) -> _Read:
    """Holds prefixes against the responses that they could be beginnings of."""
    contents = self._stated(tokens)
    newline = self.vocabulary.symbol_id("\n")
    length = np.asarray(prefix_len) - self.prompt_len
    response = tokens[:, self.prompt_len :]
    short = max(0, self.max_response_len - response.shape[1])
    response = np.pad(response, ((0, 0), (0, short)), constant_values=-1)

    def begins(whole):
      size = whole.shape[1]
      same = np.logical_and.accumulate(response[:, :size] == whole, axis=1)
      # A line that was cut off before its newline or end is no step.
      same &= np.isin(whole, (newline, self.vocabulary.eos_id))
      same = np.pad(same, ((0, 0), (1, 0)), constant_values=True)
      same = np.take_along_axis(same, np.minimum(length, size), axis=1)
      return same & (length <= size)

    def written(at):
      numbers = response[:, at].astype(np.int64) - self.vocabulary.first_integer
      return np.clip(numbers, 0, self.modulus - 1)

    partial = np.cumsum(contents.operand, -1) + contents.start[:, None]
    results = partial % self.modulus
    at = 2 + _LINE * np.arange(self.num_steps - 1) + 4
    return _Read(
      guesses=begins(self._guessed(written(2 * self.num_steps - 2))),
      works=begins(self._worked(contents, written(at))),
      right_guess=begins(self._guessed(results[:, -1])),
      right_work=begins(self._worked(contents, results)),
    )


def _share(x: np.ndarray) -> float:
  return float(np.mean(x)) if len(x) else float("nan")
