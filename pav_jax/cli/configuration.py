"""What a gin file binds, read with errors that help, and run."""

import argparse
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Sequence

import gin

from pav_jax import packages
from pav_jax.cli import kinds, registry
from pav_jax.cli.bindings import Reference, calls, parameters, resolve
from pav_jax.cli.gin_files import (
  ROOT,
  check_used,
  find,
  macros,
  nearest,
  read_sources,
  references,
)


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
      "gin/runs/reinforce.gin does"
    )
  experiment(workdir, name)


def run_files(
  files: Sequence[str], bindings: Sequence[str], workdir: str, name: str
) -> None:
  """Reads gin files, makes the work directory, and runs the experiment.

  Args:
    files: of gin.
    bindings: `NAME = VALUE`, applied after the files.
    workdir: gets all results.
    name: of the experiment.

  Raises:
    ValueError, FileNotFoundError: as of `parse_gin` and `check_bound`; or if
      the processes of the run have other settings or work directories.
    Occupied: if another run is at work in the directory.
    OSError: if the work directory cannot be written.
  """
  parse_gin(files, bindings)
  check_bound()
  # Only now, for importing takes seconds and mistakes are told before.
  import jax

  from pav_jax.reporting import metrics
  from pav_jax.runs.workdir import check_agreed, occupied

  check_agreed(f"jax {jax.__version__}\n{gin.config_str()}")
  with occupied(workdir, shared=_num_hosts() > 1):
    metrics.CONFIG.set(gin.operative_config_str)
    gin.get_configurable("run")(workdir, name)


def _num_hosts() -> int:
  """Programs that divide a collection, as gin binds it."""
  try:
    return resolve(gin.query_parameter("CollectSettings.num_hosts"), {})
  except ValueError:  # nothing binds it
    return 1


def parse_gin(files: Iterable[str], bindings: Sequence[str]) -> None:
  """Parses gin files and overrides.

  Raises:
    ValueError: for what gin cannot parse, and for a name that is unknown or
      that nothing uses.
    FileNotFoundError: for a file that does not exist.
  """
  sources = [source for file in files for source in read_sources(find(file))]
  # Modules that gin files import lie beside them, or in the checkout.
  for place in [*(source.path.parent for source in sources), ROOT]:
    if str(place.resolve()) not in sys.path:
      sys.path.append(str(place.resolve()))
  texts = [source.text for source in sources]
  registry.register(*texts, *bindings, "run")
  for source in sources:
    _parse(source.text, str(source.path))
  for binding in bindings:
    _parse(binding, f"--gin.{binding}")
  # A file may bind what another then leaves unused; a command line may not.
  referred = references(*texts)
  check_used(macros(*texts), referred | references(*bindings))
  check_used(macros(*bindings), references(gin.config_str()))


def _parse(text: str, source: str) -> None:
  """Parses bindings; errors name the source, with the line of a file."""
  try:
    gin.parse_config(text)
  except (SyntaxError, tokenize.TokenError) as error:
    wrong = str(getattr(error, "text", None) or text).strip().splitlines()[-1]
    raise ValueError(
      f"{source}: cannot parse {wrong!r}; expected NAME = VALUE with a Python "
      "literal, a @reference or a %macro"
    ) from error
  except ImportError as error:
    raise ValueError(f"{source}: {error}") from error
  except (ValueError, AttributeError) as error:
    message = str(error)
    line = re.search(r"In bindings string line (\d+)", message)
    where = f"{source} line {line[1]}" if line else source
    if source.startswith("--gin."):
      where = source
    raise ValueError(f"{where}: {explain(message)}") from error


def check_bound() -> None:
  """Checks all that the experiment will be called with.

  Raises:
    ValueError: if it needs a value that nothing binds, or a value is not what
      its parameter takes.
    packages.MissingPackageError: if it needs a package that is not installed.
  """
  experiment = gin.get_bindings("run", resolve_references=False).get(
    "experiment"
  )
  if not isinstance(experiment, Reference):
    return
  selector = experiment.configurable.selector
  supplied = list(parameters(selector))[:2]  # work directory and name
  found = list(calls(experiment, supplied))
  required = list(
    dict.fromkeys(
      argument.name
      for call in found
      for argument in call.arguments.values()
      if argument.value is gin.REQUIRED
    )
  )
  names = [name for name in required if "." not in name]
  if names:
    settings = " ".join(f"--gin.{name}=VALUE" for name in names)
    raise ValueError(
      f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} required, "
      f"expected {settings}"
    )
  if required:
    raise ValueError(
      f"nothing binds {', '.join(required)}, expected a gin file that does"
    )
  kinds.check(found)
  for call in found:
    packages.check_needs(call.target)


def parse_flags(
  parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
  """A parser's flags, with every --gin.NAME=VALUE collected in `bindings`."""
  flags, others = parser.parse_known_args(arguments)
  known = [f"--{name}" for name in vars(flags)]
  flags.bindings = []
  for argument in others:
    if not re.match(r"--gin\.[^=]+=", argument):
      hint = nearest(argument.split("=")[0], known)
      parser.error(f"unknown argument {argument!r}{hint}")
    flags.bindings.append(argument.removeprefix("--gin."))
  return flags


def explain(message: str) -> str:
  """An error in one line, for gin's own with the nearest known name."""
  lines = [line.strip() for line in message.splitlines() if line.strip()]
  first = lines[0] if lines else "no message"
  if "; did you mean" in first or "; known are" in first:
    return first
  if match := re.search(
    r"No configurable matching (?:reference )?'@?([\w./]+)", first
  ):
    hint = nearest(match[1].split("/")[-1], registry.names())
    first = first.removesuffix(".") + hint
  elif match := re.search(
    r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", first
  ):
    hint = nearest(match[2], parameters(match[1]))
    first = first.removesuffix(".") + hint
  return first
