"""Credit from two policies: log-odds that a ratio of probabilities stands for.

A policy φ that was trained from a reference on outcomes is a process reward
model: `β log π_φ / π_ref`, summed over a prefix, is the log-odds that it ends
correct (Yuan et al., "Free process rewards without process labels",
2412.01981). So it is a prover as any other (`implicit_values`), and what a step
adds to the log-odds its reward.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax import checks, steps
from pav_jax.checks import Leaf
from pav_jax.credit import base, estimators
from pav_jax.rollout import Rollout

# Log-odds of the probabilities nearest to 0 and 1 that are told from them.
_NEAREST = 1e-6


def implicit_values(
  logp: Float[Array, "B T"],
  logp_ref: Float[Array, "B T"],
  prefix_len: Int[Array, "B P"],
  *,
  beta: Leaf = 0.05,
) -> Float[Array, "B P"]:
  """q_h = σ(β Σ log π_φ / π_ref), the sum over tokens of the first h steps.

  The bare problem has 1/2, whatever its success rate: an implicit reward model
  says how steps compare, and of problems nothing. Of whole responses this is
  the prediction that PRIME's cross-entropy fits to outcomes.

  Args:
    logp: of the tokens under the reward model, in nats.
    logp_ref: of the tokens under the reference, in nats.
    prefix_len: non-decreasing prefix lengths, in tokens.
    beta: β > 0; 0.05 in PRIME.
  """
  ratio = checks.widen(logp) - checks.widen(logp_ref)
  log_odds = beta * jnp.cumsum(steps.sum_over_steps(ratio, prefix_len), axis=-1)
  return jax.nn.sigmoid(jnp.pad(log_odds, ((0, 0), (1, 0))))


def progress_advantage(
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """Progress advantage: `logit q_{h+1} − logit q_h` (arXiv 2606.26080).

  With `implicit_values` of a policy after and before reinforcement learning
  this is `β Σ log π_RL / π_ref` over the step's tokens. If π_RL is the best
  policy under a penalty `β KL(π‖π_ref)`, that is its optimal advantage
  `Q*(s, a) − V*(s)`, the soft values of that same penalised objective. The
  paper scores with it and trains nothing; how tokens of a step are put together
  it leaves to the user, and a sum is what the equation gives.

  Args:
    rollout: B rollouts.
    q: `implicit_values`, or other values of prefixes; what is nearer to 0 or 1
      than 10⁻⁶ counts as that near.
    groups: not looked at.
  """
  del groups
  q = base.checked_values(rollout, q)
  q = jnp.clip(q, _NEAREST, 1 - _NEAREST)
  log_odds = jnp.log(q) - jnp.log1p(-q)
  return base.existing(rollout, log_odds[:, 1:] - log_odds[:, :-1])


def prime(
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
  *,
  process_weight: Leaf = 1.0,
) -> Float[Array, "B H"]:
  """PRIME: returns of implicit rewards, and the outcome (arXiv 2502.01456).

  With rewards `r_h = logit q_{h+1} − logit q_h` of an implicit reward model,

      Â_h = c Σ_{j >= h} (r_j − b) + R − R̄

  where b is the mean over the problem's other samples of their mean reward a
  step, and R̄ the mean of their outcomes; each 0 for one sample alone. The paper
  has tokens for steps. Its code multiplies log-ratios by 5 where the loss of
  the reward model has β = 0.05, which is c = 100, and whitens Â over the batch.

  How the reward model learns meanwhile is in `training.implicit_rewards`.

  Args:
    rollout: B graded rollouts.
    q: `implicit_values` of a reward model.
    groups: see `base.Credit`.
    process_weight: c; 0 is `rloo`.
  """
  process = estimators.returns_less_others(
    rollout, progress_advantage(rollout, q), groups
  )
  return base.existing(
    rollout, process_weight * process + estimators.rloo(rollout, None, groups)
  )
