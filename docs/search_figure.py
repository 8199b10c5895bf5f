"""Draws search.png and search_countdown.png from the tables in docs/search.md.

.venv/bin/python docs/search_figure.py
"""

import pathlib
import re
import tempfile

from pav_jax.reporting import search_plots

HERE = pathlib.Path(__file__).parent
_SPREAD = re.compile(r"([\d.]+) \[([\d.]+)–([\d.]+)\]")
_SEEDS = re.compile(r"[\d.]+, [\d.]+, [\d.]+")


def read(text):
  """The report of a section's table: best-of-N, beams and greedy decoding."""
  rows = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
  rows = rows[2 : next(i for i, row in enumerate(rows) if "128" in row[0]) + 1]
  best, beam = _method(rows, 1), _method(rows, 3)
  greedy, _, _ = _cell(
    re.search(r"(?i)greedy(?: decoding:)?[ |]+(.*)", text)[1]
  )
  return {
    "best of N": best,
    "beam, own policy": beam,
    "greedy": {
      "n": [1],
      "accuracy": [greedy],
      "generated": [best["generated"][0]],
      "standard_error": [0.0],
    },
  }


def _cell(text):
  """Mean, least and most of a cell's seeds, as shares; None if it is empty."""
  if found := _SPREAD.search(text):
    return [float(x) / 100 for x in found.groups()]
  if found := _SEEDS.search(text):
    seeds = [float(x) / 100 for x in found[0].split(", ")]
    return [sum(seeds) / 3, min(seeds), max(seeds)]
  return None


def _method(rows, column):
  out = {x: [] for x in ("n", "accuracy", "least", "most", "generated")}
  for row in rows:
    if shares := _cell(row[column]):
      for name, share in zip(
        ("accuracy", "least", "most"), shares, strict=True
      ):
        out[name].append(share)
      out["n"].append(int(row[0]))
      out["generated"].append(int(row[column + 1].replace(",", "")))
  return out


def main():
  sections = (HERE / "search.md").read_text().split("\n## ")
  for title, file, what in (
    ("Chain, ten", "search.png", "chains of ten operations"),
    ("Countdown, four", "search_countdown.png", "countdown with four numbers"),
  ):
    text = next(x for x in sections if x.startswith(title))
    with tempfile.TemporaryDirectory() as folder:
      path = search_plots.accuracy(
        folder, read(text), title=f"{what}, three seeds"
      )
      (HERE / file).write_bytes(path.read_bytes())


if __name__ == "__main__":
  main()
