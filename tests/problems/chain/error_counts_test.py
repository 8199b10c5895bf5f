import dataclasses

import numpy as np
import pytest

from pav_jax.problems.chain import Chain, Operation

PROMPT = "37+25*3~5:"  # 37 + 25 = 62, · 3 = 86, 5 - 86 = 19 modulo 100


def rollout_of(problem, texts):
  ids = np.arange(len(texts))
  responses = np.zeros((len(ids), 60), int)
  rollout = problem.rollout(ids, responses, ids)
  tokens = np.zeros_like(rollout.tokens)
  for row, text in enumerate(texts):
    encoded = problem.vocabulary.encode(PROMPT + text)
    tokens[row, : len(encoded)] = encoded
  return dataclasses.replace(rollout, tokens=tokens)


@pytest.mark.parametrize(
  ("text", "operations", "restatements", "illegal", "unfinished"),
  [
    # All right; then * wrong and ~ right for the value that it goes on from.
    ("37+25=62\n62*3=86\n86~5=19<end>", "+*~", 0, 0, 0),
    ("37+25=62\n62\n62*3=87\n87~5=18\n<end>", "+x~", 1, 0, 0),
    # 62+3 is not the problem's operation: it and the rest are not read.
    ("37+25=61\n62*3=86\n86~5=19<end>", "p", 0, 1, 0),
    ("37+25=62\n62+3=65\n65~5=40<end>", "+", 0, 1, 0),
    # It ends too early, though its lines are legal.
    ("37+25=62<end>", "+", 0, 1, 0),
    # Cut off within a line, behind a line, and at once.
    ("37+25=62\n62\n62*3", "+", 1, 0, 1),
    ("37+25=62\n62*3=86", "+", 0, 0, 1),
    ("37+25=62\n62*3=86\n", "+*", 0, 0, 1),
    ("37+2", "", 0, 0, 1),
    ("", "", 0, 0, 1),
    ("38\n37+25=62\n", "", 0, 1, 1),
  ],
)
def test_counts_by_hand(text, operations, restatements, illegal, unfinished):
  problem = Chain(horizon=3)
  counts = problem.count_mistakes(rollout_of(problem, [text]))
  want = {
    "+": (operations.count("+") + operations.count("p"), operations.count("p")),
    "-": (0, 0),
    "*": (operations.count("*") + operations.count("x"), operations.count("x")),
    "~": (operations.count("~"), 0),
  }
  assert counts.operations == want
  assert counts.restatements == restatements
  assert (counts.illegal, counts.unfinished) == (illegal, unfinished)
  assert counts.responses == 1


def test_counts_do_not_depend_on_the_room_for_steps():
  problem = Chain(horizon=4)
  rollout = problem.demonstrations(np.arange(50), np.arange(50))
  bare = dataclasses.replace(
    rollout, prefix_len=problem.prefix_lengths(rollout.tokens, 2)
  )
  assert problem.count_mistakes(bare) == problem.count_mistakes(rollout)


def test_counts_add_up():
  problem = Chain(horizon=4)
  parts = [
    problem.count_mistakes(problem.demonstrations(ids, ids))
    for ids in (np.arange(30), np.arange(30, 70))
  ]
  ids = np.arange(70)
  whole = problem.count_mistakes(problem.demonstrations(ids, ids))
  assert parts[0] + parts[1] == whole
  other = Chain(horizon=4, operations=problem.operations[:2])
  with pytest.raises(ValueError, match="expected the same"):
    whole + other.count_mistakes(other.demonstrations(ids, ids))


def test_rates_of_the_teacher_are_its_settings():
  problem = Chain(rho=0.2, max_no_progress=40)
  ids = np.arange(2000)
  rollout = problem.demonstrations(ids, ids)
  counts = problem.count_mistakes(rollout)
  # The teacher carries every operation out, and is legal.
  assert sum(a for a, _ in counts.operations.values()) == 2000 * 10
  assert counts.illegal_share == counts.unfinished_share == 0
  for operation in problem.operations:
    attempted, wrong = counts.operations[operation.symbol]
    rate, deviation = counts.error_rates[operation.symbol]
    assert rate == wrong / attempted
    want = (operation.error * (1 - operation.error) / attempted) ** 0.5
    assert abs(rate - operation.error) < 4 * want
    # √(e (1 - e)) changes by less than a tenth over four deviations of e.
    assert abs(deviation / want - 1) < 0.1
  steps = 20000 / 0.8
  assert abs(counts.restatement_share - 0.2) < 4 * (0.16 / steps) ** 0.5


def test_rates_imply_the_pass_at_1_that_is_observed():
  # Whatever the settings, given the problem the results are independent.
  problem = Chain(horizon=4)
  ids = problem.problem_ids("test", 0, 3000)
  rollout = problem.demonstrations(ids, ids)
  counts = problem.count_mistakes(rollout)
  rates = {symbol: rate for symbol, (rate, _) in counts.error_rates.items()}
  implied = problem.success_rates(ids, rates).mean()
  observed = rollout.outcome.mean()
  assert abs(implied - observed) < 4 * (observed * (1 - observed) / 3000) ** 0.5


def test_the_teachers_success_rates_are_its_values_of_bare_problems():
  problem = Chain(horizon=5)
  ids = np.arange(20)
  values = problem.teacher_values(problem.demonstrations(ids, ids))[:, 0]
  np.testing.assert_allclose(problem.success_rates(ids), values, rtol=1e-12)
  # One operation in ten wrong, whichever: 0.9⁵ for all problems.
  tenth = dict.fromkeys("+-*~", 0.1)
  np.testing.assert_allclose(
    problem.success_rates(ids, tenth), 0.9**5, rtol=1e-12
  )


def test_operations_without_attempts_have_no_rate():
  problem = Chain(horizon=3)
  rates = problem.count_mistakes(rollout_of(problem, [""])).error_rates
  assert np.isnan([x for pair in rates.values() for x in pair]).all()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_are_checked(rate):
  problem = Chain(horizon=3, operations=(Operation("+"), Operation("-")))
  with pytest.raises(ValueError, match=r"expected \['\+', '-'\]"):
    problem.success_rates(np.arange(3), {"+": 0.1})
  with pytest.raises(ValueError, match=r"in \[0, 1\]"):
    problem.success_rates(np.arange(3), {"+": 0.1, "-": rate})
