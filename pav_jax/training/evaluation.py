"""How often a policy is right: accuracy and Pass@k on a problem's examples."""

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int, PyTree

from pav_jax import values
from pav_jax.checks import check_positive
from pav_jax.policies.base import Policy
from pav_jax.problems import base
from pav_jax.rollout import Rollout
from pav_jax.training import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
  """Which problems judge a policy while it is trained, and in the end.

  Attributes:
    every: iterations or train steps between evaluations on validation problems;
      there is one at the end too.
    num_problems: of the validation split.
    num_samples: responses to each.
    ks: of Pass@k, none above `num_samples`.
    test_problems: of the test split, for the report on the trained policy.
    test_samples: responses to each.
    test_ks: of Pass@k, none above `test_samples`; None for the powers of two
      up to it, from `least_test_k` on.
    least_test_k: of the class.

  Raises:
    ValueError: if a number is out of its range.
  """

  least_test_k: ClassVar[int] = 1

  every: int = 50
  num_problems: int = 64
  num_samples: int = 8
  ks: Sequence[int] = (8,)
  test_problems: int = 128
  test_samples: int = 128
  test_ks: Sequence[int] | None = None

  def __post_init__(self):
    check_positive(
      every=self.every,
      num_problems=self.num_problems,
      num_samples=self.num_samples,
      test_problems=self.test_problems,
      test_samples=self.test_samples,
    )
    if self.test_ks is None:
      powers = (2**i for i in range(self.test_samples.bit_length()))
      test_ks = tuple(k for k in powers if k >= self.least_test_k)
      object.__setattr__(self, "test_ks", test_ks)
    for name, most in (
      ("ks", self.num_samples),
      ("test_ks", self.test_samples),
    ):
      numbers = tuple(getattr(self, name))
      object.__setattr__(self, name, numbers)
      if numbers and not 1 <= min(numbers) <= max(numbers) <= most:
        raise ValueError(f"{name} is {numbers}, expected numbers in 1 … {most}")


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What was found.

  Attributes:
    num_correct: int64[problems], of each problem's samples.
    num_samples: N, of each problem.
    num_tokens: generated in all responses.
    seconds: of wall time, compilation included in the first call of a shape.
    mistakes: what the problem's `count_mistakes` gave, summed, or None.
  """

  num_correct: Int[np.ndarray, "D"]
  num_samples: int
  num_tokens: int
  seconds: float
  mistakes: base.Mistakes | None = None

  @property
  def accuracy(self) -> float:
    """The mean over problems and samples: Pass@1."""
    return float(np.mean(self.num_correct) / self.num_samples)

  @property
  def standard_error(self) -> float:
    """Of the accuracy, over problems; nan for a single one."""
    number = len(self.num_correct)
    if number < 2:
      return math.nan
    share = self.num_correct / self.num_samples
    return float(np.std(share, ddof=1) / number**0.5)

  def pass_at_k(self, k: int) -> float:
    """The unbiased estimate of Pass@k, averaged over problems.

    Raises:
      ValueError: if k is not in 1 … N.
    """
    estimates = values.pass_at_k(self.num_correct, self.num_samples, k)
    return float(np.mean(estimates))

  def report(self, ks: Sequence[int] = ()) -> dict[str, Any]:
    """Numbers for a report: accuracy, Pass@k, length, speed."""
    responses = len(self.num_correct) * self.num_samples
    return {
      "problems": len(self.num_correct),
      "samples": self.num_samples,
      "accuracy": self.accuracy,
      "standard_error": self.standard_error,
      "pass_at_k": {str(k): self.pass_at_k(k) for k in ks},
      "tokens_per_response": self.num_tokens / responses,
      "tokens_per_second": self.num_tokens / self.seconds,
    }


def evaluate(
  policy: Policy,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  problem_id: Int[ArrayLike, "D"],
  *,
  num_samples: int,
  rows_per_call: int = 2048,
  observe: Callable[[Rollout], None] | None = None,
) -> Evaluation:
  """Samples responses to problems and grades them.

  Several processes divide the problems, and all get what they find together.

  Args:
    policy: a `policies.base.Policy`.
    params: the policy's, see `processes.to_sample`.
    key: the run's key. The same key gives the same samples at equal params, so
      evaluations of one run differ by its params alone.
    problem: a text problem: `prompts`, `prompt_lengths`, `grade`.
    problem_id: the problems.
    num_samples: N responses to each.
    rows_per_call: responses sampled at a time; bounds memory.
    observe: is shown the responses of each call of this process (those of all
      where they sample together), those that fill up the last one left out.

  Raises:
    ValueError: if there are no problems or samples.
  """
  problem_id = np.asarray(problem_id, np.int32)
  if not len(problem_id):
    raise ValueError("there are no problems, expected at least one")
  if num_samples < 1:
    raise ValueError(f"num_samples is {num_samples}, expected >= 1")
  start = time.monotonic()
  problem_id = problem_id[processes.share_of(policy, len(problem_id))]
  each = min(max(1, rows_per_call // num_samples), max(1, len(problem_id)))
  num_correct, num_tokens, mistakes = [np.zeros(0, np.int64)], 0, []
  for first in range(0, len(problem_id), each):
    # The last call is filled up, so that all have one shape.
    ids = np.take(problem_id, np.arange(first, first + each), mode="clip")
    valid = min(each, len(problem_id) - first)
    rollout = policy.sample(params, key, ids, num_samples=num_samples)
    rows = valid * num_samples
    rollout = jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], rollout)
    if observe:
      observe(rollout)
    outcomes = processes.grade(problem, rollout, policy)
    outcomes = outcomes.reshape(valid, num_samples)
    num_correct.append(outcomes.sum(-1).astype(np.int64))
    lengths = rollout.prefix_len[:, -1] - rollout.prefix_len[:, 0]
    num_tokens += int(lengths.sum())
    counted = base.count_mistakes(problem, rollout)
    mistakes += [] if counted is None else [counted]
  num_correct = np.concatenate(num_correct)
  if not processes.together(policy):
    mistakes = processes.gather_objects(mistakes)
    num_correct = processes.gather(num_correct)
    num_tokens = int(processes.gather(np.array([num_tokens])).sum())
  return Evaluation(
    num_correct,
    num_samples,
    num_tokens,
    time.monotonic() - start,
    functools.reduce(operator.add, mistakes) if mistakes else None,
  )
