"""Kills runs at any moment, starts them again, and compares what they write.

    python -m tools.faults --stages rl,sft --kills 20 [--processes 2]

Each stage is a small run (tests/data). It is done once undisturbed, and then
again with SIGKILLs: half of them at a change of files, such as the seventh
renaming, half at any time. What has been killed is started again, and killed
again, until it comes to its end; everything in its work directory must then be
as it is without, but for what a clock has measured. Of several processes one is
killed, and the others end by themselves.

A stage is followed by those that need its results, so that `--stages search`
does fine-tuning, collection and a verifier first, undisturbed.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax import files
from pav_jax.reporting import progress

ROOT = pathlib.Path(__file__).parents[1]
# Of one work directory, before it may come to its end.
_MOST_DEATHS = 6
# What a clock has measured, or only shows what other files say.
_NOT_COMPARED = (
  "checkpoints",
  "tensorboard",
  "spent",
  # The rows that come of them are compared.
  "units",
  "samples",
  "greedy",
  "validation",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """A run that is killed.

  Attributes:
    gin_file: that describes it.
    needs: stages whose work directories it reads.
    bindings: `NAME=VALUE`; `{stage}` stands for a stage's work directory.
    several: whether it can be done by several processes.
  """

  gin_file: str
  needs: Sequence[str] = ()
  bindings: Sequence[str] = ()
  several: bool = True


_POLICY = "POLICY='{sft}/policy'"
STAGES = {
  "planted": Stage("tests/data/tiny.gin", several=False),
  "sft": Stage("tests/data/hosts_sft.gin"),
  "collect": Stage("tests/data/hosts_collect.gin", ["sft"], [_POLICY]),
  "verifier": Stage(
    "tests/data/hosts_verifier.gin",
    ["sft", "collect"],
    [_POLICY, "DATA='{collect}/targets'"],
  ),
  "search": Stage(
    "tests/data/hosts_search.gin",
    ["sft", "verifier"],
    [_POLICY, "VERIFIER='{verifier}/verifier'"],
  ),
  "rl": Stage("tests/data/hosts_rl.gin", ["sft"], [_POLICY]),
}


@dataclasses.dataclass(frozen=True)
class Death:
  """When a process ends itself by SIGKILL.

  Attributes:
    change: at this change of files, from 1; None for none.
    seconds: after its start; None for never.
  """

  change: int | None = None
  seconds: float | None = None

  def __str__(self) -> str:
    if self.change is not None:
      return f"change {self.change} of files"
    return f"{self.seconds:.1f} s"


@dataclasses.dataclass
class Result:
  """What became of a stage.

  Attributes:
    name: of the stage.
    processes: that did it.
    kills: SIGKILLs that hit.
    ends: work directories that came to their end.
    lost: what was not as it should be, a line each.
  """

  name: str
  processes: int
  kills: int = 0
  ends: int = 0
  lost: list[str] = dataclasses.field(default_factory=list)


def die(death: Death, changes: pathlib.Path | None) -> None:
  """Arranges the death of this process, and counts its changes of files.

  Args:
    death: when.
    changes: gets a byte for each change; None not to count.
  """
  count = 0
  out = changes and os.open(changes, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

  def counted(call):
    def wrapper(*args, **kwargs):
      nonlocal count
      count += 1
      if out:
        os.write(out, b".")
      if count == death.change:
        os.kill(os.getpid(), signal.SIGKILL)
      return call(*args, **kwargs)

    return wrapper

  for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
  if death.seconds is not None:
    end = (os.getpid(), signal.SIGKILL)
    threading.Timer(death.seconds, os.kill, end).start()


class Runner:
  """Starts runs in forks of a process that has imported what they need."""

  def __init__(self, directory: pathlib.Path, processes: int):
    """Imports; nothing may ask for JAX's devices before or after.

    Args:
      directory: of all stages.
      processes: of each run.
    """
    import orbax.checkpoint  # noqa: F401

    from pav_jax.cli import command

    self._main = command.main
    self.directory, self.processes = directory, processes
    self.log = directory / "log"

  def run(
    self,
    stage: str,
    workdir: pathlib.Path,
    deaths: Mapping[int, Death],
    changes: pathlib.Path | None = None,
  ) -> list[int]:
    """Runs a stage in all processes; gives their exit statuses.

    Args:
      stage: its name.
      workdir: of the run.
      deaths: of processes, by their number.
      changes: see `die`; those of process 0 are counted.
    """
    homes = {name: self.directory / name / "whole" for name in STAGES}
    bindings = [text.format(**homes) for text in STAGES[stage].bindings]
    arguments = [
      f"--gin_file={ROOT / STAGES[stage].gin_file}",
      f"--workdir={workdir}",
      *(f"--gin.{text}" for text in bindings),
    ]
    self.log.write_text("")
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    pids = []
    for process in range(self.processes):
      pid = os.fork()
      if pid:
        pids.append(pid)
        continue
      try:
        self._be(process, port)
        counts = changes if process == 0 else None
        die(deaths.get(process, Death()), counts)
        status = self._main(arguments)
      except SystemExit as error:
        status = error.code
      except BaseException:
        traceback.print_exc()
        status = 1
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

  def _be(self, process: int, port: int) -> None:
    """Makes a fork one of the processes, with its output in the log."""
    log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
      os.dup2(log, stream)
    os.chdir(ROOT)
    # All stages are for a mesh of two devices.
    each = 2 // self.processes
    os.environ["XLA_FLAGS"] = (
      f"{os.environ.get('XLA_FLAGS', '')} "
      f"--xla_force_host_platform_device_count={each}"
    )
    if self.processes > 1:
      os.environ |= {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(self.processes),
        "JAX_PROCESS_ID": str(process),
        "PAV_HEARTBEAT_SECONDS": "10",
      }


def contents(workdir: pathlib.Path) -> dict[str, Any]:
  """What a run wrote, by name, but for what a clock has measured."""
  found = {}
  for name in sorted(os.fspath(p) for p in workdir.rglob("*")):
    path = pathlib.Path(name)
    relative = path.relative_to(workdir)
    if (
      not path.is_file()
      or set(relative.parts[:-1]) & set(_NOT_COMPARED)
      or path.name == ".lock"
      or path.suffix in (".png", ".html")
    ):
      continue
    if path.suffix in (".json", ".jsonl"):
      lines = path.read_text().splitlines()
      texts = lines if path.suffix == ".jsonl" else ["\n".join(lines)]
      found[str(relative)] = [_timeless(json.loads(text)) for text in texts]
    else:
      found[str(relative)] = files.file_digest(path)
  return found


def _timeless(content: Any) -> Any:
  """JSON without the entries that are named after seconds."""
  if isinstance(content, dict):
    return {
      name: _timeless(value)
      for name, value in content.items()
      if "second" not in name
    }
  if isinstance(content, list):
    return [_timeless(value) for value in content]
  return content


def differences(whole: Mapping[str, Any], came: Mapping[str, Any]) -> list[str]:
  """Names of files that are missing, too many, or not the same."""
  wrong = []
  for name in sorted(whole.keys() | came.keys()):
    if name not in came:
      wrong.append(f"{name} is missing")
    elif name not in whole:
      wrong.append(f"{name} is too many")
    elif whole[name] != came[name]:
      wrong.append(f"{name} is not the same")
  return wrong


def campaign(runner: Any, stage: str, kills: int, rng: random.Random) -> Result:
  """Kills a stage until enough SIGKILLs have hit; see the module.

  Args:
    runner: a `Runner`.
    stage: its name; what it needs is there.
    kills: that have to hit.
    rng: chooses when.
  """
  result = Result(stage, runner.processes)
  home = runner.directory / stage
  changes = home / "changes"
  begin = time.monotonic()
  whole = _undisturbed(runner, stage, changes)
  seconds, num_changes = time.monotonic() - begin, changes.stat().st_size
  workdir, deaths = home / "killed", []
  while True:
    victim = rng.randrange(runner.processes)
    death = Death()
    if result.kills < kills and len(deaths) < _MOST_DEATHS:
      if rng.random() < 0.5:
        death = Death(change=1 + int(num_changes * rng.random()))
      else:
        death = Death(seconds=seconds * rng.uniform(0.1, 1.0))
    statuses = runner.run(stage, workdir, {victim: death})
    history = f"deaths at {'; '.join(deaths)}"
    if statuses[victim] == -signal.SIGKILL:
      result.kills += 1
      deaths.append(str(death))
      continue
    if any(statuses):
      last = runner.log.read_text().strip().splitlines()[-1:]
      result.lost.append(f"ended with {statuses} after {history}: {last}")
    else:
      wrong = differences(whole, contents(workdir))
      result.ends += not wrong
      result.lost += [f"{name} after {history}" for name in wrong]
    shutil.rmtree(workdir, ignore_errors=True)
    deaths = []
    if result.kills >= kills or len(result.lost) > kills:
      return result


def _undisturbed(
  runner: Any, stage: str, changes: pathlib.Path | None = None
) -> dict[str, Any]:
  """What a stage writes that nobody kills; what it needs is done before."""
  workdir = runner.directory / stage / "whole"
  for needed in STAGES[stage].needs:
    if not (runner.directory / needed / "whole" / "report.json").exists():
      _undisturbed(runner, needed)
  if changes or not (workdir / "report.json").exists():
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    statuses = runner.run(stage, workdir, {}, changes)
    if any(statuses):
      raise RuntimeError(
        f"{stage} ended with {statuses} undisturbed: {runner.log.read_text()}"
      )
  return contents(workdir)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line; ends the program for what it does not know."""
  parser = argparse.ArgumentParser(
    prog="python -m tools.faults",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--stages", default=",".join(STAGES), help="of them")
  parser.add_argument("--kills", type=int, default=10, help="of each stage")
  parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--directory", help="kept; else a temporary one")
  flags = parser.parse_args(arguments)
  flags.stages = flags.stages.split(",")
  for name in flags.stages:
    if name not in STAGES:
      parser.error(f"stage {name!r}, expected some of {', '.join(STAGES)}")
    if flags.processes > 1 and not STAGES[name].several:
      parser.error(f"{name} runs in one process")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the campaign; gives 1 if anything was lost."""
  flags = parse(arguments)
  with tempfile.TemporaryDirectory() as scratch:
    directory = pathlib.Path(flags.directory or scratch).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    runner = Runner(directory, flags.processes)
    rng = random.Random(flags.seed)
    results = []
    for name in flags.stages:
      result = campaign(runner, name, flags.kills, rng)
      results.append(result)
      progress.say(
        f"{name}: {result.kills} kills, {result.ends} ends as undisturbed, "
        f"{len(result.lost)} lost"
      )
      for line in result.lost:
        progress.say(f"  {line}")
  progress.table(
    f"SIGKILL, {flags.processes} "
    f"process{'es' if flags.processes > 1 else ''}, seed {flags.seed}",
    ["stage", "kills", "ends", "lost"],
    [[x.name, str(x.kills), str(x.ends), str(len(x.lost))] for x in results],
  )
  return int(any(result.lost for result in results))


if __name__ == "__main__":
  sys.exit(main())
