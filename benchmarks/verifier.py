"""How fast one pass scores all prefixes, beside scoring each prefix alone.

  .venv/bin/python benchmarks/verifier.py

The verifier's trunk has chain_sft's size, or is that of `--checkpoint`. Alone,
each prefix is cut out and scored without the padding after it, all traces of a
step in one call; prefixes past the end of a response are not counted. Each way
has its best number of rows a call. Prints traces a second, the ratio, and by
how much the logits differ.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import hf, transformer
from pav_jax.models import value_network as network
from pav_jax.models.presets import preset
from pav_jax.problems.chain import Chain


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--checkpoint", help="a directory; else random weights")
  parser.add_argument("--reader_layers", type=int, default=2)
  parser.add_argument("--traces", type=int, default=256)
  parser.add_argument("--rows", type=int, nargs="+", default=[32, 64, 128])
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args()

  problem = Chain()
  if args.checkpoint:
    config, trunk = hf.load(args.checkpoint)
  else:
    config = preset("tiny", num_layers=2, width=96, mlp_width=384)
    trunk = transformer.init(config, jax.random.key(0))
  verifier = network.VerifierConfig(config, reader_layers=args.reader_layers)
  params = network.init(verifier, trunk, jax.random.key(1))
  params["head"]["kernel"] = jax.random.normal(
    jax.random.key(1), (config.width,)
  )
  ids = problem.problem_ids("test", 0, args.traces)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  tokens, prefix_len = map(np.asarray, (rollout.tokens, rollout.prefix_len))
  tokens = tokens[:, : prefix_len.max()]
  exists = np.diff(prefix_len, prepend=0) > 0

  @jax.jit
  def values(tokens, at):
    return network.values(verifier, params, tokens, at)

  def in_calls(tokens, at, rows):
    """Some rows a call, the last one filled up."""
    parts = []
    for first in range(0, len(tokens), rows):
      some = np.minimum(np.arange(first, first + rows), len(tokens) - 1)
      parts.append(values(jnp.asarray(tokens[some]), jnp.asarray(at[some])))
    found = np.concatenate([np.asarray(part) for part in parts])
    return found[: len(tokens)]

  def one_pass(rows):
    return in_calls(tokens, prefix_len - 1, rows)

  def alone(rows):
    found = np.zeros(prefix_len.shape, np.float32)
    for h in range(prefix_len.shape[1]):
      some = np.flatnonzero(exists[:, h])
      if len(some):
        length = prefix_len[some, h]
        cut = tokens[some, : length.max()]
        cut = np.where(np.arange(length.max()) < length[:, None], cut, 0)
        found[some, h] = in_calls(cut, length[:, None] - 1, rows)[:, 0]
    return found

  size = sum(x.size for x in jax.tree.leaves(params))
  print(
    f"{size:,} parameters, {len(tokens)} traces of up to {tokens.shape[1]} "
    f"tokens, {exists.sum() / len(tokens):.1f} prefixes each"
  )
  difference = np.abs(one_pass(64) - alone(64))[exists].max()
  print(f"largest difference between logits: {difference:.1e}")
  ways = {"one pass": one_pass, "each prefix alone": alone}
  best = dict.fromkeys(ways, (0.0, 0.0))
  for rows in args.rows:
    seconds = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):  # the first one compiles
      for name, function in ways.items():  # in turn: others may be at work
        wall, cpu = time.perf_counter(), time.process_time()
        function(rows)
        spent = time.perf_counter() - wall, time.process_time() - cpu
        if repeat:
          seconds[name].append(spent)
    for name in ways:
      rate = len(tokens) / np.median(seconds[name], axis=0)
      best[name] = max(best[name], tuple(rate.tolist()))
      print(
        f"{name}, {rows} rows a call: {rate[0]:,.0f} traces a second, "
        f"{rate[1]:,.0f} a second of CPU time; medians",
        flush=True,
      )
  (wall, cpu), (wall_alone, cpu_alone) = best.values()
  print(
    f"one pass is {wall / wall_alone:.1f} times as fast, in CPU time "
    f"{cpu / cpu_alone:.1f} times"
  )


if __name__ == "__main__":
  main()
