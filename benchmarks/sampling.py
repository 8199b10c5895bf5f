"""How fast a language model samples, and what sharing of prefixes is worth.

  python -m benchmarks.sampling

On a random model of 4.9M parameters with 512 tokens, in float32:

(a) 64 samples of up to 64 tokens for each of 16 problems of 64 tokens;
(b) 16 completions of up to 64 tokens for each of the 9 prefixes of 8 seeds, of
    64 tokens of problem and 8 steps of 12 tokens; and the same with a prefix
    for each row alone, without sharing, for a quarter of the rows.

Prints generated tokens per second, at the best of some numbers of slots; the
share of decode slots that gave them; and which part of the speed of matrix
products of the MLP's shape that is. `benchmarks.peers` has other systems.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import partitioning
from pav_jax.models.presets import preset
from pav_jax.policies.continuing import useful_slots
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout
from pav_jax.runs import hosts, networks

PROMPT, NEW, STEPS, STEP = 64, 64, 8, 12
END, DELIMITER = 1, 2


def seconds_of(fn, *, repeats):
  """Least seconds of a call after one that compiles, and what it returns."""
  out = jax.block_until_ready(fn())
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return min(times), out


def product_rate(rows, config, repeats, dtype="float32"):
  """Operations per second of a product of the MLP's shape."""
  x = jnp.ones((rows, config.width), dtype)
  w = jnp.ones((config.width, config.mlp_width), dtype)
  product = jax.jit(lambda x, w: x @ w)
  seconds, _ = seconds_of(lambda: product(x, w), repeats=20 * repeats)
  return 2 * rows * config.width * config.mlp_width / seconds


def work_per_token(config, num_seen):
  """Operations of products for a token that sees so many others."""
  head = config.num_heads * config.head_dim
  kv = config.num_kv_heads * config.head_dim
  layer = 2 * config.width * (head + kv) + 3 * config.width * config.mlp_width
  layer += 2 * head * num_seen
  return 2 * (config.num_layers * layer + config.width * config.vocab_size)


@dataclasses.dataclass(frozen=True)
class Report:
  """Prints rates, also as parts of the speed of matrix products."""

  config: object
  peak: float

  def __call__(self, name, num_tokens, seconds, num_seen, note):
    """Prints a line, and returns tokens per second."""
    rate = num_tokens / seconds
    part = rate * work_per_token(self.config, num_seen) / self.peak
    print(
      f"{name}: {rate:,.0f} tokens/s, {100 * part:.0f} % of matrix products' "
      f"speed ({num_tokens:,} tokens in {seconds:.2f} s; {note})",
      flush=True,
    )
    return rate

  def rows(self, name, seconds, rows, num_given, each, num_slots):
    """The same for rows that pav_jax sampled."""
    num_given = np.broadcast_to(num_given, rows.prefix_len.shape[:1])
    new = np.asarray(rows.prefix_len[:, -1]) - num_given
    layout = networks.layout_of(None)
    useful = useful_slots(
      rows, num_given, each, num_slots=num_slots, layout=layout
    )
    seen = float(np.mean(num_given + new / 2))
    note = f"{100 * useful:.0f} % of decode slots useful"
    note = f"{num_slots} slots, {note}"
    return self(name, int(new.sum()), seconds, seen, note)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="medium")
  parser.add_argument("--problems", type=int, default=16)
  parser.add_argument("--samples", type=int, default=64)
  parser.add_argument("--seeds", type=int, default=8)
  parser.add_argument("--completions", type=int, default=16)
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--slots", type=int, nargs="+", default=[128, 192, 256])
  parser.add_argument("--no_unshared", action="store_true")
  args = parser.parse_args()

  hosts.cores_as_devices()
  config = preset(args.preset)
  size = config.vocab_size
  layout = networks.layout_of(None)
  policy = LanguageModel(
    config=config,
    end_token=END,
    is_delimiter=[token == DELIMITER for token in range(size)],
    max_new_tokens=NEW,
    max_steps=STEPS,
    layout=layout,
  )
  key = jax.random.key(0)
  params = jax.jit(policy.init)(key)
  if layout:
    print(f"{layout.mesh.size} devices, of which each has a share of the rows")
    params = partitioning.put(params, partitioning.replicated(layout.mesh))
  rng = np.random.default_rng(0)

  def tokens(*shape):
    return rng.integers(3, size, size=shape).astype(np.int32)

  peak = product_rate(1024, config, args.repeats)
  print(f"matrix products: {peak / 1e9:.0f} GFLOP/s")
  report = Report(config, peak)
  prompts = tokens(args.problems, PROMPT)
  lengths = np.full(args.problems, PROMPT, np.int32)
  ids = np.arange(args.problems, dtype=np.int32)

  def best(run):
    """Seconds, rows and slots where `run(policy)` is fastest."""
    results = []
    for num_slots in args.slots:
      sized = dataclasses.replace(policy, num_slots=num_slots)
      timed = seconds_of(lambda sized=sized: run(sized), repeats=args.repeats)
      results.append((*timed, num_slots))
    return min(results, key=lambda x: x[0])

  def sample(policy):
    return policy.sample(
      params, key, prompts, lengths, ids, num_samples=args.samples
    )

  seconds, rows, slots = best(sample)
  report.rows("(a) samples", seconds, rows, PROMPT, args.samples, slots)

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

  def complete(policy):
    return policy.complete(
      params, key, seeds, num_samples=args.completions, max_new_tokens=NEW
    )

  seconds, rows, slots = best(complete)
  each = args.completions * (STEPS + 1)
  prefix_len = np.repeat(seeds.prefix_len[0], args.completions)
  per_row = np.tile(prefix_len, args.seeds)
  shared = report.rows("(b) completions", seconds, rows, per_row, each, slots)
  alone = np.repeat(np.asarray(seeds.tokens[:, :seed_len]), each, axis=0)

  if not args.no_unshared:
    # A quarter of the rows, every prefix among them.
    policy = dataclasses.replace(policy, max_new_tokens=NEW, num_slots=slots)
    alone, per_row = alone[::4], per_row[::4]
    ids = jnp.arange(len(alone))
    seconds, rows = seconds_of(
      lambda: policy.sample(params, key, alone, per_row, ids, num_samples=1),
      repeats=1,
    )
    unshared = report.rows(
      "(b) without sharing", seconds, rows, per_row, 1, slots
    )
    print(f"sharing is worth a factor of {shared / unshared:.1f}")


if __name__ == "__main__":
  main()
