"""Reinforcement learning: sample, values, grade, credit, update, and again.

`Trainer.iterate` is one iteration, of a MADE on the planted problem as of a
language model on word problems (Sec. 5). It knows no policy, problem, prover,
estimator or update: each is a value that it is handed. Where its parts run, on
which devices and in which processes, a `Placement` knows:

    sample (device) ─► log-probabilities under the start (device)
                    ─► prover's values of all prefixes (device, or host)
                    ─► grading (device, or host) ─► credit, update (device)

so that the device works while the host grades.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from pav_jax import credit
from pav_jax.models import adapters
from pav_jax.policies.base import Policy
from pav_jax.problems.base import Problem
from pav_jax.provers import base as provers
from pav_jax.provers.base import Prover
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.training import baselines
from pav_jax.training.rl_learning import Experience, Metrics, RlState
from pav_jax.training.rl_placement import Placement
from pav_jax.training.updates import Update

_SAMPLE, _PROVE, _POLICY_VALUES = range(3)


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train, in a comparison of several.

  Attributes:
    name: what reports call it, and its directory.
    credit: what each step is worth, a `credit.Credit`, a plain function too, or
      one with a baseline (`baselines.less_baseline`).
    update: how parameters follow that, an `updates.Update`.
    prover: whose values the credit is made of; None for outcomes alone. One
      that is made of the policy in training gets that policy's parameters.
    refresh_every: iterations after which such a prover gets the present
      parameters; None to stay with the first.
    num_rollouts: completions of each prefix by the policy itself for Q^π, which
      the credit has to take as `q_policy`; 0 for one sampled outcome in its
      place (Sec. 3.2).
    num_updates: passes over every batch; from the second on with importance
      ratios.
    num_minibatches: updates of a pass, each from as many problems' responses,
      as in PPO (Schulman et al., 2017); if several, all have importance ratios.
    oversampling: times as many problems are answered as a batch has, and those
      are learnt from whose responses differ in their outcomes, as in DAPO's
      dynamic sampling (2503.14476, Sec. 3.2); see `with_spread`.

  Raises:
    ValueError: if a number is out of range.
  """

  name: str
  credit: Any
  update: Update
  prover: Prover | None = None
  refresh_every: int | None = 1
  num_rollouts: int = 0
  num_updates: int = 1
  num_minibatches: int = 1
  oversampling: int = 1

  def __post_init__(self):
    object.__setattr__(self, "credit", credit.as_pytree(self.credit))
    for name in (
      "num_updates",
      "num_minibatches",
      "refresh_every",
      "oversampling",
    ):
      number = getattr(self, name)
      if number is not None and number < 1:
        raise ValueError(f"{name} is {number}, expected at least 1")
    if self.num_rollouts < 0:
      raise ValueError(
        f"num_rollouts is {self.num_rollouts}, expected 0 or more"
      )

  @property
  def algorithm(self) -> tuple[Any, Any, Any]:
    """Prover, credit and update: as a pytree, whose leaves are numbers."""
    estimator = self.credit
    if self.prover is None and not self.num_rollouts:
      estimator = baselines.without_prover(estimator)
    return self.prover, credit.as_pytree(estimator), self.update

  @property
  def uses_policy(self) -> bool:
    """Whether the prover is made of the trained policy's parameters."""
    return self.prover is not None and provers.follows_policy(self.prover)


class Turn(NamedTuple):
  """What an iteration is told, made on the host; a pytree.

  Attributes:
    problem_id: int32[D], the problems of the batch.
    first_sample: int32[D], the number of each problem's first sample, never
      used twice with a problem in a run.
    scale: float32[], of the learning rate.
    refreshes: bool[], whether a prover gets the policy's present parameters.
  """

  problem_id: Int[np.ndarray, "D"]
  first_sample: Int[np.ndarray, "D"]
  scale: Any
  refreshes: Any


def turn(
  problem: Problem,
  iteration: int,
  *,
  num_problems: int,
  num_samples: int,
  scale: float = 1.0,
  refresh_every: int | None = 1,
) -> Turn:
  """The batch of an iteration: the train split in order, over and over.

  A problem that comes again, in another round through the split or in the same
  batch, goes on with the numbers of its samples.

  Args:
    problem: whose train split it is.
    iteration: counted from 0.
    num_problems: D.
    num_samples: responses to each.
    scale: of the learning rate.
    refresh_every: see `Arm`.
  """
  size = problem.split_size("train")
  count = iteration * num_problems + np.arange(num_problems, dtype=np.int64)
  ids, at = [], 0
  while at < num_problems:
    start = int(count[at] % size)
    stop = min(size, start + num_problems - at)
    ids.append(problem.problem_ids("train", start, stop))
    at += stop - start
  return Turn(
    np.concatenate(ids).astype(np.int32),
    (count // size * num_samples).astype(np.int32),
    np.float32(scale),
    np.bool_(refresh_every is not None and iteration % refresh_every == 0),
  )


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Iterations of one arm; holds no state.

  Attributes:
    arm: how to train.
    policy: what is trained.
    problem: what it is trained on.
    placement: where.
    num_problems: in a batch.
    num_samples: responses to each.

  Raises:
    ValueError: if minibatches cannot be of whole problems.
  """

  arm: Arm
  policy: Policy
  problem: Problem
  placement: Placement
  num_problems: int
  num_samples: int

  def __post_init__(self):
    if self.num_problems % self.arm.num_minibatches:
      raise ValueError(
        f"num_problems is {self.num_problems}, expected a multiple of "
        f"num_minibatches, {self.arm.num_minibatches}"
      )

  @property
  def estimator(self) -> Any:
    """The arm's credit, whose value function has the policy's shape."""
    return baselines.for_policy(self.arm.algorithm[1], self.policy)

  def init_state(self, key: jax.Array, params: PyTree) -> RlState:
    """The state before the first iteration.

    Args:
      key: of random parameters of a value function.
      params: of the policy, to start from.
    """
    trained, _ = adapters.split(params)
    state = RlState(
      trained,
      self.arm.update.init(trained),
      credit.init(self.estimator, key, params),
      trained if self.arm.uses_policy else (),
    )
    # Parts that begin as the same arrays go different ways.
    return jax.tree.map(jnp.copy, state)

  def turn(self, iteration: int, scale: float = 1.0) -> Turn:
    """See `turn`."""
    return turn(
      self.problem,
      iteration,
      num_problems=self.num_problems * self.arm.oversampling,
      num_samples=self.num_samples,
      scale=scale,
      refresh_every=self.arm.refresh_every,
    )

  def iterate(
    self,
    state: RlState,
    reference: PyTree,
    key: jax.Array,
    now: Turn,
    base: PyTree = (),
  ) -> tuple[RlState, Metrics, Experience]:
    """One iteration; pure where its placement is.

    Args:
      state: of the run.
      reference: parameters of the start, which the KL is to.
      key: of the run, the same at every iteration.
      now: from `turn`.
      base: parameters that are not trained, laid out as the state is; empty
        where all are.

    Returns:
      The next state, which the device may not have finished, metrics as of
      `learn`, and what was learnt from.
    """
    arm, policy, place = self.arm, self.policy, self.placement
    sample_key, prover_key, policy_key = (
      jax.random.fold_in(key, stream)
      for stream in (_SAMPLE, _PROVE, _POLICY_VALUES)
    )
    if arm.uses_policy:
      of_prover = place.choose(now.refreshes, state.params, state.prover)
      state = dataclasses.replace(state, prover=of_prover)
    reading, outer = provers.split_pure(arm.prover)
    own_values = MonteCarlo(self.problem, max(arm.num_rollouts, 1))

    params = adapters.join(state.params, base)
    rollout = place.sample(policy, params, sample_key, now, self.num_samples)
    logp_ref = place.logp(policy, reference, rollout)
    q = q_policy = None
    if reading is not None:
      of_prover = adapters.join(state.prover, base) if arm.uses_policy else ()
      q = place.values(reading, policy, of_prover, prover_key, rollout)
    if arm.num_rollouts:
      q_policy = place.values(own_values, policy, params, policy_key, rollout)
    rollout = place.grade(self.problem, policy, rollout)
    seen = place.gather(policy, Experience(rollout, logp_ref, q, q_policy))
    sampled = seen
    if arm.oversampling > 1:
      seen = with_spread(seen, self.num_problems, self.num_samples)
    state, metrics = place.learn(
      policy,
      (outer, self.estimator, arm.update),
      state,
      seen,
      now.scale,
      base=base,
      num_updates=arm.num_updates,
      num_minibatches=arm.num_minibatches,
    )
    if arm.oversampling > 1:
      metrics |= {"accuracy": jnp.mean(sampled.rollout.outcome)}
    return state, metrics, seen


def with_spread(
  seen: Experience, num_problems: int, num_samples: int
) -> Experience:
  """The first problems whose responses differ in outcome; pure.

  Where there are fewer, the first of the others make up the number, so that
  shapes are those of every batch. Their group-relative weights are 0, and
  `credit.dapo` leaves them out of the average. DAPO samples on until a batch is
  full, which no number of draws bounds; here `Arm.oversampling` does.

  Args:
    seen: rows ordered by problem and sample.
    num_problems: to be kept.
    num_samples: responses to each problem.
  """
  outcome = jnp.asarray(seen.rollout.outcome).reshape(-1, num_samples)
  alike = jnp.all(outcome == outcome[:, :1], axis=-1)
  kept = jnp.argsort(alike, stable=True)[:num_problems]
  rows = (kept[:, None] * num_samples + jnp.arange(num_samples)).ravel()
  return jax.tree.map(lambda x: jnp.asarray(x)[rows], seen)


def trailing_mean(accuracy: np.ndarray, *, window: int = 10) -> np.ndarray:
  """Mean of the last `window` entries, at every entry of float[iterations].

  The first window - 1 entries are NaN.
  """
  sums = np.cumsum(np.concatenate([[0.0], np.asarray(accuracy, np.float64)]))
  means = np.full(len(accuracy), np.nan)
  means[window - 1 :] = (sums[window:] - sums[:-window]) / window
  return means


def first_reaching(means: np.ndarray, level: float) -> int | None:
  """First iteration, counted from 1, at which `means` is ≥ `level`."""
  reached = np.flatnonzero(means >= level - 1e-9)
  return int(reached[0]) + 1 if len(reached) else None
