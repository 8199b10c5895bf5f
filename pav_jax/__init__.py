"""Process advantage verifiers in JAX.

Here are the pure functions, for use in other JAX code; importing them imports
jax and no other framework. Equations and sections are those of "Rewarding
Progress: Scaling Automated Process Verifiers for LLM Reasoning" (arXiv
2410.08146). `natural_gradient` is the module; its function of the same name is
`pav_jax.natural_gradient.natural_gradient`.
"""

from pav_jax.advantages import effective_reward, first_pit, step_advantages
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
from pav_jax.types import Rollout
from pav_jax.values import best_of_k, best_of_k_from_logit, pass_at_k
from pav_jax.verification import (
  auc,
  correlation,
  expected_calibration_error,
  mean_squared_error,
  prefix_mask,
  reliability_curve,
)

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
