"""Runs an experiment that a gin file describes.

python -m pav_jax.main --gin_file=FILE --workdir=DIR [--gin.NAME=VALUE …]
"""

import argparse
import difflib
import inspect
import logging
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import gin

from pav_jax.reporting import progress


@gin.register
def run(
  workdir: str,
  name: str,
  *,
  experiment: Callable[[str, str], object] | None = None,
) -> None:
  """Calls the experiment that gin bound, with its work directory and name."""
  if experiment is None:
    raise ValueError(
      "no experiment, expected a gin file that binds run.experiment, as "
      "gin/runs/compare.gin does"
    )
  experiment(workdir, name)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
  """Flags, with every --gin.NAME=VALUE collected in `bindings`."""
  parser = argparse.ArgumentParser(
    prog="python -m pav_jax.main",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--gin_file", action="append", required=True, help="may be repeated"
  )
  parser.add_argument("--workdir", required=True, help="gets all results")
  parser.add_argument(
    "--debug", action="store_true", help="show tracebacks of errors"
  )
  flags, others = parser.parse_known_args(arguments)
  flags.bindings = []
  for argument in others:
    if not re.match(r"--gin\.[^=]+=", argument):
      hint = nearest(argument.split("=")[0], ["--gin_file", "--workdir"])
      parser.error(f"unknown argument {argument!r}{hint}")
    flags.bindings.append(argument.removeprefix("--gin."))
  return flags


def parse_gin(files: Iterable[str], bindings: Sequence[str]) -> None:
  """Parses gin files and overrides.

  Raises:
    ValueError: for what gin cannot parse, and for a name that is unknown or
      that nothing uses.
    FileNotFoundError: for a file that does not exist.
  """
  for file in files:
    if not pathlib.Path(file).is_file():
      raise FileNotFoundError(f"no gin file {file}")
  gin.add_config_file_search_path(str(pathlib.Path(__file__).parents[1]))
  try:
    parsed = [gin.parse_config_file(file) for file in files]
    gin.parse_config(list(bindings))
  except SyntaxError as error:
    raise ValueError(
      f"cannot parse {str(error.text).strip()!r}; expected NAME = VALUE with a "
      "Python literal, a @reference or a %macro"
    ) from error
  except (ValueError, AttributeError) as error:
    raise ValueError(explain(str(error))) from error
  texts = [path.read_text() for path in _files_of(parsed)]
  # A file may bind what another then leaves unused; a command line may not.
  referred = _references("\n".join(texts))
  check_used(_macros("\n".join(texts)), referred | _references(*bindings))
  check_used(_macros(*bindings), _references(gin.config_str()))


def check_used(names: Iterable[str], used: set[str]) -> None:
  """Raises ValueError for a macro that is set and never used."""
  for name in names:
    if name not in used:
      raise ValueError(f"nothing uses the gin name {name}{nearest(name, used)}")


def _macros(*texts: str) -> list[str]:
  return re.findall(r"^([A-Za-z_]\w*)\s*=", "\n".join(texts), re.MULTILINE)


def _references(*texts: str) -> set[str]:
  return set(re.findall(r"%([A-Za-z_]\w*)", "\n".join(texts)))


def _files_of(parsed: Iterable) -> Iterator[pathlib.Path]:
  """The files that gin has read, includes among them."""
  for file in parsed:
    yield pathlib.Path(file.filename)
    yield from _files_of(file.includes)


def explain(message: str) -> str:
  """An error in one line, for gin's own with the nearest known name."""
  lines = [line.strip() for line in message.splitlines() if line.strip()]
  first = lines[0] if lines else "no message"
  if match := re.search(
    r"No configurable matching (?:reference )?'@?([\w./]+)", first
  ):
    selectors = [name.split(".")[-1] for name in _registered()]
    first += nearest(match[1].split("/")[-1], selectors)
  elif match := re.search(
    r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", first
  ):
    known = inspect.signature(gin.get_configurable(match[1])).parameters
    first += nearest(match[2], known)
  return first


def nearest(name: str, known: Iterable[str]) -> str:
  """A hint at the known name most like `name`, or all if there are few."""
  known = sorted(set(known))
  lowered = {candidate.lower(): candidate for candidate in known}
  close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
  if close:
    return f"; did you mean {lowered[close[0]]}?"
  return f"; known are {', '.join(known)}" if len(known) <= 20 else ""


def _registered() -> list[str]:
  return [selector for selector, _ in gin.config._REGISTRY.items()]


def make_workdir(workdir: str) -> None:
  """Makes the directory, and makes sure that files can be written there."""
  try:
    os.makedirs(workdir, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise OSError(
      f"workdir {workdir} cannot be written ({error.strerror})"
    ) from error


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs; gives the exit status: 2 for bad input, 1 for a run that failed."""
  flags = parse_arguments(sys.argv[1:] if arguments is None else arguments)
  logging.getLogger("absl").setLevel(logging.ERROR)
  name = pathlib.Path(flags.gin_file[-1]).stem
  try:
    parse_gin(flags.gin_file, flags.bindings)
    make_workdir(flags.workdir)
    gin.get_configurable("run")(flags.workdir, name)
  except KeyboardInterrupt:
    progress.say("interrupted; the same command continues the run")
    return 130
  except (ValueError, TypeError, OSError, FloatingPointError) as error:
    if flags.debug:
      raise
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 1 if isinstance(error, FloatingPointError) else 2
  except RuntimeError as error:
    if flags.debug or not str(error).startswith("Required bindings"):
      raise
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
