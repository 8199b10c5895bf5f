import numpy as np
import pytest

from pav_jax import values
from pav_jax.search import best_of_n

Q = np.array([[0.5, 0.4, 0.9, 0.9], [0.5, 0.6, 0.7, 0.2]], np.float32)
MASK = np.array([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
  "how, want",
  [
    ("last", [0.9, 0.2]),
    ("min", [0.4, 0.2]),
    ("product", [0.4 * 0.9, 0.6 * 0.7 * 0.2]),
    ("mean", [1.3 / 2, 1.5 / 3]),
  ],
)
def test_aggregates_the_steps_that_exist(how, want):
  found = best_of_n.orm_scores(Q, MASK, how=how)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  nothing = best_of_n.orm_scores(Q, np.zeros_like(MASK), how=how)
  np.testing.assert_array_equal(nothing, -np.inf)


def test_pav_as_orm_ranks_by_effective_rewards():
  # Advantages -0.1, 0.5 and 0.1, 0.1, -0.5; with α = 2 the rewards are
  # 0.2, 1.9 and 0.8, 0.9, -0.8.
  for how, want in ("min", [0.2, -0.8]), ("mean", [2.1 / 2, 0.9 / 3]):
    found = best_of_n.pav_scores(Q, Q, MASK, alpha=2.0, how=how)
    np.testing.assert_allclose(found, want, rtol=1e-5)
  plain = best_of_n.pav_scores(Q, 1 - Q, MASK, alpha=0.0, how="min")
  np.testing.assert_array_equal(plain, best_of_n.orm_scores(Q, MASK, how="min"))


def test_groups_do_not_overlap():
  scores = np.array([[1, 3, 2, 5, 5, 4, 9.0]])
  # 1 3 2 | 5 5 4, and 9 is left over; of the two fives the first.
  assert best_of_n.best(scores, 3).tolist() == [[1, 3]]
  assert best_of_n.best(scores, 7).tolist() == [[6]]
  outcome = np.array([[0, 1, 0, 0, 1, 0, 0.0]])
  assert best_of_n.accuracy(best_of_n.best(scores, 3), outcome)[0] == 0.5
  assert best_of_n.oracle(outcome, 3)[0] == 1
  assert best_of_n.oracle(outcome, 2)[0] == pytest.approx(2 / 3)
  with pytest.raises(ValueError, match="num is 8, expected 1 … 7"):
    best_of_n.best(scores, 8)


def test_best_of_1_is_the_policy_and_a_perfect_orm_is_the_oracle():
  rng = np.random.default_rng(0)
  outcome = (rng.random((50, 24)) < 0.2).astype(np.float32)
  noise = rng.random(outcome.shape).astype(np.float32)
  one = best_of_n.accuracy(best_of_n.best(noise, 1), outcome)
  np.testing.assert_allclose(one, outcome.mean(1), rtol=1e-6)
  for num in 2, 8, 24:
    best = best_of_n.accuracy(best_of_n.best(outcome, num), outcome)
    np.testing.assert_array_equal(best, best_of_n.oracle(outcome, num))
  # Over all groups of N, Pass@N is what the unbiased estimator says of it.
  want = values.pass_at_k(outcome.sum(1).astype(int), 24, 8)
  shuffled = [rng.permuted(outcome, axis=1) for _ in range(200)]
  found = np.mean([best_of_n.oracle(x, 8) for x in shuffled], axis=0)
  np.testing.assert_allclose(found, want, atol=0.1)  # 4 of 0.29 / √(3 · 200)


def test_bad_aggregation():
  with pytest.raises(ValueError, match="how is 'sum', expected one of"):
    best_of_n.orm_scores(Q, MASK, how="sum")
