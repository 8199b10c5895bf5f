"""Draws docs/search.png from the table in docs/search.md, of three seeds.

.venv/bin/python docs/search_figure.py
"""

import pathlib
import re
import tempfile

from pav_jax.reporting import search_plots

HERE = pathlib.Path(__file__).parent
_CELL = re.compile(r"([\d.]+) \[([\d.]+)–([\d.]+)\]")


def read():
  """The report of the first table: best-of-N, beams and greedy decoding."""
  text = (HERE / "search.md").read_text()
  rows = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
  rows = rows[2 : next(i for i, row in enumerate(rows) if "128" in row[0]) + 1]
  best, beam = _method(rows, 1), _method(rows, 3)
  greedy = _CELL.search(text[text.index("Greedy decoding:") :])
  return {
    "best of N": best,
    "beam, own policy": beam,
    "greedy": {
      "n": [1],
      "accuracy": [float(greedy[1]) / 100],
      "generated": [best["generated"][0]],
      "standard_error": [0.0],
    },
  }


def _method(rows, column):
  out = {x: [] for x in ("n", "accuracy", "least", "most", "generated")}
  for row in rows:
    if found := _CELL.search(row[column]):
      shares = (float(x) / 100 for x in found.groups())
      for name, value in zip(
        ("accuracy", "least", "most"), shares, strict=True
      ):
        out[name].append(value)
      out["n"].append(int(row[0]))
      out["generated"].append(int(row[column + 1].replace(",", "")))
  return out


def main():
  with tempfile.TemporaryDirectory() as folder:
    path = search_plots.accuracy(
      folder, read(), title="chains of ten operations, three seeds"
    )
    (HERE / "search.png").write_bytes(path.read_bytes())


if __name__ == "__main__":
  main()
