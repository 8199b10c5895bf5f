"""The notebook in docs prints what it shows."""

import contextlib
import io
import json
import pathlib

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_cells_print_what_they_show():
  cells = json.loads((DOCS / "quickstart.ipynb").read_text())["cells"]
  code = [cell for cell in cells if cell["cell_type"] == "code"]
  assert len(code) >= 5
  names = {}
  for number, cell in enumerate(code):
    printed = io.StringIO()
    source = compile("".join(cell["source"]), f"cell {number}", "exec")
    with contextlib.redirect_stdout(printed):
      exec(source, names)
    shown = "".join("".join(output["text"]) for output in cell["outputs"])
    assert printed.getvalue() == shown, number
