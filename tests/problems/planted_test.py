import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.policies.made_policy import rollout_from_tokens
from pav_jax.problems.planted import Planted

PROBLEMS = [
  Planted(planted=(1,), length=4, vocab_size=3),
  Planted(planted=(1, 1, 2), length=5, vocab_size=4),
  Planted(planted=(1, 2, 1, 2, 3), length=6, vocab_size=5),
  Planted(planted=(0, 1, 0), length=5, vocab_size=3, end_token=2),
  Planted(planted=(2, 1, 2, 2), length=5, vocab_size=3, end_token=0),
]
each_problem = pytest.mark.parametrize(
  "problem", PROBLEMS, ids=lambda p: "".join(map(str, p.planted))
)


def all_sequences(problem):
  return np.array(
    list(itertools.product(range(problem.vocab_size), repeat=problem.length)),
    np.int32,
  )


def contains(response, planted):
  """Whether Python finds `planted` in `response`; tokens are below 256."""
  return bytes(planted) in bytes(response)


def state_by_strings(problem, prefix):
  """The automaton's state from its definition, by comparing strings."""
  m = len(problem.planted)
  ended = problem.end_token in prefix
  if ended:
    prefix = prefix[: prefix.index(problem.end_token)]
  if contains(prefix, problem.planted):
    return m
  if ended:
    return m + 1
  return max(
    k
    for k in range(m)
    if prefix[len(prefix) - k :] == list(problem.planted[:k])
  )


make_rollout = jax.jit(rollout_from_tokens, static_argnums=0)
states_of = jax.jit(Planted.states, static_argnums=0)
grade = jax.jit(Planted.grade, static_argnums=0)


def rollout_of(problem, tokens):
  num = len(tokens)
  return jax.device_get(
    make_rollout(
      problem,
      np.asarray(tokens, np.int32),
      np.zeros(tokens.shape, np.float32),
      np.zeros(num, np.int32),
      np.arange(num, dtype=np.int32),
    )
  )


@each_problem
def test_states_of_every_prefix_of_every_sequence(problem):
  tokens = all_sequences(problem)
  prefix_len = np.tile(np.arange(problem.length + 1), (len(tokens), 1))
  got = states_of(problem, tokens, prefix_len)
  known = {}
  want = np.empty(prefix_len.shape, np.int32)
  for row, sequence in enumerate(tokens.tolist()):
    for h in range(problem.length + 1):
      prefix = tuple(sequence[:h])
      if prefix not in known:
        known[prefix] = state_by_strings(problem, list(prefix))
      want[row, h] = known[prefix]
  np.testing.assert_array_equal(got, want)
  assert set(np.unique(want)) == set(range(problem.num_states))


def test_transitions_of_a_self_overlapping_sequence_by_hand():
  # Planted 1 1 2, end token 3. After 1 1, another 1 still leaves 1 1 matched.
  # Rows are the states "", 1, 11, done, dead; columns the tokens 0 1 2 3.
  np.testing.assert_array_equal(
    PROBLEMS[1].transitions,
    [
      [0, 1, 0, 4],
      [0, 2, 0, 4],
      [0, 2, 3, 4],
      [3, 3, 3, 3],
      [4, 4, 4, 4],
    ],
  )


@each_problem
def test_grades_are_pythons_in(problem):
  # Every sequence there is: the end token at any place, or several, or none.
  tokens = all_sequences(problem)
  grades = grade(problem, rollout_of(problem, tokens))
  want = []
  for sequence in tokens.tolist():
    if problem.end_token in sequence:
      sequence = sequence[: sequence.index(problem.end_token)]
    want.append(contains(sequence, problem.planted))
  np.testing.assert_array_equal(grades, np.array(want, np.float32))
  assert 0 < sum(want) < len(want)


def test_grades_of_long_random_sequences_with_the_papers_numbers():
  problem = Planted()
  assert (problem.planted, problem.length) == ((3, 6, 0, 3, 5), 10)
  assert (problem.vocab_size, problem.end_token) == (15, 14)
  rng = np.random.default_rng(0)
  tokens = rng.integers(15, size=(400, 10)).astype(np.int32)
  tokens[::2] %= 14
  for row in range(0, 400, 4):  # rows that do hold it, at any place
    start = row // 4 % 6
    tokens[row, start : start + 5] = problem.planted
  want = [
    contains(row[: row.index(14)] if 14 in row else row, problem.planted)
    for row in tokens.tolist()
  ]
  np.testing.assert_array_equal(
    grade(problem, rollout_of(problem, tokens)), np.array(want, np.float32)
  )
  assert sum(want) >= 100


def test_what_follows_the_end_does_not_matter():
  # The planted sequence written into the padding, and padding of any width.
  problem = PROBLEMS[1]
  tokens = np.array([[1, 3, 1, 1, 2], [1, 1, 2, 3, 0], [0, 1, 1, 3, 2]])
  rollout = rollout_of(problem, tokens)
  np.testing.assert_array_equal(
    rollout.prefix_len,
    [[0, 1, 2, 2, 2, 2], [0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4, 4]],
  )
  wider = [
    np.pad(tokens, [(0, 0), (0, 3)], constant_values=c).astype(np.int32)
    for c in (1, 2)
  ]
  for padded in (tokens, rollout.tokens, *wider):
    graded = grade(problem, dataclasses.replace(rollout, tokens=padded))
    np.testing.assert_array_equal(graded, [0, 1, 0])
    np.testing.assert_array_equal(
      states_of(problem, padded, rollout.prefix_len),
      [[0, 1, 4, 4, 4, 4], [0, 1, 2, 3, 3, 3], [0, 0, 1, 2, 4, 4]],
    )


def test_one_rollout_stacks_of_batches_and_vmap_agree_with_a_batch():
  problem = PROBLEMS[1]
  rollout = rollout_of(problem, all_sequences(problem)[:1022:7])
  grades = np.asarray(grade(problem, rollout))
  assert 0 < grades.sum() < grades.size
  one = jax.tree.map(lambda x: x[0], rollout)
  assert grade(problem, one) == grades[0]
  stacked = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), rollout)
  np.testing.assert_array_equal(np.ravel(grade(problem, stacked)), grades)
  np.testing.assert_array_equal(
    jax.vmap(lambda r: grade(problem, r))(rollout), grades
  )


def test_end_token():
  tokens = jnp.arange(5)
  np.testing.assert_array_equal(PROBLEMS[2].ended(tokens), tokens == 4)
  np.testing.assert_array_equal(PROBLEMS[4].ended(tokens), tokens == 0)


@pytest.mark.usefixtures("no_shape_checks")
def test_it_is_hashable_however_the_sequence_was_written():
  assert Planted([1, 1, 2], 5, 4) == PROBLEMS[1]
  assert hash(Planted([1, 1, 2], 5, 4)) == hash(PROBLEMS[1])
  assert PROBLEMS[0].num_problems == 1


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"planted": ()}, "planted has 0 tokens, expected 1 to 5"),
    ({"planted": (0,) * 6}, "planted has 6 tokens, expected 1 to 5"),
    ({"planted": (0, 4)}, "planted holds token 4, .* 0 … 3 other than"),
    ({"planted": (0, -1)}, "planted holds token -1, expected"),
    ({"planted": (0, 3)}, "planted holds token 3, .* the end token 3"),
    ({"planted": (0, 1), "end_token": 1}, "holds token 1, .* end token 1"),
    ({"planted": (0, 1.0)}, "planted holds 1.0, expected integers"),
    ({"planted": (0, True)}, "planted holds True, expected integers"),
    ({"planted": ("1",)}, "planted holds '1', expected integers"),
    ({"vocab_size": 1}, "vocab_size is 1, expected at least 2"),
    ({"end_token": 4}, "end_token is 4, expected one of .* 0 … 3"),
    ({"end_token": -1}, "end_token is -1, expected one of"),
    ({"length": 0}, "planted has 2 tokens"),
  ],
)
def test_bad_problems_are_refused(kwargs, message):
  good = {"planted": (0, 1), "length": 5, "vocab_size": 4}
  Planted(**good)
  with pytest.raises(ValueError, match=message):
    Planted(**{**good, **kwargs})
