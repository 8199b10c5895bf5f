"""How a policy is judged in reinforcement learning."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from pav_jax import losses
from pav_jax.policies.language_model import LanguageModel
from pav_jax.training import evaluation, processes, rl_text
from pav_jax.training.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Settings.

  Attributes:
    every: iterations between evaluations; there is one before the first and
      one after the last too.
    num_problems: of the validation split.
    num_samples: responses to each.
    ks: of Pass@k, none above `num_samples`.
    test_problems: of the test split, for the report on trained policies.
    test_samples: responses to each.
    test_ks: of Pass@k, none above `test_samples`; None for 1, 2, 4, … up to it.
    hard_samples: responses of the start to each test problem; the problems that
      none of them solves are hard (Fig. 8b). 0 not to look for them.

  Raises:
    ValueError: if a number is out of its range.
  """

  every: int = 50
  num_problems: int = 64
  num_samples: int = 8
  ks: Sequence[int] = (8,)
  test_problems: int = 128
  test_samples: int = 128
  test_ks: Sequence[int] | None = None
  hard_samples: int = 256

  def __post_init__(self):
    for name in (
      "every",
      "num_problems",
      "num_samples",
      "test_problems",
      "test_samples",
    ):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}, expected >= 1")
    if self.hard_samples < 0:
      raise ValueError(f"hard_samples is {self.hard_samples}, expected >= 0")
    if self.test_ks is None:
      object.__setattr__(
        self,
        "test_ks",
        tuple(2**i for i in range(0, self.test_samples.bit_length())),
      )
    for name, most in (
      ("ks", self.num_samples),
      ("test_ks", self.test_samples),
    ):
      numbers = tuple(getattr(self, name))
      object.__setattr__(self, name, numbers)
      if numbers and not 1 <= min(numbers) <= max(numbers) <= most:
        raise ValueError(f"{name} is {numbers}, expected numbers in 1 … {most}")


def judge(
  policy: LanguageModel,
  params: PyTree,
  reference: PyTree,
  key: jax.Array,
  problem: Any,
  held_out: HeldOut,
) -> dict[str, float]:
  """What a policy does on the validation split.

  Returns:
    `accuracy`, `pass_at_k` of each k, `length` in tokens, and in nats a
    response `entropy` and `kl` to the policy of parameters `reference`.
  """
  kls, entropies, rows = [], [], []

  def observe(rollout):
    logp_ref = rl_text.logp(policy, reference, rollout)
    kl = losses.kl_penalty(rollout.logp, logp_ref, rollout.prefix_len)
    kls.append(float(kl))
    entropies.append(float(-np.mean(np.sum(rollout.logp, axis=-1))))
    rows.append(len(rollout.tokens))

  found = evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem.problem_ids("validation", 0, held_out.num_problems),
    num_samples=held_out.num_samples,
    observe=observe,
  )
  responses = len(found.num_correct) * found.num_samples
  if not processes.together(policy):
    kls, entropies, rows = map(processes.gather_objects, (kls, entropies, rows))
  return {
    "accuracy": found.accuracy,
    **{f"pass_at_{k}": found.pass_at_k(k) for k in held_out.ks},
    "length": found.num_tokens / responses,
    "entropy": float(np.average(entropies, weights=rows)),
    "kl": float(np.average(np.array(kls, np.float64), weights=rows)),
  }


def test(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  held_out: HeldOut,
  *,
  num_samples: int | None = None,
) -> Evaluation:
  """Responses to the test split; `num_samples` None for `test_samples`."""
  return evaluation.evaluate(
    policy,
    params,
    key,
    problem,
    problem.problem_ids("test", 0, held_out.test_problems),
    num_samples=num_samples or held_out.test_samples,
  )


def report(
  found: Evaluation, held_out: HeldOut, hard: Int[np.ndarray, "N"] | None
) -> dict[str, Any]:
  """Numbers of `test` for a report.

  Args:
    found: of a trained policy.
    held_out: settings.
    hard: indices of the test problems that the start never solves.
  """
  out = {
    "accuracy": found.accuracy,
    "standard_error": found.standard_error,
    "pass_at_k": {str(k): found.pass_at_k(k) for k in held_out.test_ks},
    "tokens_per_response": found.num_tokens
    / (len(found.num_correct) * found.num_samples),
  }
  if hard is not None:
    out["hard_problems_solved"] = int((found.num_correct[hard] > 0).sum())
    out["hard_problems"] = len(hard)
  return out
