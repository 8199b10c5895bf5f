"""The best answers that a search finds with a verifier.

  pav search POLICY VERIFIER QUESTION [QUESTION …] [--beams 4] [--alpha 0.5]

POLICY and VERIFIER are directories, as runs write them, or other sources of
`pav_jax.load_policy` and `pav_jax.load_verifier`.
"""

import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, add_reading, reading, told


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints steps and values; gives the exit status, 2 for bad input."""
  parser = Parser("pav search", __doc__)
  parser.add_argument("policy", help="its directory, or another source")
  parser.add_argument("verifier", help="its directory, or another source")
  parser.add_argument("question", nargs="+", help="a text")
  parser.add_argument("--beams", type=int, default=4, help="that are kept")
  parser.add_argument(
    "--alpha", type=float, default=0.5, help="weight of progress"
  )
  parser.add_argument(
    "--candidates", type=int, default=3, help="next steps of each beam"
  )
  parser.add_argument("--seed", type=int, default=0, help="of random numbers")
  parser.add_argument(
    "--rule", help="of a public model: product, minimum or last"
  )
  add_reading(parser)
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  def run() -> str:
    # Imported when arguments are known to be right.
    from pav_jax.api.text_policy import load_policy
    from pav_jax.api.text_search import beam_search
    from pav_jax.api.text_verifier import load_verifier

    every = beam_search(
      load_policy(flags.policy, **reading(flags)),
      load_verifier(flags.verifier, rule=flags.rule, dtype=flags.dtype),
      flags.question,
      beams=flags.beams,
      alpha=flags.alpha,
      candidates=flags.candidates,
      seed=flags.seed,
    )
    return "\n\n".join(map(str, every))

  return told(run)
