"""gin files as text: where they are, what they include, what they say of names.

Imports nothing that takes time, so that mistakes are told at once.
"""

import difflib
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_PACKAGE = pathlib.Path(__file__).parents[1]
# What a wheel has of the checkout's folder `gin`, see setup.py.
_SHIPPED = _PACKAGE / "shipped"

# Where `gin/…` is found, whatever the current directory.
ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent

EXPERIMENTS = "gin/experiments"

_INCLUDE = re.compile(r"""include\s+(["'])(.+)\1\s*(#.*)?$""")


class Source(NamedTuple):
  """What a gin file says between two of its includes.

  Attributes:
    path: of the file.
    text: lines outside of it are empty, so that line numbers are the file's.
  """

  path: pathlib.Path
  text: str


def read_sources(
  path: pathlib.Path, within: tuple[pathlib.Path, ...] = ()
) -> Iterator[Source]:
  """A gin file and those that it includes, in the order in which they count.

  An include is looked for beside the file that names it, then in the current
  directory, then in the checkout.

  Args:
    path: of the file.
    within: files that include it.

  Raises:
    FileNotFoundError: for a file that does not exist.
    ValueError: for a file that includes itself, or is not text.
  """
  if path.resolve() in within:
    raise ValueError(f"gin file {path} includes itself")
  try:
    lines = path.read_text("utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise ValueError(f"gin file {path} is not UTF-8 text") from error
  begin = 0
  for number, line in enumerate(lines):
    if match := _INCLUDE.match(line):
      yield Source(path, "\n" * begin + "\n".join(lines[begin:number]))
      begin = number + 1
      included = find(match[2], beside=path.parent)
      yield from read_sources(included, (*within, path.resolve()))
  yield Source(path, "\n" * begin + "\n".join(lines[begin:]))


def find(name: str, *, beside: pathlib.Path | None = None) -> pathlib.Path:
  """A gin file by its path.

  Args:
    name: path, absolute or relative to one of the places.
    beside: looked into before the current directory and the checkout.

  Raises:
    FileNotFoundError: if there is none.
  """
  places = ([] if beside is None else [beside]) + [pathlib.Path(), ROOT]
  for place in places:
    if (place / name).is_file():
      return place / name
  shipped = [path.relative_to(ROOT) for path in ROOT.glob("gin/*/*.gin")]
  hint = nearest(name, map(str, shipped))
  raise FileNotFoundError(f"no gin file {name}{hint}")


def experiments() -> dict[str, pathlib.Path]:
  """The experiments that have a name, in alphabetical order."""
  paths = sorted((ROOT / EXPERIMENTS).glob("*.gin"))
  return {path.stem: path for path in paths}


def find_experiment(name: str) -> pathlib.Path:
  """A gin file by the name of an experiment, or by its path.

  Raises:
    FileNotFoundError: if there is none.
  """
  named = experiments()
  if name in named:
    return named[name]
  if "/" in name or name.endswith(".gin"):
    return find(name)
  raise FileNotFoundError(
    f"no experiment {name}{nearest(name, named)}"
    + ("" if _near(name, named) else "; `pav list` names them")
  )


def header(path: pathlib.Path) -> str:
  """The comment that a gin file begins with, without its marks."""
  lines = []
  for line in path.read_text("utf-8-sig").splitlines():
    if not line.startswith("#"):
      break
    lines.append(line.removeprefix("#").removeprefix(" "))
  return "\n".join(lines)


def macros(*texts: str) -> list[str]:
  """Names that texts of gin files bind."""
  return re.findall(r"^([A-Za-z_]\w*)\s*=", "\n".join(texts), re.MULTILINE)


def references(*texts: str) -> set[str]:
  """Names that texts of gin files read."""
  return set(re.findall(r"%([A-Za-z_]\w*)", "\n".join(texts)))


def check_used(names: Iterable[str], used: set[str]) -> None:
  """Raises ValueError for a macro that is set and never used."""
  for name in names:
    if name not in used:
      raise ValueError(f"nothing uses the gin name {name}{nearest(name, used)}")


def check_overrides(path: pathlib.Path, bindings: Sequence[str]) -> None:
  """Raises ValueError for a binding of a name that no text of a file reads.

  Args:
    path: of the gin file.
    bindings: `NAME=VALUE`.
  """
  texts = [source.text for source in read_sources(path)]
  check_used(macros(*bindings), references(*texts, *bindings))


def nearest(name: str, candidates: Iterable[str]) -> str:
  """A hint at the candidate most like `name`, or all if there are few."""
  candidates = sorted(set(candidates))
  if close := _near(name, candidates):
    return f"; did you mean {close}?"
  few = len(candidates) <= 20
  return f"; known are {', '.join(candidates)}" if few else ""


def _near(name: str, candidates: Iterable[str]) -> str | None:
  lowered = {candidate.lower(): candidate for candidate in sorted(candidates)}
  close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
  return lowered[close[0]] if close else None
