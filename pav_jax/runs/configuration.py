"""What a gin file binds, read with errors that help, and run."""

import argparse
import difflib
import inspect
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import gin

# Where `gin/…` is found, whatever the current directory.
ROOT = pathlib.Path(__file__).parents[2]


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
    ValueError, FileNotFoundError: as of `parse_gin`.
    OSError: if the work directory cannot be written.
  """
  parse_gin(files, bindings)
  make_workdir(workdir)
  gin.get_configurable("run")(workdir, name)


def parse_gin(files: Iterable[str], bindings: Sequence[str]) -> None:
  """Parses gin files and overrides.

  Raises:
    ValueError: for what gin cannot parse, and for a name that is unknown or
      that nothing uses.
    FileNotFoundError: for a file that does not exist.
  """
  for file in files:
    if not _path(file).is_file():
      raise FileNotFoundError(f"no gin file {file}")
  gin.add_config_file_search_path(str(ROOT))
  # Gin calls it an error if an include is in the second of its search paths.
  root_logger = logging.getLogger()
  root_logger.addFilter(_is_not_of_gin)
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
  finally:
    root_logger.removeFilter(_is_not_of_gin)
  texts = [path.read_text() for path in _files_of(parsed)]
  # A file may bind what another then leaves unused; a command line may not.
  referred = _references("\n".join(texts))
  check_used(_macros("\n".join(texts)), referred | _references(*bindings))
  check_used(_macros(*bindings), _references(gin.config_str()))


def _is_not_of_gin(record: logging.LogRecord) -> bool:
  return not str(record.msg).startswith("Path not found")


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
    yield _path(file.filename)
    yield from _files_of(file.includes)


def _path(name: str) -> pathlib.Path:
  """Of a gin file: from the current directory, or else from the checkout."""
  path = pathlib.Path(name)
  return path if path.is_file() else ROOT / path


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
