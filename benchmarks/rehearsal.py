"""Rehearses all stages on MATH with a network that one can run on a laptop.

  .venv/bin/pip install -e '.[bench]'
  .venv/bin/python -m benchmarks.rehearsal out/rehearsal

From a random checkpoint of Gemma 2's architecture in Hugging Face's format, a
SentencePiece vocabulary trained on the spot and made-up files in MATH's format
it runs the experiments of Gemma 2 2B (gin/experiments/math_…) one by one:
fine-tuning, collection, a verifier, search, fine-tuning on correct responses,
reinforcement learning. Sizes alone differ from those of the experiments. Each
stage runs in two processes. At last Hugging Face's transformers (the
extra `bench`) read the policy that was exported, and must compute equal logits.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.rehearsal_inputs import make_inputs, make_problem

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Those of the experiments' settings that a small machine needs.
SHARED = (
  "MATH.max_prompt_len=48",
  "MAX_RESPONSE_LEN=40",
  "MATH.max_steps=6",
)
JUDGED = (
  "FinetuneEvaluationConfig.num_problems=8",
  "FinetuneEvaluationConfig.num_batches=1",
  "FinetuneEvaluationConfig.test_problems=8",
  "FinetuneEvaluationConfig.test_samples=8",
  "FinetuneEvaluationConfig.test_ks=(8,)",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One experiment.

  Attributes:
    name: gin/experiments/math_NAME_gemma2_2b.gin, and its directory.
    bindings: beside `SHARED`; `{out}` stands for the directory of all.
    mesh: "all" if it has one of all processes' devices, over which parameters
      are split; "own" if of each process's.
  """

  name: str
  bindings: Sequence[str]
  mesh: str


STAGES = (
  Stage(
    "sft",
    (
      'preset.name="tiny"',
      'preset.dtype="float32"',
      "preset.vocab_size=384",
      "NUM_STEPS=120",
      "WARMUP_STEPS=10",
      "LEARNING_RATE=5e-3",
      "NUM_ROWS=16",
      "ROW_LENGTH=88",
      "EVAL_EVERY=60",
      *JUDGED,
    ),
    mesh="all",
  ),
  Stage(
    "collect",
    (
      'POLICY="{out}/sft/policy"',
      "NUM_PROBLEMS=32",
      "NUM_SEEDS=4",
      'DTYPE="float32"',
      'PARAM_DTYPE="float32"',
      "CollectSettings.problems_per_shard=8",
    ),
    mesh="own",
  ),
  Stage(
    "verifier",
    (
      'DATA="{out}/collect/targets"',
      "NUM_STEPS=60",
      "WARMUP_STEPS=5",
      "LEARNING_RATE=1e-3",
      "BATCH_SIZE=16",
      'DTYPE="float32"',
      "VerifierSettings.num_inspected=4",
    ),
    mesh="all",
  ),
  Stage(
    "search",
    (
      'POLICY="{out}/sft/policy"',
      'VERIFIER="{out}/verifier/verifier"',
      "NUM_PROBLEMS=8",
      "NUM_SAMPLES=8",
      "NS=(1,2)",
      "ALPHAS=(0.0,0.5)",
      "TUNING_PROBLEMS=4",
      "TUNING_BEAMS=2",
      "Tuning.num_samples=4",
      "MAX_STEP_TOKENS=24",
    ),
    mesh="own",
  ),
  Stage(
    "rft",
    (
      'POLICY="{out}/sft/policy"',
      "NUM_PROBLEMS=64",
      "NUM_STEPS=40",
      'DTYPE="float32"',
      "WARMUP_STEPS=5",
      "LEARNING_RATE=1e-3",
      "NUM_ROWS=16",
      "ROW_LENGTH=88",
      *JUDGED,
    ),
    mesh="all",
  ),
  Stage(
    "rl",
    (
      'POLICY="{out}/rft/policy"',
      'VERIFIER="{out}/verifier/verifier"',
      "NUM_ITERATIONS=6",
      "LEARNING_RATE=1e-4",
      "EvaluationConfig.every=3",
      "EvaluationConfig.num_problems=8",
      "EvaluationConfig.test_problems=8",
      "EvaluationConfig.test_samples=8",
      "EvaluationConfig.hard_samples=8",
    ),
    mesh="all",
  ),
)


def bindings_of(
  stage: Stage, out: pathlib.Path, *, num_devices: int = 1
) -> list[str]:
  """All settings of a stage, as behind `--gin.` on a command line."""
  found = [
    f'VOCABULARY="{out}/tokenizer.model"',
    f'MATH_DIR="{out}/math"',
    f'MATH.data_dir="{out}/tfds"',
    *SHARED,
    *(binding.replace("{out}", str(out)) for binding in stage.bindings),
  ]
  if stage.name in ("sft", "verifier"):
    found.append(f'CHECKPOINT="{out}/gemma"')
  size = num_devices if stage.mesh == "all" else 1
  found.append(f"make_mesh.fsdp={size}")
  return found


def gin_file(stage: Stage) -> str:
  """That of Gemma 2 2B."""
  return f"{ROOT}/gin/experiments/math_{stage.name}_gemma2_2b.gin"


def run(stage: Stage, out: pathlib.Path, number: int) -> None:
  """Runs a stage in several processes; raises RuntimeError if one fails."""
  command = [
    sys.executable,
    "-m",
    "pav_jax.main",
    f"--gin_file={gin_file(stage)}",
    f"--workdir={out / stage.name}",
    *(
      f"--gin.{binding}"
      for binding in bindings_of(stage, out, num_devices=number)
    ),
  ]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "jax_cache"))
  # Compiling takes longer than running does.
  environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
  if number > 1:
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(number),
    }
  processes = [
    subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment | ({"JAX_PROCESS_ID": str(i)} if number > 1 else {}),
    )
    for i in range(number)
  ]
  statuses = [process.wait() for process in processes]
  if any(statuses):
    raise RuntimeError(f"{stage.name} ended with {statuses}")


def compare(out: pathlib.Path, policy: pathlib.Path, reference: str) -> float:
  """Largest difference to the logits that transformers compute.

  Args:
    out: has the data, and gets the logits.
    policy: an exported directory.
    reference: a Python that has transformers.
  """
  from pav_jax.models import hf, transformer

  problem = make_problem(out)
  tokens = problem.prompts(problem.problem_ids("train", 0, 4))[:, :24]
  config, params = hf.load(policy)
  ours = np.asarray(transformer.apply(config, params, tokens))
  np.save(out / "tokens.npy", tokens)
  code = (
    "import sys, numpy as np, torch, transformers\n"
    "model = transformers.AutoModelForCausalLM.from_pretrained(\n"
    "  sys.argv[1], attn_implementation='eager', dtype=torch.float32).eval()\n"
    "tokens = torch.from_numpy(np.load(sys.argv[2] + '/tokens.npy')).long()\n"
    "with torch.no_grad():\n"
    "  np.save(sys.argv[2] + '/logits.npy', model(tokens).logits.numpy())\n"
  )
  subprocess.run([reference, "-c", code, policy, out], check=True)
  theirs = np.load(out / "logits.npy")
  return float(np.abs(ours - theirs).max())


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument(
    "--reference",
    default=sys.executable,
    help="a Python with torch and transformers; '' not to compare",
  )
  flags = parser.parse_args()
  out = flags.out.absolute()
  if out.exists() and any(out.iterdir()):
    parser.error(f"{out} is not empty")
  out.mkdir(parents=True, exist_ok=True)
  start = time.monotonic()
  seconds = {}
  make_inputs(out)
  seconds["inputs"] = time.monotonic() - start
  for stage in STAGES:
    begin = time.monotonic()
    run(stage, out, flags.processes)
    seconds[stage.name] = time.monotonic() - begin
  policy = out / "rl" / "lanes" / "progress" / "seed0" / "policy"
  if flags.reference:
    difference = compare(out, policy, flags.reference)
    print(f"largest difference of logits to transformers': {difference:.1e}")
    assert difference < 1e-4
  shutil.rmtree(out / "jax_cache", ignore_errors=True)
  for name, value in seconds.items():
    print(f"{name:10} {value:5.0f} s")
  print(f"{'all':10} {time.monotonic() - start:5.0f} s")


if __name__ == "__main__":
  main()
