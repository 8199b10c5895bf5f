"""What a verifier is trained on: data that fit the problem and the trunk."""

import hashlib
import os
from typing import Any

from pav_jax.data import step_targets
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits as data_sets


def load(
  data: str | os.PathLike,
  held_out: str | os.PathLike | None,
  share: float,
  problem: Any,
) -> list[StepTargets]:
  """Traces for training, validation and test, all of one shape but for B."""
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
    return data_sets.split_by_problem(
      loaded[0], (1 - share, share / 2, share / 2)
    )
  data_sets.check_other_problems(*loaded)
  return [loaded[0], *data_sets.split_by_problem(loaded[1], (0.5, 0.5))]


def check_room(config: TransformerConfig, problem: Any, *targets) -> None:
  """Raises ValueError if the trunk lacks tokens or context."""
  size = problem.vocabulary.vocab_size
  if config.vocab_size < size:
    raise ValueError(
      f"the trunk's vocab_size is {config.vocab_size}, expected at least {size}"
    )
  longest = max(part.tokens.shape[1] for part in targets)
  if longest > config.max_length:
    raise ValueError(
      f"traces have up to {longest} tokens, expected at most max_length = "
      f"{config.max_length}"
    )


def digest(path: str | os.PathLike) -> str:
  """Identifies the content of a data set, wherever it lies."""
  manifest = step_targets.read_manifest(path)
  return hashlib.sha256(manifest.to_json()).hexdigest()
