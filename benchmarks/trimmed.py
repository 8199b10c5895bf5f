"""How much faster a network is that may say few tokens, on CPUs.

python -m benchmarks.trimmed [--preset=smollm2_135m] [--kept=2000] [--rows=4]
  [--length=128] [--repeats=3] [--dtype=float32]

Times a step of supervised fine-tuning and sampling, with random parameters, of
all tokens and of the first KEPT ones (`models.trimming`), in turns, and prints
the medians of each and their ratios.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.models.transformer_config import KeptTokens
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import PackedTokens
from pav_jax.training import sft


def train_step(config, rows: int, length: int):
  """A function that makes a step, and waits for it."""
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  fitter = sft.fitter(config, sft.AdamW()(1e-5), layout)
  init = jax.jit(transformer.init, static_argnums=0)
  state = fitter.init(init(config, jax.random.key(0)))
  tokens = jnp.arange(rows * length, dtype=jnp.int32).reshape(rows, -1) % 1000
  positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
  batch = PackedTokens(
    tokens, jnp.ones_like(tokens), positions, jnp.ones(tokens.shape, bool)
  )
  step = jax.jit(fitter.step, donate_argnums=0)

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return run


def sampling(config, rows: int, length: int):
  """A function that samples responses of half the length to prompts of it."""
  policy = LanguageModel(
    config,
    end_token=0,
    is_delimiter=np.arange(config.vocab_size) == 1,
    max_new_tokens=length // 2,
    max_steps=8,
  )
  init = jax.jit(transformer.init, static_argnums=0)
  params = init(config, jax.random.key(0))
  prompts = np.full((rows, length // 2), 5, np.int32)
  lengths = np.full(rows, length // 2, np.int32)
  ids = np.arange(rows, dtype=np.int32)

  def run():
    key = jax.random.key(0)
    jax.block_until_ready(
      policy.sample(params, key, prompts, lengths, ids, num_samples=1)
    )

  return run


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.trimmed", description=__doc__.splitlines()[0]
  )
  parser.add_argument("--preset", default="smollm2_135m")
  parser.add_argument("--dtype", default="float32")
  for name, default in (
    ("kept", 2000),
    ("rows", 4),
    ("length", 128),
    ("repeats", 3),
  ):
    parser.add_argument(f"--{name}", type=int, default=default)
  flags = parser.parse_args()
  every = preset(flags.preset, dtype=flags.dtype)
  few = dataclasses.replace(every, kept=KeptTokens(tuple(range(flags.kept))))
  print(
    f"| {flags.preset}, {flags.dtype}, {flags.rows} x {flags.length} tokens | "
    f"{every.vocab_size} tokens | {flags.kept} | ratio |\n|---|---|---|---|"
  )
  for what in (train_step, sampling):
    runs = [what(config, flags.rows, flags.length) for config in (every, few)]
    seconds = [[], []]
    for repeat in range(flags.repeats + 1):
      for run, times in zip(runs, seconds, strict=True):
        start = time.perf_counter()
        run()
        if repeat:  # the first one compiles
          times.append(time.perf_counter() - start)
    a, b = map(statistics.median, seconds)
    name = what.__name__.replace("_", " ")
    print(f"| {name} | {a:.2f} s | {b:.2f} s | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
  main()
