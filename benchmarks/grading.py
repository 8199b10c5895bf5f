"""How often graders err, and how many answers a core grades in a second.

  .venv/bin/python benchmarks/grading.py

Errors are counted on the pairs of `tests/data/answer_pairs.jsonl`: answers that
are equal, and answers that are not, each a trap that some grader has fallen
into. math-verify by itself is shown beside if it is installed
(`pip install math-verify`); a pair that it refuses and we take is printed if
the pair is wrong.

Speed is of responses of some lines to made-up problems whose answers are of the
kinds that MATH has: integers, decimals, fractions, roots, expressions, points,
intervals, words. Of four responses to a problem one has the answer as it is
written, one in another form, and two have another answer; no two problems are
alike. Each grader has one process. Prints answers per second of wall time and
of processor time, that process's and this one's, and the share that was graded
as it was made; and the time for hostile responses, with `seconds` = 1.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import time

from pav_jax.problems import grading, grading_pool

PAIRS = pathlib.Path(__file__).parents[1] / "tests/data/answer_pairs.jsonl"

# How often, then for a number n: the answer, another form, wrong ones.
KINDS = (
  (10, lambda n: (f"{n}", f"{n}.0", f"{n + 1}", f"-{n}")),
  (
    2,
    lambda n: (
      f"{1000 * n:,}",
      f"{1000 * n}",
      f"{100 * n}",
      f"{1000 * n + 1:,}",
    ),
  ),
  (1, lambda n: (f"{n}.25", rf"\frac{{{4 * n + 1}}}{{4}}", f"{n}.5", f"{n}")),
  (
    3,
    lambda n: (
      rf"\frac{{{n}}}{{{n + 1}}}",
      rf"\dfrac{{{n}}}{{{n + 1}}}",
      rf"\frac{{{n + 1}}}{{{n}}}",
      f"{n}/7",
    ),
  ),
  (
    1,
    lambda n: (
      rf"{2 * n}\sqrt{{2}}",
      rf"\sqrt{{{8 * n * n}}}",
      rf"{n}\sqrt{{3}}",
      rf"\sqrt{{{n}}}",
    ),
  ),
  (
    1,
    lambda n: (
      f"x^2 + {2 * n}x + {n * n}",
      f"(x+{n})^2",
      f"x^2 + {n}x + {n * n}",
      f"x^2 - {2 * n}x + 1",
    ),
  ),
  (
    1,
    lambda n: (f"({n}, 5)", rf"\left({n},5\right)", f"(5, {n})", f"({n}, 4)"),
  ),
  (1, lambda n: (f"[{n}, 999)", f"[{n},999)", f"({n}, 999)", f"[1, {n}]")),
  (1, lambda n: (rf"{n}\pi", rf"{n} \pi", rf"{2 * n}\pi", f"{n}")),
  (1, lambda n: (rf"\text{{row {n}}}", f"row {n}", r"\text{none}", "column")),
)
HOSTILE = {
  "9^{9^{9^9}}": "9^{9^{9^9}}",
  "a factorial": "1000000000!",
  "300 nested parentheses": "(" * 300 + "1" + ")" * 300,
  "100 nested roots": r"\sqrt{" * 100 + "2" + "}" * 100,
  "a large power": "(x+y+z+1)^{900}",
  "code": '__import__("os").system("true")',
}
TEXT = "First, we look at what is given: $a = {0}$ and $b = {0} + 1$.\n" * 4


def rows(number):
  """Responses, right answers, and whether they should be found right."""
  draw = random.Random(0)
  kinds = [kind for share, kind in KINDS for _ in range(share)]
  out = []
  for n in range(number // 4):
    forms = draw.choice(kinds)(n + 2)
    for i, form in enumerate(forms):
      response = TEXT.format(n) + rf"So the answer is $\boxed{{{form}}}$."
      out.append((response, forms[0], i < 2))
  return out


def processor_seconds(group):
  """Of all processes in a process group, so far."""
  ticks = 0
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue
    if int(fields[2]) == group:
      ticks += sum(map(int, fields[11:15]))
  return ticks / os.sysconf("SC_CLK_TCK")


def errors():
  """Prints how often each grader errs on pairs of answers."""
  lines = PAIRS.read_text().splitlines()
  pairs = [json.loads(line) for line in lines]
  answers = [pair["answer"] for pair in pairs]
  others = [pair["other"] for pair in pairs]
  equal = [pair["equal"] for pair in pairs]
  verdicts = {
    "MATH's own scorer": grading.PublishedMatch("math").equal(answers, others),
    "NormalizedMatch": grading.NormalizedMatch().equal(answers, others),
    "SymbolicMatch": grading.SymbolicMatch().equal(answers, others),
  }
  with contextlib.suppress(ImportError):
    verdicts = {"math-verify": math_verify(answers, others)} | verdicts
  number = sum(equal)
  print(
    f"| | wrong of {number} equal | wrong of {len(pairs) - number} unequal |"
  )
  print("| --- | --- | --- |")
  for name, taken in verdicts.items():
    refused, accepted = (
      sum(e == want != t for e, t in zip(equal, taken, strict=True))
      for want in (True, False)
    )
    print(f"| {name} | {refused} | {accepted} |")
  if "math-verify" in verdicts:
    for pair, ours, theirs in zip(
      pairs, verdicts["SymbolicMatch"], verdicts["math-verify"], strict=True
    ):
      if ours and not theirs and not pair["equal"]:
        print("taken, though math-verify refuses it:", pair)


def math_verify(answers, others):
  """Verdicts of math-verify by itself, the other answer being the right one."""
  import logging
  import warnings

  from math_verify import (
    ExprExtractionConfig,
    LatexExtractionConfig,
    parse,
    verify,
  )

  logging.getLogger("math_verify").setLevel(logging.CRITICAL)
  warnings.simplefilter("ignore")
  kinds = (
    LatexExtractionConfig(boxed_match_priority=0),
    ExprExtractionConfig(),
  )

  def read(answer):
    return parse(rf"\boxed{{{answer}}}", kinds, parsing_timeout=None)

  def equal(answer, other):
    try:
      return bool(verify(read(other), read(answer), timeout_seconds=None))
    except Exception:
      return False

  return list(map(equal, answers, others))


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--answers", type=int, default=8000)
  arguments = parser.parse_args()
  errors()
  responses, answers, expected = zip(*rows(arguments.answers), strict=True)
  for grader in (
    grading.NormalizedMatch(num_workers=1, seconds=1.0),
    grading.SymbolicMatch(num_workers=1, seconds=1.0),
  ):
    grader([r"\boxed{1.0}"], ["1"])
    pool = grading_pool.pool(
      task=grader.task, seconds=1.0, megabytes=512, num_workers=1
    )
    group = pool._workers[0].process.pid

    def used(group=group):
      return processor_seconds(group) + time.process_time()

    begin, before = time.perf_counter(), used()
    verdicts = grader(responses, answers)
    seconds, processor = time.perf_counter() - begin, used() - before
    agree = sum(map(bool.__eq__, verdicts.tolist(), expected)) / len(expected)
    print(
      f"{type(grader).__name__}: {len(verdicts) / seconds:,.0f} answers/s, "
      f"{len(verdicts) / processor:,.0f} per second of processor time; "
      f"{100 * agree:.1f} % as made"
    )
  for name, answer in HOSTILE.items():
    begin = time.perf_counter()
    (verdict,) = grader([rf"\boxed{{{answer}}}"], ["7"])
    print(f"{name}: {verdict}, {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
  main()
