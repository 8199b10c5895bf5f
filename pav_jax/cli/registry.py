"""What experiments may name in gin files, and where it is.

The libraries know nothing of gin: a function or class becomes a configurable by
a line in this table, and its module is imported when a gin file names it. Other
code, such as problems of your own, registers with `gin.register`.
"""

import importlib
import re

import gin

# module -> name in gin files -> attribute of the module
CONFIGURABLES = {
  "pav_jax.cli.configuration": {
    "run": "run",
  },
  "pav_jax.cli.pipeline": {
    "Part": "Part",
    "pipeline": "pipeline",
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
  "pav_jax.models.partitioning": {
    "make_mesh": "make_mesh",
  },
  "pav_jax.models.transformer_config": {
    "TransformerConfig": "TransformerConfig",
    "preset": "preset",
  },
  "pav_jax.models.value_network": {
    "VerifierConfig": "VerifierConfig",
  },
  "pav_jax.policies.for_problem": {
    "language_model": "language_model",
  },
  "pav_jax.policies.language_model": {
    "LanguageModel": "LanguageModel",
  },
  "pav_jax.policies.made_policy": {
    "MadePolicy": "MadePolicy",
    "MadeValue": "MadeValue",
  },
  "pav_jax.problems.chain.chain": {
    "Chain": "Chain",
    "clean_teacher": "clean_teacher",
  },
  "pav_jax.problems.chain.error_rates": {
    "ErrorRateValues": "ErrorRateValues",
    "measured_values": "measured_values",
  },
  "pav_jax.problems.chain.operations": {
    "Operation": "Operation",
    "harder": "harder",
  },
  "pav_jax.problems.countdown": {
    "Countdown": "Countdown",
  },
  "pav_jax.problems.grading": {
    "NormalizedMatch": "NormalizedMatch",
    "SymbolicMatch": "SymbolicMatch",
  },
  "pav_jax.problems.gsm8k": {
    "GSM8K": "GSM8K",
  },
  "pav_jax.problems.mathematics": {
    "MATH": "MATH",
  },
  "pav_jax.problems.pieces": {
    "SentencePieceVocabulary": "SentencePieceVocabulary",
  },
  "pav_jax.problems.planted": {
    "Planted": "Planted",
  },
  "pav_jax.problems.prompt_format": {
    "PromptFormat": "PromptFormat",
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
  "pav_jax.provers.best_of_k": {
    "BestOfK": "BestOfK",
  },
  "pav_jax.provers.budget": {
    "Budget": "Budget",
    "EarlyStopping": "EarlyStopping",
  },
  "pav_jax.provers.procedural": {
    "Procedural": "Procedural",
  },
  "pav_jax.provers.rollout_values": {
    "ClosedForm": "ClosedForm",
    "OwnCompletions": "OwnCompletions",
    "WellFormed": "WellFormed",
    "WithinLimit": "WithinLimit",
  },
  "pav_jax.provers.verifier": {
    "load_verifier": "load",
  },
  "pav_jax.runs.collect": {
    "collect": "collect",
  },
  "pav_jax.runs.compare": {
    "compare": "compare",
  },
  "pav_jax.runs.compare_searches": {
    "Tuning": "Tuning",
    "search": "compare_searches",
  },
  "pav_jax.runs.finetune": {
    "finetune": "finetune",
  },
  "pav_jax.runs.fit_verifier": {
    "fit_verifier": "fit_verifier",
  },
  "pav_jax.runs.rejection": {
    "rejection_finetune": "rejection_finetune",
  },
  "pav_jax.runs.rl": {
    "reinforce": "reinforce",
  },
  "pav_jax.runs.rl_arms": {
    "Candidates": "Candidates",
    "fixed_verifier": "fixed_verifier",
    "grid": "grid",
  },
  "pav_jax.runs.search_arms": {
    "BeamArm": "Arm",
  },
  "pav_jax.runs.show_traces": {
    "inspect_traces": "inspect_traces",
  },
  "pav_jax.search.judging": {
    "Judge": "Judge",
  },
  "pav_jax.training.baselines": {
    "BatchMean": "BatchMean",
    "GroupMean": "GroupMean",
    "LearnedBaseline": "LearnedBaseline",
    "NoBaseline": "NoBaseline",
  },
  "pav_jax.training.collect_first_pits": {
    "FirstPits": "FirstPits",
  },
  "pav_jax.training.collect_seeds": {
    "IndependentSeeds": "IndependentSeeds",
  },
  "pav_jax.training.imitation": {
    "ImitateProver": "ImitateProver",
  },
  "pav_jax.training.initial": {
    "Pretrained": "Pretrained",
    "random_params": "random_params",
  },
  "pav_jax.training.labelling": {
    "Labelling": "Labelling",
  },
  "pav_jax.training.language_arm": {
    "LanguageArm": "LanguageArm",
  },
  "pav_jax.training.probes": {
    "Thresholds": "Thresholds",
  },
  "pav_jax.training.rewards": {
    "Reward": "Reward",
  },
  "pav_jax.training.rl": {
    "Arm": "Arm",
  },
  "pav_jax.training.rl_evaluation": {
    "HeldOut": "HeldOut",
  },
  "pav_jax.training.rl_text": {
    "RateSchedule": "RateSchedule",
  },
  "pav_jax.training.sft": {
    "AdamW": "AdamW",
    "Muon": "Muon",
    "Stage": "Stage",
  },
  "pav_jax.training.trunks": {
    "PretrainedTrunk": "PretrainedTrunk",
    "RandomTrunk": "RandomTrunk",
  },
  "pav_jax.training.updates": {
    "Gradient": "Gradient",
    "NaturalGradient": "NaturalGradient",
  },
  "pav_jax.training.validation": {
    "Validation": "Validation",
  },
  "pav_jax.training.value_fitting": {
    "Schedule": "Schedule",
  },
}

_PLACES = {
  name: (module, attribute)
  for module, names in CONFIGURABLES.items()
  for name, attribute in names.items()
}

_registered: set[str] = set()


def names() -> list[str]:
  """All names of the table."""
  return sorted(_PLACES)


def register(*texts: str) -> None:
  """Registers with gin whatever of the table is named in texts of gin files."""
  words = set(re.findall(r"[A-Za-z_]\w*", "\n".join(texts)))
  for name in sorted(words & _PLACES.keys() - _registered):
    _register(name)


def register_all() -> None:
  """Registers the whole table, which imports most of the package."""
  register(*_PLACES)


def _register(name: str) -> None:
  module, attribute = _PLACES[name]
  _registered.add(name)
  configurable = getattr(importlib.import_module(module), attribute)
  gin.register(name, module=module)(configurable)
