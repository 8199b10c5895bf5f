"""How fast a language model samples, and what sharing of prefixes is worth.

  .venv/bin/python benchmarks/sampling.py

On a random model of 4.9M parameters with 512 tokens, in float32:

(a) 64 samples of up to 64 tokens for each of 16 problems of 64 tokens;
(b) 16 completions of up to 64 tokens for each of the 9 prefixes of 8 seeds, of
    64 tokens of problem and 8 steps of 12 tokens; and the same with a prefix
    for each row alone, without sharing.

Prints generated tokens per second, the share of decode slots that gave them,
and the speed of a matrix product of the MLP's shape, which bounds them.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models.transformer_config import preset
from pav_jax.policies.continuing import useful_slots
from pav_jax.policies.language_model import LanguageModel
from pav_jax.types import Rollout

PROMPT, NEW, STEPS, STEP = 64, 64, 8, 12


def seconds_of(fn, *, repeats):
  """Median seconds of a call after one that compiles, and what it returns."""
  out = jax.block_until_ready(fn())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return float(np.median(times)), out


def report(name, seconds, rows, num_given):
  """Prints a line, and returns tokens per second."""
  new = int(jnp.sum(rows.prefix_len[:, -1] - num_given))
  useful = float(useful_slots(rows, num_given))
  rate = new / seconds
  print(
    f"{name}: {rate:,.0f} tokens/s ({new:,} tokens in {seconds:.2f} s, "
    f"{100 * useful:.0f} % of decode slots useful)",
    flush=True,
  )
  return rate


def product_rate(rows, config, repeats):
  """Operations per second of a product of the MLP's shape."""
  x = jnp.ones((rows, config.width))
  w = jnp.ones((config.width, config.mlp_width))
  product = jax.jit(lambda x, w: x @ w)
  seconds, _ = seconds_of(lambda: product(x, w), repeats=10 * repeats)
  return 2 * rows * config.width * config.mlp_width / seconds


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="medium")
  parser.add_argument("--problems", type=int, default=16)
  parser.add_argument("--samples", type=int, default=64)
  parser.add_argument("--seeds", type=int, default=8)
  parser.add_argument("--completions", type=int, default=16)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()

  config = preset(args.preset)
  size = config.vocab_size
  policy = LanguageModel(
    config=config,
    end_token=1,
    is_delimiter=[token == 2 for token in range(size)],
    max_new_tokens=NEW,
    max_steps=STEPS,
  )
  key = jax.random.key(0)
  params = jax.jit(policy.init)(key)
  rng = np.random.default_rng(0)

  def tokens(*shape):
    return rng.integers(3, size, size=shape).astype(np.int32)

  peak = product_rate(args.problems * args.samples, config, args.repeats)
  print(f"matrix products: {peak / 1e9:.0f} GFLOP/s")

  prompts = tokens(args.problems, PROMPT)
  lengths = np.full(args.problems, PROMPT, np.int32)
  ids = np.arange(args.problems, dtype=np.int32)
  seconds, rows = seconds_of(
    lambda: policy.sample(
      params, key, prompts, lengths, ids, num_samples=args.samples
    ),
    repeats=args.repeats,
  )
  report("(a) samples", seconds, rows, PROMPT)

  # Seeds may grow by as many tokens as are sampled after their last prefix.
  seed_len = PROMPT + STEPS * STEP
  width = seed_len + NEW
  policy = dataclasses.replace(policy, max_new_tokens=width - PROMPT)
  seeds = Rollout(
    tokens=jnp.asarray(tokens(args.seeds, width)),
    logp=jnp.zeros((args.seeds, width)),
    prefix_len=jnp.broadcast_to(
      PROMPT + STEP * jnp.arange(STEPS + 1), (args.seeds, STEPS + 1)
    ),
    outcome=jnp.zeros(args.seeds),
    problem_id=jnp.arange(args.seeds),
    sample_id=jnp.zeros(args.seeds, jnp.int32),
  )
  seconds, rows = seconds_of(
    lambda: policy.complete(
      params,
      key,
      seeds,
      num_samples=args.completions,
      max_new_tokens=NEW,
    ),
    repeats=args.repeats,
  )
  per_prefix = jnp.tile(
    jnp.repeat(seeds.prefix_len[0], args.completions), args.seeds
  )
  shared = report("(b) completions", seconds, rows, per_prefix)

  policy = dataclasses.replace(policy, max_new_tokens=NEW)
  alone = jnp.repeat(
    seeds.tokens[:, :seed_len], args.completions * (STEPS + 1), axis=0
  )
  ids = jnp.arange(len(alone))
  seconds, rows = seconds_of(
    lambda: policy.sample(params, key, alone, per_prefix, ids, num_samples=1),
    repeats=args.repeats,
  )
  unshared = report("(b) without sharing", seconds, rows, per_prefix)
  print(f"sharing is worth a factor of {shared / unshared:.1f}")


if __name__ == "__main__":
  main()
