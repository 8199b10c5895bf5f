"""Countdown: reach a target from a few numbers, each used exactly once.

A problem is `3,7,8,25=42:`; the response combines two numbers a line,
`25+8=33`, until one is left, which must be the target. Results are whole
numbers in 1 … `max_value`: no negative ones, no zero, no fractions.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.problems import countdown_search, hashing, text
from pav_jax.problems.countdown_search import SYMBOLS
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.rollout import Rollout

_STEP = 6  # tokens of `25+8=33`, newline


@dataclasses.dataclass(frozen=True)
class Countdown(text.GeneratedProblem):
  """The problem's settings.

  Attributes:
    num_numbers: n in 4 … 6; a response has n - 1 steps.
    max_number: the numbers are 1 … max_number.
    max_value: largest result; the vocabulary has the integers up to it.
    min_target: smallest target; the largest is `max_value`.
    solved_share: probability that a demonstration is a solution; the others
      are random legal steps, which may end anywhere.
    seed: of problems and demonstrations.

  Raises:
    ValueError: if a setting is out of its range.
  """

  num_numbers: int = 4
  max_number: int = 20
  max_value: int = 99
  min_target: int = 10
  solved_share: float | int = 0.5
  seed: int = 0

  def __post_init__(self):
    if not 4 <= self.num_numbers <= 6:
      raise ValueError(f"num_numbers is {self.num_numbers}, expected 4 to 6")
    if not 1 <= self.max_number <= self.max_value:
      raise ValueError(
        f"max_number is {self.max_number}, expected 1 to {self.max_value}, "
        "the largest value"
      )
    if not 1 <= self.min_target <= self.max_value:
      raise ValueError(
        f"min_target is {self.min_target}, expected 1 to {self.max_value}, "
        "the largest value"
      )
    if not 0 <= self.solved_share <= 1:
      raise ValueError(
        f"solved_share is {self.solved_share}, expected a number in [0, 1]"
      )

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """Integers up to the largest value, and symbols."""
    return Vocabulary(num_integers=self.max_value + 1)

  @property
  def prompt_len(self) -> int:
    """The numbers and the target, each with a symbol behind it."""
    return 2 * self.num_numbers + 2

  @property
  def max_steps(self) -> int:
    """Every step uses up one number."""
    return self.num_numbers - 1

  @property
  def max_response_len(self) -> int:
    """Six tokens a step."""
    return _STEP * self.max_steps

  def propose(
    self, problem_id: Int[np.ndarray, "B"], attempt: int
  ) -> tuple[
    Int[np.ndarray, "B C"], Int[np.ndarray, "B K"], Bool[np.ndarray, "B"]
  ]:
    """The n numbers, the target, and n - 1 steps (a, op, b, c) that reach it.

    The target is where random legal steps end, so every problem is solvable.
    Problems that differ in the order of their numbers are one.
    """
    uniform = hashing.uniforms(
      text.PROBLEM,
      self.seed,
      problem_id[:, None],
      attempt,
      np.arange(2 * self.num_numbers - 1),
    )
    numbers = 1 + (uniform[:, : self.num_numbers] * self.max_number).astype(int)
    steps = self._random_steps(numbers, uniform[:, self.num_numbers :])
    target = steps[:, -1, -1:]
    valid = (target[:, 0] >= self.min_target) & (numbers != target).all(-1)
    content = [numbers, target, steps.reshape(len(steps), -1)]
    identity = np.concatenate([np.sort(numbers, -1), target], -1)
    return np.concatenate(content, -1), identity, valid

  def _random_steps(
    self, numbers: np.ndarray, uniform: np.ndarray
  ) -> np.ndarray:
    """Steps int64[B, n - 1, 4] drawn uniformly from the legal ones.

    Some step is always legal: of two numbers the difference is, or else they
    are equal, and their quotient is 1.
    """
    rows = np.arange(len(numbers))
    steps = []
    for step in range(self.max_steps):
      count = numbers.shape[-1]
      first, second = np.nonzero(~np.eye(count, dtype=bool))
      a, b = numbers[:, first], numbers[:, second]
      results = self._results(a, b)  # [B, 4, pairs]
      flat = results.reshape(len(numbers), -1)
      legal = flat > 0
      rank = (uniform[:, step] * legal.sum(-1)).astype(np.int64)
      chosen = np.argmax(np.cumsum(legal, -1) > rank[:, None], -1)
      op, pair = np.divmod(chosen, len(first))
      result = flat[rows, chosen]
      steps.append(np.stack([a[rows, pair], op, b[rows, pair], result], -1))
      kept = np.ones(numbers.shape, bool)
      kept[rows, first[pair]] = kept[rows, second[pair]] = False
      kept = numbers[kept].reshape(len(numbers), count - 2)
      numbers = np.concatenate([kept, result[:, None]], -1)
    return np.stack(steps, 1)

  def _results(self, a, b):
    """`a op b` for each of SYMBOLS, int64[B, 4, …]; 0 where illegal."""
    quotient, rest = np.divmod(a, np.maximum(b, 1))
    results = np.stack(
      [a + b, a - b, a * b, np.where((rest == 0) & (b > 0), quotient, 0)], 1
    )
    return np.where((results > 0) & (results <= self.max_value), results, 0)

  @functools.cached_property
  def _symbol_id(self) -> np.ndarray:
    return np.array([self.vocabulary.symbol_id(s) for s in SYMBOLS])

  def prompts(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of `3,7,8,25=42:`, int32[B, 2 n + 2]."""
    contents = self.contents(problem_id)
    comma, equals, colon = map(self.vocabulary.symbol_id, ",=:")
    prompts = np.full((len(contents), self.prompt_len), comma, np.int32)
    stated = contents[:, : self.num_numbers + 1]
    prompts[:, ::2] = self.vocabulary.first_integer + stated
    prompts[:, -3], prompts[:, -1] = equals, colon
    return prompts

  def responses(
    self, problem_id: Int[np.ndarray, "B"], sample_id: Int[np.ndarray, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """Solutions and random legal traces, int32[B, 6 (n - 1)].

    A solution is the one that its problem was made from, and so follows the
    distribution of random legal traces that end at the target; sums and
    products have their operands in random order. A random trace may happen to
    be a solution too.
    """
    contents = self.contents(problem_id)
    numbers = contents[:, : self.num_numbers]
    uniform = hashing.uniforms(
      text.DEMONSTRATION,
      self.seed,
      problem_id[:, None],
      sample_id[:, None],
      np.arange(1 + 2 * self.max_steps),
    )
    solution = contents[:, self.num_numbers + 1 :].reshape(
      len(contents), self.max_steps, 4
    )
    steps = np.where(
      uniform[:, :1, None] < self.solved_share,
      solution,
      self._random_steps(numbers, uniform[:, 1 : 1 + self.max_steps]),
    )
    a, op, b, c = np.moveaxis(steps, -1, 0)
    swap = (op % 2 == 0) & (uniform[:, 1 + self.max_steps :] < 0.5)
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    return self._tokens(a, op, b, c)

  def _tokens(self, a, op, b, c):
    """Token ids int32[B, 6 S] of steps whose parts are int64[B, S]."""
    integer = self.vocabulary.first_integer
    equals, newline = map(self.vocabulary.symbol_id, "=\n")
    equals, newline = (np.full_like(a, x) for x in (equals, newline))
    left = (integer + a, self._symbol_id[op], integer + b)
    tokens = np.stack([*left, equals, integer + c, newline], -1)
    tokens = tokens.reshape(len(a), -1).astype(np.int32)
    tokens[:, -1] = self.vocabulary.eos_id
    return tokens

  def reachable(self, numbers: Sequence[int]) -> frozenset[int]:
    """All values that legal steps can end at, using every number once.

    Raises:
      ValueError: if there is no number, or one is not in 1 … max_value.
    """
    if not len(numbers) or not all(1 <= x <= self.max_value for x in numbers):
      raise ValueError(
        f"numbers are {tuple(numbers)}, expected at least one and all in "
        f"1 … {self.max_value}"
      )
    return countdown_search.reachable(
      tuple(sorted(map(int, numbers))), self.max_value
    )

  def solve(
    self, numbers: Sequence[int], target: int
  ) -> list[tuple[int, str, int, int]] | None:
    """Steps `(a, op, b, c)` from the numbers to the target; None if none are.

    Exhaustive, and so exact: None means that no legal steps reach it.

    Raises:
      ValueError: as of `reachable`.
    """
    if target not in self.reachable(numbers):
      return None
    return countdown_search.solve(numbers, target, self.max_value)

  def _trace(
    self, prompt: np.ndarray, response: np.ndarray, offsets: np.ndarray
  ) -> tuple[list[list[int] | None], int, list[bool]]:
    """Numbers left at every offset, None after an illegal step; the target.

    Also whether the response has ended there.
    """
    integer = self.vocabulary.first_integer
    stated = [int(x) - integer for x in prompt[::2]]
    numbers, target = stated[:-1], stated[-1]
    if not all(1 <= x <= self.max_value for x in stated):
      raise ValueError(
        f"a problem's numbers and target are {stated}, expected integers in "
        f"1 … {self.max_value}"
      )
    states, ended = [numbers], [False]
    for begin, end in itertools.pairwise(offsets):
      stops = ended[-1]
      if end > begin:
        line = [int(x) for x in response[begin:end]]
        stops = line[-1] == self.vocabulary.eos_id
        numbers = self._after(numbers, line)
      states.append(numbers)
      ended.append(stops)
    return states, target, ended

  def _after(self, numbers, line):
    """The numbers left after a line of token ids; None if it is illegal."""
    integer, eos = self.vocabulary.first_integer, self.vocabulary.eos_id
    if numbers is None or line == [eos]:
      return numbers
    known = 0 <= line[-1] < len(self.ends_step)
    closed = line[-1] == eos or (known and self.ends_step[line[-1]])
    if len(line) != _STEP or not closed:
      return None
    a, b, c = (line[i] - integer for i in (0, 2, 4))
    if line[1] not in self._symbol_id or not 1 <= c <= self.max_value:
      return None
    symbol = SYMBOLS[self._symbol_id.tolist().index(line[1])]
    left = list(numbers)
    for x in (a, b):
      if x not in left:
        return None
      left.remove(x)
    if line[3] != self.vocabulary.symbol_id(
      "="
    ) or c != countdown_search.result(a, symbol, b):
      return None
    return [*left, c]

  def _rows(self, tokens):
    """`_trace` of every row, at the offsets that its tokens have."""
    offsets = self.prefix_lengths(tokens) - self.prompt_len
    for row, steps in zip(tokens, offsets, strict=True):
      prompt, response = np.split(row, [self.prompt_len])
      yield self._trace(prompt, response, steps)

  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """1 if every step is legal and the last number left is the target.

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    return np.array(
      [
        ended[-1] and states[-1] == [target]
        for states, target, ended in self._rows(np.asarray(rollout.tokens))
      ],
      np.float32,
    )

  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong for certain, whatever follows: bool[B, H + 1].

    Those with an illegal step, those from which exhaustive search cannot reach
    the target, and wrong whole responses. All others can still be completed
    correctly.

    Raises:
      ValueError: if a prompt is none of this problem's, or a prefix ends
        within a step.
    """
    at = self.steps_before(rollout)
    dead = np.ones((len(at), int(at.max()) + 1), bool)
    rows = self._rows(self.written(rollout))
    for row, (states, target, ended) in enumerate(rows):
      for h, numbers in enumerate(states[: dead.shape[1]]):
        if numbers is None:
          break
        alive = target in self.reachable(numbers)
        dead[row, h] = not alive or (ended[h] and len(numbers) > 1)
    return np.take_along_axis(dead, at, -1)

  def well_formed(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes of legal steps alone, promising or not: bool[B, H + 1].

    Raises:
      ValueError: as of `dead_prefixes`.
    """
    at = self.steps_before(rollout)
    legal = np.zeros((len(at), int(at.max()) + 1), bool)
    for row, (states, _, _) in enumerate(self._rows(self.written(rollout))):
      states = states[: legal.shape[1]]
      legal[row, : len(states)] = [numbers is not None for numbers in states]
    return np.take_along_axis(legal, at, -1)
