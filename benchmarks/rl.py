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
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import partitioning, transformer
from pav_jax.models.transformer_config import preset
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.runs import hosts, networks
from pav_jax.training import probes, rl_text
from pav_jax.training.baselines import GroupMean
from pav_jax.training.rewards import Reward
from pav_jax.training.rl_text import LanguageArm, Trainer
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
  policy = language_model(config, problem, max_new_tokens=64)
  if layout:
    policy = dataclasses.replace(policy, layout=layout)
    params = partitioning.put(params, partitioning.replicated(layout.mesh))
  rows = args.problems * args.samples
  print(f"{size:,} parameters, {rows} rollouts of at most 64 tokens")
  updates = {"adam": Gradient("adam", 1e-5, kl_weight=1e-3, clip_norm=1.0)}
  if args.policy:
    natural = NaturalGradient(num_cg_steps=args.cg_steps)
    updates["natural gradient"] = natural
  for name, update in updates.items():
    reward = Reward(ClosedForm(problem.teacher_values), 1.0)
    arm = LanguageArm(
      name,
      reward,
      update,
      GroupMean(),
      k=4.0,
      num_updates=args.updates,
      num_minibatches=args.minibatches,
    )
    trainer = Trainer(
      arm,
      policy,
      problem,
      params,
      jax.random.key(0),
      args.problems,
      args.samples,
      layout,
    )
    state = rl_text.init_state(arm, policy, jax.random.key(1), params, layout)
    rollout = trainer.sample(state.params, 0)
    host = jax.tree.map(np.asarray, rollout)
    host = dataclasses.replace(host, outcome=problem.outcomes(host))
    graded = dataclasses.replace(rollout, outcome=jnp.asarray(host.outcome))
    if layout:
      over = partitioning.over_batch(layout.mesh)
      graded = partitioning.put(graded, over)
    logp_ref = rl_text.logp(policy, params, rollout)
    q = trainer.values(state, rollout)
    reward = dataclasses.replace(arm.reward, prover=None)
    algorithm = (reward, arm.update, arm.baseline)

    def learn(
      algorithm=algorithm, state=state, graded=graded, q=q, logp_ref=logp_ref
    ):
      return rl_text.learn(
        policy,
        algorithm,
        jax.tree.map(jnp.copy, state),  # learning takes it
        graded,
        jnp.asarray(q),
        logp_ref,
        jnp.array([4.0]),
        np.bool_(False),
        np.float32(1.0),
        num_updates=args.updates,
        num_minibatches=args.minibatches,
      )

    parts = {
      "sampling": lambda t=trainer, s=state: t.sample(s.params, 0),
      "log-probabilities": lambda r=rollout: rl_text.logp(policy, params, r),
      "grading": lambda h=host: problem.outcomes(h),
      "values": lambda t=trainer, s=state, r=rollout: t.values(s, r),
      "update": learn,
      "probes": lambda h=host, q=q: probes.measure(problem, h, np.asarray(q)),
    }
    print(f"{name}:")
    seconds = {
      part: median_seconds(fn, args.repeats) for part, fn in parts.items()
    }
    total = sum(seconds.values())
    for part, spent in seconds.items():
      print(f"  {part:18} {1000 * spent:8.1f} ms  {spent / total:6.1%}")

    def iterate(state=state, trainer=trainer):
      now, finish = trainer.iterate(jax.tree.map(jnp.copy, state), 0, 1.0)
      finish()
      return now

    whole = median_seconds(iterate, args.repeats)
    print(
      f"  whole iteration    {1000 * whole:8.1f} ms, of which sampling "
      f"{seconds['sampling'] / whole:.1%}",
      flush=True,
    )


if __name__ == "__main__":
  main()
