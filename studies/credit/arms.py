"""The estimators that are compared, and what each of them costs in tokens.

An arm draws units: a group of rollouts, or a tree of them, with the values that
its estimator needs, and learns from units alike. Values by Monte Carlo are
drawn from their exact distribution, successes of M completions at the exact
rate, and cost what the completions would, expected. What no one can have, exact
values, costs nothing; such arms are marked as references.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pav_jax import credit, steps, values
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.base import Given
from pav_jax.rollout import Rollout
from studies.credit import processes
from studies.credit.processes import Process, Walk

GROUP = 8
FEW = 4  # rollouts of a group whose prefixes are completed, which costs
HISTORY = 256  # rollouts that a critic or a reward model has learnt from before
KL_COST = 0.05  # of the policy whose ratio is a progress advantage

Values = Callable[..., tuple[Any, Any]]


class Context(typing.NamedTuple):
  """What an arm may look at beside its rollouts.

  Attributes:
    process: which.
    logits: of the policy.
    start: of the policy that training began with, [H, S, A].
    prover: of a fixed policy that is stronger, [H, S, A].
    memory: what a learner has kept, see `Memory`.
  """

  process: Process
  logits: Float[Array, "H S A"]
  start: Float[Array, "H S A"]
  prover: Float[Array, "H S A"]
  memory: Any


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way from tokens to a policy gradient.

  Attributes:
    name: in tables and figures.
    estimate: `(rollout, q, groups) -> weights`, or with `q_policy` if `values`
      gives a pair.
    values: `(uniforms, context, walk) -> (q, tokens)`, uniforms a number in
      [0, 1) for each prefix; None for estimators without.
    num_rollouts: of a unit.
    forks: of its trees, see `processes.sample`.
    needs_spread: whether units without spread are drawn again, as DAPO does.
    memory: `Memory` of what learns meanwhile; None for none.
    reference: whether it uses what nobody has.
    given: how many steps of the solution responses begin with, see `guided`.
  """

  name: str
  estimate: Callable
  values: Values | None = None
  num_rollouts: int = GROUP
  forks: tuple[int, ...] = ()
  needs_spread: bool = False
  memory: Any = None
  reference: bool = False
  given: Callable | None = None


class Units(typing.NamedTuple):
  """What draws give, N of them, or N of each of several runs.

  Attributes:
    gradient: of the mean over a unit's rollouts.
    num_tokens: that were sampled for it.
    counts: 0 if it has to be drawn again, else 1.
    walk: its rollouts.
  """

  gradient: Float[Array, "*N H S A"]
  num_tokens: Float[Array, "*N"]
  counts: Float[Array, "*N"]
  walk: Walk


class Noise(typing.NamedTuple):
  """All that is random about units: numbers in [0, 1).

  They are drawn for many units at once, as XLA takes minutes to compile what
  draws a few numbers for each of many keys.

  Attributes:
    steps: of the actions of a unit's rollouts.
    prefixes: of their values.
  """

  steps: Float[Array, "*N H B"]
  prefixes: Float[Array, "*N B P"]


def noise(num_rollouts: int, key: jax.Array, *shape: int) -> Noise:
  """Of as many units as the shape says.

  Args:
    num_rollouts: of a unit.
    key: of them all.
    *shape: leading dimensions.
  """
  steps_key, prefixes_key = jax.random.split(key)
  steps = processes.NUM_STEPS
  return Noise(
    jax.random.uniform(steps_key, (*shape, steps, num_rollouts)),
    jax.random.uniform(prefixes_key, (*shape, num_rollouts, steps + 1)),
  )


def draw(
  arm: Arm, noise: Noise, context: Context, progress: float = 0.0
) -> Units:
  """Units of an arm. Programs that arms have in common are compiled once.

  Args:
    arm: which.
    noise: [R, N] of R runs and N units.
    context: of the policies; `logits` and `memory` are [R, …].
    progress: of training, in [0, 1], for arms whose beginnings shrink.
  """
  given = None
  if arm.given is not None:
    given = arm.given(arm.num_rollouts, progress)
  walk = _walk(noise.steps, context.process, context.logits, given, arm.forks)
  weights, cost, counts = _weigh(arm, noise.prefixes, context, walk, given)
  gradient = _score(context.logits, walk, weights)
  return Units(gradient, walk.num_tokens + cost, counts, walk)


@functools.partial(jax.jit, static_argnames="forks")
def _walk(uniforms, process, logits, given, forks):
  def one(uniforms, logits):
    return processes.sample(
      uniforms, process, logits, forks=forks, num_given=given
    )

  return jax.vmap(jax.vmap(one, (0, None)))(uniforms, logits)


@functools.partial(jax.jit, static_argnames="arm")
def _weigh(arm, uniforms, context, walk, given):
  """Weights, the tokens that values cost, and whether units count."""

  def one(uniforms, walk, logits, memory):
    now = context._replace(logits=logits, memory=memory)
    q, cost, more = None, 0.0, {}
    if arm.values is not None:
      q, cost = arm.values(uniforms, now, walk)
      if isinstance(q, tuple):
        q, more["q_policy"] = q
    # Rollouts are compared with those of the same beginning; what was given was
    # not chosen, and has no weight.
    weights = arm.estimate(walk.rollout, q, given, **more)
    if given is not None:
      weights *= jnp.arange(weights.shape[-1]) >= given[:, None]
    counts = jnp.float32(1)
    if arm.needs_spread:
      counts = jnp.any(credit.has_spread(walk.rollout)).astype(jnp.float32)
    return weights * counts, jnp.float32(cost), counts

  units = jax.vmap(one, (0, 0, None, None))
  return jax.vmap(units)(uniforms, walk, context.logits, context.memory)


@jax.jit
def _score(logits, walk, weights):
  units = jax.vmap(score, (None, 0, 0))
  return jax.vmap(units)(logits, walk, weights)


def score(
  logits: Float[Array, "H S A"], walk: Walk, weights: Float[Array, "B H"]
) -> Float[Array, "H S A"]:
  """(1/B) Σ_b Σ_h w_bh ∇log π(a_bh | s_bh), of logits.

  Args:
    logits: of the policy.
    walk: of B rollouts.
    weights: of their steps.
  """
  exists = steps.step_mask(walk.rollout.prefix_len)
  weights = jnp.where(exists, weights, 0) / len(weights)
  index = jnp.arange(len(logits))
  at = jnp.broadcast_to(index, weights.shape), walk.states[:, :-1]
  taken = jnp.zeros_like(logits).at[(*at, walk.rollout.tokens[:, 1:])]
  visits = jnp.zeros(logits.shape[:2]).at[at].add(weights)
  return taken.add(weights) - visits[..., None] * jax.nn.softmax(logits)


# --- values -------------------------------------------------------------------


def exact(uniforms, context, walk, *, of: str = "logits", k: float = 1.0):
  """Exact values of the policy, or of the prover; Best-of-K of them."""
  del uniforms
  table = processes.values(context.process, getattr(context, of))
  return values.best_of_k(_at(table, walk), k), 0.0


def monte_carlo(
  uniforms, context, walk, *, num_completions: int, of: str = "logits"
):
  """The share of M completions that succeed, and what these cost.

  Whole responses have their outcome, and are not completed.
  """
  q, _ = exact(None, context, walk, of=of)
  # How many of M succeed, by the quantiles of the binomial distribution.
  m = jnp.arange(num_completions + 1)
  number = jnp.array([math.comb(num_completions, i) for i in range(len(m))])
  chance = number * q[..., None] ** m * (1 - q[..., None]) ** m[::-1]
  below = jnp.cumsum(chance, axis=-1)[..., :-1]
  share = jnp.mean((below <= uniforms[..., None]).astype(jnp.float32), axis=-1)
  left = _at(processes.tokens_left(context.process, getattr(context, of)), walk)
  exists = steps.step_mask(walk.rollout.prefix_len)
  unfinished = jnp.pad(exists, ((0, 0), (0, 1)))
  q = jnp.where(unfinished, share, walk.rollout.outcome[:, None])
  return q, num_completions * jnp.sum(jnp.where(unfinished, left, 0))


def best_of(uniforms, context, walk, *, k: float, **settings):
  """Best-of-K of values by Monte Carlo, in closed form (Eq. 30)."""
  q, cost = monte_carlo(uniforms, context, walk, **settings)
  return values.best_of_k(q, k), cost


def adaptive(uniforms, context, walk, **settings):
  """Best-of-K with the K that AdaptiveK chooses for the unit."""
  q, cost = monte_carlo(uniforms, context, walk, **settings)
  return AdaptiveK(Given()).of_values(q, walk.rollout), cost


def best_of_and_policy(uniforms, context, walk, *, k: float, **settings):
  """Best-of-K beside the policy's, of one set of completions."""
  q, cost = monte_carlo(uniforms, context, walk, **settings)
  return (values.best_of_k(q, k), q), cost


def of_optimal(uniforms, context, walk):
  """Implicit values of the best policy under a penalty on KL, known exactly."""
  del uniforms
  best = processes.soft_optimal(context.process, context.logits, KL_COST)
  logp, logp_ref = (
    jnp.pad(processes.log_probability(x, walk), ((0, 0), (1, 0)))
    for x in (best, context.logits)
  )
  return (
    credit.implicit_values(
      logp, logp_ref, walk.rollout.prefix_len, beta=KL_COST
    ),
    0.0,
  )


def _at(table, walk):
  steps_done = jnp.arange(walk.states.shape[-1])
  return table[steps_done, walk.states]


# --- what learns meanwhile ----------------------------------------------------


class Critic:
  """A table of mean outcomes by step and state, as PPO's value function.

  Counts fade by a tenth with every batch. States not seen have the mean outcome
  of all; a prior of one rollout draws the others towards it.
  """

  def init(self, context: Context) -> tuple[Array, Array]:
    """Counts and sums."""
    zeros = jnp.zeros(context.logits.shape[:2])
    return zeros, zeros

  def fit(self, memory, context, walk, *, passes: int):
    """The memory with further rollouts in it."""
    del context, passes
    count, total = memory
    rollout, index = walk.rollout, jnp.arange(len(count))
    exists = steps.step_mask(rollout.prefix_len).astype(jnp.float32)
    at = jnp.broadcast_to(index, exists.shape), walk.states[:, :-1]
    count = (0.9 * count).at[at].add(exists)
    total = (0.9 * total).at[at].add(exists * rollout.outcome[:, None])
    return count, total

  def values(self, uniforms, context, walk):
    """Values before each step; after the last there is the outcome."""
    del uniforms
    count, total = context.memory
    mean = jnp.sum(total[0]) / jnp.maximum(jnp.sum(count[0]), 1)
    table = (total + mean) / (count + 1)
    return _at(jnp.concatenate([table, table[-1:]]), walk), 0.0


class RewardModel:
  """PRIME's: a table of logits, by cross-entropy of outcomes, from the start.

  With β = 1 and Adam of 0.05: a table has a logit for every state and action,
  and few rollouts pass most of them.
  """

  beta, learning_rate = 1.0, 0.05

  def init(self, context: Context):
    """Logits, and Adam's two moments."""
    zeros = jnp.zeros_like(context.start)
    return context.start, zeros, zeros, jnp.float32(0)

  def fit(self, memory, context, walk, *, passes: int):
    """The memory after Adam's steps on the cross-entropy."""

    def loss(logits):
      q = self._values(logits, context, walk)[:, -1]
      q = jnp.clip(q, 1e-6, 1 - 1e-6)
      right = walk.rollout.outcome
      return -jnp.mean(right * jnp.log(q) + (1 - right) * jnp.log1p(-q))

    def step(_, memory):
      logits, moment, square, count = memory
      gradient = jax.grad(loss)(logits)
      update, (moment, square, count) = adam(gradient, (moment, square, count))
      return logits - self.learning_rate * update, moment, square, count

    return jax.lax.fori_loop(0, passes, step, memory)

  def values(self, uniforms, context, walk):
    """Implicit values of prefixes."""
    del uniforms
    return self._values(context.memory[0], context, walk), 0.0

  def _values(self, logits, context, walk):
    logp, logp_ref = (
      jnp.pad(processes.log_probability(x, walk), ((0, 0), (1, 0)))
      for x in (logits, context.start)
    )
    return credit.implicit_values(
      logp, logp_ref, walk.rollout.prefix_len, beta=self.beta
    )


def adam(gradient, state):
  """Adam's direction (β 0.9 and 0.999), and its next state."""
  moment, square, count = state
  moment = 0.9 * moment + 0.1 * gradient
  square = 0.999 * square + 0.001 * jnp.square(gradient)
  count += 1
  size = jnp.sqrt(square / (1 - 0.999**count)) + 1e-8
  return moment / (1 - 0.9**count) / size, (moment, square, count)


# --- the arms -----------------------------------------------------------------

_others = functools.partial(
  credit.group_mean, of="responses", leave_one_out=True
)


def pav(alpha: float = 5.0) -> credit.Centred:
  """The paper's effective reward, less the mean outcome of the others."""
  return credit.Centred(credit.EffectiveReward(alpha), _others)


def masked_vine(rollout: Rollout, q, groups=None):
  """SPO's chain: VinePPO's weights where the policy had a choice."""
  weights = credit.vine(rollout, q, groups)
  return weights * credit.low_probability(rollout.logp[:, 1:])


def _mc(values=monte_carlo, m=4, **settings):
  return functools.partial(values, num_completions=m, **settings)


_TREE = (0, 3, 6)  # eight leaves
_critic, _model = Critic(), RewardModel()

ARMS = (
  Arm("REINFORCE", credit.outcome, num_rollouts=1),
  Arm("RLOO", credit.rloo),
  Arm("Dr. GRPO", credit.dr_grpo),
  Arm("GRPO", credit.grpo),
  Arm("DAPO", credit.dapo, needs_spread=True),
  Arm("PPO, learned critic", credit.gae, _critic.values, memory=_critic),
  Arm("GiGPO", credit.gigpo),
  Arm("SPO tree", credit.spo_tree, forks=_TREE),
  Arm("TreeRL", credit.tree_rl, forks=_TREE),
  Arm("VinePPO, M = 1", credit.vine, _mc(m=1), num_rollouts=1),
  Arm("VinePPO, M = 4", credit.vine, _mc(), num_rollouts=1),
  Arm("SPO chain, M = 4", masked_vine, _mc(), num_rollouts=1),
  Arm("PURE, M = 4", credit.pure, _mc(), num_rollouts=FEW),
  Arm("PRIME", credit.prime, _model.values, memory=_model),
  Arm("PAV, Best-of-4, M = 4", pav(), _mc(best_of, k=4.0), FEW),
  Arm("PAV, adaptive K, M = 4", pav(), _mc(adaptive), FEW),
  Arm("PAV, fixed prover, M = 4", pav(), _mc(of="prover"), FEW),
  Arm(
    "PAV of SPO's repository, M = 4",
    credit.EffectiveReward(5.0),
    _mc(best_of_and_policy, k=4.0),
    num_rollouts=1,
  ),
  Arm("exact advantages", credit.vine, exact, num_rollouts=1, reference=True),
  Arm(
    "PAV, exact Best-of-4",
    pav(),
    functools.partial(exact, k=4.0),
    reference=True,
  ),
  Arm(
    "PAV, exact fixed prover",
    pav(),
    functools.partial(exact, of="prover"),
    reference=True,
  ),
  Arm(
    "progress advantage",
    credit.progress_advantage,
    of_optimal,
    num_rollouts=1,
    reference=True,
  ),
)


# Those that differ by more than a length, which Adam takes out.
TRAINED = tuple(
  arm
  for arm in ARMS
  if arm.name
  not in (
    "Dr. GRPO",
    "VinePPO, M = 1",
    "SPO chain, M = 4",
    "PAV, adaptive K, M = 4",
    "PAV of SPO's repository, M = 4",
    "progress advantage",
  )
)


def guided(share: float, most: int, *, shrinks: bool) -> Callable:
  """Beginnings of the solution: how many steps each response is given.

  Half of a group, the first, are given steps and the others none, as POPE mixes
  guided and unguided problems (arXiv 2601.18779).

  Args:
    share: of the rollouts that are given steps.
    most: of the steps given.
    shrinks: whether `most` falls to 0 over three quarters of training, a
      curriculum; else it stays.
  """

  def given(num_rollouts, progress):
    number = most
    if shrinks:
      number = jnp.ceil(most * jnp.clip(1 - progress / 0.75, 0, 1))
    helped = jnp.arange(num_rollouts) < share * num_rollouts
    return jnp.where(helped, number, 0).astype(jnp.int32)

  return given


HARD = (
  Arm("RLOO", credit.rloo),
  Arm("DAPO", credit.dapo, needs_spread=True),
  Arm("VinePPO, M = 4", credit.vine, _mc(), num_rollouts=1),
  Arm("PAV, Best-of-4, M = 4", pav(), _mc(best_of, k=4.0), FEW),
  Arm("PAV, fixed prover, M = 4", pav(), _mc(of="prover"), FEW),
  Arm(
    "POPE, half with 3 steps",
    credit.rloo,
    given=guided(0.5, 3, shrinks=False),
  ),
  Arm(
    "curriculum, half with 5 to 0 steps",
    credit.rloo,
    given=guided(0.5, 5, shrinks=True),
  ),
)
