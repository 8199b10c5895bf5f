"""Pages of the documentation's site that lie outside `docs/` or come of code.

A hook of mkdocs (`mkdocs build --strict`). The README is the first page;
studies, experiments and modules each get one. Links between files of the
repository are written as they work there, and are turned into links between
pages here; one to a file that is no page is refused by `--strict`.
"""

import ast
import json
import pathlib
import posixpath
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "pav_jax"
# Rooms that others import from, in the order of their floors.
ROOMS = (
  "credit",
  "problems",
  "models",
  "data",
  "policies",
  "provers",
  "search",
  "api",
  "training",
  "runs",
)
NOTEBOOK = "docs/quickstart.ipynb"
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")

# Page of each file of the repository, both by their paths.
_pages: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Adds what is found to the navigation."""
  studies = sorted(path.parent.name for path in ROOT.glob("studies/*/*.md"))
  experiments = sorted(path.stem for path in ROOT.glob("gin/experiments/*.gin"))
  config.nav += [
    {"Studies": [{_title(x): f"studies/{x}.md"} for x in studies]},
    {"Experiments": [{x: f"experiments/{x}.md"} for x in experiments]},
    {"Reference": list(_reference())},
  ]
  return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds pages and their figures."""
  _pages.clear()
  for file in files:
    _pages[f"docs/{file.src_uri}"] = file.src_uri

  def add(source: str, page: str, content: str | bytes) -> None:
    _pages[source] = page
    files.append(File.generated(config, page, content=content))

  for source, page in (
    ("README.md", "index.md"),
    ("CONTRIBUTING.md", "CONTRIBUTING.md"),
    ("launch/README.md", "launch/README.md"),
  ):
    add(source, page, (ROOT / source).read_text())
  for path in sorted(ROOT.glob("studies/*/*")):
    source = path.relative_to(ROOT).as_posix()
    if path.name == "RESULTS.md":
      add(source, f"studies/{path.parent.name}.md", path.read_text())
    elif path.suffix == ".png":
      add(source, f"studies/{path.parent.name}/{path.name}", path.read_bytes())
  notebook = ROOT / NOTEBOOK
  add(NOTEBOOK, f"{notebook.stem}.md", _as_markdown(notebook))
  for path in sorted(
    [*ROOT.glob("gin/*/*.gin"), *ROOT.glob("studies/*/*.gin")]
  ):
    source = path.relative_to(ROOT).as_posix()
    text = f"# {path.stem}\n\n`{source}`\n\n```python\n{path.read_text()}```\n"
    add(source, f"{path.parent.name}/{path.stem}.md", text)
  for path in _modules():
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    name = name.removesuffix(".__init__")
    add(
      path.relative_to(ROOT).as_posix(),
      f"reference/{name}.md",
      f"# {name.removeprefix(PACKAGE + '.')}\n\n::: {name}\n",
    )
  return files


def on_page_markdown(
  markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Turns links between files into links between pages."""
  del config, files
  source = next(
    (x for x, p in _pages.items() if p == page.file.src_uri), page.file.src_uri
  )

  def turned(match: re.Match) -> str:
    begin, target, anchor, end = match.groups()
    if "://" in target:
      return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    # A folder's page is its module's, or it is shown where it is described.
    for name in (path, f"{path}/__init__.py", f"{path}/RESULTS.md"):
      if name in _pages:
        here = posixpath.dirname(page.file.src_uri)
        there = posixpath.relpath(_pages[name], here)
        return f"{begin}{there}{anchor or ''}{end}"
    return match[0]

  return _LINK.sub(turned, markdown)


def _as_markdown(notebook: pathlib.Path) -> str:
  """A notebook's cells, each of code with what it printed."""
  parts = []
  for cell in json.loads(notebook.read_text())["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
      parts.append(source)
      continue
    parts.append(f"```python\n{source}\n```")
    for output in cell["outputs"]:
      parts.append(f"```text\n{''.join(output['text'])}```")
  return "\n\n".join(parts) + "\n"


def _modules() -> Iterator[pathlib.Path]:
  """Files of the package whose names others may use."""
  top = sorted((ROOT / PACKAGE).glob("*.py"))
  yield from (x for x in top if not x.name.startswith("_") and x.stem != "main")
  for room in ROOMS:
    for path in sorted((ROOT / PACKAGE / room).rglob("*.py")):
      if path.name != "__init__.py" or ast.get_docstring(
        ast.parse(path.read_text())
      ):
        yield path


def _reference() -> Iterator[dict]:
  """Modules in the navigation, by room."""
  rooms: dict[str, list[str]] = {}
  for path in _modules():
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    name = ".".join(x for x in parts if x != "__init__")
    room = parts[0] if len(parts) > 1 else "the functional core"
    page = f"reference/{PACKAGE}.{name}.md"
    title = name.removeprefix(f"{room}.")
    rooms.setdefault(room, []).append({title: page})
  yield from ({room: pages} for room, pages in rooms.items())


def _title(name: str) -> str:
  return name.replace("_", " ").capitalize()
