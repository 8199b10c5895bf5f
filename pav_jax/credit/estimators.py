"""Credit estimators that look at one rollout at a time, and at its outcome.

Each is a `base.Credit`: `(rollout, q, groups) -> float32[B, H]`, with what is
after `*` its hyperparameters. Below, a response has L <= H steps of 0-based
index h; `q_h` is the value of prefix h, so that step h leads from q_h to
q_{h+1}; R is the outcome.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax import advantages, checks, steps
from pav_jax.checks import Leaf
from pav_jax.credit import base, centring
from pav_jax.rollout import Rollout


def outcome(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """REINFORCE: R for every step (Williams, 1992).

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: not looked at.
  """
  del q, groups
  shape = (*rollout.outcome.shape, rollout.num_steps)
  return base.existing(
    rollout, jnp.broadcast_to(rollout.outcome[:, None], shape)
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["alpha", "negative_weight"],
  meta_fields=["of"],
)
@dataclasses.dataclass(frozen=True)
class EffectiveReward:
  """Q^π + α A^μ (Eq. 5), or its ablations; a pytree whose numbers are leaves.

  Meta reinforcement fine-tuning (MRT, arXiv 2503.07572) is this with a prover
  that answers at once (`provers.answer_now.AnswerNow`).

  Attributes:
    alpha: weight of the prover's term, finite; 0 is outcome-only RL.
    negative_weight: of advantages below 0, >= 0: 1 for the paper's reward; 0
      follows steps that gain, and does not push off those that lose. These are
      mostly unlikely already, where log-probabilities are steep.
    of: "advantage" for Q^π + α A^μ; "value" for Q^π + α Q^μ, the ablation that
      degenerates (App. G). Static.
  """

  alpha: Leaf = 1.0
  negative_weight: Leaf = 1.0
  of: str = "advantage"

  def __post_init__(self):
    if self.of not in ("advantage", "value"):
      raise ValueError(f"of is {self.of!r}, expected 'advantage' or 'value'")
    if isinstance(self.alpha, int | float) and not math.isfinite(self.alpha):
      raise ValueError(f"alpha is {self.alpha}, expected a finite number")
    weight = self.negative_weight
    if isinstance(weight, int | float) and not 0 <= weight < math.inf:
      raise ValueError(f"negative_weight is {weight}, expected a number >= 0")

  @property
  def is_outcome(self) -> bool:
    """Whether a prover has no part in it, alpha being a number and 0."""
    return isinstance(self.alpha, int | float) and not self.alpha

  def __call__(
    self,
    rollout: Rollout,
    q: Float[Array, "B P"] | None,
    groups: Int[Array, "B"] | None = None,
    *,
    q_policy: Float[Array, "B P"] | None = None,
  ) -> Float[Array, "B H"]:
    """The rewards of all steps.

    Args:
      rollout: B graded rollouts.
      q: values of prefixes under the prover; None if `alpha` is 0.
      groups: not looked at.
      q_policy: values of prefixes under the policy, for Q^π; None for the
        outcome, one sample of it (Sec. 3.2). With both from one set of
        completions, q the Best-of-4 of q_policy, and `alpha` 5, these are the
        advantages of the PAV arm in SPO's experiments (arXiv 2505.23564).
    """
    del groups
    taken = (
      outcome(rollout)
      if q_policy is None
      else base.checked_values(rollout, q_policy)[:, 1:]
    )
    if q is None and self.is_outcome:
      return base.existing(rollout, taken)
    rewards = self.of_values(taken, base.checked_values(rollout, q))
    return base.existing(rollout, rewards)

  def of_values(
    self, q_policy: Float[Array, "B H"], q: Float[Array, "B P"]
  ) -> Float[Array, "B H"]:
    """The same from Q^π(s_h, a_h), or outcomes, of all steps.

    Args:
      q_policy: of steps; those that do not exist have no meaning.
      q: values of prefixes under the prover.
    """
    term = (
      advantages.step_advantages(q) if self.of == "advantage" else q[..., 1:]
    )
    term = jnp.where(term < 0, self.negative_weight * term, term)
    return advantages.effective_reward(q_policy, term, alpha=self.alpha)


def gae(
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
  *,
  gae_lambda: Leaf = 0.95,
  discount: Leaf = 1.0,
) -> Float[Array, "B H"]:
  """Generalized advantage estimation, PPO's (Schulman et al., 1506.02438).

  `Â_h = Σ_{l >= h} (γλ)^{l−h} δ_l`, `δ_l = γ q_{l+1} − q_l` before the last
  step and `δ_{L−1} = R − q_{L−1}` there: what a whole response is worth is its
  outcome, whatever a value function says of it. λ = 1, γ = 1 is `R − q_h`,
  REINFORCE with a value baseline; λ = 0 is `vine`.

  Args:
    rollout: B graded rollouts.
    q: values of prefixes under the policy, such as a learned value function's.
    groups: not looked at.
    gae_lambda: λ in [0, 1]; less has less variance and more of the values'
      bias.
    discount: γ in [0, 1], a step.
  """
  del groups
  q = base.checked_values(rollout, q)
  exists = steps.step_mask(rollout.prefix_len)
  # The value after the last step is its outcome.
  after = jnp.where(_is_last(exists), outcome(rollout), discount * q[:, 1:])
  delta = base.existing(rollout, after - q[:, :-1])
  return base.existing(rollout, _sums_to_come(delta, gae_lambda * discount))


def vine(
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """VinePPO: `Â_h = q_{h+1} − q_h` by rollouts of the policy (2410.01679).

  The outcome stands for the value of a whole response. It is the PAV advantage
  (Eq. 2) with the policy as its own prover; SPO's row of segments
  (2505.23564), whose mask is `low_probability`; and `gae` with λ = 0.

  Args:
    rollout: B graded rollouts.
    q: values of prefixes, as from Monte Carlo with the policy.
    groups: not looked at.
  """
  return gae(rollout, q, groups, gae_lambda=0.0)


def low_probability(
  logp: Float[Array, "*B T"], *, threshold: Leaf = 0.9
) -> Float[Array, "*B T"]:
  """SPO's probability mask: 1 for tokens that had a choice (2505.23564).

  A segment's advantage is given to those of its tokens whose probability was
  below the threshold when they were sampled: the others would have come anyway.
  A factor of per-token weights (`bridges`, `losses.policy_gradient_loss`).

  Args:
    logp: of the sampled tokens when they were sampled, in nats.
    threshold: ρ in (0, 1].
  """
  return (checks.widen(logp) < jnp.log(threshold)).astype(jnp.float32)


def pure(
  rollout: Rollout,
  q: Float[Array, "B P"] | None,
  groups: Int[Array, "B"] | None = None,
  *,
  temperature: Leaf = 0.1,
  outcome_weight: Leaf = 1.0,
  baseline: str = "steps",
) -> Float[Array, "B H"]:
  """PURE: a response is worth its worst step (arXiv 2504.15275).

  With process rewards `r_h = 2 q_{h+1} − 1` in [−1, 1] and their softmin
  `r*_h = r_h exp(−r_h/T) / Σ_j exp(−r_j/T)`, whose sum tends to the minimum as
  T does to 0,

      Â_h = Σ_{j >= h} (r*_j − b n_j) + c (R − R̄)

  where R̄ is the mean outcome of the problem's other samples. Steps up to the
  worst one get its reward, and those after it none. The authors' code has two
  forms of the baseline: by steps, n_j = 1 and b the mean over the other samples
  of `Σ_j r*_j / L`; by tokens, which its scripts choose, n_j the tokens of step
  j and b the others' `Σ r*` over their tokens. Tokens that end a step have no
  weight there, and here that of their step. For one sample alone, where that
  code divides by 0, b and R̄ are 0.

  Args:
    rollout: B graded rollouts.
    q: scores of prefixes by a process reward model, in [0, 1].
    groups: see `base.Credit`.
    temperature: T > 0.
    outcome_weight: c, of the verifiable reward; 0 for PRM alone.
    baseline: "steps" or "tokens".

  Raises:
    ValueError: for another baseline.
  """
  q = base.checked_values(rollout, q)
  exists = steps.step_mask(rollout.prefix_len)
  r = 2 * q[:, 1:] - 1
  share = jax.nn.softmax(-r / temperature, axis=-1, where=exists)
  softmin = base.existing(rollout, share * r)
  process = returns_less_others(rollout, softmin, groups, by=baseline)
  return base.existing(
    rollout, process + outcome_weight * rloo(rollout, None, groups)
  )


def returns_less_others(
  rollout: Rollout,
  rewards: Float[Array, "B H"],
  groups: Int[Array, "B"] | None = None,
  *,
  by: str = "steps",
) -> Float[Array, "B H"]:
  """`Σ_{j >= h} (r_j − b n_j)`: returns less what others earn meanwhile.

  Args:
    rollout: B rollouts.
    rewards: r of steps, 0 where no step exists.
    groups: see `base.Credit`.
    by: "steps", n_j = 1 and b the mean over the problem's other samples of
      their mean reward a step; "tokens", n_j the tokens of step j and b the
      others' rewards over their tokens, all summed. 0 where there is no other.

  Raises:
    ValueError: for another `by`.
  """
  if by not in ("steps", "tokens"):
    raise ValueError(f"by is {by!r}, expected 'steps' or 'tokens'")
  exists = steps.step_mask(rollout.prefix_len)
  of_others = functools.partial(
    centring.group_mean,
    rewards=rewards,
    groups=groups,
    of="responses",
    leave_one_out=True,
  )

  def mean_of_others(x):
    return of_others(dataclasses.replace(rollout, outcome=x))

  total = jnp.sum(rewards, axis=-1)
  if by == "steps":
    size = exists.astype(rewards.dtype)
    length = jnp.maximum(jnp.sum(size, axis=-1), 1)
    expected = mean_of_others(total / length)
  else:
    size = jnp.diff(rollout.prefix_len, axis=-1).astype(rewards.dtype)
    tokens = mean_of_others(jnp.sum(size, axis=-1))
    expected = mean_of_others(total) / jnp.where(tokens > 0, tokens, 1)
  return _sums_to_come(base.existing(rollout, rewards - expected * size), 1.0)


def rloo(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """REINFORCE leave-one-out: `R_b − mean of the others' R` (2402.14740).

  Equal to n / (n − 1) times `dr_grpo`.

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: see `base.Credit`; of one sample alone the weight is R.
  """
  mean = functools.partial(
    centring.group_mean, of="responses", leave_one_out=True
  )
  return base.Centred(outcome, mean)(rollout, q, groups)


def dr_grpo(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """Dr. GRPO: `R_b − mean R`, not divided by the deviation (2503.20783).

  Its other half, a constant in place of each response's length, is the loss's
  `normalization`.

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: see `base.Credit`.
  """
  mean = functools.partial(centring.group_mean, of="responses")
  return base.Centred(outcome, mean)(rollout, q, groups)


def grpo(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
  *,
  ddof: int = 1,
  epsilon: float = 1e-6,
) -> Float[Array, "B H"]:
  """GRPO: `(R_b − mean R) / (std R + ε)` over a problem's samples (2402.03300).

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: see `base.Credit`.
    ddof: see `centring.group_deviation`.
    epsilon: see `centring.group_deviation`.
  """
  mean = functools.partial(centring.group_mean, of="responses")
  scale = functools.partial(
    centring.group_deviation, of="responses", ddof=ddof, epsilon=epsilon
  )
  return base.Centred(outcome, mean, scale)(rollout, q, groups)


def dapo(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
  *,
  ddof: int = 1,
  epsilon: float = 1e-6,
) -> Float[Array, "B H"]:
  """DAPO's advantages: `grpo`, over groups that have spread (2503.14476).

  Groups whose outcomes are all alike count in no average: weights are `grpo`'s
  times B over the rollouts of other groups. It is `grpo` where every group has
  spread; of no such group all weights are 0. What else makes DAPO is elsewhere:
  samples in place of the groups that drop out (`training.rl.Arm.oversampling`),
  the two bounds of the ratio and the average over tokens
  (`losses.clipped_policy_gradient_loss`). The paper does not say ddof or ε.

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: see `base.Credit`.
    ddof: see `centring.group_deviation`.
    epsilon: see `centring.group_deviation`.
  """
  weights = grpo(rollout, q, groups, ddof=ddof, epsilon=epsilon)
  kept = jnp.sum(centring.has_spread(rollout, groups))
  return weights * (len(weights) / jnp.maximum(kept, 1))


def _is_last(exists):
  """Whether a step is the last of its response, bool[B, H]."""
  following = jnp.pad(exists[:, 1:], ((0, 0), (0, 1)))
  return exists & ~following


def _sums_to_come(x, decay):
  """`Σ_{l >= h} decay^{l−h} x_l` at h, float[B, H]."""

  def add(total, column):
    total = column + decay * total
    return total, total

  start = jnp.zeros_like(x[:, 0]) if x.shape[1] else x.sum(axis=1)
  _, sums = jax.lax.scan(add, start, x.T, reverse=True)
  return sums.T
