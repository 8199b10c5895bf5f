import dataclasses
import fractions
import itertools

import numpy as np
import pytest

from pav_jax.problems.countdown import Countdown

SMALL = Countdown(max_number=9, max_value=30)


def response(problem, text):
  return problem.vocabulary.encode(text)


def legal_ends(numbers, max_value):
  """All ends of all legal traces, by Fractions and without any memory."""
  if len(numbers) == 1:
    return {numbers[0]}
  ends = set()
  for i, j in itertools.permutations(range(len(numbers)), 2):
    a, b = numbers[i], numbers[j]
    left = [x for k, x in enumerate(numbers) if k not in (i, j)]
    for c in (a + b, a - b, a * b, fractions.Fraction(a, b)):
      if c == int(c) and 1 <= c <= max_value:
        ends |= legal_ends([*left, int(c)], max_value)
  return ends


def test_reachable_values_are_those_of_all_traces():
  rng = np.random.default_rng(0)
  for count in (1, 2, 3, 3, 3, 4, 4):
    numbers = rng.integers(1, 10, count).tolist()
    want = legal_ends(numbers, SMALL.max_value)
    assert SMALL.reachable(numbers) == want, numbers
    for target in range(1, SMALL.max_value + 1):
      steps = SMALL.solve(numbers, target)
      assert (steps is not None) == (target in want)
      if steps is None:
        continue
      left = list(numbers)
      for a, op, b, c in steps:
        left.remove(a)
        left.remove(b)
        assert c == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[op]
        left.append(c)
      assert left == [target]


def test_reachable_by_hand():
  # Of 1 and 2: 3, 2 - 1, 2 · 1, 2 / 1; of two 7s 14, 49 and 1, not 0.
  problem = Countdown()
  assert problem.reachable([1, 2]) == {3, 1, 2}
  assert problem.reachable([7, 7]) == {14, 49, 1}
  assert problem.reachable([50, 60]) == {10}  # 110 and 3000 are above 99
  assert problem.solve([3, 8], 2) is None  # no fractions


@pytest.mark.parametrize(
  ("text", "grade"),
  [
    ("25+8=33\n33*3=99\n99-7=92<end>", 1),
    ("8+25=33\n3*33=99\n99-7=92<end>", 1),
    ("25+8=33\n33*3=99\n99-7=92\n<end>", 1),  # an empty last step
    ("25+8=33\n33*3=99\n99-7=92<end>5+", 1),  # after the end nothing counts
    ("25+8=33\n33*3=99\n99-7=92", 0),  # no end
    ("25+8=33\n33*3=99\n99-7=92\n", 0),
    ("25+8=33\n33*3=99\n<end>", 0),  # a number is left over
    ("25+8=33\n33*3=99\n99+7=92<end>", 0),  # wrong sum
    ("25+8=33\n33*3=99\n99-7=92\n92/1=92<end>", 0),  # there is no 1
    ("25+8=33\n25*3=75\n33-7=26<end>", 0),  # 25 is used twice
    ("3*25=75\n75+8=83\n83+7=90<end>", 0),  # legal, another target
    ("25+8=33\n\n33*3=99\n99-7=92<end>", 0),  # an empty step
    ("25+8=33,33*3=99\n99-7=92<end>", 0),
    ("25+8=33\n33 3=99\n99-7=92<end>", 0),
    ("<end>", 0),
    ("", 0),
  ],
)
def test_grades_by_hand(text, grade):
  problem = Countdown()
  answer = problem.vocabulary.encode("3,7,8,25=92:")
  assert problem.is_correct(response(problem, text), answer) == grade


@pytest.mark.parametrize("line", ["3-7=4", "7/3=2", "8-8=0", "7*25=99"])
def test_results_are_positive_whole_and_in_range(line):
  # Each line is dead at once, whatever target: it is illegal.
  problem = Countdown()
  prompt = problem.vocabulary.encode("3,7,8,25=92:")
  rollout = rollout_of(problem, prompt, [line + "\n"])
  assert problem.dead_prefixes(rollout).tolist() == [[False, True, True, True]]
  formed = problem.well_formed(rollout).tolist()
  assert formed == [[True, False, False, False]]


def test_a_hopeless_prefix_keeps_to_the_form():
  problem = Countdown()
  prompt = problem.vocabulary.encode("3,8,8,1=24:")
  rollout = rollout_of(problem, prompt, ["8/8=1\n3+1=5\n", "8/8=1\n3+1=4\n"])
  assert problem.dead_prefixes(rollout)[:, 1:].all()
  assert problem.well_formed(rollout).tolist() == [
    [True, True, False, False],
    [True, True, True, True],
  ]


def rollout_of(problem, prompt, texts):
  base = problem.demonstrations(np.arange(len(texts)), np.arange(len(texts)))
  tokens = np.zeros((len(texts), 60), np.int32)
  for row, text in enumerate(texts):
    ids = [*prompt, *problem.vocabulary.encode(text)]
    tokens[row, : len(ids)] = ids
  return dataclasses.replace(
    base, tokens=tokens, prefix_len=problem.prefix_lengths(tokens, 3)
  )


def test_dead_prefixes_by_hand():
  # To 24 from 3, 8, 8, 1: 3 · 8 · (8 / 8) does not use the 1, but
  # 8 / 8 = 1 leaves 1, 1, 3, whose largest value is (1 + 1) · 3 = 6: dead.
  # 8 - 1 = 7 leaves 3, 7, 8: 8 - 7 = 1 gives 3, 4, 2; 7 - 3 = 4 gives 32, 12,
  # 4, 2; 8 - 3 = 5 gives 35, 12, 2; 3 · 7 = 21 gives 29, 13; 3 + 7 = 10 gives
  # 18, 2, 80; 7 + 8 = 15 gives 18, 12, 45, 5; 56 gives 59, 53; 24 gives 31, 17;
  # 11 gives 18, 4, 77: dead. 3 - 1 = 2 leaves 2, 8, 8: 2 · 8 + 8 = 24.
  problem = Countdown()
  prompt = problem.vocabulary.encode("3,8,8,1=24:")
  rollout = rollout_of(
    problem,
    prompt,
    [
      "8/8=1\n",
      "8-1=7\n",
      "3-1=2\n2*8=16\n16+8=24<end>",
      "3-1=2\n2*8=16\n16+8=24\n<end>",  # two steps in the last place
      "3-1=2\n2*8=16\n<end>",
      "3-1=2\n8+8=16\n",
    ],
  )
  np.testing.assert_array_equal(
    problem.dead_prefixes(rollout),
    [
      [0, 1, 1, 1],
      [0, 1, 1, 1],
      [0, 0, 0, 0],
      [0, 0, 0, 0],
      [0, 0, 0, 1],
      [0, 0, 1, 1],  # 2, 16: 18, 14, 32, 8
    ],
  )
  assert problem.grade(rollout).tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("count", [4, 5, 6])
def test_problems_are_as_set(count):
  problem = Countdown(num_numbers=count, max_number=12, min_target=20)
  prompts = problem.prompts(problem.problem_ids("train", 0, 500))
  numbers = prompts[:, :-1:2] - problem.vocabulary.first_integer
  numbers, target = numbers[:, :-1], numbers[:, -1]
  assert numbers.min() == 1 and numbers.max() == 12
  assert target.min() >= 20 and target.max() <= 99
  for row in range(20):
    assert problem.solve(numbers[row].tolist(), int(target[row])) is not None


@pytest.mark.parametrize("count", [4, 6])
def test_demonstrations_are_legal_and_the_solved_ones_right(count):
  # Legal traces end with one number left, so with 0 they are dead only where
  # the target is out of reach; with 1 all reach it.
  ids = np.arange(300)
  solved = Countdown(num_numbers=count, solved_share=1)
  assert solved.demonstrations(ids, ids).outcome.all()
  rollout = Countdown(num_numbers=count, solved_share=0).demonstrations(
    ids, ids
  )
  for row, tokens in enumerate(rollout.tokens):
    # Graded against the number where it ends, every trace is right.
    answer = tokens[: solved.prompt_len].copy()
    answer[-2] = tokens[rollout.prefix_len[row, -1] - 2]
    assert solved.is_correct(tokens[solved.prompt_len :], answer) == 1


def test_the_mixtures_share():
  # Random traces of 6 numbers are seldom right: p0 is measured, and the
  # mixture's mean is s + (1 - s) p0, within 4 binomial deviations of both.
  ids, share, count = np.arange(4000), 0.3, 6
  means = [
    Countdown(num_numbers=count, solved_share=s)
    .demonstrations(ids, ids)
    .outcome.mean()
    for s in (0, share)
  ]
  want = share + (1 - share) * means[0]
  assert abs(means[1] - want) < 4 * (share * (1 - share) / len(ids)) ** 0.5


@pytest.mark.parametrize(
  "settings",
  [
    {"num_numbers": 3},
    {"num_numbers": 7},
    {"max_number": 100},
    {"max_number": 0},
    {"min_target": 100},
    {"solved_share": 1.1},
  ],
)
def test_settings_are_checked(settings):
  (name,) = settings
  with pytest.raises(ValueError, match=f"{name} is .*expected"):
    Countdown(**settings)


def test_numbers_out_of_range_are_refused():
  for numbers in ([], [0, 3], [100]):
    with pytest.raises(ValueError, match="numbers are"):
      Countdown().reachable(numbers)
