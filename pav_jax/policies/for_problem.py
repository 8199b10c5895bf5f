"""A language model that answers a text problem."""

import dataclasses
import math
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from pav_jax.models import (
  adapters,
  hf,
  hf_adapters,
  partitioning,
  transformer,
  trimming,
)
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import KeptTokens, TransformerConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.policies.trunk_value import TrunkValue
from pav_jax.problems import text_format
from pav_jax.problems.vocabulary import write_files
from pav_jax.rollout import Rollout

# Of an exported policy's directory.
ADAPTERS = "adapters"


@dataclasses.dataclass(frozen=True)
class ProblemPolicy:
  """A language model and the problem it answers: a `policies.base.Policy`.

  Attributes:
    model: from `language_model`, with the problem's tokens and steps.
    problem: a text problem; where it is not the same, the model is not either.
  """

  model: LanguageModel
  problem: Any = dataclasses.field(compare=False, repr=False)

  placement = "host"

  @property
  def layout(self) -> Layout | None:
    """The model's."""
    return self.model.layout

  @property
  def num_slots(self) -> int:
    """The model's, for statistics of decoding."""
    return self.model.num_slots

  def on(self, layout: Layout | None) -> "ProblemPolicy":
    """See `policies.base.Policy`."""
    return ProblemPolicy(self.model.on(layout), self.problem)

  def shardings(self, layout: Layout) -> PyTree:
    """See `policies.base.Policy`."""
    return transformer.shardings(self.model.config, layout)

  def sample(
    self,
    params: dict,
    key: jax.Array,
    problem_id: Int[ArrayLike, "D"],
    first_sample: Int[ArrayLike, "D"] | int = 0,
    *,
    num_samples: int = 1,
  ) -> Rollout:
    """See `policies.base.Policy`; the cache of a prompt is computed once."""
    return self.model.sample(
      params,
      key,
      self.problem.prompts(problem_id),
      self.problem.prompt_lengths(problem_id),
      problem_id,
      num_samples=num_samples,
      first_sample=first_sample,
    )

  def complete(
    self,
    params: dict,
    key: jax.Array,
    rollout: Rollout,
    *,
    num_samples: int,
    prefixes: Int[ArrayLike, "B Q"] | None = None,
  ) -> Rollout:
    """See `policies.base.Policy`."""
    return self.model.complete(
      params, key, rollout, num_samples=num_samples, prefixes=prefixes
    )

  def logp(self, params: dict, rollout: Rollout) -> Float[Array, "B T"]:
    """See `policies.base.Policy`."""
    return self.model.logp(params, rollout)

  def has_ended(self, rollout: Rollout) -> Bool[Array, "B"]:
    """See `policies.base.Policy`."""
    return self.model.has_ended(rollout)

  def value_network(self) -> TrunkValue:
    """A head on a copy of the model's backbone."""
    return TrunkValue(self.model.config, self.model.layout)


def default_new_tokens(problem: Any) -> int:
  """Room for a response: the longest demonstration and an eighth more."""
  return math.ceil(problem.max_response_len * 9 / 8)


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
    max_new_tokens: None for `default_new_tokens`.
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
    max_new_tokens = default_new_tokens(problem)
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


def used_tokens(
  problem: Any,
  *,
  num_demonstrations: int = 1024,
  questions: Mapping[str, int] = types.MappingProxyType({}),
  also: Sequence[int] = (),
) -> KeptTokens:
  """The tokens that answers to a problem are made of.

  Those of demonstrations of the train split, the end of a text and padding.
  What a policy is to say beyond them it has to be given: a model's own way of
  writing an answer, all digits.

  Args:
    problem: a text problem with demonstrations.
    num_demonstrations: that are read, of different problems; fewer if there are
      fewer.
    questions: how many problems of other splits are read, whose words answers
      may repeat, such as `{"test": 256}`; of these the questions alone.
    also: other tokens.
  """
  number = min(num_demonstrations, problem.split_size("train"))
  ids = problem.problem_ids("train", 0, number)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  said = np.arange(rollout.tokens.shape[1]) < rollout.prefix_len[:, -1:]
  read = [np.asarray(rollout.tokens)[said]]
  for split, number in questions.items():
    number = min(number, problem.split_size(split))
    read.append(problem.prompts(problem.problem_ids(split, 0, number)).ravel())
  vocabulary = problem.vocabulary
  return KeptTokens(
    (
      *np.unique(np.concatenate(read)).tolist(),
      *(vocabulary.eos_id, vocabulary.pad_id),
      *also,
    )
  )


def export(
  path: str | os.PathLike,
  policy: LanguageModel,
  params: PyTree,
  problem: Any,
  *,
  start: str | None = None,
) -> None:
  """Writes a policy for others; the directory appears complete or not at all.

  Adapters are merged into their kernels, and beside that in `adapters/`, as
  PEFT keeps them; of trimmed embeddings all rows are written. Of several
  processes all call, and the first one writes.

  Args:
    path: a directory; one that is there is replaced.
    policy: whose network it is.
    params: of the network.
    problem: what the policy was trained on: its tokenizer, delimiter and
      prompts are described beside the weights, so that `pav_jax.load_policy`
      finds them again.
    start: digest of the parameters that training began with, which is kept
      with these, see `training.state.sha256`; None not to say.

  Raises:
    FloatingPointError: if a parameter is not finite.
  """
  if jax.process_index() and not partitioning.is_split(params):
    return
  vocabulary, lora = problem.vocabulary, policy.config.lora
  arrays = lora and hf_adapters.to_host(policy.config, params)

  def write_also(folder: pathlib.Path) -> None:
    write_files(vocabulary, folder)
    if lora is not None:
      hf_adapters.write(folder / ADAPTERS, lora, arrays)

  hf.save(
    path,
    *trimming.restore(*adapters.merge(policy.config, params)),
    also=write_also,
    token_ids={
      "eos_token_id": vocabulary.eos_id,
      "pad_token_id": vocabulary.pad_id,
    },
    identity=text_format.saved(
      problem,
      max_response_len=policy.max_new_tokens,
      max_steps=policy.max_steps,
    )
    | ({} if start is None else {"start": start}),
    replace=True,
  )
