"""Experiments one after another, each on what those before have made."""

import dataclasses
import hashlib
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np

from pav_jax import files
from pav_jax.cli import configuration, gin_files
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_report
from pav_jax.runs import hosts
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training import processes

_FINISHED = "finished.json"
# What only the part itself reads, or changes when it is looked at.
_NO_RESULTS = ("checkpoints", "tensorboard", "config.gin", "logs")


@dataclasses.dataclass(frozen=True)
class Part:
  """One experiment of a pipeline.

  Attributes:
    name: of its directory within the pipeline's.
    gin_file: what describes it; of several, later ones have the last word.
    bindings: `NAME=VALUE` each, as behind `--gin.` on a command line. In them
      `{workdir}` stands for the directory that has all parts' directories, and
      `{seed}` for the seed.
    sizes: further ones, for a smaller or larger experiment to set.
    more: further ones, for the command line to set.
  """

  name: str
  gin_file: str | Sequence[str]
  bindings: Sequence[str] = ()
  sizes: Sequence[str] = ()
  more: Sequence[str] = ()

  @property
  def gin_files(self) -> tuple[str, ...]:
    """All files."""
    one = isinstance(self.gin_file, str)
    return (self.gin_file,) if one else tuple(self.gin_file)

  def settings(self, workdir: pathlib.Path, seed: int) -> list[str]:
    """All bindings, with directory and seed put in."""
    return [
      text.replace("{workdir}", str(workdir)).replace("{seed}", str(seed))
      for text in (*self.bindings, *self.sizes, *self.more)
    ]


@exclusive
def pipeline(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  parts: Sequence[Part],
  seeds: Sequence[int] = (0,),
  common: Mapping[str, Any] | None = None,
) -> None:
  """Runs what is missing; what is finished stays.

  A part is finished once it has run to its end with the same gin files and
  bindings, and while its results are as it left them. One that was
  interrupted is continued by its own rules. With several seeds each has a
  directory `seed0`, `seed1`, …; a single one has none.

  Args:
    workdir: gets a directory for each part, and report.json: for each part the
      numbers of all seeds' reports, with mean and extremes.
    experiment: its name.
    parts: in order.
    seeds: of which `{seed}` takes the values.
    common: what each part binds first, by its name in gin: numbers, texts and
      lists of them.

  Raises:
    ValueError: if parts or seeds are missing or not unlike, a setting of a part
      is one that it does not take, a part that is finished was made with other
      settings, or its results were lost or changed.
  """
  first = [f"{name}={value!r}" for name, value in (common or {}).items()]
  parts = [
    dataclasses.replace(part, bindings=(*first, *part.bindings))
    for part in parts
  ]
  names = [part.name for part in parts]
  if not isinstance(seeds, Sequence) or isinstance(seeds, str):
    raise ValueError(f"seeds are {seeds!r}, expected some, such as (0, 1)")
  for what, found in (("parts", names), ("seeds", list(seeds))):
    if not found or len(set(found)) < len(found):
      raise ValueError(f"{what} are {found}, expected one or more, all unlike")
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  accept(workdir, experiment, {"run": "pipeline"})
  homes = {
    seed: workdir if len(seeds) == 1 else workdir / f"seed{seed}"
    for seed in seeds
  }
  # Bad settings are found before hours of work.
  for seed, home in homes.items():
    for part in parts:
      if not _is_finished(part, home, seed):
        _check(part, home, seed)
  for seed, home in homes.items():
    for number, part in enumerate(parts, 1):
      of_seed = f", seed {seed}" if len(seeds) > 1 else ""
      label = f"{experiment}: {part.name} ({number} of {len(parts)}{of_seed})"
      if _is_finished(part, home, seed):
        progress.say(f"{label} is finished in {home / part.name}")
        continue
      progress.say(label)
      gin.clear_config()
      configuration.run_files(
        part.gin_files,
        part.settings(home, seed),
        str(home / part.name),
        part.name,
      )
      if processes.is_first():
        _mark_finished(part, home, seed)
      hosts.wait_for_all(f"{part.name} {seed}")
  if not processes.is_first():
    return
  summary = {
    part.name: summarize([_report(home / part.name) for home in homes.values()])
    for part in parts
  }
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=summary,
    seconds=time.monotonic() - start,
    seeds=list(seeds),
  )
  progress.finish([workdir / "report.json"])
  for seed, home in homes.items():
    of_seed = f", seed {seed}" if len(seeds) > 1 else ""
    for part in parts:
      if verdict := _report(home / part.name).get("verdict"):
        progress.say(f"{part.name}{of_seed}: {verdict}")
      for page in sorted((home / part.name).glob("*.html")):
        progress.say(f"{part.name}{of_seed}: {page} is to be looked at")


def summarize(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Numbers of several reports, by their path.

  Args:
    reports: of several seeds, of one form.

  Returns:
    For each number that all have, say `arms/policy/accuracy`: `mean`, `least`,
    `most` and `values` in the order of `reports`.
  """
  numbers = [dict(_numbers(report)) for report in reports]
  common = [
    path for path in numbers[0] if all(path in other for other in numbers)
  ]
  return {
    path: {
      "mean": float(np.mean([found[path] for found in numbers])),
      "least": min(found[path] for found in numbers),
      "most": max(found[path] for found in numbers),
      "values": [found[path] for found in numbers],
    }
    for path in common
  }


def _numbers(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
  if isinstance(tree, Mapping):
    for name, value in tree.items():
      yield from _numbers(value, f"{path}/{name}" if path else str(name))
  elif isinstance(tree, int | float) and not isinstance(tree, bool):
    yield path, tree


def _report(directory: pathlib.Path) -> dict[str, Any]:
  path = directory / "report.json"
  if not path.exists():
    return {}
  return files.read_json(path, way_out=_again(directory))


def _again(directory: pathlib.Path) -> str:
  return (
    f"move {directory} and the directories of the parts after it away and "
    "start again: they are made anew"
  )


def _results(directory: pathlib.Path) -> dict[str, str]:
  """Digests of the files that later parts, or a summary, may read."""
  return {
    name: files.file_digest(directory / name)
    for name in files.files_in(directory)
    if not any(
      part in _NO_RESULTS or part.startswith(".")
      for part in pathlib.PurePath(name).parts
    )
    and not name.endswith((".png", ".html", _FINISHED))
  }


def _check_results(directory: pathlib.Path, was: dict[str, str]) -> None:
  """Raises ValueError if a result of a finished part was lost or changed."""
  now = _results(directory)
  for name, digest in was.items():
    if now.get(name) != digest:
      what = "was changed" if name in now else "is missing"
      raise ValueError(
        f"{directory / name} {what} since the part was finished; bring it "
        f"back, or {_again(directory)}"
      )


def _is_finished(part: Part, home: pathlib.Path, seed: int) -> bool:
  """Whether a part is there, made with these settings."""
  mark, now = home / part.name / _FINISHED, _identity(part, home, seed)
  if not mark.exists():
    return False
  was = files.read_json(mark, checked=True, way_out=_again(mark.parent))
  results = was.pop("results")
  if was == now:
    _check_results(mark.parent, results)
    return True
  changed = [
    name
    for name in was["files"] | now["files"]
    if was["files"].get(name) != now["files"].get(name)
  ]
  changes = [
    *(f"{name} has changed" for name in changed),
    *(f"{x} is new" for x in now["bindings"] if x not in was["bindings"]),
    *(f"{x} is gone" for x in was["bindings"] if x not in now["bindings"]),
  ]
  raise ValueError(
    f"{home / part.name} was made with other settings: {'; '.join(changes)}. "
    "Choose another workdir, or move this directory and those of the parts "
    "after it away"
  )


def _check(part: Part, home: pathlib.Path, seed: int) -> None:
  """Raises ValueError, naming the part, if it cannot run with its settings."""
  gin.clear_config()
  try:
    configuration.parse_gin(part.gin_files, part.settings(home, seed))
    configuration.check_bound()
  except ValueError as error:
    raise ValueError(f"{part.name}: {error}") from error


def _mark_finished(part: Part, home: pathlib.Path, seed: int) -> None:
  directory = home / part.name
  content = _identity(part, home, seed) | {"results": _results(directory)}
  files.write_json(directory / _FINISHED, content, checked=True)


def _identity(part: Part, home: pathlib.Path, seed: int) -> dict[str, Any]:
  """What a part's result is decided by, besides the parts before it.

  Directories are left out, so that a workdir may be moved.
  """
  bindings = [
    text.replace(str(home), "{workdir}") for text in part.settings(home, seed)
  ]
  digests = {k: v for name in part.gin_files for k, v in _digests(name)}
  return {"files": digests, "bindings": bindings}


def _digests(name: str) -> Iterator[tuple[str, str]]:
  """Digests of the settings in a gin file and in those that it includes."""
  texts: dict[pathlib.Path, list[str]] = {}
  for source in gin_files.read_sources(gin_files.find(name)):
    lines = [x for x in source.text.splitlines() if x and x[0] != "#"]
    texts.setdefault(source.path, []).extend(lines)
  for path, lines in texts.items():
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    inside = path.resolve().is_relative_to(gin_files.ROOT)
    short = path.resolve().relative_to(gin_files.ROOT) if inside else path
    yield str(short), digest
