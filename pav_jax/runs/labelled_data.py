"""What a verifier is trained on: data that fit the problem and the backbone."""

import hashlib
import os
from typing import Any, NamedTuple

from pav_jax.data import step_targets
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits


class LabelledData(NamedTuple):
  """Traces of three sets of problems, all of one shape but for B.

  Attributes:
    train: to learn from.
    validation: to choose with: the verifier that is kept, its calibration, the
      threshold of first errors.
    test: to report on.
  """

  train: StepTargets
  validation: StepTargets
  test: StepTargets


def load(
  data: str | os.PathLike,
  held_out: str | os.PathLike | None,
  share: float,
  most: int,
  problem: Any,
) -> LabelledData:
  """Reads step targets, and halves the problems that are held out.

  Args:
    data: a directory of step targets.
    held_out: one of other problems; None to hold out some of `data`'s.
    share: of problems in (0, 1), if there is no `held_out`.
    most: traces for validation, and for the test.
    problem: that the data is of.

  Raises:
    ValueError: if data is unfinished, of another tokenizer or delimiter, or a
      problem is in both directories; or for a share out of its range.
  """
  paths = [data] if held_out is None else [data, held_out]
  manifests = [
    step_targets.finished_manifest(path, problem.fingerprint) for path in paths
  ]
  loaded = [
    step_targets.load(
      path,
      fingerprint=problem.fingerprint,
      num_tokens=max(x.max_tokens for x in manifests),
      num_prefixes=max(x.max_prefixes for x in manifests),
    )
    for path in paths
  ]
  if held_out is None:
    if not 0 < share < 1:
      raise ValueError(f"held_out_share is {share}, expected one in (0, 1)")
    parts = target_splits.split_by_problem(
      loaded[0], (1 - share, share / 2, share / 2)
    )
  else:
    target_splits.check_other_problems(*loaded)
    halves = target_splits.split_by_problem(loaded[1], (0.5, 0.5))
    parts = [loaded[0], *halves]
  train, *others = parts
  validation, test = (target_splits.take(x, slice(most)) for x in others)
  return LabelledData(train, validation, test)


def check_room(
  config: TransformerConfig, problem: Any, data: LabelledData
) -> None:
  """Raises ValueError if the backbone lacks tokens or context."""
  size = problem.vocabulary.vocab_size
  if config.vocab_size < size:
    raise ValueError(
      f"the backbone's vocab_size is {config.vocab_size}, expected at least "
      f"{size}"
    )
  longest = data.train.tokens.shape[1]
  if longest > config.max_length:
    raise ValueError(
      f"traces have up to {longest} tokens, expected at most max_length = "
      f"{config.max_length}"
    )


def digest(path: str | os.PathLike) -> str:
  """Identifies the content of a data set, wherever it lies."""
  manifest = step_targets.read_manifest(path)
  return hashlib.sha256(manifest.to_json()).hexdigest()
