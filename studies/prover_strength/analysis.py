"""Looks at trained arms: each gives a part of report.json and figures."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from pav_jax import complementarity, steps, values
from pav_jax.credit import EffectiveReward
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.provers.importance import ImportanceSampling
from pav_jax.provers.procedural import Procedural
from pav_jax.reporting import plots
from pav_jax.runs.rl_fresh import Trained
from pav_jax.training.baselines import less_baseline
from pav_jax.training.rl import Arm
from pav_jax.training.rl_replicas import count_correct
from studies.prover_strength import figure


@gin.register
def pass_at_n(
  trained: Trained, *, num_samples: int = 2**17, largest: int = 2**14
) -> tuple[dict[str, Any], list[pathlib.Path]]:
  """Pass@N of every arm's final policy and of the start (Fig. 3c, 8a).

  Args:
    trained: what training has left.
    num_samples: responses sampled of each policy, for the unbiased estimator.
    largest: N runs over the powers of two up to here.

  Returns:
    `{"pass_at_n": {"n": [...], policy: [[Pass@N per n] per seed]}}`.
  """
  ns = [2**i for i in range(largest.bit_length())]
  policies = {"start": trained.initial_params, **trained.params}
  curves = {}
  for name, params in policies.items():
    lanes = jax.tree.map(lambda x: x[None], params)
    correct = count_correct(
      trained.policy, trained.problem, lanes, trained.keys, num_samples
    )[0]
    curves[name] = np.stack(
      [np.asarray(values.pass_at_k(correct, num_samples, n)) for n in ns]
    )
  iterations = len(next(iter(trained.accuracy.values())))
  drawn = plots.pass_at_n(
    trained.workdir,
    ns,
    curves,
    title=f"after {iterations} iterations; line: mean of seeds; points: seeds",
  )
  return {
    "pass_at_n": {"n": ns}
    | {name: curve.T.tolist() for name, curve in curves.items()}
  }, [drawn]


@gin.register
def sweep_provers(
  *,
  trainers: Mapping[str, tuple[Any, Any]],
  strengths: Sequence[float],
  prover: Procedural,
  alpha: float = 1.0,
) -> list[Arm]:
  """An arm for every trainer and prover strength.

  Args:
    trainers: label -> (update, baseline); labels without spaces.
    strengths: γ of the provers.
    prover: of any strength, for its problem.
    alpha: of the effective reward.

  Returns:
    Arms named `LABEL γ=STRENGTH`.
  """
  return [
    Arm(
      name=f"{label} γ={strength:g}",
      credit=less_baseline(reward=EffectiveReward(alpha), baseline=baseline),
      update=update,
      prover=dataclasses.replace(prover, strength=strength),
    )
    for label, (update, baseline) in trainers.items()
    for strength in strengths
  ]


@gin.register
def prover_strengths(
  trained: Trained,
  *,
  proposal: Procedural,
  num_rollouts: int = 64,
  num_samples: int = 32,
) -> tuple[dict[str, Any], list[pathlib.Path]]:
  """What `sweep_provers` trained, beside Theorem 3.1's terms (Fig. 3b).

  Args:
    trained: what training has left.
    proposal: see `complementarity_terms`.
    num_rollouts: of the start of each seed, whose states are averaged over.
    num_samples: completions of each state and token.

  Returns:
    `{"provers": {"strength": […], "accuracy": {label: [[per strength] per
    seed]}, "distinguishability": …, "alignment": …}}`; accuracies are averaged
    over training.
  """
  strengths = sorted({float(arm.prover.strength) for arm in trained.arms})
  accuracy = {}
  for arm in trained.arms:
    label = arm.name.partition(" ")[0]
    mean = trained.accuracy[arm.name].mean(axis=0)
    accuracy.setdefault(label, {})[float(arm.prover.strength)] = mean
  accuracy = {
    label: np.stack([by_strength[s] for s in strengths])
    for label, by_strength in accuracy.items()
  }

  def of_seed(params, key):
    return complementarity_terms(
      trained.policy,
      params,
      trained.problem,
      proposal,
      jnp.array(strengths, jnp.float32),
      jax.random.fold_in(key, 4),
      num_rollouts=num_rollouts,
      num_samples=num_samples,
    )

  def seeds(params_and_keys):
    return jax.lax.map(lambda x: of_seed(*x), params_and_keys)

  terms = jax.jit(seeds)((trained.initial_params, trained.keys))
  terms = {name: np.asarray(x) for name, x in terms.items()}
  drawn = figure.prover_strengths(
    trained.workdir,
    strengths,
    accuracy,
    {name: terms[name].T for name in ("distinguishability", "alignment")},
  )
  report = {
    "strength": strengths,
    "accuracy": {label: x.T.tolist() for label, x in accuracy.items()},
  } | {name: x.tolist() for name, x in terms.items()}
  return {"provers": report}, [drawn]


def complementarity_terms(
  policy: MadePolicy,
  params: PyTree,
  problem: Any,
  proposal: Procedural,
  strengths: Float[Array, "G"],
  key: jax.Array,
  *,
  num_rollouts: int,
  num_samples: int,
) -> dict[str, Float[Array, "..."]]:
  """Theorem 3.1's terms at a policy, for procedural provers.

  States are those of the policy's own rollouts; A^μ is exact, and A^π by
  importance sampling (`provers.importance`).

  Args:
    policy: π.
    params: of π.
    problem: has `grade(rollout)`.
    proposal: policy whose completions are reweighted; somewhat stronger than π.
    strengths: G prover strengths.
    key: of the rollouts and completions.
    num_rollouts: whose states are averaged over.
    num_samples: completions of each state and token.

  Returns:
    `distinguishability` and `alignment`, float32[G], and `q_policy`, float32[],
    the estimated success rate from the bare problem.
  """
  sample_id = jnp.arange(num_rollouts, dtype=jnp.int32)
  rollout = policy.sample(params, key, jnp.zeros_like(sample_id), sample_id)
  exists = steps.step_mask(rollout.prefix_len)
  probs = jax.nn.softmax(policy.logits(params, rollout.tokens))
  sampling = ImportanceSampling(problem, proposal, num_samples, policy, params)
  q_policy = sampling.action_values(key, rollout)
  v_policy = jnp.sum(probs * q_policy, axis=-1)

  def of_strength(strength):
    prover = dataclasses.replace(proposal, strength=strength)
    adv_prover = (
      prover.action_values(rollout) - prover(None, rollout)[:, :-1, None]
    )
    per_state = {
      "distinguishability": complementarity.distinguishability(
        adv_prover, probs
      ),
      "alignment": complementarity.alignment(
        adv_prover, q_policy - v_policy[..., None], probs
      ),
    }
    return {
      name: jnp.sum(x * exists) / jnp.sum(exists)
      for name, x in per_state.items()
    }

  terms = jax.vmap(of_strength)(strengths)
  return terms | {"q_policy": jnp.mean(v_policy[:, 0])}
