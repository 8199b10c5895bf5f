"""Writes a model in Hugging Face's format.

  pav convert SOURCE TARGET [--param_dtype bfloat16]

SOURCE is a directory in Hugging Face's format, a GGUF file, or another source
of `pav_jax.models.load`. TARGET is a new directory; the tokenizer goes with it.
"""

import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, told


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes; gives the exit status, 2 for bad input."""
  parser = Parser("pav convert", __doc__)
  parser.add_argument("source", help="a directory or file")
  parser.add_argument("target", help="a new directory")
  parser.add_argument(
    "--param_dtype", help="of the parameters, as bfloat16; the files' own"
  )
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  def run() -> str:
    # Imported when arguments are known to be right.
    from pav_jax import models
    from pav_jax.models import hf, sources
    from pav_jax.provers import verifier

    path = sources.resolve(flags.source)
    if (path / verifier.REST).exists():
      raise ValueError(
        f"{flags.source} is a verifier, expected a model; `pav "
        "export-verifier` writes that for others"
      )
    model = models.load(path, param_dtype=flags.param_dtype)
    # What our runs say beside a policy stays with it.
    identity = hf.read_side(path) if path.is_dir() else None
    models.save(flags.target, model, identity=identity)
    config = model.config
    return (
      f"wrote {flags.target}: {config.family}, {config.num_layers} layers of "
      f"width {config.width}, {config.param_dtype}"
    )

  return told(run)
