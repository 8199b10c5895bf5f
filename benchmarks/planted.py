"""How fast the planted sub-sequence trains, and what the time goes into.

  .venv/bin/python benchmarks/planted.py

Prints iterations per second in total over 8 vmapped seeds for every update, the
time of an iteration's parts, and sampling by `made.decode` beside sampling that
recomputes the network for every token, in one run.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import randomness
from pav_jax.credit import EffectiveReward
from pav_jax.models import made, partitioning
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural
from pav_jax.training.baselines import BatchMean, less_baseline
from pav_jax.training.imitation import ImitateProver
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Traced
from pav_jax.training.rl_replicas import Together
from pav_jax.training.updates import Gradient, NaturalGradient

PROBLEM = Planted()
POLICY = MadePolicy(PROBLEM)


def seconds_of(fn, *arguments, repeats):
  """Median seconds of a call, after one that compiles."""
  jax.block_until_ready(fn(*arguments))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn(*arguments))
    times.append(time.perf_counter() - start)
  return float(np.median(times))


def training_rate(update, keys, batch_size, iterations):
  """Iterations per second over all seeds, and the accuracy reached."""
  estimator = less_baseline(reward=EffectiveReward(), baseline=BatchMean())
  arm = Arm("arm", estimator, update, Procedural(PROBLEM, 10.0))
  init = ImitateProver(Procedural(PROBLEM, 5.0))
  params = jax.jit(jax.vmap(lambda key: init(POLICY, key)))(keys)
  mesh = partitioning.make_mesh()
  trainer = Trainer(arm, POLICY, PROBLEM, Traced(mesh), 1, batch_size)
  replicas = Together(trainer, [arm], keys, params)
  state, start = replicas.init(), None
  for done in range(0, iterations + replicas.stride, replicas.stride):
    state, finish = replicas.advance(state, done, [1.0] * replicas.stride)
    (metrics,) = finish()
    start = start or time.perf_counter()  # the first chunk compiles
  rate = iterations * len(keys) / (time.perf_counter() - start)
  return rate, float(np.mean(metrics["accuracy"]))


def sample_by_recomputing(params, key, problem_id, sample_id):
  """What `MadePolicy.sample` gives, with a forward pass for every token."""
  length = PROBLEM.length
  keys = randomness.token_keys(key, (problem_id, sample_id), length)

  def body(tokens, t):
    logits = made.apply(POLICY.config, params, tokens)[:, t]
    drawn, _ = randomness.categorical(keys[:, t], logits)
    return tokens.at[:, t].set(drawn), None

  tokens = jnp.zeros((*problem_id.shape, length), jnp.int32)
  return jax.lax.scan(body, tokens, jnp.arange(length))[0]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--seeds", type=int, default=8)
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--iterations", type=int, default=300)
  parser.add_argument("--repeats", type=int, default=100)
  flags = parser.parse_args()
  keys = jax.vmap(jax.random.key)(jnp.arange(flags.seeds))
  for name, update in {
    "sgd": Gradient("sgd", 1.0),
    "adam": Gradient("adam", 1e-3),
    "natural gradient": NaturalGradient(),
  }.items():
    rate, accuracy = training_rate(
      update, keys, flags.batch_size, flags.iterations
    )
    print(
      f"{name}: {rate:.0f} iterations/s over {flags.seeds} seeds "
      f"(accuracy {accuracy:.3f} after {flags.iterations + 10})"
    )

  params = jax.vmap(POLICY.init)(keys)
  ids = jnp.arange(flags.batch_size, dtype=jnp.int32)
  zeros = jnp.zeros_like(ids)

  def over_seeds(fn):
    return jax.jit(jax.vmap(fn))

  def logp_sum(params, rollout):
    return jnp.sum(POLICY.logp(params, rollout))

  sample = over_seeds(lambda p, k: POLICY.sample(p, k, zeros, ids))
  rollout = sample(params, keys)
  recomputed = over_seeds(lambda p, k: sample_by_recomputing(p, k, zeros, ids))
  exists = jnp.arange(PROBLEM.length) < rollout.prefix_len[..., -1:]
  same = jnp.mean(
    jnp.where(exists, recomputed(params, keys) == rollout.tokens, True)
  )
  parts = {
    "sampling": (sample, params, keys),
    "sampling, recomputing the network": (recomputed, params, keys),
    "log-probabilities, forward": (over_seeds(POLICY.logp), params, rollout),
    "their gradient": (over_seeds(jax.grad(logp_sum)), params, rollout),
    "prover values": (
      over_seeds(lambda r: Procedural(PROBLEM, 10.0)(None, r)),
      rollout,
    ),
  }
  times = {}
  for name, (fn, *arguments) in parts.items():
    times[name] = seconds_of(fn, *arguments, repeats=flags.repeats)
    print(f"{name}: {1e3 * times[name]:.2f} ms for all seeds")
  ratio = times["sampling, recomputing the network"] / times["sampling"]
  print(f"decode is {ratio:.1f}× recomputing; {same:.2%} of tokens the same")
  weights = sum(x[0].size for x in jax.tree.leaves(params))
  flops = 6 * weights * flags.batch_size * flags.seeds
  print(
    f"the gradient runs at {flops / times['their gradient'] / 1e9:.0f} GFLOP/s "
    f"({flops / 1e6:.0f} MFLOP, masked products counted)"
  )
  size = 2048
  x = jnp.ones((size, size))
  peak = 2 * size**3 / seconds_of(jax.jit(jnp.matmul), x, x, repeats=5)
  print(f"a {size}×{size} matrix product runs at {peak / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
  main()
