import collections

import numpy as np

from pav_jax.problems.chain import Chain
from pav_jax.rollout import Rollout
from pav_jax.search import voting


def test_the_most_frequent_answer_wins_and_its_best_sample_stands_for_it():
  answers = np.array([[7, 8, 8, 7, 8, 9]])
  assert voting.vote(answers, 6).tolist() == [[1]]
  scores = np.array([[0.9, 0.1, 0.2, 0.8, 0.1, 0.5]])
  # 7 has 1.7, 8 has 0.4, 9 has 0.5.
  assert voting.vote(answers, 6, scores).tolist() == [[0]]
  # 7 8 8: 8; 7 8 9: one each, so the first.
  assert voting.vote(answers, 3).tolist() == [[1, 3]]
  # 7 8 8: 0.9 against 0.3; 7 8 9: 0.8 is most.
  assert voting.vote(answers, 3, scores).tolist() == [[0, 3]]


def test_samples_without_answer_do_not_vote():
  answers = np.array([[-1, -1, 4, -1], [-1, -1, -1, -1]])
  assert voting.vote(answers, 4).tolist() == [[2], [0]]
  scores = np.array([[0.9, 0.9, 0.0, 0.9], [0.1, 0.2, 0.3, 0.4]])
  assert voting.vote(answers, 4, scores).tolist() == [[2], [0]]


def test_agrees_with_counting():
  rng = np.random.default_rng(0)
  answers = rng.integers(0, 5, size=(40, 9))
  chosen = np.asarray(voting.vote(answers, 9))[:, 0]
  for row, at in zip(answers, chosen, strict=True):
    counts = collections.Counter(row.tolist())
    assert counts[row[at]] == max(counts.values())
    assert at == row.tolist().index(row[at])


def test_weights_of_one_are_plain_votes():
  answers = np.random.default_rng(1).integers(0, 4, size=(30, 12))
  ones = np.ones(answers.shape)
  np.testing.assert_array_equal(
    voting.vote(answers, 4), voting.vote(answers, 4, ones)
  )


def test_final_answers_are_what_stands_before_the_end():
  problem = Chain(horizon=2, rho=0.0)
  ids = problem.problem_ids("test", 0, 4)
  demos = problem.demonstrations(ids, np.zeros(4, np.int32))
  tokens = demos.tokens.copy()
  tokens[3, -1] = 5  # cut off
  rollout = Rollout(tokens, demos.logp, demos.prefix_len, *[None] * 3)
  found = voting.final_answers(problem, rollout, problem.vocabulary.eos_id)
  values = problem.steps(demos).value[:, -1]
  first = problem.vocabulary.first_integer
  assert found[:3].tolist() == (first + values[:3]).tolist()
  assert found[3] == voting.NO_ANSWER
  # Nor has a response that ends at once.
  tokens[2, problem.prompt_len] = problem.vocabulary.eos_id
  bare = demos.prefix_len[:, :1] + np.array([[0, 1, 1]])
  rollout = Rollout(tokens, demos.logp, bare, *[None] * 3)
  found = voting.final_answers(problem, rollout, problem.vocabulary.eos_id)
  assert found[2] == voting.NO_ANSWER


def test_a_problem_may_say_what_its_answers_are():
  class Parity:
    def final_answers(self, rollout):
      return rollout.tokens[:, 0] % 2

  rollout = Rollout(np.array([[3], [4], [5]]), *[None] * 5)
  found = voting.final_answers(Parity(), rollout, 1)
  assert found.tolist() == [1, 0, 1]
