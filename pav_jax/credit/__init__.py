"""Credit assignment: from graded rollouts and a prover's values to weights.

Any function `(rollout, q, groups) -> float32[B, H]` is an estimator; `apply`
runs one, with or without state. Weights of steps that do not exist are 0.

| what | weight of step h |
|---|---|
| `outcome` | R |
| `EffectiveReward` | Q^π + α A^μ, the paper's Eq. 5, or its ablations |
| `rloo`, `grpo`, `dr_grpo`, `dapo` | R less the mean, over the deviation |
| `gae`, `vine` | advantages of the policy from values of prefixes |
| `pure` | what the worst step is worth, up to it |
| `prime`, `progress_advantage` | what steps add to an implicit reward |
| `tree_rl`, `spo_tree`, `gigpo` | comparisons of rollouts that share prefixes |
| `Centred` | any of them, less a baseline and over a scale |

Baselines and scales: `batch_mean`, `group_mean`, `group_deviation`. A learned
value function is in `training.baselines`.
"""

from pav_jax.credit.base import (
  Baseline,
  Centred,
  Credit,
  StatefulCredit,
  apply,
  as_pytree,
  existing,
  init,
  rewards,
)
from pav_jax.credit.centring import (
  batch_mean,
  group_deviation,
  group_mean,
  has_spread,
)
from pav_jax.credit.estimators import (
  EffectiveReward,
  dapo,
  dr_grpo,
  gae,
  grpo,
  low_probability,
  outcome,
  pure,
  rloo,
  vine,
)
from pav_jax.credit.implicit import (
  implicit_values,
  prime,
  progress_advantage,
)
from pav_jax.credit.trees import (
  gigpo,
  shared_prefixes,
  spo_tree,
  tree_rl,
  tree_values,
)

__all__ = [
  "Baseline",
  "Centred",
  "Credit",
  "EffectiveReward",
  "StatefulCredit",
  "apply",
  "as_pytree",
  "batch_mean",
  "dapo",
  "dr_grpo",
  "existing",
  "gae",
  "gigpo",
  "group_deviation",
  "group_mean",
  "grpo",
  "has_spread",
  "implicit_values",
  "init",
  "low_probability",
  "outcome",
  "prime",
  "progress_advantage",
  "pure",
  "rewards",
  "rloo",
  "shared_prefixes",
  "spo_tree",
  "tree_rl",
  "tree_values",
  "vine",
]
