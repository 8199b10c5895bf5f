"""Which programs an experiment compiles, by what gin has bound."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax

from pav_jax.cli import bindings
from pav_jax.data import step_targets
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies import for_problem
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.completions import ROWS_PER_TEXT
from pav_jax.provers.rollout_values import WellFormed
from pav_jax.provers.verifier import Verifier
from pav_jax.runs.rl_arms import Candidates
from pav_jax.search.judging import Judge
from pav_jax.training import sft
from pav_jax.training.language_arm import LanguageArm
from pav_jax.training.trunks import PretrainedTrunk
from tools import abstract_arrays
from tools import compiled_programs as make
from tools.compiled_programs import Program
from tools.outline import network_at, verifier_at

# Rows of a call, where runs do not say: `training.evaluation.evaluate`, and
# `training.verifier_evaluation.score`.
_EVALUATED, _SCORED = 2048, 64


class _OnHost:
  """A prover whose values come from the host: no program of its own."""

  lazy = True  # see `bindings.bound`


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
  mesh_of = functools.partial(partitioning.make_mesh, devices=devices)
  layout = Layout(
    mesh_of(**gin.get_bindings("make_mesh", resolve_references=True))
  )
  stand_ins = {
    "make_mesh": lambda **_: layout.mesh,
    "load_verifier": lambda path, k=1, **_: abstract_arrays.verifier_of(
      verifier_at(path), layout, k
    ),
    "fixed_verifier": lambda path, problem, k=1, **_: (
      abstract_arrays.verifier_of(verifier_at(path), layout, k)
    ),
    "ClosedForm": _OnHost,
    "measured_values": _OnHost,
  }
  settings = bindings.bound(reference.selector, stand_ins)
  return _EXPERIMENTS[name](settings, layout)


def _policy(settings: Mapping[str, Any], path: str) -> LanguageModel:
  build = settings.get("make_policy", for_problem.language_model)
  return build(network_at(path), settings["problem"])


def _finetune(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  policy, stages = settings["policy"], settings["stages"]
  optimizer = (settings.get("optimizer") or sft.AdamW())(sft.schedule(stages))
  batches = stages[0].batches
  step = make.sft_step(
    policy.config,
    optimizer,
    layout,
    num_rows=batches.num_rows,
    row_length=batches.row_length,
    chunk=settings.get("chunk", 50),
  )
  validation = settings["validation"]
  each = min(
    max(1, _EVALUATED // validation.num_samples), validation.num_problems
  )
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=each,
    prompt_len=settings["problem"].prompt_len,
    num_samples=validation.num_samples,
    beside={"optimiser state": step.parts["optimiser state"]},
  )
  return [step, sampled]


def _rejection(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  policy = _policy(settings, settings["policy"])
  optimizer = (settings.get("optimizer") or sft.AdamW())(
    settings["learning_rate"]
  )
  step = make.sft_step(
    policy.config,
    optimizer,
    layout,
    num_rows=settings.get("num_rows", 32),
    row_length=settings["row_length"],
  )
  number = settings.get("num_samples", 8)
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=min(max(1, _EVALUATED // number), settings["num_problems"]),
    prompt_len=settings["problem"].prompt_len,
    num_samples=number,
  )
  return [step, sampled]


def _fit_verifier(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  trunk, problem = settings["trunk"], settings["problem"]
  schedule = settings["schedule"]
  config = VerifierConfig(_trunk(trunk), settings.get("reader_layers", 0))
  num_tokens, num_steps = _trace_sizes(settings["data"], problem)
  step = make.verifier_step(
    config,
    schedule.optimizer(settings.get("optimizer") or sft.AdamW()),
    layout,
    batch_size=schedule.batch_size,
    num_tokens=num_tokens,
    num_steps=num_steps,
    aux_weight=settings.get("aux_weight", 0.0),
    chunk=settings.get("chunk", 50),
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


def _trunk(trunk: Any) -> TransformerConfig:
  if not isinstance(trunk, PretrainedTrunk):
    return trunk.config
  config = network_at(trunk.path)
  param_dtype = trunk.param_dtype or config.param_dtype
  return dataclasses.replace(
    config,
    num_layers=trunk.num_layers or config.num_layers,
    param_dtype=param_dtype,
    dtype=trunk.dtype or param_dtype,
    remat=trunk.remat,
  )


def _trace_sizes(data: str, problem: Any) -> tuple[int, int]:
  """Tokens and steps of traces: those of the data, or the most there may be."""
  try:
    manifest = step_targets.read_manifest(data)
  except (OSError, ValueError):
    return problem.prompt_len + problem.max_response_len, problem.max_steps
  return manifest.max_tokens, manifest.max_prefixes - 1


def _collect(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  problem, strategy = settings["problem"], settings["strategy"]
  policy = _policy(settings, settings["policy"])
  prover = policy
  if settings.get("prover"):
    prover = _policy(settings, settings["prover"])
  beside = {}
  if prover is not policy:
    beside = {"prover": abstract_arrays.params_of(prover.config, layout)}
  seeds = make.sampling(
    policy,
    layout,
    num_prompts=settings.get("problems_per_shard", 32),
    prompt_len=problem.prompt_len,
    num_samples=strategy.num_seeds,
    beside=beside,
  )
  number = strategy.num_completions
  width = min(-(-ROWS_PER_TEXT // number), policy.max_steps)
  rows = settings.get("rows_per_call", 1024)
  completed = make.collection(
    prover,
    layout,
    num_traces=max(rows // (number * width), 1),
    num_prefixes=width,
    num_completions=number,
    num_tokens=problem.prompt_len + policy.max_new_tokens,
    beside={} if prover is policy else {"policy": seeds.parts["parameters"]},
  )
  return [seeds, completed]


def _search(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  problem, verifier = settings["problem"], settings["verifier"]
  policy = for_problem.language_model(
    network_at(settings["policy"]),
    problem,
    temperature=settings.get("temperature", 1.0),
  )
  number = settings.get("num_samples", 128)
  problems = settings.get("num_problems", 512)
  sampled = make.sampling(
    policy,
    layout,
    num_prompts=min(
      max(1, settings.get("rows_per_call", 4096) // number), problems
    ),
    prompt_len=problem.prompt_len,
    num_samples=number,
    beside={"verifier": verifier},
  )
  found = [sampled]
  if isinstance(verifier, Verifier):
    found.append(
      make.scoring(
        verifier.config,
        layout,
        num_rows=min(512, problems * number),
        num_tokens=problem.prompt_len + policy.max_new_tokens,
        num_steps=policy.max_steps,
        beside={"policy": sampled.parts["parameters"]},
      )
    )
  seen = {}
  for arm in settings["arms"]:
    largest = max(arm.ns or settings.get("ns", (1, 2, 4, 8, 16)))
    beams = arm.settings(largest, policy.max_steps)
    judge = Judge(verifier, arm.prover, float(arm.k))
    if not judge.is_cached:
      continue  # its rounds are a loop of Python's, around values of the host
    seen.setdefault((beams, arm.prover is None), (beams, judge))
  width = settings.get("beams_per_call", 1024) * 3
  for beams, judge in seen.values():
    each = width // (beams.num_beams * beams.num_candidates)
    found.append(
      make.beam_round(
        policy,
        judge,
        layout,
        settings=beams,
        num_problems=min(max(1, each), problems),
        prompt_len=problem.prompt_len,
        max_step_tokens=settings.get("max_step_tokens"),
      )
    )
  return found


def _reinforce(settings: Mapping[str, Any], layout: Layout) -> list[Program]:
  problem = settings["problem"]
  policy = _policy(settings, settings["policy"])
  problems = settings.get("num_problems", 16)
  number = settings.get("num_samples", 8)
  sizes = {
    "num_rows": problems * number,
    "num_tokens": problem.prompt_len + policy.max_new_tokens,
  }
  arms = []
  for arm in settings["arms"]:
    arms.append(arm.arms[0] if isinstance(arm, Candidates) else arm)
  found, start = [], abstract_arrays.params_of(policy.config, layout)
  seen = set()
  for arm in arms:
    prover = _verifier(arm)
    alone = arm.reward.prover is None
    key = (jax.tree.structure(arm.update), alone, arm.baseline)
    if key in seen:
      continue
    seen.add(key)
    beside = {"start": start}
    if prover is not None:
      beside["verifier"] = prover.params
    found.append(
      make.reinforcement(
        arm,
        policy,
        layout,
        **sizes,
        beside=beside,
        name=f"RL update ({arm.name})",
      )
    )
  state = make.rl_state(arms[0], policy, layout)
  beside = {"start": start, "state of the update": state.update}
  verifiers = [v for v in map(_verifier, arms) if v is not None]
  if verifiers:
    found.insert(
      0,
      make.scoring(
        verifiers[0].config,
        layout,
        num_rows=sizes["num_rows"],
        num_tokens=sizes["num_tokens"],
        num_steps=policy.max_steps,
        beside=beside | {"policy": start},
      ),
    )
    beside["verifier"] = verifiers[0].params
  return [
    make.sampling(
      policy,
      layout,
      num_prompts=problems,
      prompt_len=problem.prompt_len,
      num_samples=number,
      beside=beside,
    ),
    make.log_probabilities(policy, layout, **sizes, beside=beside),
    *found,
  ]


def _verifier(arm: LanguageArm) -> Verifier | None:
  """The verifier by whose values an arm is rewarded, if it is by one's."""
  prover = arm.reward.prover
  prover = prover.prover if isinstance(prover, WellFormed) else prover
  return prover if isinstance(prover, Verifier) else None


_EXPERIMENTS: Mapping[str, Callable[..., list[Program]]] = {
  "finetune": _finetune,
  "rejection_finetune": _rejection,
  "fit_verifier": _fit_verifier,
  "collect": _collect,
  "search": _search,
  "reinforce": _reinforce,
}
