r"""Writes a verifier as a token classifier that transformers and vLLM serve.

  pav export-verifier VERIFIER TARGET \
    [--tokenizer FILE …]

VERIFIER is a directory, as a verifier's run writes it. TARGET becomes
a checkpoint of `…ForTokenClassification`, with the files of a tokenizer beside
it if some are given.
"""

import argparse
import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser
from pav_jax.cli.configuration import explain


def export_verifier(flags: argparse.Namespace) -> str:
  """Reads and writes; gives the line that says what was done.

  Raises:
    ValueError: for a directory that is no verifier's, or a verifier that is no
      token classifier.
    OSError: for a file that cannot be read or written.
  """
  # What takes time to import is imported when arguments are known to be right.
  from pav_jax.models import families, hf
  from pav_jax.provers import public, verifier

  loaded = verifier.load(flags.verifier)
  identity = hf.read_side(flags.verifier)
  if identity is None:
    raise ValueError(
      f"{flags.verifier} says no vocabulary and delimiter, "
      "expected a verifier that a run wrote"
    )
  fields = hf.read_config(flags.verifier)
  public.export(
    flags.target,
    loaded.config,
    loaded.params,
    identity=identity,
    token_ids={x: fields[x] for x in families.TOKEN_IDS if x in fields},
    tokenizer_files=flags.tokenizer,
  )
  return (
    f"wrote {flags.target}: {hf.read_config(flags.target)['architectures']}"
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """Exports; gives the exit status, 2 for bad input."""
  parser = Parser("pav export-verifier", __doc__)
  parser.add_argument("verifier", help="a verifier's directory")
  parser.add_argument("target", help="a directory, replaced if it is there")
  parser.add_argument(
    "--tokenizer", nargs="+", default=[], help="files, as tokenizer.json"
  )
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
  try:
    print(export_verifier(flags))
  except (ValueError, OSError, ImportError) as error:
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
