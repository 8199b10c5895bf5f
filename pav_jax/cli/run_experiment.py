"""Runs an experiment.

  pav run EXPERIMENT [NAME=VALUE …] [--workdir DIR]

EXPERIMENT is a name that `pav list` prints, or the path of a gin file; `pav
show` says which names there are to set. A VALUE is a Python literal, a
@reference or a %macro; anything else is a text and needs no quotes:

  pav run planted SEED=1 NUM_ITERATIONS=20 UPDATE='@sgd/Gradient()'

Results go to out/EXPERIMENT. The same command continues a run that was stopped.
"""

import ast
import re
import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, told
from pav_jax.cli.gin_files import check_overrides, find_experiment, nearest
from pav_jax.cli.quick import quick_imports

_FLAGS = ("--workdir", "--debug", "--help")


def binding(setting: str) -> str:
  """`NAME=VALUE` as gin reads it: a value that is no literal becomes a text.

  Raises:
    ValueError: if there is no name or value, or the value is Python's True,
      False or None but for its case.
  """
  name, equals, value = setting.partition("=")
  if not equals or not re.fullmatch(r"[A-Za-z_][\w./]*", name.strip()):
    raise ValueError(f"{setting!r} is no setting, expected NAME=VALUE")
  value = value.strip()
  try:
    ast.literal_eval(value)
  except (ValueError, SyntaxError):
    if value.lower() in ("true", "false", "none"):
      raise ValueError(
        f"{name} is {value}, expected {value.capitalize()}, or quotes around "
        "it for a text"
      ) from None
    if not value.startswith(("@", "%", "[", "(", "{", "'", '"')):
      value = repr(value)
  return f"{name}={value}"


def _binding(argument: str) -> str:
  """A setting, also in the form that `pav_jax.main` takes."""
  if not argument.startswith("-"):
    return binding(argument)
  if re.match(r"--gin\.[^=]+=", argument):
    return argument.removeprefix("--gin.")
  hint = nearest(argument.split("=")[0], _FLAGS)
  raise ValueError(f"unknown argument {argument!r}{hint}")


def translated(arguments: Sequence[str]) -> list[str]:
  """The command line of `pav_jax.main`.

  Raises:
    ValueError: for a setting that is none, or that nothing reads.
    FileNotFoundError: if there is no such experiment.
  """
  parser = Parser("pav run", __doc__)
  parser.add_argument("experiment", help="a name, or the path of a gin file")
  parser.add_argument("--workdir", help="gets all results; out/EXPERIMENT")
  parser.add_argument(
    "--debug", action="store_true", help="show tracebacks of errors"
  )
  flags, others = parser.parse_known_args(arguments)
  path = find_experiment(flags.experiment)
  bindings = [_binding(other) for other in others]
  check_overrides(path, bindings)
  return [
    f"--gin_file={path}",
    f"--workdir={flags.workdir or f'out/{path.stem}'}",
    *(["--debug"] if flags.debug else []),
    *(f"--gin.{x}" for x in bindings),
  ]


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs; gives the exit status: 2 for bad input, 1 for a run that failed."""
  arguments = sys.argv[1:] if arguments is None else arguments
  command: list[str] = []
  status = told(lambda: command.extend(translated(arguments)))
  if status:
    return status
  # What takes seconds to import is imported when the command is known to be
  # right.
  with quick_imports():
    from pav_jax.cli import command as experiment
  return experiment.main(command)
