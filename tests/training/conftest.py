"""A teacher as policy: its values are known in closed form."""

import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.problems import hashing
from pav_jax.problems.chain import Chain, operations
from pav_jax.training.collect_seeds import Source

# Errors so frequent that values differ widely, and restatements.
_PLUS, _MINUS = Chain().operations[:2]
TEACHER = Chain(
  horizon=4,
  modulus=10,
  operations=(
    dataclasses.replace(_PLUS, error=0.2),
    dataclasses.replace(_MINUS, error=0.4),
  ),
  rho=0.2,
  max_no_progress=2,
)


@dataclasses.dataclass(frozen=True)
class TeacherCompletions:
  """A `CompleteFn` by the teacher of a chain; it restates nothing.

  Attributes:
    problem: a chain.
    purpose: of the random numbers, which problem, sample, prefix and completion
      address.
    log: gets `(number, prefixes)` of every call.
  """

  problem: Chain
  purpose: int
  log: list = dataclasses.field(default_factory=list)

  def __call__(self, traces, prefixes, number):
    self.log.append((number, np.array(prefixes)))
    problem, notation = self.problem, self.problem.notation
    each = prefixes.shape[1] * number
    which = np.repeat(prefixes, number, axis=1).reshape(-1)
    rows = np.repeat(np.arange(len(prefixes)), each)
    given = jax.tree.map(lambda x: np.asarray(x)[rows], traces)
    steps = problem.steps(given)
    at = np.arange(len(rows)), which
    done, value, ended = steps.done[at], steps.value[at], steps.ended[at]
    _, kind, operand = problem._stated(given)
    other = np.roll(operand, -1, -1)
    length = given.prefix_len[at]
    tokens = np.where(
      np.arange(given.num_tokens) < length[:, None], given.tokens, 0
    )
    completion = np.tile(np.arange(number), len(rows) // number)
    for h in range(problem.horizon):
      row = np.flatnonzero((done == h) & ~ended)
      now = value[row], kind[row, h], operand[row, h]
      results, probs = operations.teacher(
        problem.operations, problem.modulus, *now, other[row, h]
      )
      uniform = hashing.uniforms(
        *(self.purpose, given.problem_id[row], given.sample_id[row]),
        *(which[row], completion[row], h),
      )
      chosen = np.sum(uniform[:, None] >= np.cumsum(probs, -1)[:, :-1], -1)
      result = results[np.arange(len(row)), chosen]
      line = notation.line(*now, result)
      tokens[row[:, None], length[row, None] + np.arange(6)] = line
      value[row], done[row] = result, h + 1
      length[row] += 6
    row = np.flatnonzero(~ended)
    tokens[row, length[row] - 1] = problem.vocabulary.eos_id
    return dataclasses.replace(
      given,
      tokens=tokens.astype(np.int32),
      prefix_len=problem.prefix_lengths(tokens, problem.max_steps),
      outcome=np.full(len(rows), np.nan, np.float32),
    )

  def slots(self, completed, num_given, rows_per_text):
    del completed, num_given, rows_per_text
    return 0.0, 0.0


def teacher_source(problem=TEACHER, **settings):
  """A source whose traces and completions are the teacher's."""

  def sample(problem_id, number):
    ids = np.repeat(problem_id, number)
    sample_id = np.tile(np.arange(number, dtype=np.int32), len(problem_id))
    return problem.demonstrations(ids, sample_id)

  return Source(
    problem=problem,
    sample=sample,
    complete=TeacherCompletions(problem, 101),
    pilot=TeacherCompletions(problem, 102),
    extend=TeacherCompletions(problem, 103),
    **settings,
  )


@pytest.fixture(name="teacher_source")
def teacher_source_fixture():
  """`teacher_source`, a function."""
  return teacher_source
