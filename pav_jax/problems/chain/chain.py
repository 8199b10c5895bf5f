"""Chains of operations modulo 100, with a teacher whose values are known.

A problem is a start and H operations, `37+25*3:`; the response carries them
out, one a line: `37+25=62`, `62*3=86`. A line that only restates the current
value, `62`, is legal and makes no progress. The teacher makes mistakes at a
rate known per operation and goes on from the wrong value, so the value of
every prefix under it is known exactly.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.problems import hashing, text
from pav_jax.problems.base import ExactValues, Table, Tokens
from pav_jax.problems.chain import error_counts, exact_values, reading, teacher
from pav_jax.problems.chain.error_rates import ErrorRateValues
from pav_jax.problems.chain.operations import OPERATIONS, SYMBOLS, Operation
from pav_jax.problems.chain.reading import ILLEGAL, NO_PROGRESS, Contents, Steps
from pav_jax.problems.prefixes import cut_at_padding
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.rollout import Rollout

__all__ = [
  "ILLEGAL",
  "NO_PROGRESS",
  "OPERATIONS",
  "Chain",
  "Operation",
  "Steps",
]

_STEP = reading.STEP


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
  def notation(self) -> reading.Notation:
    """How these problems and responses are written."""
    return reading.Notation(
      self.vocabulary,
      self.operations,
      self.modulus,
      tuple(self.ends_step.tolist()),
    )

  def _fields(self, content) -> Contents:
    return Contents(
      content[:, 0],
      content[:, 1 : self.horizon + 1],
      content[:, self.horizon + 1 :],
    )

  def _stated(self, rollout: Rollout) -> Contents:
    return self.notation.contents(
      np.asarray(rollout.tokens)[:, : self.prompt_len]
    )

  def prompts(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of `37+25*3:`, int32[B, 2 H + 2]."""
    return self.notation.prompts(self._fields(self.contents(problem_id)))

  def answers(self, problem_id: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B A"]:
    """The right response without restatements, int32[B, 6 H]."""
    start, kind, operand = self._fields(self.contents(problem_id))
    lines, value = [], start
    for h in range(self.horizon):
      result = self.notation.right(value, kind[:, h], operand[:, h])
      lines.append(self.notation.line(value, kind[:, h], operand[:, h], result))
      value = result
    answers = np.concatenate(lines, -1)
    answers[:, -1] = self.vocabulary.eos_id
    return answers

  def responses(
    self, problem_id: Int[np.ndarray, "B"], sample_id: Int[np.ndarray, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """The noisy teacher's responses, padded: int32[B, max_response_len]."""
    uniform = hashing.uniforms(
      text.DEMONSTRATION,
      self.seed,
      problem_id[:, None, None],
      sample_id[:, None, None],
      np.arange(self.max_steps)[:, None],
      np.arange(2),
    )
    return teacher.responses(
      self.notation,
      self._fields(self.contents(problem_id)),
      uniform,
      rho=self.rho,
      max_no_progress=self.max_no_progress,
      max_response_len=self.max_response_len,
    )

  def steps(self, rollout: Rollout) -> Steps:
    """Reads the steps of responses, at the rollout's own offsets.

    Args:
      rollout: of this problem; prefixes may end at delimiters and at the
        response's end only.

    Raises:
      ValueError: if a prompt is none of this problem's, or a prefix ends
        within a step.
    """
    tokens = self.written(rollout)
    prefix_len = np.asarray(rollout.prefix_len)
    at = self.steps_before(rollout)
    every = self.notation.read(tokens, self.prefix_lengths(tokens))
    fields = [np.take_along_axis(x, at, -1) for x in every[:-1]]
    last = np.maximum(at[:, 1:] - 1, 0)
    kind = np.take_along_axis(every.kind, last, -1)
    kind = np.where(at[:, 1:] > at[:, :-1], kind, ILLEGAL)
    kind = np.where(prefix_len[:, 1:] > prefix_len[:, :-1], kind, ILLEGAL)
    return Steps(*fields, kind)

  @property
  def step_kind_names(self) -> tuple[str, ...]:
    """The symbols of the operations."""
    return tuple(operation.symbol for operation in self.operations)

  def step_kinds(self, rollout: Rollout) -> Int[np.ndarray, "B H"]:
    """`Steps.kind`: each step's operation, negative for none, int64[B, H]."""
    return self.steps(rollout).kind

  def diagnostics(self, rollout: Rollout) -> dict[str, float]:
    """`no_progress`: the share of steps that only restate the current value.

    A response ends for the problem at padding that a policy drew; what the
    rollout has behind that are steps that restate nothing.
    """
    cut, _ = cut_at_padding(rollout, self.vocabulary.pad_id)
    restates = self.steps(cut).kind == NO_PROGRESS
    exists = np.diff(rollout.prefix_len, axis=-1) > 0
    number = max(int(exists.sum()), 1)
    return {"no_progress": float((restates & exists).sum() / number)}

  def count_mistakes(self, rollout: Rollout) -> error_counts.Counts:
    """Counts the mistakes of responses by kind of operation.

    Args:
      rollout: of this problem, from any policy; its `prefix_len` is not read.

    Raises:
      ValueError: if a prompt is none of this problem's.
    """
    tokens = np.asarray(rollout.tokens)
    prefix_len = error_counts.without_cut_lines(
      tokens, self.prefix_lengths(tokens), self.notation
    )
    return error_counts.count(
      self.notation,
      self.notation.read(tokens, prefix_len),
      self._stated(rollout).operand,
    )

  def report_mistakes(
    self, mistakes: error_counts.Counts, problem_id: Int[np.ndarray, "B"]
  ) -> dict[str, Any] | None:
    """Error rates beside the teacher's, and the pass@1 that both imply.

    None where an operation was never attempted.
    """
    rates = {symbol: rate for symbol, (rate, _) in mistakes.error_rates.items()}
    if not np.isfinite(list(rates.values())).all():
      return None
    return error_counts.report(
      mistakes,
      {o.symbol: float(o.error) for o in self.operations},
      implied_accuracy=float(self.success_rates(problem_id, rates).mean()),
      teacher_accuracy=float(self.success_rates(problem_id).mean()),
    )

  def mistakes_table(self, report: Mapping[str, Any]) -> Table:
    """Each operation's error rate beside the teacher's."""
    return error_counts.table(report)

  def success_rates(
    self,
    problem_id: Int[np.ndarray, "B"],
    error_rates: Mapping[str, float] | None = None,
  ) -> Float[np.ndarray, "B"]:
    """The probability that every result is right, Π (1 - e): float64[B].

    Its mean over problems is the pass@1 that error rates imply for responses
    that are never illegal, graded by every result.

    Args:
      problem_id: from `problem_ids`.
      error_rates: e of each symbol, in [0, 1]; None for the teacher's.

    Raises:
      ValueError: if the rates are of other symbols, or one is out of range.
    """
    if error_rates is None:
      error_rates = {o.symbol: o.error for o in self.operations}
    return exact_values.success_rates(
      self._fields(self.contents(problem_id)).kind,
      [o.symbol for o in self.operations],
      error_rates,
    )

  def _final(self, rollout: Rollout) -> Rollout:
    """The rollout with its bare problem and its whole response alone."""
    prefix_len = self.prefix_lengths(rollout.tokens)[:, [0, -1]]
    return dataclasses.replace(rollout, prefix_len=prefix_len)

  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
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
    final = self.notation.final(self._stated(rollout))
    return steps.legal & steps.ended & (steps.value == final[:, None])

  def is_correct(self, response: Tokens, answer: Tokens) -> bool:
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
      return False
    lines = answer.reshape(self.horizon, _STEP)
    colon = self.vocabulary.symbol_id(":")
    prompt = [answer[:1], lines[:, 1:3].reshape(-1), [colon]]
    tokens = np.concatenate([*prompt, np.asarray(response, np.int64)])[None]
    rollout = Rollout(tokens, None, None, None, None, None)
    return bool(self.grade(rollout)[0])

  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong for certain, whatever follows: bool[B, H + 1].

    Illegal ones; with every result graded, those with a wrong result; and
    wrong whole responses.
    """
    steps = self.steps(rollout)
    alive = steps.right if self.grading == "every" else steps.legal
    return ~np.where(steps.ended, self._success(rollout, steps), alive)

  def well_formed(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that keep to the form of a solution, right or not: [B, H + 1].

    Every line copies the problem and the current value, and the response does
    not end early. No result is looked at.
    """
    return self.steps(rollout).legal

  def tokens_left(self, rollout: Rollout) -> Int[np.ndarray, "B P"]:
    """How many tokens a prefix needs at least to be complete: [B, H + 1]."""
    steps = self.steps(rollout)
    left = _STEP * (self.horizon - steps.done)
    return np.where(steps.ended, 0, left)

  def exact_values(self, traces: Rollout) -> ExactValues:
    """Values at the rates of mistakes that these traces show.

    Exact for a policy whose every result is wrong with the rate of its
    operation, whatever the numbers, as the teacher's is. A trained policy is
    only nearly one: how likely it is to be right varies from number to number.
    An operation that was never attempted counts as one that is always right.
    """
    counts = self.count_mistakes(traces)
    return ErrorRateValues(
      self,
      {
        symbol: 0.0 if np.isnan(rate) else rate
        for symbol, (rate, _) in counts.error_rates.items()
      },
      counts.illegal_share,
    ).described

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
    contents = self._stated(rollout)
    if self.grading == "every":
      values = exact_values.by_every_result(self.notation, contents, steps)
    else:
      values = exact_values.by_final_number(self.notation, contents, steps)
    success = self._success(rollout, steps)
    return np.where(steps.ended, success.astype(np.float64), values)
