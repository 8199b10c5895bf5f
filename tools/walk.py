"""Walks through what the README says, from a wheel, as somebody new would.

    python -m tools.walk [--python=PYTHON]

Builds the wheel, installs it into a fresh virtual environment outside of the
checkout, and there, in an empty directory, does what the README's table names,
from the list of experiments to a policy and a verifier of questions in a file;
and makes mistakes, whose messages must be one line. The model has one layer and
the sizes are small: it is the way that is walked, not the result. Prints the
seconds of each step, and stops at one that fails.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
TOKENIZER = ROOT / "tests" / "data" / "tokenizers" / "byte_level"
QUESTION = "3+1"

# Run by the new environment: a model of one layer, as somebody would bring it.
MODEL = """
import sys
import jax
from pav_jax import models
from pav_jax.models import transformer
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import export, language_model
from pav_jax.problems.json_lines import JsonLines
from pav_jax.problems.prompt_format import chat_prompt

tokenizer = Tokenizer(sys.argv[1])
config = TransformerConfig(
  vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2,
  num_kv_heads=1, head_dim=8, mlp_width=16, max_length=256,
)
problem = JsonLines(
  path="sums.jsonl", vocabulary=tokenizer, prompt=chat_prompt(tokenizer),
  max_prompt_len=96, max_response_len=24,
)
params = transformer.init(config, jax.random.key(0))
export(sys.argv[2], language_model(config, problem), params, problem)
"""

SETTINGS = [
  "JsonLines.max_prompt_len=96",
  "JsonLines.max_response_len=24",
  "JsonLines.max_steps=4",
  "NUM_SLOTS=8",
]
SIZES = {
  "sft": [
    "NUM_ROWS=1",
    "ROW_LENGTH=160",
    "NUM_STEPS=2",
    "Stage.warmup_steps=1",
    "TEST_SAMPLES=1",
    "FinetuneEvaluationConfig.num_batches=1",
  ],
  "collect": ["NUM_PROBLEMS=12", "NUM_SEEDS=1", "NUM_COMPLETIONS=1"],
  "verifier": [
    "NUM_STEPS=2",
    "WARMUP_STEPS=1",
    "READER_LAYERS=0",
    "AUX_WEIGHT=0.0",
  ],
  "traces": ["NUM_TRACES=2"],
  "search": [
    "NUM_PROBLEMS=2",
    "NUM_SAMPLES=2",
    "NS=(1, 2)",
    "ARMS=[@pav/BeamArm()]",
    "ALPHAS=(0.5,)",
    "MAX_STEP_TOKENS=8",
  ],
}
LIBRARY = """
import pav_jax as pav

policy = pav.load_policy("out/mine/sft/policy")
verifier = pav.load_verifier("out/mine/verifier/verifier")
answers = policy.sample("3+1", n=2, seed=0)
print(verifier.score(answers[0]).steps)
pav.beam_search(policy, verifier, "3+1", beams=2, alpha=0.5).show()
print(pav.__version__)
"""


@dataclasses.dataclass(frozen=True)
class Walk:
  """Someone in a directory, with an environment.

  Attributes:
    home: the directory.
    python: of the environment.
  """

  home: pathlib.Path
  python: pathlib.Path

  def step(self, name, command, *, status=0):
    """Does it, prints how long that took, and gives what was printed.

    Raises:
      SystemExit: if it ends with another status, or a mistake's message is not
        one line.
    """
    start = time.perf_counter()
    done = subprocess.run(
      [str(x) for x in command],
      capture_output=True,
      text=True,
      check=False,
      cwd=self.home,
      env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    seconds = time.perf_counter() - start
    message = done.stderr.strip()
    if done.returncode != status or (status and len(message.splitlines()) > 1):
      raise SystemExit(
        f"{name}: status {done.returncode}, expected {status}\n"
        f"{done.stdout[-2000:]}\n{message[-4000:]}"
      )
    print(
      f"{seconds:6.1f} s  {name}" + (f"  →  {message}" if status else ""),
      flush=True,
    )
    return done.stdout

  def pav(self, *arguments, status=0):
    """A command of the package, as it is typed."""
    command = self.python.with_name("pav")
    name = " ".join(["pav", *arguments])
    name = name if len(name) <= 64 else name[:63] + "…"
    return self.step(name, [command, *arguments], status=status)


def main():
  """The command."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--python", default=sys.executable)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    home = pathlib.Path(folder)
    walk(home, args.python)


def walk(home, python):
  """All steps, in a directory that is empty."""
  start = time.perf_counter()
  here = home / "here"
  here.mkdir()
  source = home / "source"
  ignored = shutil.ignore_patterns(
    ".*", "out", "*.egg-info", "__pycache__", "tests"
  )
  shutil.copytree(ROOT, source, ignore=ignored)
  builder = Walk(here, pathlib.Path(python))
  builder.step(
    "build the wheel",
    [python, "-m", "pip", "wheel", source, "--no-deps", "-w", home],
  )
  shutil.rmtree(source)
  (wheel,) = home.glob("*.whl")
  new = home / "environment" / "bin" / "python"
  builder.step(
    "a virtual environment", [python, "-m", "venv", home / "environment"]
  )
  someone = Walk(here, new)
  constraints = ROOT / "constraints.txt"
  someone.step(
    "pip install 'pav_jax[data,hf]'",
    [new, "-m", "pip", "install", "-c", constraints, f"{wheel}[data,hf]"],
  )

  assert someone.pav("list").splitlines()
  someone.pav("--help")
  someone.pav("show", "planted")
  someone.pav("run", "plantd", status=2)
  someone.pav("run", "planted", "SEDE=1", status=2)
  someone.pav("run", "planted", "ALPHA=abc", status=2)
  someone.pav("run", "planted")

  lines = [
    {
      "problem": f"{i}+1",
      "solution": f"{i}+1={i + 1}",
      "answer": f"{i + 1}",
      "split": ("train", "train", "validation", "test")[i % 4],
    }
    for i in range(32)
  ]
  (here / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
  (here / "broken.jsonl").write_text(json.dumps(lines[0]) + "\n{")
  someone.step("a model", [new, "-c", MODEL, TOKENIZER, "model"])
  model = ["--checkpoint", "model"]
  someone.pav("train", "nothing.jsonl", *model, status=2)
  someone.pav("train", "broken.jsonl", *model, status=2)
  sizes = [
    f"{part}/Part.more={[*SETTINGS, *more]!r}" for part, more in SIZES.items()
  ]
  training = ["train", "sums.jsonl", *sizes, *model]
  someone.pav(*training)
  someone.pav(*training)
  policy, verifier = "out/mine/sft/policy", "out/mine/verifier/verifier"
  answers = someone.pav("sample", policy, QUESTION, "-n", "2", "--json")
  (here / "a.jsonl").write_text(answers)
  someone.pav("score", verifier, "a.jsonl")
  someone.pav("search", policy, verifier, QUESTION)
  someone.pav("sample", "nowhere", QUESTION, status=2)
  someone.step("the README's ten lines", [new, "-c", LIBRARY])
  (page,) = here.glob("out/mine/traces/*.html")
  print(
    f"{time.perf_counter() - start:6.1f} s  in all; the page is {page.name}"
  )


if __name__ == "__main__":
  main()
