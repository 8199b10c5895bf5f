"""What the house looks like: sizes, and what its design says must not be.

  python -m tools.house

A count that must be 0 is followed by the places that are to blame.
"""

import ast
import collections
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pav_jax"
PROTOCOLS = ("problem", "policy", "prover", "credit", "update")
ODD_WORDS = ("likewise", "what is none", "of which", "all unlike")
ODD_NAMES = ("found", "known", "own")


class File(NamedTuple):
  """A source file.

  Attributes:
    path: relative to the checkout.
    text: what it holds.
    tree: as Python reads it.
  """

  path: pathlib.Path
  text: str
  tree: ast.Module

  @property
  def room(self) -> str:
    """The folder within the package; `top` for files of none."""
    return self.path.parts[1] if len(self.path.parts) > 2 else "top"


def files(root: pathlib.Path = ROOT, folder: str = "pav_jax") -> list[File]:
  """The Python files below a folder of a checkout, in order."""
  out = []
  for path in sorted((root / folder).rglob("*.py")):
    text = path.read_text()
    out.append(File(path.relative_to(root), text, ast.parse(text)))
  return out


def sizes(of: Sequence[File]) -> dict[str, tuple[int, int]]:
  """Lines and files of each room."""
  out: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
  for file in of:
    out[file.room][0] += len(file.text.splitlines())
    out[file.room][1] += 1
  return {room: (lines, number) for room, (lines, number) in out.items()}


def imports_gin(of: Sequence[File]) -> list[str]:
  """Files outside `cli` that import gin."""
  return [
    str(file.path)
    for file in of
    if file.room != "cli" and "gin" in imported(file)
  ]


def imported(file: File) -> set[str]:
  """The first names of the modules that a file imports."""
  names = set()
  for node in ast.walk(file.tree):
    if isinstance(node, ast.Import):
      names |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names.add(node.module.split(".")[0])
  return names


def asks(of: Sequence[File]) -> list[str]:
  """Where a problem, policy, prover, credit or update is asked what it is.

  `hasattr` and `getattr` with a literal, and `isinstance`, of a value with such
  a name, but in the `base.py` of a room.
  """
  return [
    f"{file.path}:{node.lineno} {ast.unparse(node)}"
    for file in of
    if file.path.name != "base.py"
    for node in _calls(file.tree, {"hasattr", "getattr", "isinstance"})
    if _is_protocol(node.args[0])
    and (node.func.id == "isinstance" or isinstance(node.args[1], ast.Constant))
  ]


def _calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
  for node in ast.walk(tree):
    if (
      isinstance(node, ast.Call)
      and isinstance(node.func, ast.Name)
      and node.func.id in names
      and len(node.args) > 1
    ):
      yield node


def _is_protocol(node: ast.AST) -> bool:
  last = ast.unparse(node).split(".")[-1]
  return bool(re.search(rf"(^|_)({'|'.join(PROTOCOLS)})s?$", last))


def says_chain(of: Sequence[File]) -> list[str]:
  """Files outside `problems/chain` with the word, but for others' functions."""
  return [
    str(file.path)
    for file in of
    if "problems/chain" not in file.path.as_posix()
    and re.search(
      "chain", re.sub(r"\b(optax|itertools)\.chain\b", "", file.text), re.I
    )
  ]


def poor_stems(of: Sequence[File]) -> list[str]:
  """Stems of several files, or of modules of the standard library.

  `__init__` and `base` may come in every room.
  """
  stems = collections.defaultdict(list)
  for file in of:
    stems[file.path.stem].append(str(file.path))
  return [
    f"{stem}: {', '.join(paths)}"
    for stem, paths in sorted(stems.items())
    if stem not in ("__init__", "base")
    and (
      stem in sys.stdlib_module_names
      or len({_beside_its_room(path) for path in paths}) > 1
    )
  ]


def _beside_its_room(path: str) -> str:
  """A room's folder and a file of its name in it are one."""
  path = pathlib.PurePath(path)
  same = path.parent.name == path.stem
  return str(path.parent if same else path.with_suffix(""))


def longest_functions(of: Sequence[File], number: int = 3) -> list[str]:
  """The longest functions, in lines."""
  every = [
    (
      node.end_lineno - node.lineno + 1,
      f"{file.path}:{node.lineno} {node.name}",
    )
    for file in of
    for node in ast.walk(file.tree)
    if isinstance(node, ast.FunctionDef)
  ]
  return [
    f"{lines} {name}" for lines, name in sorted(every)[: -number - 1 : -1]
  ]


def odd_words(of: Sequence[File]) -> dict[str, int]:
  """How often words and variables come that the design would not have."""
  counts = {
    word: sum(file.text.lower().count(word) for file in of)
    for word in ODD_WORDS
  }
  for name in ODD_NAMES:
    counts[f"variable {name}"] = sum(
      isinstance(node, ast.Name)
      and node.id == name
      and isinstance(node.ctx, ast.Store)
      for file in of
      for node in ast.walk(file.tree)
    )
  return counts


MUST_BE_NONE = {
  "files outside cli that import gin": imports_gin,
  "places that ask a problem, policy, prover, credit or update": asks,
  "files outside problems/chain that say chain": says_chain,
  "stems that are not unique or the standard library's": poor_stems,
}


def main() -> None:
  """Prints all of it."""
  package = files()
  rooms = sizes(package)
  total = [sum(x) for x in zip(*rooms.values(), strict=True)]
  for room, (lines, number) in sorted(rooms.items(), key=lambda x: -x[1][0]):
    print(f"{lines:7,} lines {number:4} files  {room}")
  print(f"{total[0]:7,} lines {total[1]:4} files  in all")
  for what, check in MUST_BE_NONE.items():
    places = check(package)
    print(f"\n{len(places)} {what}")
    for place in places:
      print(f"  {place}")
  print("\nlongest functions, in lines")
  for function in longest_functions(package):
    print(f"  {function}")
  print("\nodd words and names")
  for word, number in odd_words(package).items():
    print(f"  {number:4} {word}")


if __name__ == "__main__":
  main()
