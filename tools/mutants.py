"""Which one-line mutants of wiring the tests let live.

    python -m tools.mutants [NAME …] [--jobs=1]

Wiring is which problems a stage reads, which candidate is run, which prover is
asked, which counts are added: lines whose fault no arithmetic shows. Each
mutant of `tools/mutants.toml` is made in a copy of the checkout, and the tests
that should notice are run there. A mutant whose line is not there exactly once
is stale, and as bad as one that survives. Exit status 1 if there is either.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).parents[1]
LIST = pathlib.Path(__file__).with_suffix(".toml")


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A fault that is put into a line.

  Attributes:
    name: what goes wrong.
    file: that has the line.
    before: text that occurs once in the file.
    after: what it is replaced by.
    tests: pytest's arguments for the tests that should fail.
  """

  name: str
  file: str
  before: str
  after: str
  tests: Sequence[str]


def read(path: pathlib.Path = LIST) -> list[Mutant]:
  """The mutants of a file.

  Raises:
    ValueError: for two of one name.
  """
  mutants = [Mutant(**row) for row in tomllib.loads(path.read_text())["mutant"]]
  names = [mutant.name for mutant in mutants]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"two mutants are named {name!r} in {path}")
  return mutants


def is_stale(mutant: Mutant, root: pathlib.Path = ROOT) -> bool:
  """Whether the line is not there exactly once."""
  file = root / mutant.file
  return not file.exists() or file.read_text().count(mutant.before) != 1


def fate(mutant: Mutant, root: pathlib.Path = ROOT) -> str:
  """`killed`, `survived` or `stale`; or `broken`, if tests fail without it."""
  if is_stale(mutant, root):
    return "stale"
  if _unchanged(tuple(mutant.tests), root):
    return "broken"
  return "killed" if _test(mutant.tests, root, mutant) == 1 else "survived"


@functools.cache
def _unchanged(tests: tuple[str, ...], root: pathlib.Path) -> int:
  """`_test` of the code as it is, which many mutants share."""
  return _test(tests, root)


def _test(
  tests: Sequence[str], root: pathlib.Path, mutant: Mutant | None = None
) -> int:
  """pytest's exit status in a copy: 0 if all pass, 1 if one fails.

  What the checkout's own tests have compiled is not compiled again.
  """
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  with tempfile.TemporaryDirectory() as directory:
    copy = pathlib.Path(directory)
    for name in filter(None, listed.split("\0")):
      if (root / name).is_file():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)
    if mutant is not None:
      file = copy / mutant.file
      file.write_text(file.read_text().replace(mutant.before, mutant.after))
    environment = {
      "JAX_COMPILATION_CACHE_DIR": str(root / ".pytest_cache" / "jax"),
      **os.environ,
      "PYTHONPATH": str(copy),
    }
    return subprocess.run(
      [sys.executable, "-m", "pytest", "-x", "-n0", *tests],
      cwd=copy,
      env=environment,
      capture_output=True,
    ).returncode


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the fate of each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("names", nargs="*", help="all if none is given")
  parser.add_argument("--jobs", type=int, default=1, help="at a time")
  flags = parser.parse_args(arguments)
  mutants = [x for x in read() if not flags.names or x.name in flags.names]
  if unknown := set(flags.names) - {x.name for x in mutants}:
    parser.error(f"no mutant is named {', '.join(sorted(unknown))}")
  fates = []
  with ThreadPoolExecutor(flags.jobs) as pool:
    for mutant, what in zip(mutants, pool.map(fate, mutants), strict=True):
      print(f"{what:9}{mutant.name}  ({mutant.file})", flush=True)
      fates.append(what)
  number = fates.count("killed")
  print(f"{number} of {len(fates)} killed")
  return int(number < len(fates))


if __name__ == "__main__":
  sys.exit(main())
