"""A language model that answers a text problem."""

import math
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax.models import hf, partitioning
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.vocabulary import identity


def language_model(
  config: TransformerConfig,
  problem: Any,
  *,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float = 1.0,
  max_new_tokens: int | None = None,
  max_steps: int | None = None,
  num_slots: int = 128,
) -> LanguageModel:
  """A policy whose tokens and steps are the problem's.

  Args:
    config: of the network, which may have more tokens than the problem's
      vocabulary, as widths that suit the hardware want; those end no step and
      make a response wrong.
    problem: has `vocabulary`, `ends_step`, and for the defaults below
      `max_response_len` and `max_steps`, as `problems.text.GeneratedProblem`.
    temperature: see `LanguageModel`.
    top_k: see `LanguageModel`.
    top_p: see `LanguageModel`.
    max_new_tokens: None for the longest demonstration and an eighth more.
    max_steps: None for the problem's.
    num_slots: see `LanguageModel`.

  Raises:
    ValueError: if the network has too few tokens or too little context.
  """
  size = problem.vocabulary.vocab_size
  if config.vocab_size < size:
    raise ValueError(
      f"the network's vocab_size is {config.vocab_size}, expected at least "
      f"{size}, the tokens of the problem's vocabulary"
    )
  if max_new_tokens is None:
    max_new_tokens = math.ceil(problem.max_response_len * 9 / 8)
  longest = problem.prompt_len + max_new_tokens
  if longest > config.max_length:
    raise ValueError(
      f"prompts have {problem.prompt_len} tokens and responses up to "
      f"{max_new_tokens}, expected a sum of at most max_length = "
      f"{config.max_length}"
    )
  is_delimiter = np.zeros(config.vocab_size, bool)
  is_delimiter[:size] = problem.ends_step
  return LanguageModel(
    config=config,
    end_token=problem.vocabulary.eos_id,
    is_delimiter=is_delimiter.tolist(),
    max_new_tokens=max_new_tokens,
    max_steps=max_steps or problem.max_steps,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    pad_token=problem.vocabulary.pad_id,
    num_slots=num_slots,
  )


def export(
  path: str | os.PathLike, policy: LanguageModel, params: PyTree, problem: Any
) -> None:
  """Writes a policy for others; the directory appears complete or not at all.

  Of several processes all call, and the first one writes.

  Args:
    path: a directory; one that is there is replaced.
    policy: whose network it is.
    params: of the network.
    problem: has `vocabulary` and `delimiter`, which go with it.
  """
  writes = jax.process_index() == 0
  if not writes and not partitioning.is_split(params):
    return
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}")
  if writes:
    shutil.rmtree(partial, ignore_errors=True)
  vocabulary = problem.vocabulary
  hf.save(
    partial,
    policy.config,
    params,
    token_ids={
      "eos_token_id": vocabulary.eos_id,
      "pad_token_id": vocabulary.pad_id,
    },
    identity=identity(vocabulary, problem.delimiter),
  )
  if writes:
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
