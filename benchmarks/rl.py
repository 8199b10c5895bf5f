"""Where the time of an iteration of reinforcement learning goes.

  .venv/bin/python benchmarks/rl.py

128 rollouts of about 64 tokens on chain, by a policy with random weights whose
responses run to their limit, or by --policy: sampling, log-probabilities under
the start, grading on the host, values of all prefixes, update. Each part is
timed alone, waiting for it; then whole iterations, in which parts overlap.

What a policy with random weights does is never right, so that the natural
gradient has nothing to solve: it needs --policy.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.credit import EffectiveReward
from pav_jax.models import transformer
from pav_jax.models.transformer_config import preset
from pav_jax.policies.for_problem import ProblemPolicy, language_model
from pav_jax.problems.chain import Chain
from pav_jax.provers import base as provers
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.runs import hosts, networks
from pav_jax.training import probes
from pav_jax.training.baselines import GroupMean, less_baseline
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_learning import Experience
from pav_jax.training.rl_placement import Hosted
from pav_jax.training.updates import Gradient, NaturalGradient


def median_seconds(fn, repeats):
  jax.block_until_ready(fn())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    seconds.append(time.perf_counter() - start)
  return float(np.median(seconds))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="tiny")
  parser.add_argument("--problems", type=int, default=16)
  parser.add_argument("--samples", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--policy", help="a checkpoint, for random weights")
  parser.add_argument(
    "--cg_steps", type=int, default=2, help="as gin/experiments/chain_rl_arms"
  )
  parser.add_argument("--updates", type=int, default=1, help="passes a batch")
  parser.add_argument("--minibatches", type=int, default=1, help="of a pass")
  args = parser.parse_args()

  hosts.cores_as_devices()
  layout = networks.layout_of(None)
  problem = Chain()
  if args.policy:
    from pav_jax.models import hf

    config, params = hf.load(args.policy)
  else:
    config = preset(args.preset)
    params = transformer.init(config, jax.random.key(0))
  size = sum(x.size for x in jax.tree.leaves(params))
  model = language_model(config, problem, max_new_tokens=64)
  policy, place = ProblemPolicy(model, problem), Hosted(layout)
  params = place.put(policy, params)
  rows = args.problems * args.samples
  print(f"{size:,} parameters, {rows} rollouts of at most 64 tokens")
  updates = {"adam": Gradient("adam", 1e-5, kl_weight=1e-3, clip_norm=1.0)}
  if args.policy:
    natural = NaturalGradient(num_cg_steps=args.cg_steps)
    updates["natural gradient"] = natural
  key = jax.random.key(0)
  for name, update in updates.items():
    estimator = less_baseline(reward=EffectiveReward(), baseline=GroupMean())
    prover = BestOfK(ClosedForm(problem.teacher_values), 4.0)
    arm = Arm(
      name,
      estimator,
      update,
      prover,
      num_updates=args.updates,
      num_minibatches=args.minibatches,
    )
    trainer = Trainer(arm, policy, problem, place, args.problems, args.samples)
    state = place.lay_out(trainer.init_state(jax.random.key(1), params))
    now, (reading, outer) = trainer.turn(0), provers.split_pure(prover)
    rollout = place.sample(policy, params, key, now, args.samples)
    graded = place.grade(problem, policy, rollout)
    logp_ref = place.logp(policy, params, rollout)
    q = place.values(reading, policy, (), key, rollout)
    seen = Experience(graded, logp_ref, q)

    def learn(trainer=trainer, state=state, seen=seen, outer=outer):
      return trainer.placement.learn(
        policy,
        (outer, trainer.estimator, trainer.arm.update),
        jax.tree.map(jnp.copy, state),  # learning takes it
        seen,
        np.float32(1.0),
        num_updates=args.updates,
        num_minibatches=args.minibatches,
      )

    parts = {
      "sampling": lambda now=now: place.sample(
        policy, params, key, now, args.samples
      ),
      "log-probabilities": lambda r=rollout: place.logp(policy, params, r),
      "grading": lambda h=graded: problem.grade(h),
      "values": lambda r=rollout, p=reading: place.values(
        p, policy, (), key, r
      ),
      "update": learn,
      "probes": lambda h=graded, q=q: probes.measure(problem, h, q),
    }
    print(f"{name}:")
    seconds = {
      part: median_seconds(fn, args.repeats) for part, fn in parts.items()
    }
    total = sum(seconds.values())
    for part, spent in seconds.items():
      print(f"  {part:18} {1000 * spent:8.1f} ms  {spent / total:6.1%}")

    def iterate(state=state, trainer=trainer):
      state = jax.tree.map(jnp.copy, state)
      return trainer.iterate(state, params, key, trainer.turn(0))[0]

    whole = median_seconds(iterate, args.repeats)
    print(
      f"  whole iteration    {1000 * whole:8.1f} ms, of which sampling "
      f"{seconds['sampling'] / whole:.1%}",
      flush=True,
    )


if __name__ == "__main__":
  main()
