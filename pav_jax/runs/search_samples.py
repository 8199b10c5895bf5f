"""Samples that every re-ranker shares, drawn and judged once and kept."""

import dataclasses
import io
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from pav_jax import steps
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout
from pav_jax.runs.division import Division, in_parts
from pav_jax.search import voting
from pav_jax.search.judging import Judge

# Rows that a verifier reads at once.
_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Samples:
  """S responses to each of B problems: leaves [B, S, …].

  Attributes:
    tokens: problem, response, padding.
    prefix_len: as in `Rollout`.
    outcome: 1 for right ones.
    answers: equal for equal final answers, see `voting`.
    q_policy: of all prefixes.
    q_prover: likewise.
    seconds: of wall time for all, of policy and verifier.
  """

  tokens: Int[np.ndarray, "B S T"]
  prefix_len: Int[np.ndarray, "B S P"]
  outcome: Float[np.ndarray, "B S"]
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
  path: pathlib.Path,
  policy: LanguageModel,
  params: PyTree,
  judge: Judge,
  key: jax.Array,
  problem: Any,
  problem_id: Int[np.ndarray, "B"],
  *,
  num_samples: int,
  rows_per_call: int,
) -> None:
  """Draws this process's share of samples that no earlier run has drawn.

  Args:
    division: among processes.
    path: of a directory that keeps them, a file for each part of the problems.
    policy: that answers.
    params: of its network.
    judge: of prefixes.
    key: of the samples.
    problem: that is answered.
    problem_id: which.
    num_samples: S.
    rows_per_call: responses drawn at a time.
  """
  each = min(max(1, rows_per_call // num_samples), len(problem_id))
  parts = list(in_parts(problem_id, each))

  def make(number):
    _, ids, valid = parts[number]
    part = _draw(policy, params, judge, key, problem, ids, num_samples)
    file = io.BytesIO()
    np.savez_compressed(file, **{n: x[:valid] for n, x in vars(part).items()})
    return file.getvalue(), {}

  files = [path / f"{first:06d}.npz" for first, _, _ in parts]
  division.write(path.name, files, [valid for *_, valid in parts], make)


def read(path: pathlib.Path) -> Samples:
  """What all processes have drawn."""
  parts = []
  for file in sorted(path.glob("*.npz")):
    with np.load(file) as kept:
      parts.append(dict(kept))
  return Samples(
    **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
  )


def _draw(policy, params, judge, key, problem, ids, num_samples) -> Samples:
  start = time.monotonic()
  prompts = problem.prompts(ids)
  rollout = policy.sample(
    params,
    key,
    prompts,
    problem.prompt_lengths(ids),
    ids,
    num_samples=num_samples,
  )
  rollout = jax.tree.map(np.asarray, rollout)
  judged = [[], []]
  rows = np.arange(len(rollout.tokens))
  for _, at, valid in in_parts(rows, min(_ROWS, len(rows))):
    part: Rollout = jax.tree.map(lambda x, at=at: x[at], rollout)
    for q, kept in zip(judge(key, part), judged, strict=True):
      kept.append(np.asarray(q)[:valid])
  seconds = time.monotonic() - start
  outcome = problem.outcomes(rollout)
  answers = voting.final_answers(problem, rollout, policy.end_token)
  q_policy, q_prover = map(np.concatenate, judged)
  found = (rollout.tokens, rollout.prefix_len, outcome, answers, q_policy)
  return Samples(
    *(x.reshape(len(ids), num_samples, *x.shape[1:]) for x in found),
    q_prover.reshape(len(ids), num_samples, -1),
    np.full(len(ids), seconds / len(ids)),
  )
