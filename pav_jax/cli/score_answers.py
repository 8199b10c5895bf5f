r"""Values of the steps of responses.

  pav score DIR FILE

DIR is the directory of a verifier, as a run writes it, or of a public reward
model. FILE has a JSON object a line, - for standard input:

  {"problem": "1+2+3", "steps": ["1+2=3", "3+3=6"]}
  {"problem": "1+2+3", "response": "1+2=3\n3+3=6", "is_whole": true}

Each comes back with `start`, the value of the bare problem, and `values` and
`progress` of its steps.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from pav_jax.cli.arguments import Parser, add_reading, reading, told
from pav_jax.cli.gin_files import nearest


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints a line for each response; gives the exit status, 2 for bad input."""
  parser = Parser("pav score", __doc__)
  parser.add_argument("verifier", help="its directory, or another source")
  parser.add_argument("file", help="of JSON lines; - for standard input")
  parser.add_argument(
    "--rule", help="of a public model: product, minimum or last"
  )
  add_reading(parser)
  flags = parser.parse_args(sys.argv[1:] if arguments is None else arguments)

  def run() -> str:
    rows = read_rows(flags.file)
    # Imported when the file is known to be right.
    from pav_jax.api.text_verifier import load_verifier

    verifier = load_verifier(flags.verifier, rule=flags.rule, **reading(flags))
    lines = {}
    for is_whole in (True, False):
      some = [i for i, row in enumerate(rows) if row["is_whole"] is is_whole]
      if some:
        asked = [(rows[i]["problem"], rows[i]["steps"]) for i in some]
        scores = verifier.score(asked, is_whole=is_whole)
        lines |= dict(zip(some, map(_row, scores), strict=True))
    return "\n".join(lines[i] for i in range(len(rows)))

  return told(run)


def read_rows(file: str) -> list[dict[str, Any]]:
  """The responses of a file: `problem`, `steps` and `is_whole`.

  Raises:
    ValueError: naming the line that is not as expected.
    OSError: if it is not there or cannot be read.
  """
  if file == "-":
    lines = sys.stdin.read().splitlines()
  else:
    path = pathlib.Path(file)
    if not path.is_file():
      beside = [x.name for x in path.parent.glob("*") if x.is_file()]
      raise FileNotFoundError(f"no file {file}{nearest(path.name, beside)}")
    lines = path.read_text(encoding="utf-8").split("\n")
  rows = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise ValueError(f"{file}:{number} is no line of JSON: {error}") from None
    if not _is_right(row):
      raise ValueError(
        f"{file}:{number} is {line!r:.60}, expected an object with problem, a "
        "text, and response, a text, or steps, a list of texts"
      )
    steps, whole = row.get("steps", row.get("response")), row.get("is_whole")
    if whole not in (None, True, False):
      raise ValueError(
        f"{file}:{number} has is_whole {whole!r}, expected true or false"
      )
    rows.append(
      {
        "problem": row["problem"],
        "steps": steps,
        "is_whole": whole is not False,
      }
    )
  if not rows:
    raise ValueError(f"{file} has no lines, expected a response a line")
  return rows


def _is_right(row: Any) -> bool:
  """Whether a line has a problem and a response, or its steps."""
  if not isinstance(row, dict):
    return False
  texts = row.get("steps")
  texts = texts if isinstance(texts, list) else [row.get("response")]
  return all(isinstance(x, str) for x in [row.get("problem"), *texts])


def _row(scored: Any) -> str:
  row = {
    "problem": scored.question,
    "steps": [step.text for step in scored.steps],
    "start": round(scored.start, 4),
    "values": [round(step.value, 4) for step in scored.steps],
    "progress": [round(step.progress, 4) for step in scored.steps],
  }
  return json.dumps(row, ensure_ascii=False)
