"""Process advantage verifiers in JAX.

Here are the pure functions, for use in other JAX code; importing them imports
jax and no other framework. What works on text, `load_policy`, `load_verifier`,
`beam_search` and `train`, imports more when it is first asked for, see `api`.
Equations and sections are those of "Rewarding Progress: Scaling Automated
Process Verifiers for LLM Reasoning" (arXiv 2410.08146). `natural_gradient` is
the module; its function of the same name is
`pav_jax.natural_gradient.natural_gradient`.
"""

import importlib
import typing

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
  from pav_jax.advantages import effective_reward, first_pit, step_advantages
  from pav_jax.api.text_policy import load_policy as load_policy
  from pav_jax.api.text_search import beam_search as beam_search
  from pav_jax.api.text_verifier import load_verifier as load_verifier
  from pav_jax.cli.training import train as train
  from pav_jax.complementarity import (
    alignment,
    best_k,
    distinguishability,
    first_order_improvement,
    improvement_bound,
  )
  from pav_jax.losses import (
    kl_penalty,
    policy_gradient_loss,
    value_loss,
    verifier_loss,
  )
  from pav_jax.natural_gradient import softmax_update
  from pav_jax.rollout import Rollout
  from pav_jax.steps import (
    spread_over_tokens,
    step_index,
    step_mask,
    sum_over_steps,
  )
  from pav_jax.thresholds import (
    first_error,
    first_error_scores,
    first_error_threshold,
  )
  from pav_jax.values import best_of_k, best_of_k_from_logit, pass_at_k
  from pav_jax.verification import (
    auc,
    correlation,
    error_correlation,
    expected_calibration_error,
    mean_squared_error,
    prefix_mask,
    reliability_curve,
  )

# What works on text, and is not among what `import *` brings.
_ON_TEXT = {
  "beam_search": "api.text_search",
  "load_policy": "api.text_policy",
  "load_verifier": "api.text_verifier",
  "train": "cli.training",
}

_MODULES = _ON_TEXT | {
  "Rollout": "rollout",
  "alignment": "complementarity",
  "auc": "verification",
  "best_k": "complementarity",
  "best_of_k": "values",
  "best_of_k_from_logit": "values",
  "correlation": "verification",
  "distinguishability": "complementarity",
  "effective_reward": "advantages",
  "error_correlation": "verification",
  "expected_calibration_error": "verification",
  "first_error": "thresholds",
  "first_error_scores": "thresholds",
  "first_error_threshold": "thresholds",
  "first_order_improvement": "complementarity",
  "first_pit": "advantages",
  "improvement_bound": "complementarity",
  "kl_penalty": "losses",
  "mean_squared_error": "verification",
  "pass_at_k": "values",
  "policy_gradient_loss": "losses",
  "prefix_mask": "verification",
  "reliability_curve": "verification",
  "softmax_update": "natural_gradient",
  "spread_over_tokens": "steps",
  "step_advantages": "advantages",
  "step_index": "steps",
  "step_mask": "steps",
  "sum_over_steps": "steps",
  "value_loss": "losses",
  "verifier_loss": "losses",
}

__all__ = [
  "Rollout",
  "alignment",
  "auc",
  "best_k",
  "best_of_k",
  "best_of_k_from_logit",
  "correlation",
  "distinguishability",
  "effective_reward",
  "error_correlation",
  "expected_calibration_error",
  "first_error",
  "first_error_scores",
  "first_error_threshold",
  "first_order_improvement",
  "first_pit",
  "improvement_bound",
  "kl_penalty",
  "mean_squared_error",
  "pass_at_k",
  "policy_gradient_loss",
  "prefix_mask",
  "reliability_curve",
  "softmax_update",
  "spread_over_tokens",
  "step_advantages",
  "step_index",
  "step_mask",
  "sum_over_steps",
  "value_loss",
  "verifier_loss",
]


def __getattr__(name: str) -> typing.Any:
  """A public name, from its module, when it is first asked for."""
  if name in _MODULES:
    module = importlib.import_module(f"pav_jax.{_MODULES[name]}")
    value = getattr(module, name)
  else:
    try:
      value = importlib.import_module(f"pav_jax.{name}")
    except ModuleNotFoundError as error:
      if error.name != f"pav_jax.{name}":
        raise
      raise AttributeError(f"pav_jax has no attribute {name!r}") from None
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, *_ON_TEXT})
