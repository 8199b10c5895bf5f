"""The command `pav`, also `python -m pav_jax`.

pav serve MODEL            scores of steps over HTTP
pav import-labels …        step labels of other people
pav export-verifier …      a verifier as others serve it

`pav COMMAND --help` says more. Experiments are run by
`python -m pav_jax.main --gin_file=FILE --workdir=DIR`.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

# What each is called, and the module whose `main` it is.
COMMANDS = {
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
    known = ", ".join(COMMANDS)
    print(
      f"error: no command {name!r}, expected one of {known}{hint}",
      file=sys.stderr,
    )
    return 2
  return importlib.import_module(COMMANDS[name]).main(rest)
