import dataclasses

import numpy as np

from pav_jax.problems.chain import Chain
from pav_jax.provers.rollout_values import (
  ClosedForm,
  WellFormed,
  WithinLimit,
  cut_at_padding,
)

PLUS = dataclasses.replace(Chain().operations[0], error=0.25)
PROBLEM = Chain(horizon=2, modulus=4, operations=(PLUS,), rho=0.0)
IDS = PROBLEM.problem_ids("train", 0, 4)
RIGHT = PROBLEM.clean().demonstrations(IDS, np.zeros_like(IDS))
PAD = PROBLEM.vocabulary.pad_id


def test_closed_form_of_right_responses():
  # Errors of 1/4: 9/16 before both sums, 3/4 after one, then it is correct.
  q = ClosedForm(PROBLEM.teacher_values)(None, RIGHT)
  np.testing.assert_allclose(q, [[9 / 16, 3 / 4, 1.0]] * 4)
  assert q.dtype == np.float32


def test_what_comes_after_sampled_padding_is_worth_nothing():
  # Row 0 has padding right behind its first line, and goes on.
  tokens, second = RIGHT.tokens.copy(), RIGHT.prefix_len[0, 1]
  tokens[0, second] = PAD
  rollout = dataclasses.replace(RIGHT, tokens=tokens)
  q = ClosedForm(PROBLEM.teacher_values)(None, rollout)
  np.testing.assert_allclose(q[0], [9 / 16, 3 / 4, 0.0])
  np.testing.assert_allclose(q[1:], [[9 / 16, 3 / 4, 1.0]] * 3)
  cut, beyond = cut_at_padding(rollout, PAD)
  assert (cut.tokens[0, second:] == PAD).all()
  np.testing.assert_array_equal(beyond[0], [False, False, True])
  np.testing.assert_array_equal(cut.prefix_len[1:], RIGHT.prefix_len[1:])


def test_only_prefixes_in_form_are_worth_what_the_prover_says():
  """A wrong result keeps to the form; another operand, or padding, does not."""
  tokens, at = RIGHT.tokens.copy(), RIGHT.prefix_len[0]
  integer = PROBLEM.vocabulary.first_integer
  result, operand = at[1] - 2, at[1] + 2
  tokens[1, result] = integer + (tokens[1, result] - integer + 1) % 4
  tokens[1, at[1]] = tokens[1, result]
  tokens[2, operand] = integer + (tokens[2, operand] - integer + 1) % 4
  tokens[3, at[1]] = PAD
  rollout = dataclasses.replace(RIGHT, tokens=tokens)

  half = ClosedForm(lambda rollout: np.full(rollout.prefix_len.shape, 0.5))
  q = WellFormed(half, PROBLEM)(None, rollout)
  formed = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]]
  np.testing.assert_array_equal(q, 0.5 * np.array(formed))
  assert q.dtype == np.float32


def test_a_prefix_that_cannot_be_completed_is_worth_nothing():
  # Two lines of 6 tokens: with a limit of 12 all can be completed, with 11
  # nothing but what has ended.
  exact = ClosedForm(PROBLEM.teacher_values)
  within = WithinLimit(exact, PROBLEM, max_new_tokens=12)
  np.testing.assert_array_equal(within(None, RIGHT), exact(None, RIGHT))
  within = WithinLimit(exact, PROBLEM, max_new_tokens=11)
  np.testing.assert_array_equal(within(None, RIGHT), [[0.0, 0.0, 1.0]] * 4)
  # A restatement takes two tokens: a limit of 13 has no room for one.
  restated = Chain(horizon=2, modulus=4, operations=(PLUS,), rho=0.999)
  rollout = restated.demonstrations(IDS[:1], np.zeros(1, np.int32))
  exact = ClosedForm(restated.teacher_values)
  q = WithinLimit(exact, restated, max_new_tokens=13)(None, rollout)
  assert q[0, 0] > 0
  np.testing.assert_array_equal(q[0, 1:-1], 0.0)
