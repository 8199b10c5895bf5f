"""Reinforcement learning of language models on text problems (Sec. 5).

As `training.rl`, whose update it shares. But responses are graded on the host,
and provers may be there too. What the device can do meanwhile is given to it
before the host begins: one iteration is, in this order,

    sample (device) ─► log-probabilities under the start (device)
                    ─► prover's values of all prefixes (device, or host)
                    ─► grading (host)          ─► update (device)
                                               ─► probes (host)
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree, Real

from pav_jax import losses, steps, values
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers import adaptive, rollout_values
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.rollout import Rollout
from pav_jax.training import probes, processes, rl
from pav_jax.training.language_arm import LanguageArm
from pav_jax.training.state import TrainState

_SAMPLE, _PROVE, _INIT = range(3)


@dataclasses.dataclass(frozen=True)
class RateSchedule:
  """Factor of learning rates: linear warm-up, then a cosine to `final`.

  Attributes:
    warmup: share of all iterations, in [0, 1).
    final: factor at the end, in [0, 1]; 1 for no decay.
  """

  warmup: float = 0.1
  final: float = 0.0

  def __post_init__(self):
    if not 0 <= self.warmup < 1 or not 0 <= self.final <= 1:
      raise ValueError(
        f"warmup and final are {self.warmup} and {self.final}, expected "
        "numbers in [0, 1)"
      )

  def __call__(self, iteration: int, num_iterations: int) -> float:
    """The factor of an iteration, counted from 0; > 0 but at the very end."""
    warmup = math.ceil(self.warmup * num_iterations)
    schedule = optax.warmup_cosine_decay_schedule(
      init_value=0.0 if warmup else 1.0,
      peak_value=1.0,
      warmup_steps=warmup,
      decay_steps=max(num_iterations, warmup + 1),
      end_value=self.final,
    )
    return float(schedule(iteration + bool(warmup)))


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class RlState:
  """What one iteration hands to the next.

  Attributes:
    params: of the policy.
    update: state of the update.
    baseline: state of the baseline, a value function for instance.
    prover: parameters that the prover is made of; () if of none.
    k: of Best-of-K.
  """

  params: PyTree
  update: PyTree
  baseline: PyTree
  prover: PyTree
  k: Float[Array, ""]


def init_state(
  arm: LanguageArm,
  policy: LanguageModel,
  key: jax.Array,
  params: PyTree,
  layout: Layout | None = None,
) -> RlState:
  """The state before the first iteration.

  Args:
    arm: how to train.
    policy: what is trained.
    key: of the seed.
    params: to start from, laid out by `layout` if there is one.
    layout: see `Trainer`.
  """
  baseline = arm.baseline_for(policy)
  state = RlState(
    params,
    arm.update.init(params),
    baseline.init(jax.random.fold_in(key, _INIT), params),
    params if arm.uses_policy else (),
    jnp.float32(arm.ks[0]),
  )
  # Parts that begin as the same arrays go different ways.
  state = jax.tree.map(jnp.copy, state)
  if layout is None:
    return state
  # Counters and the like are not made from parameters, and lie on one device.
  whole = partitioning.replicated(layout.mesh)
  return jax.tree.map(
    lambda x: (
      x if isinstance(x.sharding, NamedSharding) else partitioning.put(x, whole)
    ),
    state,
  )


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Iterations of one arm and seed; holds no state.

  Attributes:
    arm: how to train.
    policy: what is trained; samples at temperature 1, or its log-probabilities
      would not be those of the policy that is exported.
    problem: a text problem, see `problems.text.GeneratedProblem`.
    reference: parameters of the start, which the KL is to.
    key: of the seed.
    num_problems: in a batch, from the train split, each once before any twice.
    num_samples: responses to each, at least 1.
    layout: of the state and of batches while they are learnt from; None to
      leave everything on one device. Several processes need one. All learn
      together from what they have gathered; how they sample it
      `processes.to_sample` says.
  """

  arm: LanguageArm
  policy: LanguageModel
  problem: Any
  reference: PyTree
  key: jax.Array
  num_problems: int
  num_samples: int
  layout: Layout | None = None

  def __post_init__(self):
    if self.num_problems % self.arm.num_minibatches:
      raise ValueError(
        f"num_problems is {self.num_problems}, expected a multiple of "
        f"num_minibatches, {self.arm.num_minibatches}"
      )
    prover = self.arm.reward.prover
    # A verifier that each device has as a whole serves each process alone.
    alone = hasattr(prover, "logits") and not (
      prover.layout and prover.layout.splits_parameters
    )
    if processes.together(prover) and not (self.is_split or alone):
      raise ValueError(
        f"the prover of {self.arm.name} is split over processes and the policy "
        "is not, expected fixed_verifier.mesh to be the run's mesh"
      )

  @property
  def is_split(self) -> bool:
    """Whether devices have parts of the policy."""
    return self.layout is not None and self.layout.splits_parameters

  def sample(self, params: PyTree, iteration: int) -> Rollout:
    """Responses to the problems, or this process's share; not graded."""
    policy, params = self.to_sample(params)
    size = self.problem.split_size("train")
    first = iteration * self.num_problems
    at = (first + np.arange(self.num_problems, dtype=np.int64)) % size
    ids = np.concatenate(
      [self.problem.problem_ids("train", int(i), int(i) + 1) for i in at]
      if at[0] > at[-1]
      else [self.problem.problem_ids("train", int(at[0]), int(at[-1]) + 1)]
    )[processes.share_of(policy, self.num_problems)]
    return policy.sample(
      params,
      jax.random.fold_in(self.key, _SAMPLE),
      self.problem.prompts(ids),
      self.problem.prompt_lengths(ids),
      ids,
      num_samples=self.num_samples,
      first_sample=first // size * self.num_samples,
    )

  def to_sample(self, params: PyTree) -> tuple[LanguageModel, PyTree]:
    """The policy and its parameters, see `processes.to_sample`."""
    return processes.to_sample(self.policy, params, self.layout)

  def values(self, state: RlState, rollout: Rollout) -> Any:
    """The prover's values of all prefixes for one sample, [B, P], or None."""
    prover = self.arm.reward.prover
    if prover is None:
      return None
    if self.arm.uses_policy:
      prover = prover.with_policy(*self.to_sample(state.prover))
    key = jax.random.fold_in(self.key, _PROVE)
    if not hasattr(prover, "logits"):
      return prover(key, rollout)
    # A verifier, which runs on the device.
    if processes.together(prover) and not self.is_split:
      prover = dataclasses.replace(
        prover, params=processes.on_own(prover.params), layout=prover.layout.own
      )
    if not processes.together(prover):
      rollout = processes.on_own(rollout)
    return rollout_values.compiled(prover, rollout)

  def iterate(
    self, state: RlState, iteration: int, scale: float
  ) -> tuple[RlState, Callable[[], dict[str, float]]]:
    """One iteration, counted from 0.

    Args:
      state: of the run.
      iteration: which.
      scale: of the learning rate.

    Returns:
      The next state, which the device may not have finished, and a function
      that waits for it and gives the iteration's metrics: those of
      `training.rl`, `kl` to the start and `entropy` in nats a response,
      `k`, the terms of Theorem 3.1, and probes.
    """
    arm = self.arm
    every = arm.refresh_every
    if arm.uses_policy and every and iteration % every == 0:
      prover = jax.tree.map(jnp.copy, state.params)
      state = dataclasses.replace(state, prover=prover)
    rollout = self.sample(state.params, iteration)
    sampler, reference = self.to_sample(self.reference)
    logp_ref = logp(sampler, reference, rollout)
    q = self.values(state, rollout)
    host = jax.tree.map(np.asarray, rollout)
    host = dataclasses.replace(
      host, outcome=processes.grade(self.problem, host, sampler)
    )
    rollout = dataclasses.replace(rollout, outcome=jnp.asarray(host.outcome))
    policy = self.policy
    scored = q
    if self.layout:
      policy = dataclasses.replace(policy, layout=self.layout)
      batch = (host, logp_ref, q)
      if jax.process_count() > 1:
        batch = jax.tree.map(np.asarray, batch)
        if not processes.together(sampler):
          batch = jax.tree.map(processes.gather, batch)
      host, logp_ref, q = batch
      scored = q
      rollout, logp_ref, q = partitioning.put(
        (host, logp_ref, q), partitioning.over_batch(self.layout.mesh)
      )
    choose = isinstance(arm.k, AdaptiveK) and iteration % arm.k.every == 0
    where = jax.tree.map(lambda x: x.sharding, state)
    state, metrics = learn(
      policy,
      (
        dataclasses.replace(arm.reward, prover=None),
        arm.update,
        arm.baseline_for(policy),
      ),
      state,
      rollout,
      None if q is None else jnp.asarray(q),
      logp_ref,
      np.asarray(arm.ks, np.float32),
      np.bool_(choose),
      np.float32(scale),
      num_updates=arm.num_updates,
      num_minibatches=arm.num_minibatches,
      choose_by=arm.k.by if isinstance(arm.k, AdaptiveK) else "progress",
      loss_weight=arm.k.loss_weight if isinstance(arm.k, AdaptiveK) else None,
    )
    if self.layout:
      state = jax.device_put(state, where)

    def finish() -> dict[str, float]:
      scores = None if scored is None else np.asarray(scored)
      found = probes.measure(self.problem, host, scores)
      return {name: float(x) for name, x in metrics.items()} | found

    return state, finish


@functools.partial(jax.jit, static_argnums=0)
def logp(
  policy: LanguageModel, params: PyTree, rollout: Rollout
) -> Float[Array, "B T"]:
  """`policy.logp`, compiled."""
  return partitioning.constrain(policy.layout, policy.logp(params, rollout))


@functools.partial(
  jax.jit,
  static_argnames=(
    "policy",
    "num_updates",
    "num_minibatches",
    "choose_by",
    "loss_weight",
  ),
  donate_argnames="state",
)
def learn(
  policy: LanguageModel,
  algorithm: rl.Algorithm,
  state: RlState,
  rollout: Rollout,
  q_prover: Float[Array, "B P"] | None,
  logp_ref: Float[Array, "B T"],
  ks: Float[Array, "K"],
  choose: Any,
  scale: Any,
  *,
  num_updates: int,
  num_minibatches: int = 1,
  choose_by: str = "progress",
  loss_weight: float | None = None,
) -> tuple[RlState, dict[str, Float[Array, ""]]]:
  """Updates a policy from graded rollouts; pure.

  Args:
    policy: static.
    algorithm: reward, update and baseline; the reward's prover is not called.
    state: before; its memory is used for the next one's.
    rollout: graded.
    q_prover: values of prefixes for one sample; None for outcomes alone.
    logp_ref: of the tokens under the start, in nats.
    ks: K that may be chosen.
    choose: whether to choose.
    scale: of the learning rate.
    num_updates: passes over the rollouts, static.
    num_minibatches: updates of a pass, static; divides the rollouts.
    choose_by: the term of `adaptive.Terms` that is to be largest, static.
    loss_weight: see `adaptive.AdaptiveK`, static.

  Returns:
    The next state and scalars, see `Trainer.iterate`; `loss` and what else
    updates report are means over those of the first pass.
  """
  reward_fn, update, baseline = algorithm
  exists = steps.step_mask(rollout.prefix_len)
  outcome = jnp.broadcast_to(rollout.outcome[:, None], exists.shape)
  k, more = state.k, {}
  if q_prover is None:
    rewards = outcome
  else:
    terms = adaptive.sampled_terms(
      q_prover,
      rollout.outcome,
      rollout.prefix_len,
      ks,
      loss_weight=adaptive.loss_weight_for(
        loss_weight, reward_fn.negative_weight
      ),
    )
    k = jnp.where(choose, ks[jnp.argmax(getattr(terms, choose_by))], k)
    at = jnp.argmin(jnp.abs(ks - k))
    more = {name: x[at] for name, x in terms._asdict().items()} | {"k": k}
    rewards = reward_fn.of_values(outcome, values.best_of_k(q_prover, k))
  train = TrainState(state.params, state.update, state.baseline)

  batch = rollout, rewards, logp_ref

  def follow(train, batch, off_policy):
    rollout, rewards, logp_ref = batch
    return rl.follow(
      policy,
      update,
      baseline,
      train,
      rollout,
      rewards,
      scale=scale,
      logp_ref=logp_ref,
      off_policy=off_policy,
    )

  def one_pass(train, off_policy):
    if num_minibatches == 1:
      return follow(train, batch, off_policy)
    parts = jax.tree.map(
      lambda x: _minibatches(policy.layout, x, num_minibatches), batch
    )
    train, metrics = jax.lax.scan(
      lambda train, part: follow(train, part, True), train, parts
    )
    return train, jax.tree.map(jnp.mean, metrics)

  train, metrics = one_pass(train, False)
  if num_updates > 1:
    train = jax.lax.fori_loop(
      1, num_updates, lambda _, train: one_pass(train, True)[0], train
    )
  responses = jnp.sum(rollout.logp, axis=-1)
  metrics |= more | {
    "kl": losses.kl_penalty(rollout.logp, logp_ref, rollout.prefix_len),
    "entropy": -jnp.mean(responses),
  }
  return RlState(
    train.params, train.update, train.baseline, state.prover, k
  ), metrics


def _minibatches(
  layout: Layout | None, x: Real[Array, "B ..."], number: int
) -> Real[Array, "M B/M ..."]:
  """Rows that follow each other, in parts of which all devices have some."""
  parts = x.reshape(number, len(x) // number, *x.shape[1:])
  if layout is None:
    return parts
  rows = partitioning.over_batch(layout.mesh)
  spec = PartitionSpec(None, *rows.spec)
  return jax.lax.with_sharding_constraint(
    parts, NamedSharding(layout.mesh, spec)
  )
