"""The programs that runs compile, with arrays that have shapes and no content.

Each function gives the program of one stage as the stage itself makes it; what
an array is, and where it lies, is said by `jax.ShapeDtypeStruct`s. R rows, T
tokens of a row, S of a prompt.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from pav_jax.models import adapters, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers import base as provers
from pav_jax.rollout import PackedTokens
from pav_jax.search.cached_beams import search
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import ValueFunction
from pav_jax.training import fitting, rl_placement, sft, value_fitting
from pav_jax.training.fitting import FitState, Fitter
from pav_jax.training.labelling import Examples
from pav_jax.training.rl import Trainer
from pav_jax.training.rl_learning import Experience, RlState
from tools import abstract_arrays


@dataclasses.dataclass(frozen=True)
class Program:
  """A program that is compiled and not run.

  Attributes:
    name: of the stage.
    lower: traces it for the devices of its arguments.
    parts: its large arguments by name, for reports.
    beside: what else lies on the devices while it runs.
    each: what one iteration of its loop is, where the loop's length depends on
      data: "step", "token", "round".
    remedies: settings that lessen what it takes besides its arguments.
  """

  name: str
  lower: Callable[[], jax.stages.Lowered]
  parts: Mapping[str, PyTree]
  beside: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
  each: str | None = None
  remedies: tuple[str, ...] = ()


def sft_step(
  config: TransformerConfig,
  optimizer: optax.GradientTransformation,
  layout: Layout,
  *,
  num_rows: int,
  row_length: int,
  chunk: int = 50,
) -> Program:
  """Steps of supervised fine-tuning, as `runs.sft` makes them."""
  partitioning.check_batch_size(layout.mesh, num_rows)
  fitter = sft.fitter(config, optimizer, layout)
  state = _fit_state(fitter, abstract_arrays.params_of(config, layout))
  batch = functools.partial(
    jax.ShapeDtypeStruct,
    (chunk, num_rows, row_length),
    sharding=fitting.batch_sharding(layout),
  )
  batches = PackedTokens(
    *(batch(dtype=kind) for kind in (jnp.int32,) * 3 + (jnp.bool_,))
  )
  return _train_steps(
    "SFT step",
    fitter,
    state,
    batches,
    remedies=(
      *_remat(config, "preset.remat"),
      "a smaller NUM_ROWS or ROW_LENGTH",
    ),
  )


def _train_steps(
  name: str,
  fitter: Fitter,
  state: PyTree,
  batches: PyTree,
  *,
  remedies: tuple[str, ...],
) -> Program:
  """A chunk of `training.fitting`'s steps."""
  return Program(
    name,
    lambda: fitter.train_chunk.lower(
      state, batches, abstract_arrays.whole(fitter.layout, (), jnp.int32)
    ),
    _parts(
      {
        "parameters": state.params,
        "base": state.base,
        "optimiser state": state.optimizer,
      }
    ),
    each="step",
    remedies=remedies,
  )


def sampling(
  policy: LanguageModel,
  layout: Layout,
  *,
  num_prompts: int,
  prompt_len: int,
  num_samples: int = 1,
  beside: Mapping[str, PyTree] | None = None,
) -> Program:
  """Responses to prompts: prefill, and the loop that decodes."""
  policy = dataclasses.replace(policy, layout=layout)
  params = abstract_arrays.params_of(policy.config, layout)
  whole = functools.partial(abstract_arrays.whole, layout)
  sample = jax.jit(functools.partial(policy.sample, num_samples=num_samples))
  return Program(
    "sampling",
    lambda: sample.lower(
      params,
      abstract_arrays.key(layout),
      whole((num_prompts, prompt_len), jnp.int32),
      whole((num_prompts,), jnp.int32),
      whole((num_prompts,), jnp.int32),
    ),
    {"parameters": params},
    beside or {},
    each="token",
    remedies=("fewer language_model.num_slots", "fewer samples in a call"),
  )


def collection(
  policy: LanguageModel,
  layout: Layout,
  *,
  num_traces: int,
  num_prefixes: int,
  num_completions: int,
  num_tokens: int,
  beside: Mapping[str, PyTree] | None = None,
) -> Program:
  """Completions of prefixes, behind the caches of their traces.

  Args:
    policy: completes.
    layout: of parameters and rows.
    num_traces: in a call.
    num_prefixes: of each.
    num_completions: n_mc, of each prefix.
    num_tokens: T of the traces.
    beside: see `Program`.
  """
  policy = dataclasses.replace(policy, layout=layout)
  params = abstract_arrays.params_of(policy.config, layout)
  complete = jax.jit(
    lambda params, key, traces, prefixes: policy.complete(
      params, key, traces, num_samples=num_completions, prefixes=prefixes
    )
  )
  traces = abstract_arrays.rollout_of(
    layout, num_traces, num_tokens, policy.max_steps
  )
  prefixes = abstract_arrays.whole(
    layout, (num_traces, num_prefixes), jnp.int32
  )
  return Program(
    "collection",
    lambda: complete.lower(
      params, abstract_arrays.key(layout), traces, prefixes
    ),
    {"parameters": params},
    beside or {},
    each="token",
    remedies=(
      "fewer language_model.num_slots",
      "a smaller CollectSettings.rows_per_call",
    ),
  )


def verifier_step(
  config: VerifierConfig,
  optimizer: optax.GradientTransformation,
  layout: Layout,
  *,
  batch_size: int,
  num_tokens: int,
  num_steps: int,
  aux_weight: float = 0.0,
  chunk: int = 50,
) -> Program:
  """Steps of a verifier's training, as `runs.verifier` makes them."""
  partitioning.check_batch_size(layout.mesh, batch_size)
  fitter = value_fitting.fitter(
    config, optimizer, layout, aux_weight=aux_weight
  )
  state = _fit_state(fitter, abstract_arrays.verifier_of(config, layout).params)

  def rows(size, dtype):
    return jax.ShapeDtypeStruct(
      (chunk, batch_size, size), dtype, sharding=fitting.batch_sharding(layout)
    )

  batches = Examples(
    tokens=rows(num_tokens, jnp.int32),
    prefix_len=rows(num_steps + 1, jnp.int32),
    label=rows(num_steps + 1, jnp.float32),
    weight=rows(num_steps + 1, jnp.float32),
    imitated=rows(num_steps, jnp.bool_),
  )
  return _train_steps(
    "verifier step",
    fitter,
    state,
    batches,
    remedies=(
      *_remat(config.trunk, "PretrainedBackbone.remat"),
      "a smaller BATCH_SIZE",
    ),
  )


def scoring(
  config: VerifierConfig,
  layout: Layout,
  *,
  num_rows: int,
  num_tokens: int,
  num_steps: int,
  beside: Mapping[str, PyTree] | None = None,
) -> Program:
  """A verifier's values of all prefixes of traces, in one pass."""
  verifier = abstract_arrays.verifier_of(config, layout)
  score = jax.jit(lambda verifier, rollout: verifier(None, rollout))
  rollout = abstract_arrays.rollout_of(
    layout, num_rows, num_tokens, num_steps, split=True
  )
  return Program(
    "verifier scoring",
    lambda: score.lower(verifier, rollout),
    {"parameters": verifier.params},
    beside or {},
  )


def beam_round(
  policy: LanguageModel,
  value_function: ValueFunction,
  layout: Layout,
  *,
  settings: Settings,
  num_problems: int,
  prompt_len: int,
  max_step_tokens: int | None = None,
) -> Program:
  """A beam search, whose rounds are a loop on the device."""
  policy = dataclasses.replace(policy, layout=layout)
  params = abstract_arrays.params_of(policy.config, layout)
  whole = functools.partial(abstract_arrays.whole, layout)
  run = jax.jit(
    functools.partial(
      search, policy, settings=settings, max_step_tokens=max_step_tokens
    )
  )
  ids = whole((num_problems,), jnp.int32)
  return Program(
    "beam search",
    lambda: run.lower(
      params,
      value_function,
      abstract_arrays.key(layout),
      whole((num_problems, prompt_len), jnp.int32),
      ids,
      ids,
      alpha=whole((num_problems,), jnp.float32),
    ),
    {"policy": params, "verifiers": value_function},
    each="round",
    remedies=("a smaller BEAMS_PER_CALL", "a smaller MAX_STEP_TOKENS"),
  )


def rl_state(trainer: Trainer) -> RlState:
  """What an iteration of reinforcement learning starts from.

  Args:
    trainer: of an arm, with a `Hosted` placement on the layout.
  """
  policy, layout = trainer.policy, trainer.placement.layout
  params = abstract_arrays.params_of(policy.model.config, layout)
  shapes = jax.eval_shape(trainer.init_state, jax.random.key(0), params)
  trained, _ = adapters.split(params)
  where = jax.tree.map(lambda x: x.sharding, trained)
  structure = jax.tree.structure(trained)
  whole = partitioning.replicated(layout.mesh)

  def like_params(tree):
    return jax.tree.structure(tree) == structure

  def lay_out(tree):
    if like_params(tree):
      return abstract_arrays.place(tree, where)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree
    )

  return jax.tree.map(lay_out, shapes, is_leaf=like_params)


def reinforcement(
  trainer: Trainer,
  *,
  num_tokens: int,
  name: str | None = None,
  beside: Mapping[str, PyTree] | None = None,
) -> Program:
  """An update of a policy from graded rollouts.

  Args:
    trainer: see `rl_state`.
    num_tokens: T.
    name: of the program.
    beside: see `Program`.
  """
  arm, layout = trainer.arm, trainer.placement.layout
  policy = trainer.policy.on(layout)
  num_rows = trainer.num_problems * trainer.num_samples
  num_steps = policy.model.max_steps
  state = rl_state(trainer)
  params = abstract_arrays.params_of(policy.model.config, layout)
  _, base = adapters.split(params)
  rollout = abstract_arrays.rollout_of(
    layout, num_rows, num_tokens, num_steps, split=True
  )
  whole = functools.partial(abstract_arrays.whole, layout)
  q = whole((num_rows, num_steps + 1), jnp.float32)
  _, outer = provers.split_pure(arm.prover)

  def lower():
    return rl_placement.learn.lower(
      policy,
      (outer, trainer.estimator, arm.update),
      state,
      Experience(rollout, rollout.logp, q if arm.prover else None),
      whole((), jnp.float32),
      base=base,
      num_updates=arm.num_updates,
      num_minibatches=arm.num_minibatches,
    )

  return Program(
    name or f"RL update ({type(arm.update).__name__})",
    lower,
    _parts(
      {
        "parameters": state.params,
        "base": base,
        "state of the update": state.update,
        "value function": state.credit,
        "prover": state.prover,
      }
    ),
    beside or {},
    remedies=(
      *_remat(policy.model.config, "PolicyCheckpoint.remat"),
      "a smaller NUM_PROBLEMS or NUM_SAMPLES",
    ),
  )


def log_probabilities(
  policy: LanguageModel,
  layout: Layout,
  *,
  num_rows: int,
  num_tokens: int,
  beside: Mapping[str, PyTree] | None = None,
) -> Program:
  """Log-probabilities of rollouts under the start."""
  policy = dataclasses.replace(policy, layout=layout)
  params = abstract_arrays.params_of(policy.config, layout)
  rollout = abstract_arrays.rollout_of(
    layout, num_rows, num_tokens, policy.max_steps, split=True
  )
  return Program(
    "log-probabilities",
    lambda: rl_placement.logp.lower(policy, params, rollout),
    {"parameters": params},
    beside or {},
  )


def _fit_state(fitter: Fitter, params: PyTree) -> FitState:
  trained, base = fitter.split(params)
  moments = jax.eval_shape(fitter.optimizer.init, trained)
  moments = abstract_arrays.place(moments, fitter.shardings.optimizer)
  return FitState(trained, moments, base)


def _parts(parts: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """Those that there are, for a report."""
  return {name: tree for name, tree in parts.items() if jax.tree.leaves(tree)}


def _remat(config: TransformerConfig, setting: str) -> tuple[str, ...]:
  return () if config.remat == "full" else (f"{setting}='full'",)
