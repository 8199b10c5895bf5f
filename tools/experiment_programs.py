"""Which programs an experiment compiles, by what gin has bound."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax

from pav_jax.cli import bindings, registry
from pav_jax.data import step_targets
from pav_jax.models import adapters, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies import for_problem
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers import base as provers
from pav_jax.provers.completions import ROWS_PER_TEXT
from pav_jax.provers.verifier import Verifier
from pav_jax.runs.collect import CollectSettings
from pav_jax.runs.compare_searches import SearchSettings
from pav_jax.runs.finetune import FinetuneSettings
from pav_jax.runs.fit_verifier import VerifierSettings
from pav_jax.runs.reinforce import RlSettings
from pav_jax.runs.rejection import RejectionSettings
from pav_jax.runs.rl_arms import Candidates
from pav_jax.runs.rl_start import PolicyCheckpoint
from pav_jax.search.value_function import value_function
from pav_jax.training import sft
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted
from tools import abstract_arrays
from tools import compiled_programs as make
from tools.compiled_programs import Program
from tools.outline import network_at, verifier_at

# Rows of a call, where runs do not say: `training.evaluation.evaluate`, and
# `training.verifier_evaluation.score`.
_EVALUATED, _SCORED = 2048, 64


class _OnHost(provers.FixedProver):
  """A prover whose values come from the host: no program of its own."""

  lazy = True  # see `bindings.bound`
  placement = "host"

  def __call__(self, key, rollout):
    """Is not called."""
    raise NotImplementedError


def programs(devices: Sequence[jax.Device]) -> list[Program]:
  """The programs of the experiment that gin has parsed.

  Args:
    devices: the mesh's; its axes are those of `make_mesh` as gin has bound it.

  Raises:
    ValueError: for an experiment without such programs, or settings that its
      run would refuse as well.
  """
  reference = gin.get_bindings("run", resolve_references=False).get(
    "experiment"
  )
  name = getattr(reference, "selector", "none").rsplit(".", 1)[-1]
  if name not in _EXPERIMENTS:
    raise ValueError(
      f"run.experiment is {name}, expected one of {', '.join(_EXPERIMENTS)}; "
      "of a pipeline check the parts' gin files one by one"
    )
  registry.register("make_mesh")  # not every experiment names it
  mesh_of = functools.partial(partitioning.make_mesh, devices=devices)
  layout = Layout(
    mesh_of(**gin.get_bindings("make_mesh", resolve_references=True))
  )

  def verifier(path, *, dtype=None, **_):
    return abstract_arrays.verifier_of(verifier_at(path), layout, dtype)

  stand_ins = {
    "make_mesh": lambda **_: layout.mesh,
    "load_verifier": verifier,
    "fixed_verifier": verifier,
    "ClosedForm": _OnHost,
    "measured_values": _OnHost,
  }
  settings = bindings.bound(reference.selector, stand_ins)
  return _EXPERIMENTS[name](settings, layout)


def _policy(settings: Mapping[str, Any], path: str) -> LanguageModel:
  build = settings.get("make_policy", for_problem.language_model)
  return build(network_at(path), settings["problem"])


def _loaded(
  settings: CollectSettings | RejectionSettings, path: str
) -> LanguageModel:
  config = _as_loaded(network_at(path), settings)
  return settings.make_policy(config, settings.problem)


def _as_loaded(config: TransformerConfig, settings: Any) -> TransformerConfig:
  """A checkpoint's network as `hf.load` gives it with these settings."""
  param_dtype = settings.param_dtype or config.param_dtype
  return dataclasses.replace(
    config,
    param_dtype=param_dtype,
    dtype=settings.dtype or param_dtype,
    remat=settings.remat,
  )


def _finetune(bound: Mapping[str, Any], layout: Layout) -> list[Program]:
  settings: FinetuneSettings = bound["settings"]
  policy, stages = settings.policy, settings.stages
  batches = stages[0].batches
  step = make.sft_step(
    policy.config,
    settings.optimizer(sft.schedule(stages)),
    layout,
    num_rows=batches.num_rows,
    row_length=batches.row_length,
    chunk=settings.chunk,
  )
  evaluation = settings.evaluation
  each = min(
    max(1, _EVALUATED // evaluation.num_samples), evaluation.num_problems
  )
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=each,
    prompt_len=settings.problem.prompt_len,
    num_samples=evaluation.num_samples,
    beside={"optimiser state": step.parts["optimiser state"]},
  )
  return [step, sampled]


def _rejection(bound: Mapping[str, Any], layout: Layout) -> list[Program]:
  settings: RejectionSettings = bound["settings"]
  policy = _loaded(settings, settings.policy)
  step = make.sft_step(
    dataclasses.replace(policy.config, lora=settings.lora),
    settings.optimizer(settings.learning_rate),
    layout,
    num_rows=settings.num_rows,
    row_length=settings.row_length,
    chunk=settings.chunk,
  )
  number = settings.num_samples
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=min(max(1, _EVALUATED // number), settings.num_problems),
    prompt_len=settings.problem.prompt_len,
    num_samples=number,
  )
  return [step, sampled]


def _fit_verifier(bound: Mapping[str, Any], layout: Layout) -> list[Program]:
  settings: VerifierSettings = bound["settings"]
  schedule, backbone = settings.schedule, settings.backbone
  network = _as_loaded(network_at(backbone.path), backbone)
  network = dataclasses.replace(network, lora=backbone.lora)
  if backbone.num_layers:
    network = dataclasses.replace(network, num_layers=backbone.num_layers)
  config = VerifierConfig(network, settings.reader_layers)
  num_tokens, num_steps = _trace_sizes(settings.data, settings.problem)
  step = make.verifier_step(
    config,
    schedule.optimizer(settings.optimizer),
    layout,
    batch_size=schedule.batch_size,
    num_tokens=num_tokens,
    num_steps=num_steps,
    aux_weight=settings.aux_weight,
    chunk=settings.chunk,
  )
  scored = make.scoring(
    config,
    layout,
    num_rows=_SCORED,
    num_tokens=num_tokens,
    num_steps=num_steps,
    beside={"optimiser state": step.parts["optimiser state"]},
  )
  return [step, scored]


def _trace_sizes(data: str, problem: Any) -> tuple[int, int]:
  """Tokens and steps of traces: those of the data, or the most there may be."""
  try:
    manifest = step_targets.read_manifest(data)
  except (OSError, ValueError):
    return problem.prompt_len + problem.max_response_len, problem.max_steps
  return manifest.max_tokens, manifest.max_prefixes - 1


def _collect(bound: Mapping[str, Any], layout: Layout) -> list[Program]:
  settings: CollectSettings = bound["settings"]
  problem, strategy = settings.problem, settings.strategy
  policy = prover = _loaded(settings, settings.policy)
  if settings.prover:
    prover = _loaded(settings, settings.prover)
  beside = {}
  if prover is not policy:
    beside = {"prover": abstract_arrays.params_of(prover.config, layout)}
  seeds = make.sampling(
    policy,
    layout,
    num_prompts=settings.problems_per_shard,
    prompt_len=problem.prompt_len,
    num_samples=strategy.num_seeds,
    beside=beside,
  )
  number = strategy.num_completions
  width = min(-(-ROWS_PER_TEXT // number), policy.max_steps)
  completed = make.collection(
    prover,
    layout,
    num_traces=max(settings.rows_per_call // (number * width), 1),
    num_prefixes=width,
    num_completions=number,
    num_tokens=problem.prompt_len + policy.max_new_tokens,
    beside={} if prover is policy else {"policy": seeds.parts["parameters"]},
  )
  return [seeds, completed]


def _search(bound: Mapping[str, Any], layout: Layout) -> list[Program]:
  settings: SearchSettings = bound["settings"]
  problem, number = settings.problem, settings.num_samples
  config = network_at(settings.policy)
  if settings.dtype:
    config = dataclasses.replace(config, dtype=settings.dtype)
  policy = for_problem.language_model(
    config, problem, temperature=settings.temperature
  )
  own = value_function(settings.verifier)
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=min(
      max(1, settings.rows_per_call // number), settings.num_problems
    ),
    prompt_len=problem.prompt_len,
    num_samples=number,
    beside={"verifiers": own},
  )
  programs = [sampled]
  for network in own.networks:
    programs.append(
      make.scoring(
        network,
        layout,
        num_rows=min(512, settings.num_problems * number),
        num_tokens=problem.prompt_len + policy.max_new_tokens,
        num_steps=policy.max_steps,
        beside={"policy": sampled.parts["parameters"]},
      )
    )
  seen = {}
  for arm in settings.arms:
    beams = arm.settings(arm.sizes(settings.ns)[-1], policy.max_steps)
    values = value_function(settings.verifier, arm.prover)
    if not values.is_cached:
      continue  # its rounds are a loop of Python's, around values of the host
    seen.setdefault((beams, len(values.readers)), (beams, values))
  width = settings.beams_per_call * 3
  for beams, values in seen.values():
    each = width // (beams.num_beams * beams.num_candidates)
    programs.append(
      make.beam_round(
        policy,
        values,
        layout,
        settings=beams,
        num_problems=min(max(1, each), settings.num_problems),
        prompt_len=problem.prompt_len,
        max_step_tokens=settings.max_step_tokens,
      )
    )
  return programs


def _reinforce(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  run: RlSettings = settings["settings"]
  start, problem = run.start, run.problem
  if not isinstance(start, PolicyCheckpoint):
    raise ValueError(
      f"reinforce starts from {type(start).__name__}, expected a "
      "PolicyCheckpoint of a language model"
    )
  config = network_at(start.path)
  param_dtype = start.param_dtype or config.param_dtype
  config = dataclasses.replace(
    config,
    param_dtype=param_dtype,
    dtype=start.dtype or param_dtype,
    remat=start.remat,
    lora=start.lora,
  )
  model = start.make_policy(config, problem)
  policy = for_problem.ProblemPolicy(model, problem)
  sizes = {"num_tokens": problem.prompt_len + model.max_new_tokens}
  num_rows = run.num_problems * run.num_samples
  arms = [
    arm.arms[0] if isinstance(arm, Candidates) else arm for arm in run.arms
  ]
  trainers = [
    Trainer(
      arm, policy, problem, Hosted(layout), run.num_problems, run.num_samples
    )
    for arm in arms
  ]
  started = abstract_arrays.params_of(config, layout)
  # The base is one with that of the policy in training, and an argument.
  apart, _ = adapters.split(started)
  programs, seen = [], set()
  for arm, trainer in zip(arms, trainers, strict=True):
    prover = _verifier(arm)
    estimator = jax.tree.structure(trainer.estimator)
    key = jax.tree.structure(arm.update), arm.prover is None, estimator
    if key in seen:
      continue
    seen.add(key)
    beside = {"start": apart}
    if prover is not None:
      beside["verifier"] = prover.params
    programs.append(
      make.reinforcement(
        trainer, **sizes, beside=beside, name=f"RL update ({arm.name})"
      )
    )
  # All that one arm keeps on the devices while it samples or scores.
  verifiers = [
    (trainer, verifier)
    for trainer in trainers
    if (verifier := _verifier(trainer.arm)) is not None
  ]
  trainer = verifiers[0][0] if verifiers else trainers[0]
  state = make.rl_state(trainer)
  beside = {
    "start": apart,
    "state of the update": state.update,
    "value function": state.credit,
  }
  if verifiers:
    verifier = verifiers[0][1]
    programs.insert(
      0,
      make.scoring(
        verifier.config,
        layout,
        num_rows=num_rows,
        num_steps=model.max_steps,
        beside=beside | {"policy": started},
        **sizes,
      ),
    )
    beside["verifier"] = verifier.params
  return [
    make.sampling(
      model,
      layout,
      num_prompts=run.num_problems,
      prompt_len=problem.prompt_len,
      num_samples=run.num_samples,
      beside=beside,
    ),
    make.log_probabilities(
      model, layout, num_rows=num_rows, beside=beside, **sizes
    ),
    *programs,
  ]


def _verifier(arm: Arm) -> Verifier | None:
  """The verifier by whose values an arm is rewarded, if it is by one's."""
  if arm.prover is None:
    return None
  inner, _ = provers.split(arm.prover)
  return inner if isinstance(inner, Verifier) else None


_EXPERIMENTS: Mapping[str, Callable[..., list[Program]]] = {
  "finetune": _finetune,
  "rejection_finetune": _rejection,
  "fit_verifier": _fit_verifier,
  "collect": _collect,
  "search": _search,
  "reinforce": _reinforce,
}
