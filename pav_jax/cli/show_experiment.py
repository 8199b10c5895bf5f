"""Says what an experiment is, what it needs, and what is commonly set.

  pav show EXPERIMENT

EXPERIMENT is a name that `pav list` prints, or the path of a gin file.
"""

import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gin import config_parser

from pav_jax.cli.arguments import Parser, told
from pav_jax.cli.gin_files import (
  find_experiment,
  header,
  read_sources,
  references,
)

_COMMON = re.compile(r"Commonly overridden:(.*?)(?:\n\n|\Z)", re.DOTALL)
_NAME = re.compile(r"(?<![\w/.@-])(?:[A-Z][A-Z_]+|[\w/]+\.\w+)(?![\w/])")
_REQUIRED = "%gin.REQUIRED"


class Settings(NamedTuple):
  """What may be set.

  Attributes:
    required: names that have no value yet.
    common: those that headers name, with values as gin files write them; None
      for the default of the code.
  """

  required: list[str]
  common: dict[str, str | None]


class _Written(config_parser.ParserDelegate):
  """Leaves references as they are written."""

  def configurable_reference(self, scoped_name: str, evaluate: bool) -> Any:
    return _Text(f"@{scoped_name}{'()' if evaluate else ''}")

  def macro(self, scoped_name: str) -> Any:
    return _Text(f"%{scoped_name}")


class _Text(str):
  """Is its own `repr`."""

  def __repr__(self) -> str:
    return str(self)


def settings(path: pathlib.Path) -> Settings:
  """What may be set of a gin file and of those that it includes.

  Raises:
    FileNotFoundError: for an include that does not exist.
    ValueError: for text that gin cannot parse.
  """
  sources = list(read_sources(path))
  values = dict(x for source in sources for x in _bindings(source.text))
  names = [name for source in sources for name in _common(source.path)]
  read = references(*(source.text for source in sources)) - {"gin"}
  required = [
    name
    for name in sorted(read | set(values))
    if "." not in name and values.get(name, _REQUIRED) == _REQUIRED
  ]
  common = {
    name: values.get(name)
    for name in dict.fromkeys(names)
    if name not in required and ("." in name or name in values)
  }
  return Settings(required, common)


def _bindings(text: str) -> Iterator[tuple[str, str]]:
  """Names and values that a text binds."""
  parser = config_parser.ConfigParser(text, _Written())
  try:
    for statement in parser:
      if isinstance(statement, config_parser.BindingStatement):
        scope = f"{statement.scope}/" if statement.scope else ""
        if statement.arg_name:
          name = f"{scope}{statement.selector}.{statement.arg_name}"
        else:
          name = f"{scope}{statement.selector}"
        yield name, repr(statement.value)
  except SyntaxError as error:
    raise ValueError(f"cannot parse {error.text or text!r}") from error


def _common(path: pathlib.Path) -> list[str]:
  """Names that a header says are commonly overridden."""
  names = []
  for paragraph in _COMMON.findall(header(path)):
    # What stands in parentheses or quotes are values.
    text = re.sub(r"\([^()]*(?:\(\)[^()]*)*\)|'[^']*'", "", paragraph)
    names += _NAME.findall(text)
  # Files, and what stands for the name of a part.
  return [
    name for name in names if not re.search(r"^NAME/|\.(?:gin|py)$", name)
  ]


def shown(name: str) -> str:
  """Header, required names, and common ones with their values.

  Raises:
    FileNotFoundError: if there is no such experiment.
    ValueError: for a file that gin cannot parse.
  """
  path = find_experiment(name)
  may_be_set = settings(path)
  parts = [str(path), header(path)]
  if may_be_set.required:
    needs = [f"  {name}=…" for name in may_be_set.required]
    parts.append("\n".join(["Required:", *needs]))
  if may_be_set.common:
    width = max(map(len, may_be_set.common))
    rows = [
      f"  {name:{width}}  " + textwrap.shorten(value or "(default)", 80)
      for name, value in may_be_set.common.items()
    ]
    parts.append("\n".join(["Commonly set:", *rows]))
  parts.append(f"  pav run {name} [NAME=VALUE …] [--workdir DIR]")
  return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints; gives the exit status, 2 for bad input."""
  parser = Parser("pav show", __doc__)
  parser.add_argument("experiment", help="a name, or the path of a gin file")
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
  return told(lambda: shown(flags.experiment))
