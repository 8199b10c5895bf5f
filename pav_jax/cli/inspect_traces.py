"""Opens the page of traces that a run has written.

  pav inspect DIR [--print]

DIR is the work directory of a verifier's run, of gin/runs/inspect.gin, or of a
pipeline with such a part. With --print the path of the page is printed alone.
"""

import pathlib
import sys
import webbrowser
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, told

PAGE = "inspect.html"


def page(workdir: str) -> pathlib.Path:
  """The newest page of a work directory.

  Raises:
    ValueError: if there is none.
  """
  pages = list(pathlib.Path(workdir).rglob(PAGE))
  if not pages:
    raise ValueError(
      f"there is no {PAGE} in {workdir}, expected the directory of a "
      "verifier's run; `pav show gin/runs/inspect.gin` says how one is made"
    )
  return max(pages, key=lambda path: path.stat().st_mtime)


def main(arguments: Sequence[str] | None = None) -> int:
  """Opens the page; gives the exit status, 2 for bad input."""
  parser = Parser("pav inspect", __doc__)
  parser.add_argument("workdir", help="of a run")
  parser.add_argument("--print", action="store_true", help="open nothing")
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  def run() -> str:
    path = page(flags.workdir).resolve()
    if not flags.print:
      webbrowser.open(path.as_uri())
    return str(path)

  return told(run)
