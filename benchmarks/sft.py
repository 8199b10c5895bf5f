"""How fast a model of 0.6M parameters is trained and sampled on chain.

  .venv/bin/python benchmarks/sft.py

Prints tokens a second of training, counted with prompts and padding, on packed
rows in a compiled chunk of steps, and of sampling, counted without prompts.
"""

import argparse
import dataclasses
import functools
import time

import jax
import numpy as np

from pav_jax.data.packing import Demonstrations
from pav_jax.models import partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.runs import hosts
from pav_jax.training import sft

STEPS = 16


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="small")
  parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64])
  parser.add_argument("--slots", type=int, nargs="+", default=[128, 512, 1024])
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args()

  hosts.cores_as_devices()
  config = preset(args.preset)
  layout = Layout(partitioning.make_mesh())
  problem = Chain()
  params = transformer.init(config, jax.random.key(0))
  size = sum(x.size for x in jax.tree.leaves(params))
  print(f"{size:,} parameters")

  optimizer = sft.AdamW()(1e-3)
  for rows in args.rows:
    source = Demonstrations(problem, num_rows=rows, row_length=96)
    batches, position = [], 0
    for _ in range(STEPS):
      batch, position = source(position)
      batches.append(batch)
    batches = jax.tree.map(lambda *x: np.stack(x), *batches)
    filled = (batches.segments > 0).mean()
    fresh = jax.tree.map(np.array, params)
    fitter = sft.fitter(config, optimizer, layout)
    state = fitter.init(fresh)
    seconds = []
    for _ in range(args.repeats + 1):
      start = time.perf_counter()
      state, metrics = fitter.train_chunk(state, batches, np.int32(STEPS))
      jax.block_until_ready(metrics)
      seconds.append(time.perf_counter() - start)
    rate = batches.tokens.size / np.array(seconds[1:])
    print(
      f"training, {rows} rows of 96: median {np.median(rate):,.0f}, best "
      f"{rate.max():,.0f} tokens/s, {100 * filled:.0f} % no padding, "
      f"{6 * size * np.median(rate) / 1e9:.0f} GFLOP/s",
      flush=True,
    )

  ids = problem.problem_ids("test", 0, 64)
  prompts = problem.prompts(ids)
  params = partitioning.put(params, partitioning.replicated(layout.mesh))
  for slots in args.slots:
    policy = language_model(config, problem, num_slots=slots)
    policy = dataclasses.replace(policy, layout=layout.own)
    sample = functools.partial(
      policy.sample,
      params,
      jax.random.key(1),
      prompts,
      np.full(len(ids), prompts.shape[1]),
      ids,
      num_samples=16,
    )
    rollout = jax.block_until_ready(sample())
    new = int((rollout.prefix_len[:, -1] - rollout.prefix_len[:, 0]).sum())
    rate = []
    for _ in range(args.repeats):
      start = time.perf_counter()
      jax.block_until_ready(sample())
      rate.append(new / (time.perf_counter() - start))
    print(
      f"sampling, {slots} slots: median {np.median(rate):,.0f}, best "
      f"{max(rate):,.0f} tokens/s",
      flush=True,
    )


if __name__ == "__main__":
  main()
