import collections

import numpy as np

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
