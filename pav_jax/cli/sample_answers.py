"""Answers of a policy to questions.

  pav sample DIR QUESTION [QUESTION …] [-n 8] [--json]

DIR is the directory of a policy, as a run writes it, or another source of
`pav_jax.load_policy`. With --json there is a line for each answer, as `pav
score` reads them.
"""

import json
import sys
from collections.abc import Sequence

from pav_jax.cli.arguments import Parser, add_reading, reading, told


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints answers; gives the exit status, 2 for bad input."""
  parser = Parser("pav sample", __doc__)
  parser.add_argument("policy", help="its directory, or another source")
  parser.add_argument("question", nargs="+", help="a text")
  parser.add_argument("-n", type=int, default=8, help="answers to each")
  parser.add_argument("--seed", type=int, default=0, help="of random numbers")
  parser.add_argument(
    "--temperature", type=float, default=1.0, help="0 for the most probable"
  )
  parser.add_argument("--json", action="store_true", help="a line for each")
  add_reading(parser)
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  def run() -> str:
    # Imported when arguments are known to be right.
    from pav_jax.api.text_policy import load_policy

    policy = load_policy(
      flags.policy, temperature=flags.temperature, **reading(flags)
    )
    of_each = policy.sample(flags.question, n=flags.n, seed=flags.seed)
    every = [answer for answers in of_each for answer in answers]
    if flags.json:
      return "\n".join(json.dumps(_row(x), ensure_ascii=False) for x in every)
    return "\n\n".join(
      f"[{x.num_tokens} tokens{'' if x.ended else ', cut off'}]\n{x.text}"
      for x in every
    )

  return told(run)


def _row(answer) -> dict:
  return {
    "problem": answer.question,
    "response": answer.text,
    "steps": list(answer.steps),
    "is_whole": answer.ended,
    "tokens": answer.num_tokens,
    "logp": answer.logp,
  }
