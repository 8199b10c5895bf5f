"""The smallest TPU slice on which each stage fits, found by the TPU compiler.

python -m benchmarks.tpu_fit [--models=gemma2_2b,…] [--chips=v5e,…]
  [--stages=…] [--cache=DIR] [--only_print]

Compiles the programs of `tools/compiled_programs.py` at the paper's
sizes, on larger and larger slices, until one leaves a tenth of the chips'
memory free; then prints the table of docs/tpu.md. No TPU is needed, and no
weights, but libtpu, and for each program 20 to 80 seconds of a processor core.
What has been compiled is kept in DIR, a file for each program and slice;
several of these processes may share it.

Training has parameters and Adam's moments in float32 and computes in bfloat16,
all layers rematerialised; other stages have parameters in bfloat16. The mesh is
fsdp up to 32, which the batch is divided by, and tensor beyond.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

from pav_jax.credit import EffectiveReward
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import ProblemPolicy
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import value_function
from pav_jax.training.baselines import (
  BatchMean,
  LearnedBaseline,
  less_baseline,
)
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted
from pav_jax.training.sft import AdamW
from pav_jax.training.updates import Gradient, NaturalGradient
from tools import (
  abstract_arrays,
  compile_report,
  compiled_programs,
  tpu_topologies,
)
from tools.abstract_arrays import bytes_per_device
from tools.compile_report import GIB
from tools.compiled_programs import Program

MODELS = ("gemma2_2b", "gemma2_9b", "gemma2_27b")
CHIPS = ("v5e", "v6e", "v5p")
SPARE = 0.1

# Sequences, tokens of prompts and responses, most steps of a response.
ROWS, PROMPT, RESPONSE, STEPS = 32, 256, 512, 48
TOKENS = PROMPT + RESPONSE
NUM_COMPLETIONS, NUM_BEAMS, STEP_TOKENS = 20, 4, 64


def layout_of(found: tpu_topologies.Slice) -> Layout:
  """fsdp as far as the batch divides, and tensor beyond."""
  number = len(found.devices)
  fsdp = min(number, ROWS)
  return Layout(
    partitioning.make_mesh(
      fsdp=fsdp, tensor=number // fsdp, devices=found.devices
    )
  )


def stages(model: str, layout: Layout) -> dict[str, Callable[[], Program]]:
  """The programs of a model at the paper's sizes, by stage."""
  trained = preset(model, dtype="bfloat16", remat="full")
  stored = preset(model, dtype="bfloat16", param_dtype="bfloat16")
  make = compiled_programs
  adam = AdamW(b2=0.999)(1e-5)
  scorer = VerifierConfig(stored)

  def policy(config):
    is_delimiter = [token == 1 for token in range(config.vocab_size)]
    return LanguageModel(
      config, 2, is_delimiter, RESPONSE, STEPS, num_slots=128
    )

  def rl(update, baseline):
    # The prover is a verifier of Gemma 2 9B's size, whatever the policy.
    prover = abstract_arrays.verifier_of(
      VerifierConfig(
        preset("gemma2_9b", dtype="bfloat16", param_dtype="bfloat16")
      ),
      layout,
    )
    estimator = less_baseline(reward=EffectiveReward(), baseline=baseline)
    arm = Arm("progress", estimator, update, BestOfK(prover, 4.0))
    answers = ProblemPolicy(policy(trained), None)
    return make.reinforcement(
      Trainer(arm, answers, None, Hosted(layout), ROWS, 1),
      num_tokens=TOKENS,
      beside={
        "start": abstract_arrays.params_of(stored, layout),
        "prover": prover.params,
      },
    )

  def beams():
    verifier = abstract_arrays.verifier_of(scorer, layout)
    return make.beam_round(
      policy(stored),
      value_function(verifier),
      layout,
      settings=Settings(NUM_BEAMS, STEPS, num_candidates=3),
      num_problems=ROWS // NUM_BEAMS,
      prompt_len=PROMPT,
      max_step_tokens=STEP_TOKENS,
    )

  return {
    "SFT step": lambda: make.sft_step(
      trained, adam, layout, num_rows=ROWS, row_length=TOKENS
    ),
    "sampling": lambda: make.sampling(
      policy(stored), layout, num_prompts=ROWS, prompt_len=PROMPT
    ),
    "collection": lambda: make.collection(
      policy(stored),
      layout,
      num_traces=ROWS,
      num_prefixes=2,
      num_completions=NUM_COMPLETIONS,
      num_tokens=TOKENS,
    ),
    "verifier step": lambda: make.verifier_step(
      VerifierConfig(trained),
      adam,
      layout,
      batch_size=ROWS,
      num_tokens=TOKENS,
      num_steps=STEPS,
    ),
    "verifier scoring": lambda: make.scoring(
      scorer, layout, num_rows=ROWS, num_tokens=TOKENS, num_steps=STEPS
    ),
    "beam search": beams,
    "REINFORCE": lambda: rl(
      Gradient("adam", 1e-6, 1e-3, 1.0), LearnedBaseline()
    ),
    "natural gradient": lambda: rl(
      NaturalGradient(num_cg_steps=2), BatchMean()
    ),
  }


STAGES = (
  "SFT step",
  "sampling",
  "collection",
  "verifier step",
  "verifier scoring",
  "beam search",
  "REINFORCE",
  "natural gradient",
)


def kept(
  cache: pathlib.Path, model: str, stage: str, topology: str
) -> pathlib.Path:
  """The file of a program's result."""
  name = f"{model}_{stage}_{topology}"
  return cache / f"{name.replace(' ', '-').replace(':', '-')}.json"


def compiled(
  cache: pathlib.Path, model: str, stage: str, topology: str
) -> dict[str, float]:
  """What a stage takes on a slice, compiled unless the cache has it."""
  file = kept(cache, model, stage, topology)
  if file.exists():
    return json.loads(file.read_text())
  found = tpu_topologies.describe(topology)
  program = stages(model, layout_of(found))[stage]()
  parts, beside = (
    {name: bytes_per_device(tree) for name, tree in x.items()}
    for x in (program.parts, program.beside)
  )
  known = sum(parts.values()) + sum(beside.values())
  out = {"peak": known, "fits": False}
  if known <= (1 - SPARE) * found.chip.hbm:
    with tpu_topologies.quiet():
      report = compile_report.measure(
        program.name,
        program.lower,
        hbm=found.chip.hbm,
        parts=parts,
        beside=beside,
        each=program.each,
      )
    each = report.each_costs or report.costs
    out = {
      "peak": report.peak,
      "fits": report.fits(SPARE),
      "arguments": report.arguments,
      "temporaries": report.temporaries,
      "seconds": report.compile_seconds,
      "each": each and dataclasses.asdict(each),
    }
  cache.mkdir(parents=True, exist_ok=True)
  partial = file.with_suffix(".partial")
  partial.write_text(json.dumps(out))
  partial.rename(file)
  say = f"{model} {stage} on {topology}: {out['peak'] / GIB:.2f} GiB"
  print(say, "fits" if out["fits"] else "does not fit", flush=True)
  return out


def search(cache: pathlib.Path, model: str, stage: str, kind: str) -> None:
  """Compiles for larger and larger slices, until one suffices."""
  for size in tpu_topologies.CHIPS[kind].slices:
    if compiled(cache, model, stage, f"{kind}:{size}")["fits"]:
      return


def cell(cache: pathlib.Path, model: str, stage: str, kind: str) -> str:
  """The smallest slice and GiB a chip; what is known of it, if that is less."""
  text = "–"
  for size in tpu_topologies.CHIPS[kind].slices:
    file = kept(cache, model, stage, f"{kind}:{size}")
    if not file.exists():
      return text
    found = json.loads(file.read_text())
    if found["fits"]:
      return f"{size} ({found['peak'] / GIB:.1f})"
    text = f"> {size}"
  return text


def table(
  cache: pathlib.Path,
  models: Sequence[str],
  kinds: Sequence[str],
  names: Sequence[str],
) -> Iterator[str]:
  """Lines of Markdown; a dash where nothing has been compiled."""
  yield f"| model | stage | {' | '.join(kinds)} |"
  yield "|---" * (len(kinds) + 2) + "|"
  for model in models:
    for stage in names:
      cells = [cell(cache, model, stage, kind) for kind in kinds]
      yield f"| {model} | {stage} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
  """Compiles what is missing, and prints the table."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.tpu_fit", description=__doc__.splitlines()[0]
  )
  for name, default in (
    ("models", MODELS),
    ("chips", CHIPS),
    ("stages", STAGES),
  ):
    parser.add_argument(
      f"--{name}", type=lambda x: tuple(x.split(",")), default=default
    )
  parser.add_argument(
    "--cache", type=pathlib.Path, default=pathlib.Path("out/tpu_fit")
  )
  parser.add_argument("--only_print", action="store_true")
  flags = parser.parse_args(arguments)
  if not flags.only_print:
    for model in flags.models:
      for stage in flags.stages:
        for kind in flags.chips:
          search(flags.cache, model, stage, kind)
  for line in table(flags.cache, flags.models, flags.chips, flags.stages):
    print(line)
  return 0


if __name__ == "__main__":
  sys.exit(main())
