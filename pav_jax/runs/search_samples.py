"""Samples that every re-ranker shares, drawn and evaluated once and kept."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from pav_jax import steps
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.answer_groups import NO_ANSWER
from pav_jax.rollout import Rollout
from pav_jax.runs.division import Division, in_parts
from pav_jax.search.value_function import ValueFunction
from pav_jax.shards import Shards, from_npz, to_npz

# Rows that a verifier reads at once.
_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Samples:
  """S responses to each of B problems: leaves [B, S, …].

  Attributes:
    tokens: problem, response, padding.
    prefix_len: as in `Rollout`.
    outcome: 1 for right ones.
    ended: whether a response has ended itself. The others were cut off by the
      length limit; their last value is 0, and they rank behind all that ended.
    answers: equal for equal final answers of a problem.
    q_policy: values of all prefixes under the policy.
    q_prover: the same under the prover.
    seconds: of wall time for all, of policy and verifier.
  """

  tokens: Int[np.ndarray, "B S T"]
  prefix_len: Int[np.ndarray, "B S P"]
  outcome: Float[np.ndarray, "B S"]
  ended: Bool[np.ndarray, "B S"]
  answers: Int[np.ndarray, "B S"]
  q_policy: Float[np.ndarray, "B S P"]
  q_prover: Float[np.ndarray, "B S P"]
  seconds: Float[np.ndarray, "B"]

  @property
  def length(self) -> Int[np.ndarray, "B S"]:
    """Tokens of problem and response."""
    return self.prefix_len[..., -1]

  @property
  def prompt_len(self) -> Int[np.ndarray, "B"]:
    """Tokens of the problems."""
    return self.prefix_len[:, 0, 0]

  @property
  def mask(self) -> np.ndarray:
    """Which steps exist, bool[B, S, H]."""
    return np.asarray(steps.step_mask(self.prefix_len))


def draw(
  division: Division,
  shards: Shards,
  policy: LanguageModel,
  params: PyTree,
  value_function: ValueFunction,
  key: jax.Array,
  problem: Any,
  problem_id: Int[np.ndarray, "B"],
  *,
  num_samples: int,
  rows_per_call: int,
) -> Callable[[], Samples]:
  """Draws this process's share of samples that no earlier run has drawn.

  Args:
    division: among processes.
    shards: keep them, a file for each part of the problems.
    policy: that answers.
    params: of its network.
    value_function: of prefixes.
    key: of the samples.
    problem: that is answered.
    problem_id: which.
    num_samples: S.
    rows_per_call: responses drawn at a time.

  Returns:
    Reads what all processes have drawn, once they have.
  """
  each = min(max(1, rows_per_call // num_samples), len(problem_id))
  parts = list(in_parts(problem_id, each))

  def make(number):
    _, ids, valid = parts[number]
    part = _draw(policy, params, value_function, key, problem, ids, num_samples)
    arrays = {name: x[:valid] for name, x in vars(part).items()}
    return to_npz(arrays), {}

  names = [f"{first:06d}.npz" for first, _, _ in parts]
  sizes = [valid for *_, valid in parts]
  division.write(shards.directory.name, shards, names, sizes, make)

  def read():
    kept = [from_npz(shards.read(name)) for name in names]
    return Samples(
      **{name: np.concatenate([x[name] for x in kept]) for name in kept[0]}
    )

  return read


def _draw(
  policy, params, value_function, key, problem, ids, num_samples
) -> Samples:
  start = time.monotonic()
  rollout = policy.sample(
    params,
    key,
    problem.prompts(ids),
    problem.prompt_lengths(ids),
    ids,
    num_samples=num_samples,
  )
  rollout = jax.tree.map(np.asarray, rollout)
  rows = np.arange(len(rollout.tokens))
  values = []
  for _, at, valid in in_parts(rows, min(_ROWS, len(rows))):
    part: Rollout = jax.tree.map(lambda x, at=at: x[at], rollout)
    q = value_function(key, part)
    values.append([np.asarray(x)[:valid] for x in q])
  q_policy, q_prover = (np.concatenate(q) for q in zip(*values, strict=True))
  seconds = time.monotonic() - start
  answers = problem.final_answers(rollout)
  # After few-shot prompts text may end a response too, and gives an answer.
  ended = np.asarray(policy.has_ended(rollout)) | (answers != NO_ANSWER)
  length = rollout.prefix_len
  cut = ~ended[:, None] & (length == length[:, -1:])
  fields = {
    "tokens": rollout.tokens,
    "prefix_len": length,
    "outcome": np.asarray(problem.grade(rollout)),
    "ended": ended,
    "answers": answers,
    "q_policy": np.where(cut, 0.0, q_policy),
    "q_prover": np.where(cut, 0.0, q_prover),
  }
  return Samples(
    **{
      name: x.reshape(len(ids), num_samples, *x.shape[1:])
      for name, x in fields.items()
    },
    seconds=np.full(len(ids), seconds / len(ids)),
  )
