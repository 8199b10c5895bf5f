"""What it saves a server of step scores to keep what it has read.

python -m benchmarks.serving [--preset=smollm2_135m] [--layers=8] [--steps=16]
  [--tokens=32] [--repeats=3]

Scores the steps of a trace as they come, with random parameters: each behind
what is kept of the trace, and each with the whole trace before it read again.
Prints the medians in turns, and their ratio; that grows with the steps, towards
half of their number where reading is what costs.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import heads, transformer, value_network
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers.public.reencoding import room_for
from pav_jax.provers.trace_reader import TraceReader


def main():
  """Prints seconds for a trace, both ways."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--preset", default="smollm2_135m")
  parser.add_argument("--layers", type=int, default=8)
  parser.add_argument("--steps", type=int, default=16)
  parser.add_argument("--tokens", type=int, default=32, help="of a step")
  parser.add_argument("--repeats", type=int, default=3)
  flags = parser.parse_args()
  length = flags.steps * flags.tokens
  trunk = dataclasses.replace(preset(flags.preset), num_layers=flags.layers)
  config = VerifierConfig(trunk)
  init = jax.jit(transformer.init, static_argnums=0)
  key = jax.random.key(0)
  params = value_network.init(config, init(trunk, key), key)
  tokens = np.random.default_rng(0).integers(
    trunk.vocab_size, size=(1, length), dtype=np.int32
  )
  values = jax.jit(functools.partial(value_network.values, config))
  reader = TraceReader(
    config, params, params["head"], heads.read, num_traces=1, max_length=length
  )
  zero = np.zeros(1, np.int32)

  def again():
    for end in range(flags.tokens, length + 1, flags.tokens):
      whole = tokens[:, : min(room_for(end), length)]
      mark = jnp.array([[end - 1]])
      jax.block_until_ready(values(params, whole, mark))

  def behind():
    reader.forget()
    for start in range(0, length, flags.tokens):
      end = start + flags.tokens
      reader.scores(
        zero,
        zero,
        tokens[:, start:end],
        zero + start,
        np.array([[end - 1]], np.int32),
        room=min(room_for(end), length),
      )

  seconds = {again: [], behind: []}
  for number in range(flags.repeats + 1):  # the first one compiles
    for way, times in seconds.items():
      begin = time.perf_counter()
      way()
      if number:
        times.append(time.perf_counter() - begin)
  whole, kept = (statistics.median(times) for times in seconds.values())
  print(
    f"{flags.steps} steps of {flags.tokens} tokens: read again {whole:.2f} s, "
    f"behind what is kept {kept:.2f} s, ratio {whole / kept:.1f}"
  )


if __name__ == "__main__":
  main()
