"""Credit from rollouts of one problem that share prefixes, a tree of them.

Rollouts that were branched from one another (tree search), or whose sampled
steps happen to be the same, have prefixes in common. The mean outcome of those
that pass a prefix is a Monte-Carlo value of it that costs nothing more.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pav_jax import checks, steps
from pav_jax.checks import Leaf
from pav_jax.credit import base, estimators
from pav_jax.rollout import Rollout


def shared_prefixes(
  rollout: Rollout, groups: Int[Array, "B"] | None = None
) -> Bool[Array, "B B P"]:
  """Whether rollouts b and c of one group have the same first h steps.

  Args:
    rollout: B rollouts.
    groups: see `base.Credit`.

  Returns:
    True at [b, c, h] if tokens and ends of steps agree up to prefix h, and c
    has a prefix h of its own: h = 0, or its step h exists. A prefix that a
    response repeats past its end is nobody's.
  """
  groups = base.group_of(rollout, groups)
  lengths, tokens = rollout.prefix_len, rollout.tokens
  differs = tokens[:, None, :] != tokens[None, :, :]
  position = jnp.arange(tokens.shape[-1])
  alike = jnp.min(
    jnp.where(differs, position, tokens.shape[-1]),
    axis=-1,
    initial=tokens.shape[-1],
  )
  ends = jnp.cumsum(lengths[:, None, :] != lengths[None, :, :], axis=-1) == 0
  real = jnp.pad(
    steps.step_mask(lengths), ((0, 0), (1, 0)), constant_values=True
  )
  same = groups[:, None] == groups
  return (
    same[:, :, None]
    & ends
    & (lengths[:, None, :] <= alike[:, :, None])
    & real[:, None, :]
    & real[None, :, :]
  )


def tree_values(
  rollout: Rollout, groups: Int[Array, "B"] | None = None
) -> Float[Array, "B P"]:
  """Mean outcome of the rollouts that pass each prefix: a prover's q.

  Prefix 0 has the group's success rate; the prefix of a whole response its own
  outcome. Entries past the end of a response repeat the last value. Rollouts
  count once each, as in TreeRL and in SPO's trees with a fixed fan-out.

  Args:
    rollout: B graded rollouts.
    groups: see `base.Credit`.
  """
  share = shared_prefixes(rollout, groups).astype(jnp.float32)
  count = jnp.sum(share, axis=1)
  total = jnp.einsum(
    "bch,c->bh", share, checks.widen(rollout.outcome), precision="highest"
  )
  last = jnp.sum(steps.step_mask(rollout.prefix_len), axis=-1)
  mean = total / jnp.maximum(count, 1)
  index = jnp.minimum(jnp.arange(count.shape[-1]), last[:, None])
  return jnp.take_along_axis(mean, index, axis=-1)


def spo_tree(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
) -> Float[Array, "B H"]:
  """SPO's trees: `V(child) − V(parent)`, values from the tree (2505.23564).

  The paper also divides by the siblings' deviation in one variant, which is
  left out. It is `estimators.vine` with `tree_values` for its values.

  Args:
    rollout: B graded rollouts.
    q: values of prefixes where they are known otherwise; None for
      `tree_values`.
    groups: see `base.Credit`.
  """
  q = tree_values(rollout, groups) if q is None else q
  return estimators.vine(rollout, q, groups)


def tree_rl(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
  *,
  reweight: bool = True,
) -> Float[Array, "B H"]:
  """TreeRL: global plus local advantage (arXiv 2506.11902).

  `Â_h = [(q_{h+1} − q_0) + (q_{h+1} − q_h)] / √n_{h+1}`, with n the number of
  rollouts that pass the prefix: a step that many share is learnt from as often.
  Of one rollout alone n is 1, and the sum is the PAV advantage and how far the
  prefix is ahead of the bare problem.

  The authors' code differs from that equation: it takes the mean of the other
  leaves off each leaf's outcome, which multiplies all by B / (B − 1); divides
  each value by the root of its own n before it subtracts (`q_{h+1} / √n_{h+1} −
  q_h / √n_h`); and counts in n the leaves that are trained on, which may be
  fewer than those that were sampled.

  Args:
    rollout: B graded rollouts.
    q: values of prefixes; None for `tree_values`.
    groups: see `base.Credit`.
    reweight: whether to divide by √n.
  """
  values = tree_values(rollout, groups) if q is None else q
  values = base.checked_values(rollout, values)
  after = values[:, 1:]
  weights = (after - values[:, :1]) + (after - values[:, :-1])
  if reweight:
    passing = jnp.sum(shared_prefixes(rollout, groups), axis=1)[:, 1:]
    weights /= jnp.sqrt(jnp.maximum(passing, 1).astype(weights.dtype))
  return base.existing(rollout, weights)


def gigpo(
  rollout: Rollout,
  q: Float[Array, "B P"] | None = None,
  groups: Int[Array, "B"] | None = None,
  *,
  step_weight: Leaf = 1.0,
  discount: Leaf = 0.95,
  normalize: bool = False,
  epsilon: float = 1e-6,
) -> Float[Array, "B H"]:
  """GiGPO: groups of rollouts, and in them groups of steps (2505.10978).

  `Â = A^E + ω A^S`. The episode's `A^E = (R − mean R) / F` over the problem's
  samples (Eq. 3). The step's `A^S = (G_h − mean G) / F` over the samples that
  took a step from the same state (Eq. 6, 7), with `G_h = γ^{L−1−h} R` (Eq. 5)
  and, as actions lead to states without chance here, a state being the tokens
  so far. F is 1, or the deviation plus ε. Where nobody else passed a state the
  step has A^S = 0. ω = 0 is `dr_grpo`, or with F the deviation `grpo`.

  Args:
    rollout: B graded rollouts.
    q: not looked at.
    groups: see `base.Credit`.
    step_weight: ω >= 0.
    discount: γ in [0, 1], a step.
    normalize: whether F is the deviation.
    epsilon: > 0, added to the deviation.
  """
  exists = steps.step_mask(rollout.prefix_len)
  length = jnp.sum(exists, axis=-1, keepdims=True)
  to_go = jnp.maximum(length - 1 - jnp.arange(exists.shape[-1]), 0)
  returns = checks.widen(rollout.outcome)[:, None] * discount**to_go
  same = shared_prefixes(rollout, groups)[:, :, :-1] & exists[None]
  same = same.astype(returns.dtype)
  count = jnp.sum(same, axis=1)
  mean = _sums(same, returns) / jnp.maximum(count, 1)
  step = returns - mean
  if normalize:
    squares = _sums(same, jnp.square(step))  # one mean for all of a group
    deviation = jnp.sqrt(squares / jnp.maximum(count - 1, 1))
    step = jnp.where(count > 1, step / (deviation + epsilon), 0)
    episode = estimators.grpo(rollout, None, groups, epsilon=epsilon)
  else:
    episode = estimators.dr_grpo(rollout, None, groups)
  return base.existing(rollout, episode + step_weight * step)


def _sums(same, x):
  return jnp.einsum("bch,ch->bh", same, x, precision="highest")
