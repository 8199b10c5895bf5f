import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.provers.completions import (
  CompletionStatistics,
  Jobs,
  LanguageModelCompletions,
  _packed,
  count_correct,
)

PROBLEM = Chain(
  horizon=3, modulus=4, operations=(Chain().operations[0],), rho=0.0
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=16,
  max_length=32,
)
POLICY = language_model(CONFIG, PROBLEM)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def params():
  return jax.jit(POLICY.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def traces():
  """Demonstrations of 5 problems, two each."""
  ids = np.repeat(PROBLEM.problem_ids("train", 0, 5), 2)
  return PROBLEM.demonstrations(ids, np.tile(np.arange(2, dtype=np.int32), 5))


@dataclasses.dataclass(frozen=True)
class CountTokens:
  """Correct are responses with an even sum of tokens: half of a random model's.

  Unlike the grade of a model that never learnt anything it tells rows apart.
  """

  def grade(self, rollout):
    return (np.asarray(rollout.tokens).sum(-1) % 2 == 0).astype(np.float32)


def test_counts_are_those_of_complete(params, traces):
  complete = LanguageModelCompletions(POLICY, params, KEY)
  twice = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), traces)
  prefixes = np.tile(np.array([[0, 1], [2, 3]], np.int32), (10, 1))
  every = POLICY.complete(params, KEY, twice, num_samples=4, prefixes=prefixes)
  outcome = CountTokens().grade(every).reshape(10, 4, 4).sum(-1)
  mask = np.ones((10, 4), bool)
  mask[:, 3] = mask[3, 1] = mask[4] = False
  jobs = Jobs.of(mask)
  # A call has room for 20 rows of two prefixes; there are 18.
  found, work = count_correct(
    complete, CountTokens(), traces, jobs, num_completions=4, rows_per_call=160
  )
  np.testing.assert_array_equal(found, outcome[mask])
  assert len(np.unique(found)) > 2
  # What was sampled, and not what filled up the last call.
  each = np.repeat(mask.reshape(-1), 4)
  given = np.repeat(traces.prefix_len.reshape(-1), 4)
  new = np.asarray(every.prefix_len)[:, -1] - given
  assert work.completions == 4 * mask.sum()
  assert work.tokens == new[each].sum()
  assert work.useful == np.maximum(new[each] - 1, 0).sum()
  assert work.useful <= work.slots


def test_few_prefixes_make_a_small_call(traces):
  sizes = []

  class Demonstrations:
    """Ends a trace as it ends."""

    def __call__(self, traces, prefixes, number):
      sizes.append(prefixes.shape)
      rows = np.repeat(np.arange(len(traces.tokens)), number)
      return jax.tree.map(lambda x: x[rows], traces)

    def slots(self, *_):
      return 0.0, 1.0

  jobs = Jobs.of(np.arange(40).reshape(10, 4) % 4 == 1)
  found, _ = count_correct(
    Demonstrations(), PROBLEM, traces, jobs, num_completions=2
  )
  np.testing.assert_array_equal(found, 2 * np.asarray(PROBLEM.grade(traces)))
  assert sizes == [(16, 1)]  # with room for 512 it would cost as much as 512


class Nothing:
  """A `CompleteFn` that nobody is to call."""

  def __call__(self, traces, prefixes, number):
    raise AssertionError("called")

  slots = __call__


def test_packing():
  lengths = np.array([[2, 8, 14, 20], [2, 4, 10, 12], [2, 8, 14, 20]])
  traces = dataclasses.replace(
    PROBLEM.demonstrations(np.arange(3), np.arange(3)), prefix_len=lengths
  )
  jobs = Jobs(np.array([2, 0, 0, 0, 1]), np.array([2, 1, 0, 2, 1]))
  # Two traces with 3 + 1 jobs: rows of two. Left are, of trace 0, 18 + 12 for
  # prefixes 0 and 1, and 6 for prefix 2; of trace 2, 6. Whole responses, that
  # is prefix 3, fill up.
  some = Jobs(jobs.trace[:4], jobs.prefix[:4])
  trace, prefixes, job = _packed(traces, some, 8)
  assert trace.tolist() == [0, 0, 2]
  assert prefixes.tolist() == [[0, 1], [2, 3], [2, 3]]
  assert job.tolist() == [[2, 1], [3, -1], [0, -1]]
  # With trace 1 it is 5 jobs of 3 traces, rows of one; 8 are left of it.
  trace, prefixes, job = _packed(traces, jobs, 8)
  assert trace.tolist() == [0, 0, 1, 0, 2]
  assert prefixes.tolist() == [[0], [1], [1], [2], [2]]
  assert job.tolist() == [[2], [1], [4], [3], [0]]
  # No more than asked for.
  assert _packed(traces, some, 1)[1].shape == (4, 1)


def test_without_jobs_nothing_is_called(traces):
  none = Jobs(np.zeros(0, int), np.zeros(0, int))
  found, work = count_correct(
    Nothing(), PROBLEM, traces, none, num_completions=4
  )
  assert found.shape == (0,) and work == CompletionStatistics()


def test_refuses_bad_numbers(traces):
  for name in ("num_completions", "rows_per_call"):
    numbers = {"num_completions": 1, "rows_per_call": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
      count_correct(
        Nothing(), PROBLEM, traces, Jobs.of(np.ones((1, 1), bool)), **numbers
      )
