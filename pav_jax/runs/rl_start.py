"""What reinforcement learning starts from: a checkpoint, or new parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from pav_jax import models
from pav_jax.files import describe
from pav_jax.models import adapters
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import KeptTokens, Lora
from pav_jax.policies.base import Policy
from pav_jax.policies.for_problem import (
  ProblemPolicy,
  export,
  language_model,
)
from pav_jax.problems.base import Problem
from pav_jax.training.rl_replicas import Stream
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True)
class Start:
  """A policy before training.

  Attributes:
    policy: what is trained.
    params: of all seeds if they start alike; else leaves [S, …].
    is_seeded: whether each seed starts from its own.
    identity: what tells it from others, for checkpoints.
    export: `(path, policy, params, problem)`, writes a trained policy for
      others; None where policies are not exported.
  """

  policy: Policy
  params: PyTree
  is_seeded: bool
  identity: dict[str, str]
  export: Callable[..., None] | None = None


@dataclasses.dataclass(frozen=True)
class PolicyCheckpoint:
  """A language model of a checkpoint, the same for all seeds.

  Attributes:
    path: of its directory, or another source of `models.load`.
    make_policy: `(config, problem) -> LanguageModel`, at temperature 1.
    dtype: of computation; None for that of the parameters.
    param_dtype: of parameters; None for the checkpoint's.
    remat: what is computed again for gradients, see `TransformerConfig`.
    attention: by which way, see `TransformerConfig`.
    lora: adapters that are trained in place of the policy; None to train all.
    kept: tokens that the policy may say, see `for_problem.used_tokens`; None
      for all.
  """

  path: str
  make_policy: Callable[..., Any] = language_model
  dtype: str | None = None
  param_dtype: str | None = None
  remat: str = "none"
  attention: str = "plain"
  lora: Lora | None = None
  kept: KeptTokens | None = None

  def load(
    self, problem: Problem, keys: jax.Array, layout: Layout | None
  ) -> Start:
    """Reads it.

    Args:
      problem: whose tokenizer and delimiter it must share.
      keys: [S]; adapters of all seeds have the first one.
      layout: where parameters are sampled with.

    Raises:
      ValueError: if it is of another tokenizer or delimiter, or samples from
        another distribution than the one that is trained.
    """
    loaded = models.load(
      self.path,
      fingerprint=problem.fingerprint,
      layout=layout,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      remat=self.remat,
      attention=self.attention,
      kept=self.kept,
    )
    config, params = loaded.config, loaded.params
    if self.lora is not None:
      key = Stream.PARAMS.of(keys[0])
      config, params = adapters.add(
        config, params, self.lora, key, layout=layout
      )
    model = self.make_policy(config, problem)
    if (model.temperature, model.top_k, model.top_p) != (1.0, None, 1.0):
      raise ValueError(
        f"the policy samples at temperature {model.temperature}, top_k "
        f"{model.top_k} and top_p {model.top_p}, expected 1, None and 1: "
        "others are not the policy that is trained"
      )
    policy, start = ProblemPolicy(model, problem), sha256(loaded.params)
    return Start(
      policy,
      params,
      False,
      {"policy": describe(policy), "start": start},
      functools.partial(_export, start=start),
    )


def _export(path, policy: ProblemPolicy, params, problem, *, start) -> None:
  export(path, policy.model, params, problem, start=start)


@dataclasses.dataclass(frozen=True)
class FreshPolicy:
  """A policy whose parameters are made for each seed.

  Attributes:
    policy: what is trained.
    init_params: `(policy, key) -> params`, pure.
  """

  policy: Policy
  init_params: Callable[[Policy, jax.Array], PyTree]

  def load(
    self, problem: Problem, keys: jax.Array, layout: Layout | None
  ) -> Start:
    """Makes them; `problem` and `layout` have no part. See `Start`."""
    del problem, layout

    def of_seed(key):
      return self.init_params(self.policy, Stream.PARAMS.of(key))

    identity = {
      "policy": describe(self.policy),
      "init_params": describe(self.init_params),
    }
    params = jax.jit(jax.vmap(of_seed))(keys)
    return Start(self.policy, params, True, identity)
