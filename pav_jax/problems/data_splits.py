"""The splits of a data set's problems, tokenised and measured."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pav_jax.problems.base import SPLITS
from pav_jax.problems.prompt_format import Record


@dataclasses.dataclass(frozen=True)
class Split:
  """A split, tokenised.

  Attributes:
    records: all problems.
    prompts: their token ids.
    responses: token ids of solutions, with the end token.
    kept: indices of those that are not too long.
  """

  records: Sequence[Record]
  prompts: Sequence[np.ndarray]
  responses: Sequence[np.ndarray]
  kept: Int[np.ndarray, "_"]


# Equal problems share it; gin makes one wherever a problem is referred to.
@functools.lru_cache(maxsize=12)
def split_of(problem: Any, split: str) -> Split:
  """A split of a `DataProblem`.

  Raises:
    ValueError: if there is no such split, it is empty, nothing of it fits, or
      a prompt of the test split does not; if two problems have one key, or most
      solutions have more than `max_steps` steps.
  """
  if split not in SPLITS:
    raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
  all_records = problem.records()
  _check_keys(all_records)
  records = all_records[split]
  if not records:
    raise ValueError(f"split {split!r} is empty, expected at least one problem")
  words = problem.vocabulary
  prompts = [
    np.array(problem.encode_problem(x.problem, key=x.key), np.int32)
    for x in records
  ]
  responses = [
    np.array(
      [*words.encode(problem.prompt.target(record)), words.eos_id], np.int32
    )
    for record in records
  ]
  _check_steps(problem, split, responses)
  if split == "test":
    prompts = _fit(problem, records, prompts)
    return Split(records, prompts, responses, np.arange(len(records)))
  lengths = np.array([[len(x) for x in rows] for rows in (prompts, responses)])
  fits = (
    (lengths[0] <= problem.max_prompt_len)
    & (lengths[1] <= problem.max_response_len)
    & (lengths.sum(0) <= problem.max_demonstration_len)
  )
  if not fits.any():
    raise ValueError(
      f"the shortest problem of split {split!r} has {lengths.sum(0).min()} "
      f"tokens with its solution, expected at most "
      f"{problem.max_demonstration_len}, and no more than max_prompt_len = "
      f"{problem.max_prompt_len} and max_response_len = "
      f"{problem.max_response_len} of them"
    )
  return Split(records, prompts, responses, np.flatnonzero(fits))


def _check_keys(records: Mapping[str, Sequence[Record]]) -> None:
  """Keys name problems; a problem that comes twice is one."""
  texts: dict[str, str] = {}
  for split in SPLITS:
    for record in records[split]:
      if texts.setdefault(record.key, record.problem) != record.problem:
        raise ValueError(
          f"two problems have the key {record.key!r}: "
          f"{texts[record.key]!r:.60} and {record.problem!r:.60}; expected a "
          "key for each"
        )


def _check_steps(problem, split, responses) -> None:
  """Steps beyond the last one that is counted are no steps of their own."""
  number = np.median(
    [problem.ends_step[ids[:-1]].sum() + 1 for ids in responses]
  )
  if number > problem.max_steps:
    raise ValueError(
      f"max_steps is {problem.max_steps} and solutions of split {split!r} have "
      f"{number:g} steps at the median, expected at least as many"
    )


def _fit(problem, records, prompts) -> list[np.ndarray]:
  """Prompts of the test split, cut if that is allowed."""
  most, longest = problem.max_prompt_len, max(map(len, prompts))
  if longest > most and not problem.cut_prompts:
    key = records[[len(ids) for ids in prompts].index(longest)].key
    raise ValueError(
      f"the prompt of {key} has {longest} tokens, expected at most "
      f"max_prompt_len = {most}; with cut_prompts longer ones lose their "
      "beginnings"
    )
  bos = getattr(problem.vocabulary, "bos_id", None)
  keep = 1 if bos is not None else 0
  return [
    ids
    if len(ids) <= most
    else np.concatenate([ids[:keep], ids[len(ids) - most + keep :]])
    for ids in prompts
  ]
