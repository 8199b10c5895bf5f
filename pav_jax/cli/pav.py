"""The command `pav`, also `python -m pav_jax`.

pav list                   experiments, with a line on each
pav show EXPERIMENT        what it is, needs, and what is commonly set
pav run EXPERIMENT …       run it, as `pav run planted SEED=1`

pav train FILE             a policy and a verifier from questions of your own

pav sample POLICY "…"      answers of a policy
pav score VERIFIER FILE    values of the steps of responses in JSON lines
pav search POLICY VERIFIER "…"   the best answer of a beam search
pav inspect DIR            open the page of traces that a run has written

pav serve MODEL            scores of steps over HTTP
pav convert SOURCE TARGET  a model, a GGUF file too, in Hugging Face's format
pav import-labels …        step labels of other people
pav export-verifier …      a verifier as others serve it

`pav COMMAND --help` says more.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from pav_jax.cli.quick import keep_programs

# What each is called, and the module whose `main` it is.
COMMANDS = {
  "list": "pav_jax.cli.list_experiments",
  "show": "pav_jax.cli.show_experiment",
  "run": "pav_jax.cli.run_experiment",
  "train": "pav_jax.cli.train_on_questions",
  "sample": "pav_jax.cli.sample_answers",
  "score": "pav_jax.cli.score_answers",
  "search": "pav_jax.cli.search_answers",
  "inspect": "pav_jax.cli.inspect_traces",
  "convert": "pav_jax.cli.convert_model",
  "serve": "pav_jax.cli.serve",
  "import-labels": "pav_jax.cli.import_labels",
  "export-verifier": "pav_jax.cli.export_verifier",
}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command; gives its exit status, 2 for one that there is not."""
  name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
  if name in ("-h", "--help"):
    print(__doc__)
    return 0
  if name not in COMMANDS:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    every = ", ".join(COMMANDS)
    print(
      f"error: no command {name!r}, expected one of {every}{hint}",
      file=sys.stderr,
    )
    return 2
  keep_programs()
  return importlib.import_module(COMMANDS[name]).main(rest)
