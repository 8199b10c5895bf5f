"""Completions of many prefixes, and how many of them are correct."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Int

from pav_jax.policies import sampling
from pav_jax.policies.base import Policy
from pav_jax.policies.continuing import useful_slots
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout


class Jobs(NamedTuple):
  """Prefixes to complete.

  Attributes:
    trace: which row of the traces, int[J].
    prefix: which of its prefixes, in 0 … H, int[J].
  """

  trace: Int[np.ndarray, "J"]
  prefix: Int[np.ndarray, "J"]

  @classmethod
  def of(cls, mask: Bool[np.ndarray, "B P"]) -> "Jobs":
    """All prefixes that are True in `mask`, row by row."""
    return cls(*np.nonzero(mask))


@dataclasses.dataclass(frozen=True)
class CompletionStatistics:
  """What completing took; add two with `+`.

  Attributes:
    completions: sampled.
    tokens: sampled.
    useful: decode slots that gave a token.
    slots: decode slots there were; 0 where that is not counted.
  """

  completions: int = 0
  tokens: int = 0
  useful: float = 0.0
  slots: float = 0.0

  def __add__(self, other: "CompletionStatistics") -> "CompletionStatistics":
    fields = zip(
      dataclasses.astuple(self), dataclasses.astuple(other), strict=True
    )
    return CompletionStatistics(*(a + b for a, b in fields))


@runtime_checkable
class CompleteFn(Protocol):
  """Completes prefixes of traces."""

  def __call__(
    self, traces: Rollout, prefixes: Int[np.ndarray, "B Q"], number: int
  ) -> Rollout:
    """Completions 0 … `number` - 1 of Q prefixes of each trace.

    Args:
      traces: B rows, of numpy arrays.
      prefixes: of each trace, in 0 … H.
      number: of completions of each prefix.

    Returns:
      B · Q · number rows, ordered by trace, prefix, completion.
    """
    ...

  def slots(
    self,
    completed: Rollout,
    num_given: Int[np.ndarray, "N"],
    rows_per_text: int,
  ) -> tuple[float, float]:
    """Decode slots that gave a token, and decode slots there were.

    Args:
      completed: what a call gave.
      num_given: tokens that each row began with.
      rows_per_text: completions of each trace.
    """
    ...


# Rows of a text that keep a queue of `policies.slots` full.
ROWS_PER_TEXT = 32


@dataclasses.dataclass(frozen=True)
class LanguageModelCompletions:
  """A `CompleteFn` by a language model.

  The rows are those of `LanguageModel.complete`: a completion depends on key,
  problem, sample, prefix and its number, and on nothing else.

  Attributes:
    policy: whose `max_steps` and `max_new_tokens` are those of the traces.
    params: of its network.
    key: the run's key.
  """

  policy: Policy | LanguageModel
  params: Any
  key: jax.Array

  def __call__(
    self, traces: Rollout, prefixes: Int[np.ndarray, "B Q"], number: int
  ) -> Rollout:
    """Completions, of as many tokens as the traces have room for."""
    return self.policy.complete(
      self.params, self.key, traces, num_samples=number, prefixes=prefixes
    )

  def slots(
    self,
    completed: Rollout,
    num_given: Int[np.ndarray, "N"],
    rows_per_text: int,
  ) -> tuple[float, float]:
    """See `CompleteFn`."""
    new = np.asarray(completed.prefix_len)[:, -1] - num_given
    useful = float(np.maximum(new - 1, 0).sum())
    share = useful_slots(
      completed,
      num_given,
      rows_per_text,
      num_slots=self.policy.num_slots,
      layout=self.policy.layout,
    )
    return useful, useful / share if share else 0.0


def count_correct(
  complete_fn: CompleteFn,
  problem: Any,
  traces: Rollout,
  jobs: Jobs,
  *,
  num_completions: int,
  rows_per_call: int = 1024,
) -> tuple[Int[np.ndarray, "J"], CompletionStatistics]:
  """Completes prefixes and grades the completions (Sec. 4.2).

  Calls have one size, see `sampling.call_size`. Traces of which about as much
  is left to complete go together; while the device completes some, the host
  grades those before.

  Args:
    complete_fn: see `CompleteFn`.
    problem: has `grade(rollout)`.
    traces: B rows, of numpy arrays; partial responses are fine.
    jobs: J prefixes of them, each once and none a whole response.
    num_completions: of each prefix, at least 1.
    rows_per_call: completions sampled at a time; bounds memory.

  Returns:
    How many completions of each job were correct, 0 … `num_completions`, and
    what completing took.

  Raises:
    ValueError: if a number is below 1.
  """
  for name, number in (
    ("num_completions", num_completions),
    ("rows_per_call", rows_per_call),
  ):
    if number < 1:
      raise ValueError(f"{name} is {number}, expected at least 1")
  trace, prefixes, job = _packed(
    traces, jobs, -(-ROWS_PER_TEXT // num_completions)
  )
  most = max(rows_per_call // (num_completions * prefixes.shape[1]), 1)
  each = sampling.call_size(len(trace), most)
  correct = np.zeros(len(jobs.trace), np.int64)
  statistics = CompletionStatistics()

  def grade(trace, prefixes, job, completed):
    nonlocal statistics
    completed = jax.tree.map(np.asarray, completed)
    given = np.take_along_axis(traces.prefix_len[trace], prefixes, axis=1)
    given = np.repeat(given, num_completions)
    rows_per_text = num_completions * prefixes.shape[1]
    useful, slots = complete_fn.slots(completed, given, rows_per_text)
    real = np.repeat(job >= 0, num_completions)
    completed = jax.tree.map(lambda x: x[real], completed)
    tokens = int((completed.prefix_len[:, -1] - given[real]).sum())
    statistics += CompletionStatistics(int(real.sum()), tokens, useful, slots)
    outcomes = np.asarray(problem.grade(completed))
    correct[job[job >= 0]] = outcomes.reshape(-1, num_completions).sum(-1)

  pending = None
  for begin in range(0, len(trace), each):
    some = [x[begin : begin + each] for x in (trace, prefixes, job)]
    room = each - len(some[0])
    texts = np.pad(some[0], (0, room))
    # Whole responses fill up the call: they are not continued.
    wanted, numbers = (
      np.pad(x, ((0, room), (0, 0)), constant_values=fill)
      for x, fill in zip(some[1:], (traces.num_steps, -1), strict=True)
    )
    rows = jax.tree.map(lambda x, i=texts: x[i], traces)
    submitted = (
      texts,
      wanted,
      numbers,
      complete_fn(rows, wanted, num_completions),
    )
    if pending is not None:
      grade(*pending)
    pending = submitted
  if pending is not None:
    grade(*pending)
  return correct, statistics


def _packed(
  traces: Rollout, jobs: Jobs, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Jobs as rows of at most `width` prefixes of one trace.

  Returns:
    The traces int[G]; prefixes int[G, Q], with Q at most the mean number of a
    trace's prefixes, and whole responses where there are fewer than Q; and
    numbers of jobs int[G, Q], -1 there. Those come first that have most left to
    complete, if completions are as long as the trace itself.
  """
  order = np.lexsort((jobs.prefix, jobs.trace))
  trace, prefix = jobs.trace[order], jobs.prefix[order]
  starts = np.flatnonzero(np.diff(trace, prepend=-1))
  nth = np.arange(len(trace)) - np.repeat(
    starts, np.diff(starts, append=len(trace))
  )
  # A power of two, so that calls have few shapes.
  mean = len(trace) / max(len(starts), 1)
  width = min(width, traces.num_steps, 1 << max(int(mean).bit_length() - 1, 0))
  row = np.cumsum(nth % width == 0) - 1
  shape = (int(row.max(initial=-1)) + 1, width)
  prefixes = np.full(shape, traces.num_steps, np.int32)
  prefixes[row, nth % width] = prefix
  job = np.full(shape, -1)
  job[row, nth % width] = order
  trace = trace[nth % width == 0]
  length = traces.prefix_len[trace]
  left = length[:, -1:] - np.take_along_axis(length, prefixes, axis=1)
  first = np.argsort(-left.sum(-1), kind="stable")
  return trace[first], prefixes[first], job[first]
