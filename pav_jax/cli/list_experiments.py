"""Names the experiments that `pav run` knows, with a line on each."""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, told
from pav_jax.cli.gin_files import experiments, header


def summary(text: str) -> str:
  """The first sentence of a header."""
  first = " ".join(text.split("\n\n")[0].split())
  return re.split(r"\. (?=[A-Z])", first)[0].rstrip(".")


def listed(width: int) -> str:
  """A line for each experiment, none longer than `width` characters."""
  named = experiments()
  column = max(map(len, named)) + 2
  lines = [
    name.ljust(column)
    + textwrap.shorten(
      summary(header(path)), max(width - column, 20), placeholder=" …"
    )
    for name, path in named.items()
  ]
  return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints; gives the exit status."""
  parser = Parser("pav list", __doc__)
  parser.parse_args(sys.argv[1:] if arguments is None else arguments)
  return told(lambda: listed(shutil.get_terminal_size().columns))
