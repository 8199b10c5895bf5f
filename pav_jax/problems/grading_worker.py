"""The program of a process that compares; `grading_pool` starts it by its path.

    python -P grading_worker.py TASK SECONDS MEGABYTES

It imports neither JAX nor the package around it, has one thread, and forks a
child that does the work; so a child that is lost costs no imports. The child
reads lines of JSON, each a list of rows, which are arguments of the task, as
pairs of answers are. It writes a line `b` when it has read one, and then a line
of JSON for each row, such as `true` for equal answers. The kernel ends it when
a row takes too much processor time, for which `t` is written instead, or `m` if
a row needs too much memory; the rest of the line is not worked at then. If it
ends in another way so does the program.
"""

import functools
import importlib
import json
import os
import pathlib
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

READY, BEGIN, TIMEOUT, NO_MEMORY = b"r\n", b"b\n", b"t\n", b"m\n"
# How a child ends.
_ENDED, _WORN, _OUT_OF_MEMORY = 0, 10, 11


def _same() -> Callable[[str, str], bool]:
  from pav_jax.problems import answer_equality

  return functools.lru_cache(maxsize=4096)(answer_equality.same)


def _symbolic() -> Callable[[str, str], bool]:
  from pav_jax.problems import answer_equality

  answer_equality.equal("x^2", "x x + 0")  # imports what it needs
  return functools.lru_cache(maxsize=4096)(answer_equality.equal)


def _gym_draw() -> Callable[..., Any]:
  from pav_jax.problems import gym_entries

  importlib.import_module("reasoning_gym")  # once, and not in each child
  return gym_entries.draw


def _gym_score() -> Callable[..., Any]:
  from pav_jax.problems import gym_entries

  importlib.import_module("reasoning_gym")  # once, and not in each child
  return gym_entries.score


# What a process can be asked to do: each imports what it needs.
TASKS = {
  "same": _same,
  "symbolic": _symbolic,
  "gym_draw": _gym_draw,
  "gym_score": _gym_score,
}


def function_of(task: str) -> Callable[..., Any]:
  """What works, imported by its name in a package that is a mere folder."""
  here = pathlib.Path(__file__).parent
  for name, folder in (("pav_jax", here.parent), ("pav_jax.problems", here)):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
  return TASKS[task]()


def limit(megabytes: int) -> None:
  """Takes away what no task needs: memory, files, core dumps."""
  wanted = {
    resource.RLIMIT_AS: megabytes << 20,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
  }
  for what, most in wanted.items():
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
      most = min(most, hard)
    resource.setrlimit(what, (most, most))


def serve(
  function: Callable[..., Any], out: int, seconds: float, megabytes: int
) -> int:
  """Works until its input ends, or it has used much memory: how it ends."""
  limit(megabytes)
  while True:
    try:
      line = sys.stdin.buffer.readline()
      rows = json.loads(line or "[]")
    except Exception:  # what is left of the line would be taken for another
      return _ENDED
    if not line:
      return _ENDED
    os.write(out, BEGIN)
    for row in rows:
      signal.setitimer(signal.ITIMER_PROF, seconds)
      try:
        result = json.dumps(function(*row)).encode()
      except MemoryError:
        return _OUT_OF_MEMORY
      except Exception:  # whatever a library makes of hostile text
        result = b"null"
      signal.setitimer(signal.ITIMER_PROF, 0)
      result += b"\n"
      while result:
        result = result[os.write(out, result) :]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if used > megabytes / 2:
      return _WORN


def main(task: str, seconds: float, megabytes: int) -> None:
  """Forks a child, and another when that ends, until its input ends."""
  # Nothing that a library prints is taken for a verdict.
  out = os.dup(1)
  nothing = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nothing, 1)
  function = function_of(task)
  os.write(out, READY)
  os.dup2(nothing, 2)
  while True:
    child = os.fork()
    if not child:
      os._exit(serve(function, out, seconds, megabytes))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
      os.write(out, TIMEOUT)
    elif code == _OUT_OF_MEMORY:
      os.write(out, NO_MEMORY)
    elif code != _WORN:
      return


if __name__ == "__main__":
  main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
