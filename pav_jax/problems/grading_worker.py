"""The program of a process that grades; `grading_pool` starts it by its path.

    python -P grading_worker.py SYMBOLIC SECONDS MEGABYTES

It imports neither pav_jax nor JAX, has one thread, and forks a child that does
the work; so a child that is lost costs no imports. The child reads lines of
JSON, each a list of pairs of a response and the answer that is right; it writes
`b` when it has read one, and then `1` or `0` for each pair. The kernel ends it
when a pair takes too much processor time, for which `t` is written instead, or
`m` if a pair needs too much memory; the rest of the line is not graded then. If
it ends in another way so does the program.
"""

import functools
import importlib.util
import json
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Callable
from types import ModuleType

READY, BEGIN, CORRECT, WRONG = b"r", b"b", b"1", b"0"
TIMEOUT, NO_MEMORY = b"t", b"m"
# How a child ends.
_ENDED, _WORN, _OUT_OF_MEMORY = 0, 10, 11
_TOLERANCE = 2e-6  # math-verify compares decimals rounded to 6 places


def load(name: str) -> ModuleType:
  """A module that lies beside this one, without the package around it."""
  path = pathlib.Path(__file__).with_name(f"{name}.py")
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Symbolic:
  """Whether two final answers are equal as expressions, by math-verify."""

  def __init__(self, answers: ModuleType):
    import math_verify

    self._number = answers.number
    self._library = math_verify
    self._kinds = (
      math_verify.LatexExtractionConfig(boxed_match_priority=0),
      math_verify.ExprExtractionConfig(),
    )
    self._parsed = functools.lru_cache(maxsize=1024)(self._parse)
    self("x^2", "x\\cdot x")  # what is made at first use

  def __call__(self, answer: str, right: str) -> bool:
    """True for equal ones; numbers are told apart without math-verify."""
    if "%" not in answer + right:
      values = self._number(answer), self._number(right)
      if None not in values and abs(values[0] - values[1]) > _TOLERANCE:
        return False
    return self._library.verify(
      self._parsed(right), self._parsed(answer), timeout_seconds=None
    )

  def _parse(self, answer):
    return self._library.parse(
      "\\boxed{" + answer + "}", self._kinds, parsing_timeout=None
    )


def limit(megabytes: int) -> None:
  """Takes away what grading does not need: memory, files, core dumps."""
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
  graded: Callable[[str, str], bool], out: int, seconds: float, megabytes: int
) -> int:
  """Grades until its input ends, or it has used much memory: how it ends."""
  limit(megabytes)
  while True:
    try:
      line = sys.stdin.buffer.readline()
      pairs = json.loads(line or "[]")
    except Exception:  # what is left of the line would be taken for another
      return _ENDED
    if not line:
      return _ENDED
    os.write(out, BEGIN)
    for response, right in pairs:
      signal.setitimer(signal.ITIMER_PROF, seconds)
      try:
        correct = graded(response, right)
      except MemoryError:
        return _OUT_OF_MEMORY
      except Exception:  # whatever a library makes of hostile text
        correct = False
      signal.setitimer(signal.ITIMER_PROF, 0)
      os.write(out, CORRECT if correct else WRONG)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if used > megabytes / 2:
      return _WORN


def main(symbolic: bool, seconds: float, megabytes: int) -> None:
  """Forks a child, and another when that ends, until its input ends."""
  # Nothing that a library prints is taken for a grade.
  out = os.dup(1)
  nothing = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nothing, 1)
  answers = load("final_answers")
  equal = Symbolic(answers) if symbolic else lambda answer, right: False

  @functools.lru_cache(maxsize=4096)
  def same(answer, right):
    return answers.same(answer, right) or equal(answer, right)

  def graded(response, right):
    answer = answers.final_answer(response)
    return answer is not None and same(answer, right)

  os.write(out, READY)
  os.dup2(nothing, 2)
  while True:
    child = os.fork()
    if not child:
      os._exit(serve(graded, out, seconds, megabytes))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
      os.write(out, TIMEOUT)
    elif code == _OUT_OF_MEMORY:
      os.write(out, NO_MEMORY)
    elif code != _WORN:
      return


if __name__ == "__main__":
  main(sys.argv[1] == "True", float(sys.argv[2]), int(sys.argv[3]))
