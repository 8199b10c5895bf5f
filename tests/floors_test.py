"""Each floor of the package imports only downward, and floor 0 jax alone."""

import ast
import pathlib
import subprocess
import sys

import pytest

import pav_jax

PACKAGE = pathlib.Path(pav_jax.__file__).parent
FLOORS = {
  "credit": 0,
  "problems": 1,
  "models": 1,
  "data": 2,
  "policies": 2,
  "provers": 3,
  "search": 4,
  "api": 5,
  "reporting": 5,
  "training": 6,
  "runs": 7,
  "cli": 8,
  "main": 9,
  "__main__": 9,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
  """The floor of `pav_jax.…`; 0 for files at the top of the package.

  `testing` serves tests of every floor and builds on floor 0 alone.
  """
  parts = module.split(".")
  return FLOORS.get(parts[1], 0) if len(parts) > 1 else 0


def imports_of(path):
  """Names of all modules that a file imports, at its top or inside."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_downward(path):
  floor = floor_of(module_of(path))
  if module_of(path) == "pav_jax":  # the face of all floors
    return
  for name in imports_of(path):
    if name.split(".")[0] == "pav_jax":
      # A room may use itself; rooms of one floor do not use one another.
      same_room = name.split(".")[1:2] == module_of(path).split(".")[1:2]
      assert same_room or floor_of(name) < max(floor, 1), (
        f"{module_of(path)} on floor {floor} imports {name} on floor "
        f"{floor_of(name)}"
      )


def test_every_room_has_a_floor():
  rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
  assert rooms - {"testing"} <= FLOORS.keys()


@pytest.mark.parametrize(
  "path",
  [p for p in FILES if floor_of(module_of(p)) == 0],
  ids=module_of,
)
def test_floor_0_needs_jax_alone(path):
  outside = {name.split(".")[0] for name in imports_of(path)}
  allowed = {"pav_jax", "jax", "jaxtyping", "numpy"}
  assert outside - sys.stdlib_module_names <= allowed


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_frameworks_stay_in_their_rooms(path):
  room = module_of(path).split(".")[1:2]
  outside = {name.split(".")[0] for name in imports_of(path)}
  assert "gin" not in outside or room == ["cli"]
  assert "flax" not in outside or room == ["models"]
  assert not outside & {"tensorflow", "seqio"} or room in (
    ["problems"],
    ["data"],
  )


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_package_needs_nothing_that_may_be_deleted(path):
  outside = {name.split(".")[0] for name in imports_of(path)}
  assert not outside & {"studies", "tools", "benchmarks", "tests"}


def test_importing_pav_jax_imports_no_framework_but_jax():
  code = (
    "import sys, pav_jax; from pav_jax import *; "
    "print(sorted({m.split('.')[0] for m in sys.modules}))"
  )
  loaded = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout
  assert "'jax'" in loaded
  for framework in ("tensorflow", "gin", "flax", "optax", "orbax", "seqio"):
    assert f"'{framework}'" not in loaded


def test_gin_folder_does_not_shadow_the_library():
  assert not (PACKAGE.parent / "gin" / "__init__.py").exists()


@pytest.mark.parametrize("name", [*pav_jax.__all__, *pav_jax._ON_TEXT])
def test_public_names_are_documented(name):
  assert getattr(pav_jax, name).__doc__
