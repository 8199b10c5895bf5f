"""Command lines whose mistakes are told in one line, the last."""

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
  """A parser without abbreviations, and without a usage above its errors."""

  def __init__(self, prog: str, description: str | None):
    """Takes the command, as `pav list`, and the text of its --help."""
    super().__init__(
      prog=prog,
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Ends the program with status 2."""
    self.exit(2, f"error: {message}; `{self.prog} --help` says more\n")


def told(run: Callable[[], str | None]) -> int:
  """Runs a command and prints what it gives.

  Args:
    run: gives a text, or None if it has printed all.

  Returns:
    The exit status: 2 for bad input, of which one line is printed.
  """
  try:
    text = run()
  except (ValueError, OSError, ImportError) as error:
    message = str(error).strip() or repr(error)
    if isinstance(error, OSError) and error.filename:
      message = f"{error.filename}: {error.strerror}"
    print(f"error: {message.splitlines()[0]}", file=sys.stderr)
    return 2
  if text is not None:
    with contextlib.suppress(BrokenPipeError):  # as before `head`
      print(text, flush=True)
  return 0


def add_reading(parser: argparse.ArgumentParser) -> None:
  """Adds what a checkpoint may lack, see `api.beside.read_format`."""
  parser.add_argument("--tokenizer", help="its path, if it is not beside")
  parser.add_argument(
    "--prompt", help=r"a template with {problem}, if none is beside"
  )
  parser.add_argument("--delimiter", help="ends a step, if none is beside")
  parser.add_argument("--dtype", help="of computation, as bfloat16")


def reading(flags: argparse.Namespace) -> dict[str, str | None]:
  r"""The arguments of the loaders that `add_reading` has added.

  `\n` in a prompt or delimiter is a newline.
  """
  given = {x: getattr(flags, x) for x in ("prompt", "delimiter")}
  texts = {x: y and y.replace("\\n", "\n") for x, y in given.items()}
  return texts | {"tokenizer": flags.tokenizer, "dtype": flags.dtype}
