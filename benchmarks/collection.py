"""How fast values of prefixes are collected, and what sharing is worth.

  .venv/bin/python benchmarks/collection.py [--policy=out/chain_sft/policy]

Seeds of chains with 10 operations from a policy (random parameters of the same
size where none is given), and 16 completions of each of their prefixes:

(a) as `training.collect` does it, the completions of a trace's prefixes over
    one cache, those completed together with about as much left to do;
(b) each completion from scratch: a row that reads its prefix by itself. The
    same rows, a sample of them, decoded by the same loop.

Each with some numbers of decode slots, and eight times as many rows a call.
Prints completions per second by wall time and by processor time of all cores
(the same on an idle machine), the share of useful decode slots, and how many
times as fast (a) at its best gives the labels of the data set as (b) at its
best: per completion, and counting labels that (a) does not sample for (whole
responses, prefixes that traces share, and dead ones).

Without --policy no response is legal, so dead prefixes are not free.
"""

import argparse
import dataclasses
import os
import time

import jax
import numpy as np

from pav_jax.models import hf
from pav_jax.models.presets import preset
from pav_jax.policies.continuing import useful_slots
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.provers.completions import (
  Jobs,
  LanguageModelCompletions,
  count_correct,
)
from pav_jax.runs import hosts, networks
from pav_jax.training.collect_seeds import Source, find_prefixes


def timed(fn, repeats):
  """Least wall and processor seconds of a call, and what it returns."""
  fn()
  results = []
  for _ in range(repeats):
    wall, processor = time.perf_counter(), time.process_time()
    out = fn()
    results.append(
      (time.perf_counter() - wall, time.process_time() - processor)
    )
  return *np.min(results, axis=0), out


def work_per_token(config, num_seen):
  """Operations of products for a token that sees so many others."""
  head = config.num_heads * config.head_dim
  kv = config.num_kv_heads * config.head_dim
  layer = 2 * config.width * (head + kv) + 3 * config.width * config.mlp_width
  layer += 2 * head * num_seen
  return 2 * (config.num_layers * layer + config.width * config.vocab_size)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--policy", help="directory of a checkpoint")
  parser.add_argument("--problems", type=int, default=32)
  parser.add_argument("--seeds", type=int, default=8)
  parser.add_argument("--completions", type=int, default=16)
  parser.add_argument("--slots", type=int, nargs="+", default=[64, 128, 256])
  parser.add_argument("--scratch_rows", type=int, default=2048)
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  cores = len(os.sched_getaffinity(0))
  hosts.cores_as_devices()
  layout = networks.layout_of(None)

  problem = Chain(horizon=10)
  key = jax.random.key(0)
  if args.policy:
    hf.check_fingerprint(args.policy, problem.fingerprint)
    config, params = hf.load(args.policy, layout=layout)
  else:
    config = dataclasses.replace(
      preset("tiny"), num_layers=2, width=96, mlp_width=384
    )
  policy = language_model(config, problem)
  policy = dataclasses.replace(policy, layout=layout)
  if not args.policy:
    params = jax.jit(policy.init)(key)
  prompt_len = problem.prompt_len

  def sample(problem_id, number):
    prompts = problem.prompts(problem_id)
    lengths = np.full(len(prompts), prompt_len, np.int32)
    return policy.sample(
      params, key, prompts, lengths, problem_id, num_samples=number
    )

  complete = LanguageModelCompletions(policy, params, key)
  source = Source(problem, sample, complete, complete, complete, 1024)
  source = dataclasses.replace(source, dead_are_free=bool(args.policy))
  problem_id = problem.problem_ids("train", 0, args.problems)
  traces = source.seeds(problem_id, args.seeds)
  prefixes = find_prefixes(source, traces)
  jobs = Jobs.of(prefixes.own)
  print(
    f"{len(traces.tokens)} seeds, {100 * traces.outcome.mean():.1f} % correct, "
    f"{traces.prefix_len[:, -1].mean():.0f} tokens; {len(jobs.trace)} prefixes "
    f"to complete of {prefixes.real.sum()}"
  )
  given = traces.prefix_len[jobs.trace, jobs.prefix]
  # Some of the rows, those of like length together.
  job = np.repeat(np.arange(len(jobs.trace)), args.completions)
  job = job[np.argsort(given[job], kind="stable")]
  job = job[:: max(len(job) // args.scratch_rows, 1)]

  def report(name, number, tokens, wall, processor, useful):
    """Prints a line, and returns completions per second."""
    seen = given.mean() + tokens / number / 2
    rate = number / wall, number * cores / processor
    flops = tokens / wall * work_per_token(config, seen)
    print(
      f"{name}: {rate[0]:,.0f} completions/s ({rate[1]:,.0f} by processor "
      f"time), {tokens / wall:,.0f} tokens/s, {flops / 1e9:.1f} GFLOP/s in "
      f"products, {100 * useful:.0f} % of decode slots useful ({number:,} "
      f"completions in {wall:.2f} s)",
      flush=True,
    )
    return rate

  def shared(slots):
    """Completes all jobs over shared prefixes."""
    sized = dataclasses.replace(policy, num_slots=slots)
    wall, processor, (_, work) = timed(
      lambda: count_correct(
        LanguageModelCompletions(sized, params, key),
        problem,
        traces,
        jobs,
        num_completions=args.completions,
        rows_per_call=8 * slots,
      ),
      args.repeats,
    )
    return report(
      f"(a) shared prefixes, {slots} slots",
      work.completions,
      work.tokens,
      wall,
      processor,
      work.useful / work.slots,
    )

  def scratch(slots):
    """Completes some rows, each with a prefix of its own."""
    sized = dataclasses.replace(policy, num_slots=slots)
    complete = LanguageModelCompletions(sized, params, key)
    calls = np.array_split(job, max(len(job) // (8 * slots), 1))
    size = max(map(len, calls))
    calls = [np.pad(x, (0, size - len(x)), mode="edge") for x in calls]

    def run():
      outs = []
      for some in calls:
        rows = jax.tree.map(lambda x, i=jobs.trace[some]: x[i], traces)
        out = complete(rows, jobs.prefix[some, None], 1)
        outs.append(jax.tree.map(np.asarray, out))
        problem.grade(outs[-1])
      return outs

    wall, processor, rows = timed(run, args.repeats)
    tokens = sum(
      int((out.prefix_len[:, -1] - given[some]).sum())
      for some, out in zip(calls, rows, strict=True)
    )
    useful = [
      useful_slots(out, given[some], 1, num_slots=slots, layout=layout)
      for some, out in zip(calls, rows, strict=True)
    ]
    return report(
      f"(b) from scratch, {slots} slots",
      len(calls) * size,
      tokens,
      wall,
      processor,
      float(np.mean(useful)),
    )

  best = [
    np.array(max(run(slots) for slots in args.slots))
    for run in (shared, scratch)
  ]
  ratio = best[0] / best[1]
  labels = prefixes.real.sum() - prefixes.final.sum()
  more = labels / len(jobs.trace)
  print(
    f"(a) is {ratio[0]:.1f} times as fast as (b) ({ratio[1]:.1f} by processor "
    f"time) for the same completions; with shared and dead prefixes, which (b) "
    f"would complete too, {more * ratio[0]:.1f} times for the same labels"
  )


if __name__ == "__main__":
  main()
