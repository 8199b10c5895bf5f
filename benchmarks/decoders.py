"""What holds of every family of decoders, as a table.

JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8
  python -m benchmarks.decoders [CHECKPOINTS] [--topology=v5e:1x1]

CHECKPOINTS is a folder of folders as `tests/data/make_decoder_golden.py` makes
them; the default is that of the tests. Columns: the largest error of logits
beside transformers; greedy tokens that agree; the largest difference between
reported log-probabilities of completions and a full pass; whether files come
back as they were; the largest relative difference on eight devices of the loss;
seconds to compile a training step of 4 and of 64 layers; temporaries of a
rematerialised training step of 8,192 tokens over those of 1,024, on a CPU; and,
with a topology, those of each of `--lengths` in the memory of a TPU by libtpu,
0 where they stay in the chip: an array of 8,192 × 8,192 numbers of one head
would be 256 MiB. `--preset=NAME` prints these alone, of four layers of NAME.
About ten minutes on two cores, and more for a TPU.
"""

import argparse
import dataclasses
import functools
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import SingleDeviceSharding

from pav_jax import models
from pav_jax.models import partitioning, presets, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.policies.language_model import LanguageModel
from tools import tpu_topologies

DATA = pathlib.Path(__file__).parents[1] / "tests" / "data" / "decoders"
HEADER = (
  "| checkpoint | logits | greedy | log-probabilities | round trip | 8 devices "
  "| compile, 4 and 64 layers | memory, 8 times the length "
  "| memory of a TPU |\n|---|---|---|---|---|---|---|---|---|"
)


def loss(config, params, tokens, layout=None):
  """Of next tokens."""
  logits = transformer.apply(config, params, tokens, layout=layout)
  logp = jax.nn.log_softmax(logits[:, :-1])
  return -jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1).mean()


def agreement(model, expected) -> tuple[float, str]:
  """The error of logits, and greedy tokens that agree."""
  logits = model.logits(jnp.asarray(expected["tokens"], jnp.int32))
  greedy = expected["greedy"]
  # The prompt's tokens are given; a pass over the rest shows each choice.
  best = np.argmax(model.logits(jnp.asarray(greedy, jnp.int32)), axis=-1)
  same = best[:, 7:-1] == greedy[:, 8:]
  error = np.abs(np.asarray(logits) - expected["logits"]).max()
  return error, f"{same.sum()} of {same.size}"


def sampled(model, expected) -> float:
  """How far reported log-probabilities are from those of a full pass."""
  size = model.config.vocab_size
  policy = LanguageModel(
    model.config,
    end_token=1,
    is_delimiter=np.arange(size) % 7 == 3,
    max_new_tokens=24,
    max_steps=4,
  )
  prompts = expected["tokens"][:2, :9].astype(np.int32)
  rollout = policy.sample(
    model.params,
    jax.random.key(0),
    prompts,
    np.array([9, 3], np.int32),
    np.arange(2, dtype=np.int32),
    num_samples=4,
  )
  done = policy.complete(
    model.params, jax.random.key(1), rollout, num_samples=2
  )
  return max(
    float(jnp.abs(x.logp - policy.logp(model.params, x)).max())
    for x in (rollout, done)
  )


def is_kept(path: pathlib.Path) -> bool:
  """Whether files are written as they were read."""
  with tempfile.TemporaryDirectory() as folder:
    models.save(f"{folder}/copy", models.load(path))
    ours, theirs = (
      safetensors.numpy.load_file(f"{x}/model.safetensors")
      for x in (f"{folder}/copy", path)
    )
  return ours.keys() == theirs.keys() and all(
    np.array_equal(x, theirs[name]) and x.dtype == theirs[name].dtype
    for name, x in ours.items()
  )


def on_a_mesh(model) -> float:
  """The relative difference between eight devices and one."""
  tokens = jnp.arange(72).reshape(8, 9) % model.config.vocab_size
  layout = Layout(partitioning.make_mesh(data=4, fsdp=2))
  params = jax.device_put(
    model.params, transformer.shardings(model.config, layout)
  )
  one = jax.jit(functools.partial(loss, model.config))(model.params, tokens)
  eight = jax.jit(functools.partial(loss, model.config, layout=layout))(
    params, tokens
  )
  return float(jnp.abs(eight / one - 1))


def compiled(config, length: int, device=None) -> tuple[float, int]:
  """Seconds to compile a training step, and bytes of its temporaries."""
  where = device and SingleDeviceSharding(device)
  params, tokens = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    (transformer.shapes(config), jnp.zeros((1, length), jnp.int32)),
  )
  step = jax.jit(jax.grad(functools.partial(loss, config)))
  start = time.perf_counter()
  done = step.lower(params, tokens).compile()
  seconds = time.perf_counter() - start
  return seconds, done.memory_analysis().temp_size_in_bytes


def temporaries(config, lengths, device=None) -> list[int]:
  """Bytes for texts of each length."""
  config = dataclasses.replace(config, max_length=max(lengths))
  return [compiled(config, length, device)[1] for length in lengths]


def row(path: pathlib.Path, lengths: list[int], device=None) -> str:
  """A line of the table."""
  model = models.load(path, param_dtype="float32")
  expected = np.load(path / "expected.npz")
  error, greedy = agreement(model, expected)
  config = dataclasses.replace(model.config, max_length=8192, remat="full")
  deep = [dataclasses.replace(config, num_layers=n) for n in (4, 64)]
  seconds = [compiled(x, 128)[0] for x in deep]
  on_tpu = "–"
  if device is not None:
    with tpu_topologies.quiet():
      sizes = temporaries(config, lengths, device)
    on_tpu = ", ".join(f"{size / 2**20:.1f}" for size in sizes) + " MiB"
  short, long = temporaries(config, [1024, 8192])
  return (
    f"| {path.name} | {error:.1e} | {greedy} | {sampled(model, expected):.1e} "
    f"| {'exact' if is_kept(path) else 'differs'} | {on_a_mesh(model):.1e} "
    f"| {seconds[0]:.1f} s, {seconds[1]:.1f} s | {long / short:.2f} "
    f"| {on_tpu} |"
  )


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.decoders", description=__doc__.splitlines()[0]
  )
  parser.add_argument("checkpoints", nargs="?", type=pathlib.Path, default=DATA)
  parser.add_argument("--topology", help="of a TPU, for which libtpu compiles")
  parser.add_argument(
    "--lengths", type=int, nargs="+", default=[1024, 8192], help="on the TPU"
  )
  parser.add_argument("--preset", help="a published size, see models.presets")
  flags = parser.parse_args()
  device = None
  if flags.topology:
    device = tpu_topologies.describe(flags.topology).devices[0]
  if flags.preset:
    config = presets.preset(flags.preset, num_layers=4, remat="full")
    print([x / 2**20 for x in temporaries(config, flags.lengths, device)])
    return
  print(HEADER, flush=True)
  for path in sorted(flags.checkpoints.iterdir()):
    print(row(path, flags.lengths, device), flush=True)


if __name__ == "__main__":
  main()
