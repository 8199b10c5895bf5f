import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.problems import base, two_routes
from pav_jax.problems.two_routes_text import TwoRoutesText

SMALL = TwoRoutesText(num_steps=3, p=0.6, x=0.3, modulus=12, max_operand=9)
PROMPT = "7+3+4:"  # 7, 10, 2 modulo 12


def rollout_of(problem, texts, prompt=PROMPT, num_steps=None):
  prompt = problem.vocabulary.encode(prompt)
  tokens = np.zeros((len(texts), 40), np.int32)
  for row, line in enumerate(texts):
    ids = [*prompt, *problem.vocabulary.encode(line)]
    tokens[row, : len(ids)] = ids
  base = problem.demonstrations(np.arange(len(texts)), np.arange(len(texts)))
  steps = num_steps or problem.num_steps
  return dataclasses.replace(
    base, tokens=tokens, prefix_len=problem.prefix_lengths(tokens, steps)
  )


# A response, its grade, and which of the prefixes 1 … 3 are dead and, in a
# second row, keep to a form.
BY_HAND = [
  ("7\n7+3=10\n10+4=2<end>", 1, "000", "111"),
  ("?\n?\n2<end>", 1, "000", "111"),
  ("7\n7+3=10\n10+4=2<end>5+", 1, "000", "111"),  # after the end: nothing
  ("?\n?\n3<end>", 0, "001", "111"),
  ("7\n7+3=11\n11+4=3<end>", 0, "011", "111"),
  ("7\n7+3=11\n11+4=2<end>", 0, "011", "111"),  # two mistakes that cancel
  ("7\n7+3=11\n10+4=2<end>", 0, "011", "110"),  # goes on from another number
  ("7\n7+4=11\n11+3=2<end>", 0, "011", "100"),  # another order
  ("8\n8+3=11\n11+4=3<end>", 0, "111", "000"),
  ("7\n?\n2<end>", 0, "011", "100"),  # a route is not left
  ("?\n7+3=10\n10+4=2<end>", 0, "011", "100"),
  ("?\n2<end>", 0, "011", "100"),  # a guess that comes too early
  ("7\n7+3=10\n10+4=2", 0, "001", "110"),  # no end
  ("7\n7+3=10\n10+4=2\n<end>", 0, "001", "110"),
  ("7\n7+3=10<end>", 0, "011", "100"),
  ("7\n7+3=10\n10+4=+<end>", 0, "001", "110"),
  ("7\n7+3=10\n10+4=2+<end>", 0, "001", "110"),
  ("<end>", 0, "111", "000"),
  ("", 0, "000", "111"),
]


@pytest.mark.parametrize("response, grade, dead, formed", BY_HAND)
def test_by_hand(response, grade, dead, formed):
  tokens = SMALL.vocabulary.encode(response)
  answer = SMALL.vocabulary.encode(PROMPT)
  assert SMALL.is_correct(tokens, answer) == grade
  rollout = rollout_of(SMALL, [response])
  assert SMALL.grade(rollout) == [grade]
  flags = {
    "dead": SMALL.dead_prefixes(rollout),
    "formed": SMALL.well_formed(rollout),
  }
  for name, want in (("dead", dead), ("formed", formed)):
    assert "".join(str(int(x)) for x in flags[name][0, 1:]) == want, name
  # Where no prefix is dead that one could go on from, it is worth something.
  values = SMALL.teacher_values(rollout)
  np.testing.assert_array_equal(values > 0, ~flags["dead"])


def test_padding_that_was_drawn_is_wrong():
  rollout = rollout_of(SMALL, ["7\n7+3=10\n10+4=2<end>"])
  tokens = rollout.tokens.copy()
  tokens[0, SMALL.prompt_len + 4] = SMALL.vocabulary.pad_id
  rollout = dataclasses.replace(rollout, tokens=tokens)
  assert SMALL.dead_prefixes(rollout).tolist() == [[False, False, True, True]]
  assert SMALL.grade(rollout) == [0]


def process_tokens(problem, rollout):
  """The steps of demonstrations as tokens of the process."""
  steps = np.zeros((len(rollout.tokens), problem.num_steps), np.int32)
  lengths = rollout.prefix_len[:, -1]
  for b, (row, length) in enumerate(zip(rollout.tokens, lengths, strict=True)):
    written = problem.vocabulary.decode(row[:length].tolist())
    prompt, response = written.removesuffix("<end>").split(":")
    total, *operands = map(int, prompt.split("+"))
    first, *lines = response.split("\n")
    guessed, right = first == "?", True
    steps[b, 0] = two_routes.X if guessed else two_routes.Y
    for h, (operand, line) in enumerate(zip(operands, lines, strict=True), 1):
      total = (total + operand) % problem.modulus
      if guessed and line == "?":
        steps[b, h] = two_routes.X
        continue
      right &= int(line.split("=")[-1]) == total
      steps[b, h] = two_routes.RIGHT if right else two_routes.WRONG
  return steps


@pytest.fixture(scope="module")
def demonstrations():
  """What the teacher wrote, and the same as tokens of the process."""
  ids = SMALL.problem_ids("train", 0, 1500)
  rollout = SMALL.demonstrations(ids, np.arange(1500) % 3)
  return rollout, process_tokens(SMALL, rollout)


def test_values_and_outcomes_are_those_of_the_process(demonstrations):
  process = two_routes.TwoRoutes(3, SMALL.p, SMALL.f, SMALL.x)
  rollout, steps = demonstrations
  same = process.rollout(jnp.asarray(steps))
  np.testing.assert_array_equal(same.outcome, rollout.outcome)
  np.testing.assert_allclose(
    process.q_exact(None, same),
    SMALL.teacher_values(rollout),
    rtol=1e-6,
  )


def test_the_teacher_has_the_odds_of_the_process(demonstrations):
  rollout, steps = demonstrations
  on_x, on_y = steps[:, 0] == two_routes.X, steps[:, 0] == two_routes.Y
  right = steps == two_routes.RIGHT
  for hits, rate in (
    (on_x, SMALL.x),
    (right[on_x, -1], SMALL.f),
    (right[on_y, 1], SMALL.p),
    (right[on_y & right[:, 1], 2], SMALL.p),
  ):
    error = (rate * (1 - rate) / len(hits)) ** 0.5
    assert abs(hits.mean() - rate) < 4 * error
  # Wrong results are uniform: 11 of them, equally many of each.
  integer = SMALL.vocabulary.first_integer
  wrong = on_y & (steps[:, 1] == two_routes.WRONG)
  prompts = rollout.tokens[wrong, : SMALL.prompt_len] - integer
  result = rollout.tokens[wrong, SMALL.prompt_len + 2 + 4] - integer
  off = (result - prompts[:, 0] - prompts[:, 2]) % SMALL.modulus
  counts = np.bincount(off, minlength=12)
  assert counts[0] == 0
  mean = wrong.sum() / 11
  # χ² with 10 degrees of freedom is below 29.6 in 999 of 1000 cases.
  assert np.sum((counts[1:] - mean) ** 2) / mean < 29.6
  # And prefixes are worth what became of them.
  error = rollout.outcome[:, None] - SMALL.teacher_values(rollout)
  assert (abs(error.mean(0)) <= 4 * error.std(0) / len(error) ** 0.5).all()


def test_diagnostics_are_the_teachers_odds(demonstrations):
  rollout, steps = demonstrations
  odds = SMALL.diagnostics(rollout)
  on_x, on_y = steps[:, 0] == two_routes.X, steps[:, 0] == two_routes.Y
  right = steps == two_routes.RIGHT
  tried = on_y.sum() + (on_y & right[:, 1]).sum()
  np.testing.assert_allclose(
    [odds["guesses"], odds["step_accuracy"], odds["guess_accuracy"]],
    [on_x.mean(), right[on_y].sum() / tried, right[on_x, -1].mean()],
  )
  assert odds["malformed"] == 0


def test_diagnostics_by_hand():
  rollout = rollout_of(
    SMALL,
    [
      "?\n?\n2<end>",
      "?\n?\n3<end>",
      "?\n2<end>",
      "7\n7+3=10\n10+4=3<end>",
      "7\n7+3=9\n9+4=1<end>",
      "7\n7+3=10<end>",
      "7\n7+3=10\n10+4=2",
      "",
    ],
  )
  odds = SMALL.diagnostics(rollout)
  # Right lines: 10 twice; wrong: 3 and 9. A line without its end is none.
  assert odds == {
    "guesses": 3 / 8,
    "step_accuracy": 2 / 4,
    "guess_accuracy": 1 / 2,
    "malformed": 4 / 8,
  }
  odds = SMALL.diagnostics(rollout_of(SMALL, [""]))
  assert math.isnan(odds["step_accuracy"]) and odds["malformed"] == 1


def test_it_is_a_text_problem_of_disjoint_splits():
  assert isinstance(SMALL, base.TextProblem)
  prompts = {}
  for split in base.SPLITS:
    examples = list(SMALL.examples(split, 0, 100))
    prompts[split] = {tuple(example.prompt.tolist()) for example in examples}
    for example in examples[:20]:
      total = example.prompt[::2] - SMALL.vocabulary.first_integer
      answer = int(total.sum()) % 12
      response = SMALL.vocabulary.encode(f"?\n?\n{answer}<end>")
      assert SMALL.is_correct(response, example.answer) == 1
  assert not prompts["train"] & prompts["test"]
  assert not prompts["train"] & prompts["validation"]


def test_prompts_as_text():
  problem = TwoRoutesText()
  prompt = next(problem.examples("train")).prompt
  written = problem.vocabulary.decode(prompt)
  start, *operands = written.removesuffix(":").split("+")
  assert 0 <= int(start) < 200 and len(operands) == 7
  assert all(1 <= int(x) <= 9 for x in operands)


def test_certain_teachers_make_no_mistakes_or_nothing_else():
  ids = SMALL.problem_ids("train", 0, 300)
  for p, want in ((0, 0.0), (1, 1.0)):
    problem = dataclasses.replace(SMALL, p=p, x=0)
    rollout = problem.demonstrations(ids, ids)
    np.testing.assert_array_equal(rollout.outcome, want)
    assert problem.diagnostics(rollout)["malformed"] == 0


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_steps": 1}, "num_steps is 1, expected at least 2"),
    ({"modulus": 1}, "modulus is 1, expected at least 2"),
    ({"p": 1.1}, "p is 1.1, expected a probability"),
    ({"x": -0.1}, "x is -0.1, expected a probability"),
    ({"max_operand": 200}, "max_operand is 200, expected 1 … 199"),
    ({"max_operand": 0}, "max_operand is 0, expected 1 … 199"),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError, match=message):
    TwoRoutesText(**change)


def test_bad_rollouts():
  good = rollout_of(SMALL, ["7\n7+3=10\n10+4=2<end>"])
  with pytest.raises(ValueError, match="within a step"):
    SMALL.teacher_values(
      dataclasses.replace(good, prefix_len=good.prefix_len - [0, 0, 1, 0])
    )
  with pytest.raises(ValueError, match="none of this problem's"):
    SMALL.teacher_values(rollout_of(SMALL, ["?\n"], prompt="7+0+4:"))
  with pytest.raises(ValueError, match="none of this problem's"):
    SMALL.is_correct([], SMALL.vocabulary.encode("7+3=4:"))
  with pytest.raises(ValueError, match="answer has shape"):
    SMALL.is_correct([], SMALL.vocabulary.encode("7+3:"))
