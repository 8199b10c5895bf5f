"""What experiments may name in gin files, and where it is.

The libraries know nothing of gin: a function or class becomes a configurable by
a line in this table, and its module is imported when a gin file names it. A
problem with a room of its own within `problems` lists its names itself, in the
`__all__` of its room. Other code, such as problems of your own, registers with
`gin.register`.
"""

import importlib
import pkgutil
import re

import gin

from pav_jax import problems
from pav_jax.cli.quick import quick_imports

# module -> name in gin files -> attribute of the module
CONFIGURABLES = {
  "pav_jax.cli.configuration": {
    "run": "run",
  },
  "pav_jax.cli.pipeline": {
    "Part": "Part",
    "pipeline": "pipeline",
  },
  "pav_jax.credit.estimators": {
    "EffectiveReward": "EffectiveReward",
    "dapo": "dapo",
    "dr_grpo": "dr_grpo",
    "gae": "gae",
    "grpo": "grpo",
    "outcome": "outcome",
    "pure": "pure",
    "rloo": "rloo",
    "vine": "vine",
  },
  "pav_jax.credit.implicit": {
    "prime": "prime",
    "progress_advantage": "progress_advantage",
  },
  "pav_jax.credit.trees": {
    "gigpo": "gigpo",
    "spo_tree": "spo_tree",
    "tree_rl": "tree_rl",
  },
  "pav_jax.data.mixtures": {
    "Mixture": "Mixture",
  },
  "pav_jax.data.packed_tasks": {
    "PackedTask": "PackedTask",
  },
  "pav_jax.data.packing": {
    "Demonstrations": "Demonstrations",
  },
  "pav_jax.data.tasks": {
    "register": "register",
  },
  "pav_jax.models.made": {
    "MadeConfig": "MadeConfig",
  },
  "pav_jax.models.model": {
    "read_config": "read_config",
  },
  "pav_jax.models.partitioning": {
    "make_mesh": "make_mesh",
  },
  "pav_jax.models.presets": {
    "preset": "preset",
  },
  "pav_jax.models.tokenizer": {
    "Tokenizer": "Tokenizer",
  },
  "pav_jax.models.transformer_config": {
    "KeptTokens": "KeptTokens",
    "Lora": "Lora",
    "TransformerConfig": "TransformerConfig",
  },
  "pav_jax.models.value_network": {
    "VerifierConfig": "VerifierConfig",
  },
  "pav_jax.policies.for_problem": {
    "language_model": "language_model",
    "used_tokens": "used_tokens",
  },
  "pav_jax.policies.language_model": {
    "LanguageModel": "LanguageModel",
  },
  "pav_jax.policies.made_policy": {
    "MadePolicy": "MadePolicy",
    "MadeValue": "MadeValue",
  },
  "pav_jax.problems.countdown": {
    "Countdown": "Countdown",
  },
  "pav_jax.problems.grading": {
    "NormalizedMatch": "NormalizedMatch",
    "PublishedMatch": "PublishedMatch",
    "SymbolicMatch": "SymbolicMatch",
  },
  "pav_jax.problems.gsm8k": {
    "GSM8K": "GSM8K",
  },
  "pav_jax.problems.gym": {
    "ReasoningGym": "ReasoningGym",
    "TemplateGym": "TemplateGym",
  },
  "pav_jax.problems.gym_grading": {
    "GymGrader": "GymGrader",
  },
  "pav_jax.problems.gym_solvers": {
    "answer_alone": "answer_alone",
    "binary_alternation": "binary_alternation",
    "knights_knaves": "knights_knaves",
    "simple_equations": "simple_equations",
  },
  "pav_jax.problems.json_lines": {
    "JsonLines": "JsonLines",
  },
  "pav_jax.problems.mathematics": {
    "MATH": "MATH",
  },
  "pav_jax.problems.pieces": {
    "SentencePieceVocabulary": "SentencePieceVocabulary",
  },
  "pav_jax.problems.plain_text": {
    "PlainText": "PlainText",
  },
  "pav_jax.problems.planted": {
    "Planted": "Planted",
  },
  "pav_jax.problems.prompt_format": {
    "PromptFormat": "PromptFormat",
    "chat_prompt": "chat_prompt",
  },
  "pav_jax.problems.two_routes_text": {
    "TwoRoutesText": "TwoRoutesText",
  },
  "pav_jax.problems.vocabulary": {
    "Vocabulary": "Vocabulary",
  },
  "pav_jax.provers.adaptive": {
    "AdaptiveK": "AdaptiveK",
  },
  "pav_jax.provers.answer_now": {
    "AnswerNow": "AnswerNow",
  },
  "pav_jax.provers.base": {
    "PolicyValues": "PolicyValues",
  },
  "pav_jax.provers.best_of_k": {
    "BestOfK": "BestOfK",
  },
  "pav_jax.provers.budget": {
    "Budget": "Budget",
    "EarlyStopping": "EarlyStopping",
  },
  "pav_jax.provers.importance": {
    "ImportanceSampling": "ImportanceSampling",
  },
  "pav_jax.provers.monte_carlo": {
    "MonteCarlo": "MonteCarlo",
  },
  "pav_jax.provers.procedural": {
    "Procedural": "Procedural",
  },
  "pav_jax.provers.public": {
    "implicit_prover": "implicit_prover",
    "public_prover": "prover",
  },
  "pav_jax.provers.public.step_joining": {
    "ChatAnswer": "ChatAnswer",
    "ChatSteps": "ChatSteps",
    "SeparatedSteps": "SeparatedSteps",
    "TaggedSteps": "TaggedSteps",
    "TurnSteps": "TurnSteps",
  },
  "pav_jax.provers.rollout_values": {
    "ClosedForm": "ClosedForm",
    "WellFormed": "WellFormed",
    "WithinLimit": "WithinLimit",
  },
  "pav_jax.provers.verifier": {
    "load_verifier": "load",
  },
  "pav_jax.runs.collect": {
    "CollectSettings": "CollectSettings",
    "collect": "collect",
  },
  "pav_jax.runs.compare_searches": {
    "SearchSettings": "SearchSettings",
    "Tuning": "Tuning",
    "search": "compare_searches",
  },
  "pav_jax.runs.finetune": {
    "FinetuneSettings": "FinetuneSettings",
    "finetune": "finetune",
  },
  "pav_jax.runs.fit_verifier": {
    "VerifierSettings": "VerifierSettings",
    "fit_verifier": "fit_verifier",
  },
  "pav_jax.runs.rejection": {
    "RejectionSettings": "RejectionSettings",
    "rejection_finetune": "rejection_finetune",
  },
  "pav_jax.runs.reinforce": {
    "RlSettings": "RlSettings",
    "reinforce": "reinforce",
  },
  "pav_jax.runs.rl_arms": {
    "Candidates": "Candidates",
    "fixed_verifier": "fixed_verifier",
    "grid": "grid",
  },
  "pav_jax.runs.rl_fresh": {
    "FreshSamples": "FreshSamples",
  },
  "pav_jax.runs.rl_held_out": {
    "EvaluationConfig": "EvaluationConfig",
  },
  "pav_jax.runs.rl_start": {
    "FreshPolicy": "FreshPolicy",
    "PolicyCheckpoint": "PolicyCheckpoint",
  },
  "pav_jax.runs.search_arms": {
    "BeamArm": "BeamArm",
  },
  "pav_jax.runs.show_traces": {
    "InspectSettings": "InspectSettings",
    "inspect_traces": "inspect_traces",
  },
  "pav_jax.runs.step_benchmarks": {
    "BenchmarkSettings": "BenchmarkSettings",
    "step_benchmarks": "step_benchmarks",
  },
  "pav_jax.training.baselines": {
    "BatchMean": "BatchMean",
    "GroupMean": "GroupMean",
    "LearnedBaseline": "LearnedBaseline",
    "NoBaseline": "NoBaseline",
    "Credit": "less_baseline",
  },
  "pav_jax.training.collect_first_pits": {
    "FirstPits": "FirstPits",
  },
  "pav_jax.training.collect_seeds": {
    "IndependentSeeds": "IndependentSeeds",
  },
  "pav_jax.training.implicit_rewards": {
    "LearnedImplicit": "LearnedImplicit",
  },
  "pav_jax.training.imitation": {
    "ImitateProver": "ImitateProver",
  },
  "pav_jax.training.initial": {
    "Pretrained": "Pretrained",
    "PretrainedBackbone": "PretrainedBackbone",
    "random_params": "random_params",
  },
  "pav_jax.training.labelling": {
    "Labelling": "Labelling",
  },
  "pav_jax.training.learning_rate": {
    "LearningRateSchedule": "LearningRateSchedule",
  },
  "pav_jax.training.probes": {
    "Thresholds": "Thresholds",
  },
  "pav_jax.training.rl": {
    "Arm": "Arm",
  },
  "pav_jax.training.sft": {
    "AdamW": "AdamW",
    "Muon": "Muon",
    "Stage": "Stage",
  },
  "pav_jax.training.updates": {
    "Gradient": "Gradient",
    "NaturalGradient": "NaturalGradient",
  },
  "pav_jax.training.validation": {
    "FinetuneEvaluationConfig": "FinetuneEvaluationConfig",
  },
  "pav_jax.training.value_fitting": {
    "VerifierSchedule": "VerifierSchedule",
  },
}


def _problem_rooms() -> dict[str, list[str]]:
  """The rooms within `problems`, and the names that each lists."""
  rooms = pkgutil.iter_modules(problems.__path__, f"{problems.__name__}.")
  return {
    room.name: importlib.import_module(room.name).__all__
    for room in rooms
    if room.ispkg
  }


_PLACES = {
  name: (module, attribute)
  for module, names in CONFIGURABLES.items()
  for name, attribute in names.items()
} | {
  name: (module, name)
  for module, names in _problem_rooms().items()
  for name in names
}

_registered: set[str] = set()


def names() -> list[str]:
  """All names of the table."""
  return sorted(_PLACES)


def register(*texts: str) -> None:
  """Registers with gin whatever of the table is named in texts of gin files."""
  words = set(re.findall(r"[A-Za-z_]\w*", "\n".join(texts)))
  with quick_imports():
    for name in sorted(words & _PLACES.keys() - _registered):
      _register(name)


def _register(name: str) -> None:
  module, attribute = _PLACES[name]
  _registered.add(name)
  configurable = getattr(importlib.import_module(module), attribute)
  gin.register(name, module=module)(configurable)
