import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pav_jax.problems import grading_pool
from pav_jax.problems.grading import (
  ComparesAnswers,
  Grader,
  NormalizedMatch,
  PublishedMatch,
  SymbolicMatch,
)

MATCH = NormalizedMatch(num_workers=2, seconds=0.5)
EXACT = ("7", r"\frac{1}{2}", "(1, 2)")
# Equal as expressions, but not as strings.
SYMBOLIC = [
  (r"(x+1)^2", "x^2+2x+1"),
  (r"\sqrt{8}", r"2\sqrt{2}"),
  ("0.25", r"\frac{1}{4}"),
  (r"\frac{2}{4}", r"\frac{1}{2}"),
  ("0.333333", r"\frac{1}{3}"),
  ("x=5", "5"),
]
UNEQUAL = [
  ("(x+1)^2", "x^2+1"),
  ("8", "7"),
  ("0.3", r"\frac{1}{3}"),
  ("(1,2)", "(2,1)"),
  (r"\text{even}", r"\text{odd}"),
]


def boxed(*answers):
  return [rf"so $\boxed{{{answer}}}$." for answer in answers]


@pytest.fixture(scope="module")
def symbolic():
  pytest.importorskip("mpmath", reason="mpmath is not installed")
  grader = SymbolicMatch(num_workers=1, seconds=0.5)
  yield grader
  grading_pool.close()


def workers(grader):
  pool = grading_pool.pool(
    task=grader.task,
    seconds=grader.seconds,
    megabytes=grader.megabytes,
    num_workers=grader.num_workers,
  )
  return pool._workers


def pids(grader):
  return sorted(worker.process.pid for worker in workers(grader))


def stat(pid):
  """The fields of a process from its state on; none if there is none."""
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return [None, None]
  return text.rpartition(")")[2].split()


def alive(pid):
  return stat(pid)[0] not in (None, "Z")


def child_of(pid):
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    for path in pathlib.Path("/proc").glob("[0-9]*"):
      if stat(path.name)[1] == str(pid):
        return int(path.name)
  raise AssertionError(f"{pid} has no child")


def test_matches_are_found_in_order():
  assert isinstance(MATCH, Grader) and isinstance(MATCH, ComparesAnswers)
  # A thousand rows over two processes; every third is right.
  answers = [str(i) for i in range(1000)]
  given = boxed(*(str(i + (i % 3 > 0)) for i in range(1000)))
  got = MATCH(given, answers)
  assert got.dtype == bool
  np.testing.assert_array_equal(got, np.arange(1000) % 3 == 0)
  assert MATCH(["none"], ["1"]).tolist() == [False]
  assert MATCH([], []).shape == (0,)


def test_strings_and_expressions(symbolic):
  for grader in (MATCH, symbolic):
    assert grader(boxed(*EXACT), EXACT).all()
    assert not grader(boxed(*EXACT), EXACT[::-1])[[0, 2]].any()
  given, right = zip(*SYMBOLIC, strict=True)
  assert symbolic(boxed(*given), right).all()
  assert symbolic(boxed(*right), given).all()
  # Strings do not know but for the rule that drops `x=`.
  assert MATCH(boxed(*given), right).tolist() == [False] * 5 + [True]
  given, right = zip(*UNEQUAL, strict=True)
  assert not symbolic(boxed(*given), right).any()


HOSTILE = {
  "tower": "9^{9^{9^9}}",
  "parentheses": "(" * 300 + "1" + ")" * 300,
  "power": "(x+y+z+1)^{900}",
  "code": '__import__("os").system("touch {}")',
  "surrogate": "\ud800\x00",
}


def test_hostile_answers_are_wrong_and_stop_nothing(symbolic, tmp_path):
  touched = tmp_path / "touched"
  given = [answer.replace("{}", str(touched)) for answer in HOSTILE.values()]
  given = ["7", *given, "7"]
  right = ["7", *["x^2 + 1"] * len(HOSTILE), "7"]
  before = pids(symbolic)
  got = symbolic(boxed(*given), right)
  assert got.tolist() == [True] + [False] * len(HOSTILE) + [True]
  assert not touched.exists()
  # What was lost was children; the process that has the imports is the same.
  assert pids(symbolic) == before


def test_megabytes_are_wrong(symbolic):
  megabyte = 2**20
  rows = ["{" * megabyte, r"\boxed{" * 140_000, "a" * (megabyte + 1), *EXACT]
  assert not symbolic(rows, ["1"] * 6).any()
  late = "x" * (megabyte - 20) + r"\boxed{1}"
  assert symbolic([late, "x" * 20 + late], ["1"] * 2).tolist() == [True, False]


def test_memory_is_limited(monkeypatch, tmp_path):
  # Answers that take 2 GB, crash always or the first time, or wait for ever.
  program = tmp_path / "worker.py"
  source = grading_pool._PROGRAM.read_text()
  line = "  function = function_of(task)\n"
  assert line in source
  equal = """
  def function(answer, other):
    if answer == "memory":
      return len(bytearray(2 << 30)) > 0
    if answer == "crash":
      os.abort()
    if answer == "once" and not os.path.exists(MARKER):
      open(MARKER, "w").close()
      os.abort()
    if answer == "wait":
      import time
      time.sleep(1000)
    return answer in (other, "once")

""".replace("MARKER", repr(str(tmp_path / "marker")))
  program.write_text(source.replace(line, equal))
  monkeypatch.setattr(grading_pool, "_PROGRAM", program)
  pool = grading_pool.Pool("same", 1.0, 256, 1)
  rows = ["1", "memory", "1", "crash", "1", "once", "1"]
  want = [True, False, True, False, True, True, True]
  assert pool.compare([(row, "1") for row in rows]) == want
  # Who waits uses no processor time: then the pool's patience ends.
  (before,) = (worker.process.pid for worker in pool._workers)
  pool._patience = 0.3
  assert pool.compare([("wait", "1"), ("1", "1")]) == [False, True]
  assert [worker.process.pid for worker in pool._workers] != [before]
  pool.close()


def test_processes_are_reused_and_replaced_when_killed():
  # Every other answer is right, in another form.
  right = [str(i) for i in range(80)]
  given = boxed(*(f"{i + i % 2}.0" for i in range(80)))
  MATCH(given, right)
  before = pids(MATCH)
  assert len(before) == 2
  want = [True, False] * 40
  assert MATCH(given, right).tolist() == want
  assert pids(MATCH) == before
  for pid in before:
    os.killpg(pid, signal.SIGKILL)
  # Nobody's answer is blamed for it.
  assert MATCH(given, right).tolist() == want
  for pid in pids(MATCH):
    os.kill(child_of(pid), signal.SIGTERM)
  assert MATCH(given, right).tolist() == want
  assert not set(before) & set(pids(MATCH))
  grading_pool.close()
  # Ended and waited for: no zombies, nothing left.
  for pid in before:
    assert not pathlib.Path(f"/proc/{pid}").exists()
  assert not workers(MATCH)


def test_threads_take_turns():
  right = [str(i) for i in range(100)]
  got = {}

  def grade(shift):
    given = boxed(*(str(i + (i % 5 == shift)) for i in range(100)))
    got[shift] = MATCH(given, right)

  threads = [threading.Thread(target=grade, args=(i,)) for i in range(5)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for shift in range(5):
    np.testing.assert_array_equal(got[shift], np.arange(100) % 5 != shift)


def test_an_interrupted_call_leaves_no_grades_behind(monkeypatch):
  right = [f"{i}.0" for i in range(64)]
  MATCH(boxed(*map(str, range(64))), right)

  def interrupted(self):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(grading_pool.Pool, "_read", interrupted)
    MATCH(boxed(*map(str, range(64))), right)
  assert not MATCH(boxed(*map(str, range(1, 65))), right).any()


PROGRAM = """
import os, sys, threading, time
from pav_jax.problems.grading import NormalizedMatch
from pav_jax.problems import grading_pool
grader = NormalizedMatch(num_workers=1)
assert grader([r"\\boxed{1}"], ["1.0"])[0]
for pool in grading_pool._pools.values():
  print(*(worker.process.pid for worker in pool._workers), flush=True)
"""


@pytest.mark.parametrize("end", ["exit", "kill", "fork", "late"])
def test_nothing_outlives_the_interpreter(end):
  ends = {
    "exit": "",
    "kill": "time.sleep(100)",
    # The copy of the process must neither end the original's nor use them.
    "fork": """
(parents,) = (worker.process.pid for worker in pool._workers)
child = os.fork()
if not child:
  right = grader([r"\\boxed{1}"], ["1.0"])[0]
  own = [worker.process.pid for worker in pool._workers]
  grading_pool.close()
  os._exit(0 if right and own != [parents] else 1)
assert os.waitpid(child, 0)[1] == 0
assert grader([r"\\boxed{2}"], ["2.0"])[0]
""",
    # A thread that goes on until the end.
    "late": """
def forever():
  while True:
    grader([r"\\boxed{1}"] * 100, [str(i) for i in range(100)])
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
""",
  }
  process = subprocess.Popen(
    [sys.executable, "-c", PROGRAM + ends[end]],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": str(pathlib.Path.cwd())},
    text=True,
  )
  pid = int(process.stdout.readline())
  if end == "kill":
    process.kill()
  _, errors = process.communicate(timeout=60)
  assert process.returncode == (-9 if end == "kill" else 0), errors
  if end == "exit":
    assert not errors
  deadline = time.monotonic() + 10
  while end == "kill" and alive(pid) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not alive(pid)


def test_a_process_that_cannot_start_says_why(monkeypatch, tmp_path):
  program = tmp_path / "broken.py"
  program.write_text("raise SystemExit('no such thing')")
  monkeypatch.setattr(grading_pool, "_PROGRAM", program)
  pool = grading_pool.Pool("same", 1.0, 256, 2)
  with pytest.raises(RuntimeError, match="no such thing"):
    pool.compare([("1", "1")])
  assert not pool._workers


def test_without_mpmath_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "mpmath", None)
  with pytest.raises(ImportError, match=r"SymbolicMatch .*pip install mpmath"):
    SymbolicMatch()


def test_each_pair_of_answers_is_compared_once(monkeypatch):
  compared = []

  class Pool:
    def compare(self, pairs):
      compared.extend(pairs)
      return [pair == ("1.0", "1") for pair in pairs]

  monkeypatch.setattr(grading_pool, "pool", lambda **settings: Pool())
  given = [*boxed("1", "1.0", "2", "1.0", "2"), "no answer"]
  right = ["1", "1", "1", "1", "3", "1"]
  assert MATCH(given, right).tolist() == [True, True, False, True, False, False]
  assert compared == [("1.0", "1"), ("2", "1"), ("2", "3")]


# The form of the answers that GSM8K was published with.
SOLUTION = "He has 48/2 = <<48/2=24>>24 clips.\n48 + 24 = {0}\n#### {0}"


def test_solutions_as_published_are_right(symbolic):
  answers = ["72", "1,250", "-3", "0", "0.5", "1,000,000", "18.50"]
  given = [SOLUTION.format(answer) for answer in answers]
  for grader in (MATCH, symbolic, PublishedMatch("gsm8k")):
    assert grader(given, answers).all()
    assert not grader(given, [*answers[1:], "72"]).any()
    bare = [answer.replace(",", "") for answer in answers]
    assert grader(given, bare).all()


def test_the_scorer_that_was_published_is_there_by_name():
  math = PublishedMatch("math")
  assert isinstance(math, ComparesAnswers) and hash(math)
  # It takes `3 4` for `34`, as ours do not.
  assert math(boxed("3 4"), ["34"]).all() and not MATCH(boxed("3 4"), ["34"])[0]
  gsm8k = PublishedMatch("gsm8k")
  given = ["#### 72 clips", "#### $18 per day", "#### 7\n#### 8"]
  assert gsm8k(given, ["72", "18", "7"]).tolist() == [True, False, True]
  assert MATCH(given, ["72", "18", "8"]).all()
  with pytest.raises(ValueError, match="benchmark is 'MATH'"):
    PublishedMatch("MATH")


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"num_workers": 0}, "num_workers is 0"),
    ({"seconds": 0}, "seconds is 0"),
    ({"seconds": 4000}, "seconds is 4000"),
    ({"megabytes": 64}, "megabytes is 64"),
  ],
)
def test_bad_settings(settings, match):
  with pytest.raises(ValueError, match=match):
    NormalizedMatch(**settings)


def test_numbers_of_texts_must_agree():
  with pytest.raises(ValueError, match="2 responses and 1 answers"):
    MATCH(["1", "2"], ["1"])


def test_hypothesis_finds_nothing_that_stops_it(symbolic):
  hypothesis = pytest.importorskip("hypothesis")
  strategies = hypothesis.strategies
  parts = strategies.sampled_from(
    [
      *("{", "}", "(", ")", "[", "]", "^", "_", "\\", "$", "#", "&", "%", "!"),
      *("\n", "\x00", "\ud800", "٣", "é", " ", ",", ";", "=", "<", "|", "'"),
      *("9", "0.5", "x", "1e999", "-", "+", "/", "*"),
      *(r"\boxed{", r"\fbox", "# Answer\n", "####", r"\text{", r"\\"),
      *(r"\frac", r"\sqrt", r"\int_0", r"\sum_{i=1}^", r"\left(", r"\log"),
      *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\infty", r"\cup", r"\mod"),
      *("__import__('os')", "lambda: 1", "while True: pass", "eval(", "{0.a}"),
    ]
  )
  texts = strategies.lists(
    strategies.one_of(parts, strategies.text(max_size=5)), max_size=30
  ).map("".join)
  answers = strategies.lists(
    strategies.tuples(texts, strategies.integers(0, 3)), max_size=12
  )

  @hypothesis.settings(
    max_examples=12, deadline=None, database=None, derandomize=True
  )
  @hypothesis.given(answers)
  def check(rows):
    # No text made of these parts has this answer, however it is written.
    given = [
      (text, rf"\boxed{{{text}}}", "# Answer\n" + text, "#### " + text * 9)[how]
      for text, how in rows
    ]
    got = symbolic(
      ["#### 1234567", *given, "#### 1234567"], ["1234567"] * (len(given) + 2)
    )
    assert got.tolist() == [True] + [False] * len(given) + [True]

  check()
