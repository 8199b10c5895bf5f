"""Correct responses of a policy, to fine-tune it on (RFT; Sec. 5)."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.data.packing import pack
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import PackedTokens, Rollout
from pav_jax.shards import Shards, from_npz, read, to_npz
from pav_jax.training import processes

FILE = "correct.npz"


def sample_correct(
  policy: LanguageModel,
  params: PyTree,
  key: jax.Array,
  problem: Any,
  *,
  num_problems: int,
  num_samples: int,
  split: str = "train",
  rows_per_call: int = 1024,
) -> Rollout:
  """The distinct correct responses among samples.

  Several processes divide the problems, and all get what they find together.

  Args:
    policy: samples them.
    params: of its network, see `processes.to_sample`.
    key: of the samples.
    problem: a text problem.
    num_problems: of the split, from its first on.
    num_samples: of each.
    split: of the problem.
    rows_per_call: responses sampled at a time; bounds memory.

  Returns:
    A rollout of numpy arrays, ordered by problem.

  Raises:
    ValueError: if no response is correct.
  """
  problem_id = problem.problem_ids(split, 0, num_problems)
  problem_id = problem_id[processes.share_of(policy, num_problems)]
  each = min(max(1, rows_per_call // num_samples), max(1, len(problem_id)))
  found = []
  for first in range(0, len(problem_id), each):
    # The last call is filled up, so that all have one shape.
    ids = np.take(problem_id, np.arange(first, first + each), mode="clip")
    rollout = policy.sample(
      params,
      key,
      problem.prompts(ids),
      problem.prompt_lengths(ids),
      ids,
      num_samples=num_samples,
    )
    rows = min(each, len(problem_id) - first) * num_samples
    rollout = jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], rollout)
    outcome = processes.grade(problem, rollout, policy)
    rollout = dataclasses.replace(rollout, outcome=outcome)
    kept = _distinct(rollout) & (outcome > 0)
    found.append(jax.tree.map(lambda x, k=kept: x[k], rollout))
  if not processes.together(policy):
    found = processes.gather_objects(found)
  correct = jax.tree.map(lambda *x: np.concatenate(x), *found)
  if not len(correct.tokens):
    raise ValueError(
      f"none of {num_problems} × {num_samples} responses is correct, expected "
      "some to fine-tune on; sample more"
    )
  return correct


def _distinct(rollout: Rollout) -> np.ndarray:
  """Responses unlike all earlier ones to the same problem: bool[B]."""
  seen, new = set(), []
  for problem_id, tokens in zip(
    rollout.problem_id, rollout.tokens, strict=True
  ):
    trace = (int(problem_id), tokens.tobytes())
    new.append(trace not in seen)
    seen.add(trace)
  return np.array(new)


def save(shards: Shards, correct: Rollout) -> None:
  """Writes responses to the file `correct.npz` of a directory."""
  shards.write(FILE, to_npz(vars(correct)))


def load(path: str | os.PathLike) -> Rollout:
  """Reads what `save` wrote.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  return Rollout(**from_npz(read(path)))


@dataclasses.dataclass(frozen=True)
class Seeds:
  """Packed batches of responses in random order: `problems.packing.Batches`.

  A position is the number of responses before; each pass over them has an order
  of its own.

  Attributes:
    path: of the file that `save` wrote.
    num_rows: of a batch.
    row_length: tokens in a row.
    seed: of the orders.
  """

  path: str
  num_rows: int
  row_length: int
  seed: int = 0

  def __post_init__(self):
    object.__setattr__(self, "_rollout", load(self.path))

  def __call__(self, position: int) -> tuple[PackedTokens, int]:
    """The batch that begins with response `position`."""
    rollout = self._rollout
    size = len(rollout.tokens)
    texts, prompt_len = [], []
    while True:
      at = position + len(texts)
      order = np.random.default_rng([self.seed, at // size]).permutation(size)
      for row in order[at % size :][: self.num_rows]:
        texts.append(rollout.tokens[row, : rollout.prefix_len[row, -1]])
        prompt_len.append(int(rollout.prefix_len[row, 0]))
      batch, packed = pack(
        texts, prompt_len, num_rows=self.num_rows, row_length=self.row_length
      )
      if packed < len(texts):
        return batch, position + packed
