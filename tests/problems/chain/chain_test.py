import dataclasses

import numpy as np
import pytest

from pav_jax.problems.chain.chain import (
  ILLEGAL,
  NO_PROGRESS,
  OPERATIONS,
  Chain,
  Operation,
)

PROMPT = "37+25*3~5:"  # 37 + 25 = 62, · 3 = 86, 5 - 86 = 19 modulo 100
GOOD = "37+25=62\n62*3=86\n86~5=19<end>"


def rollout_of(problem, prompt, texts, num_steps=4):
  ids = np.arange(len(texts))
  base = problem.rollout(ids, np.zeros((len(ids), 60), int), ids)
  tokens = np.zeros_like(base.tokens)
  for row, text in enumerate(texts):
    encoded = problem.vocabulary.encode(prompt + text)
    tokens[row, : len(encoded)] = encoded
  return dataclasses.replace(
    base, tokens=tokens, prefix_len=problem.prefix_lengths(tokens, num_steps)
  )


@pytest.mark.parametrize(
  ("text", "every", "final"),
  [
    (GOOD, 1, 1),
    (GOOD + "5+", 1, 1),  # after the end nothing counts
    (GOOD.replace("<end>", "\n<end>"), 1, 1),  # an empty last step
    ("37\n37+25=62\n62\n62*3=86\n86~5=19\n19<end>", 1, 1),  # no progress
    ("37+25=62\n62*3=87\n87~5=18<end>", 0, 0),  # a mistake carried on
    # 12 · 3 = 36 is wrong by 50; 5 - 86 = 19: two mistakes cancel.
    ("37+25=12\n12*3=86\n86~5=19<end>", 0, 1),
    ("37+25=62\n62*3=86\n86~5=81<end>", 0, 0),  # the slip
    ("37+25=62\n62*3=86\n68~5=19<end>", 0, 0),  # not the current value
    ("37+25=62\n63\n62*3=86\n86~5=19<end>", 0, 0),
    ("37+25=62\n86~5=19<end>", 0, 0),  # an operation is left out
    ("37+25=62\n62*3=86\n86~5=19", 0, 0),  # no end
    ("37+25=62\n62*3=86\n86~5=19\n", 0, 0),
    ("37+25=62\n62*3=86\n<end>", 0, 0),
    ("37+25=62\n\n62*3=86\n86~5=19<end>", 0, 0),  # an empty step
    ("19<end>", 0, 0),
    ("<end>", 0, 0),
    ("", 0, 0),
  ],
)
def test_grades_by_hand(text, every, final):
  answer = Chain(horizon=3).vocabulary.encode(GOOD)
  for grading, want in (("every", every), ("final", final)):
    problem = Chain(horizon=3, grading=grading)
    assert problem.is_correct(problem.vocabulary.encode(text), answer) == want
    rollout = rollout_of(problem, PROMPT, [text])
    assert problem.grade(rollout) == want
    assert problem.teacher_values(rollout)[0, -1] == want or "<end>" not in text


def test_answers_are_right_by_pythons_arithmetic():
  problem = Chain(horizon=4)
  ids = problem.problem_ids("train", 0, 200)
  python = {"+": "+", "-": "-", "*": "*"}
  answers = problem.answers(ids)
  for prompt, answer in zip(problem.prompts(ids), answers, strict=True):
    lines = problem.vocabulary.decode(answer).removesuffix("<end>").split("\n")
    value, asked = prompt[0] - problem.vocabulary.first_integer, ""
    for line in lines:
      left, right = line.split("=")
      assert left.startswith(str(value))
      asked += left.removeprefix(str(value))
      if "~" in left:
        a, b = left.split("~")
        left = f"{b}-{a}"
      assert set(left) <= set("0123456789").union(python)
      assert int(right) == eval(left) % 100
      value = int(right)
    assert problem.vocabulary.decode(prompt[1:-1]) == asked
    assert problem.is_correct(answer, answer) == 1


def test_steps_by_hand():
  problem = Chain(horizon=3)
  rollout = rollout_of(
    problem,
    PROMPT,
    ["37+25=62\n62\n62*3=87\n87~5=18<end>", "37+25=62\n62+3=65\n65~5=40<end>"],
  )
  steps = problem.steps(rollout)
  # Kinds: + is 0, * is 2 and ~ is 3 in OPERATIONS.
  assert steps.kind.tolist() == [
    [0, NO_PROGRESS, 2, 3],
    [0, ILLEGAL, ILLEGAL, ILLEGAL],
  ]
  assert steps.right.astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
  assert steps.legal.astype(int).tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
  assert steps.value[0].tolist() == [37, 62, 62, 87, 18]
  assert steps.done[0].tolist() == [0, 1, 1, 2, 3]
  assert steps.ended[0].tolist() == [False] * 4 + [True]
  np.testing.assert_array_equal(problem.dead_prefixes(rollout), ~steps.right)


def test_values_by_hand():
  # Accuracies .92, .84 and .35 of +, * and ~, multiplied from the right; the
  # restatement changes nothing, the mistake everything.
  problem = Chain(horizon=3)
  rollout = rollout_of(
    problem, PROMPT, ["37+25=62\n62\n62*3=86\n", "37+25=63\n63*3=89\n", GOOD]
  )
  np.testing.assert_allclose(
    problem.teacher_values(rollout),
    [
      [0.92 * 0.84 * 0.35, 0.84 * 0.35, 0.84 * 0.35, 0.35, 0.35],
      [0.92 * 0.84 * 0.35, 0, 0, 0, 0],
      [0.92 * 0.84 * 0.35, 0.84 * 0.35, 0.35, 1, 1],
    ],
    rtol=1e-14,
  )


RIGHT = {
  "+": lambda a, b: a + b,
  "-": lambda a, b: a - b,
  "*": lambda a, b: a * b,
  "~": lambda a, b: b - a,
}
SLIP = {"+": "-", "-": "~", "*": "+", "~": "-"}


def teachers_results(problem, a, operation, b, other):
  """(result, probability) pairs, from the definition."""
  m, right = problem.modulus, RIGHT[operation.symbol](a, b) % problem.modulus
  yield right, 1 - operation.error
  wrong = [right + near for near in (1, -1, 10, -10)]
  wrong.append(RIGHT[operation.symbol](a, other))
  wrong.append(RIGHT[SLIP[operation.symbol]](a, b))
  slip = operation.error * operation.systematic
  probs = [(operation.error - slip) / 5] * 5 + [slip]
  for x, prob in zip(wrong, probs, strict=True):
    yield (x % m if x % m != right else (right + 1) % m), prob


def enumerated(problem, value, operations, operands, others, right):
  """Success probability by going through every sequence of results."""
  if not operations:
    return None

  def go(value, h, clean):
    if h == len(operations):
      return float(clean if problem.grading == "every" else value == right)
    total = 0.0
    results = teachers_results(
      problem, value, operations[h], operands[h], others[h]
    )
    for i, (result, prob) in enumerate(results):
      if prob:
        total += prob * go(result, h + 1, clean and i == 0)
    return total

  return go(value, 0, True)


@pytest.mark.parametrize("grading", ["every", "final"])
def test_values_are_those_of_every_sequence_of_results(grading):
  # At most 7 results a step and 3 steps: 343 sequences; modulo 12 they cancel
  # often.
  operations = (
    Operation("+", error=0.3, systematic=0.2, high=11),
    Operation("-", error=0.4, systematic=0.5, high=11),
    Operation("*", error=0.2, high=11),
    Operation("~", error=0.7, systematic=1, high=11),
  )
  problem = Chain(
    horizon=3, modulus=12, operations=operations, rho=0.2, grading=grading
  )
  ids = problem.problem_ids("train", 0, 40)
  rollout = problem.demonstrations(ids, ids)
  values = problem.teacher_values(rollout)
  steps = problem.steps(rollout)
  by_symbol = {operation.symbol: operation for operation in operations}
  cancelled = 0
  for row, tokens in enumerate(rollout.tokens):
    prompt = tokens[1 : problem.prompt_len - 1]
    kinds = [by_symbol[problem.vocabulary.token_text(t)] for t in prompt[::2]]
    operands = (prompt[1::2] - problem.vocabulary.first_integer).tolist()
    others = operands[1:] + operands[:1]
    final = int(tokens[0]) - problem.vocabulary.first_integer
    for kind, operand in zip(kinds, operands, strict=True):
      final = RIGHT[kind.symbol](final, operand) % 12
    for h in range(values.shape[1]):
      done = steps.done[row, h]
      if steps.ended[row, h]:
        want = rollout.outcome[row]
      elif grading == "every" and not steps.right[row, h]:
        want = 0.0
      else:
        want = enumerated(
          problem,
          int(steps.value[row, h]),
          kinds[done:],
          operands[done:],
          others[done:],
          final,
        )
      assert abs(values[row, h] - want) < 1e-12
    cancelled += rollout.outcome[row] == 1 and not steps.right[row, -1]
  assert (cancelled > 0) == (grading == "final")


@pytest.mark.parametrize("grading", ["every", "final"])
def test_values_are_the_teachers_success(grading):
  # 4,000 responses to each of 5 problems; binomial deviation, 4 of them.
  problem = Chain(horizon=4, grading=grading)
  ids = np.repeat(problem.problem_ids("test", 0, 5), 4000)
  rollout = problem.demonstrations(ids, np.tile(np.arange(4000), 5))
  values = problem.teacher_values(rollout)
  for problem_id in np.unique(ids):
    rows = ids == problem_id
    q = values[rows, 0]
    assert np.ptp(q) == 0  # one problem, one value
    mean = rollout.outcome[rows].mean()
    assert abs(mean - q[0]) < 4 * (q[0] * (1 - q[0]) / 4000) ** 0.5
  # A martingale: at every step the mean of q over the teacher's responses is
  # the success rate; its deviation is at most that of the outcomes.
  n = len(ids)
  means = values.mean(0)
  assert np.abs(means - means[0]).max() < 4 * (0.25 / n) ** 0.5


def test_error_rates_of_operations_and_what_the_mistakes_are():
  problem = Chain()
  ids = np.arange(3000)
  rollout = problem.demonstrations(ids, ids)
  steps = problem.steps(rollout)
  for kind, operation in enumerate(problem.operations):
    row, step = np.nonzero(steps.kind == kind)
    n = len(row)
    begin = rollout.prefix_len[row, step]
    line = rollout.tokens[row[:, None], begin[:, None] + np.arange(5)]
    a, _, b, _, c = (
      line.T.astype(int) - problem.vocabulary.first_integer
    ).tolist()
    a, b, c = map(np.array, (a, b, c))
    right = RIGHT[operation.symbol](a, b) % 100
    wrong = c != right
    rate = operation.error
    assert abs(wrong.mean() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    slip = RIGHT[SLIP[operation.symbol]](a, b) % 100
    slip = np.where(slip == right, (right + 1) % 100, slip)
    if operation.symbol == "~":
      # The likeliest result given the line is the slip, always the same.
      np.testing.assert_array_equal(c[wrong], slip[wrong])
      assert wrong.mean() > 0.5
    else:
      # Near misses have 4 of the 5 ways; the other operand may be one too.
      error = (c - right)[wrong] % 100
      share = np.isin(error, [1, 99, 10, 90]).mean()
      assert share > 0.8 - 4 * (0.16 / wrong.sum()) ** 0.5
      for near in (1, 99, 10, 90):
        assert (error == near).mean() > 0.2 - 4 * (0.16 / wrong.sum()) ** 0.5


def test_the_share_of_steps_without_progress():
  # With room for all, each step before the last operation is one with
  # probability ρ, so their number before H operations is negative binomial:
  # mean Hρ/(1-ρ), variance Hρ/(1-ρ)².
  rho, horizon, n = 0.3, 5, 3000
  problem = Chain(horizon=horizon, rho=rho, max_no_progress=40)
  rollout = problem.demonstrations(np.arange(n), np.arange(n))
  count = (problem.steps(rollout).kind == NO_PROGRESS).sum(-1)
  deviation = (horizon * rho / (1 - rho) ** 2 / n) ** 0.5
  assert abs(count.mean() - horizon * rho / (1 - rho)) < 4 * deviation
  share = count.sum() / (count.sum() + n * horizon)
  assert abs(share - rho) < 0.02
  # And no more than is allowed; none at all for ρ = 0.
  few = dataclasses.replace(problem, max_no_progress=2)
  steps = few.steps(few.demonstrations(np.arange(200), np.arange(200)))
  assert (steps.kind == NO_PROGRESS).sum(-1).max() == 2
  none = dataclasses.replace(problem, rho=0.0)
  assert none.max_steps == horizon
  steps = none.steps(none.demonstrations(np.arange(200), np.arange(200)))
  assert not (steps.kind == NO_PROGRESS).any()


def test_a_clean_teacher_has_the_same_problems_and_is_right():
  problem = Chain()
  clean, ids = problem.clean(), np.arange(100)
  np.testing.assert_array_equal(clean.prompts(ids), problem.prompts(ids))
  rollout = clean.demonstrations(ids, ids)
  assert rollout.outcome.all() and (clean.teacher_values(rollout) == 1).all()


@pytest.mark.parametrize("horizon", [1, 6, 20])
def test_problems_are_as_set(horizon):
  problem = Chain(horizon=horizon)
  prompts = problem.prompts(problem.problem_ids("train", 0, 3000))
  kinds = (prompts[:, 1:-1:2, None] == problem.notation.symbol_ids).mean((0, 1))
  want = np.array([o.weight for o in OPERATIONS]) / 10
  deviation = (want * (1 - want) / (3000 * horizon)) ** 0.5
  # Splits of few short problems are uneven by themselves.
  assert (np.abs(kinds - want) < 4 * deviation + 0.02 * (horizon == 1)).all()
  operands = prompts[:, 2:-1:2] - problem.vocabulary.first_integer
  times = prompts[:, 1:-1:2] == problem.vocabulary.symbol_id("*")
  assert set(np.unique(operands[times])) == set(range(2, 10))
  assert (operands >= 1).all() and (operands <= 99).all()


@pytest.mark.parametrize(
  ("settings", "name"),
  [
    ({"horizon": 0}, "horizon is 0"),
    ({"modulus": 1}, "modulus is 1"),
    ({"operations": ()}, "operations have"),
    ({"operations": OPERATIONS[:1] * 2}, "operations have"),
    ({"operations": (Operation("+", high=100),)}, "operands of"),
    ({"rho": 1.0}, "rho is 1.0"),
    ({"max_no_progress": -1}, "max_no_progress is -1"),
    ({"grading": "last"}, "grading is 'last'"),
  ],
)
def test_settings_are_checked(settings, name):
  with pytest.raises(ValueError, match=f"{name}.*expected"):
    Chain(**settings)


@pytest.mark.parametrize(
  "settings",
  [
    {"symbol": "/"},
    {"error": 1.5},
    {"systematic": -0.1},
    {"weight": 0},
    {"low": 5, "high": 4},
  ],
)
def test_settings_of_operations_are_checked(settings):
  with pytest.raises(ValueError, match="expected"):
    Operation(**{"symbol": "+", **settings})


def test_prompts_of_other_problems_are_refused():
  problem = Chain(horizon=3)
  rollout = rollout_of(problem, PROMPT.replace("*", "/"), [GOOD])
  with pytest.raises(ValueError, match="none of this problem's"):
    problem.teacher_values(rollout)
