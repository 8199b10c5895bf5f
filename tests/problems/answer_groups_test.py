import numpy as np

from pav_jax.problems.answer_groups import NO_ANSWER, group


class Compared:
  """Compares numbers by their values, and keeps what it was asked."""

  def __init__(self):
    self.pairs = []

  def __call__(self, answers, others):
    pairs = list(zip(answers, others, strict=True))
    self.pairs += pairs
    return np.array([float(x) == float(y) for x, y in pairs], bool)


def test_equal_answers_of_a_problem_share_a_number():
  answers = ["5", "0.5", None, ".5", "5", "5.0", "7", "0.50"]
  problems = np.array([3, 3, 3, 3, 3, 8, 8, 8])
  numbers = group(answers, problems, Compared())
  # Numbers begin anew with each problem, in the order in which groups come.
  assert numbers.tolist() == [0, 1, NO_ANSWER, 1, 0, 0, 1, 2]
  assert numbers.dtype == np.int64


def test_different_texts_of_a_problem_are_compared_once():
  compared = Compared()
  group(
    ["1", "2", "1", "2", "3"] * 5 + ["1", "4"], np.arange(27) // 25, compared
  )
  assert compared.pairs == [("1", "2"), ("1", "3"), ("2", "3"), ("1", "4")]


def test_a_group_is_of_what_equals_its_first():
  # 50 % is 50 and a half, which are not one.
  def equal(answers, others):
    return np.array(
      [{"50%"} & {x, y} != set() for x, y in zip(answers, others, strict=True)],
      bool,
    )

  assert group(["50", "50%", "0.5"], np.zeros(3, int), equal).tolist() == [
    0,
    0,
    1,
  ]


def test_without_answers_nothing_is_compared():
  assert group([None, None], np.zeros(2, int), Compared()).tolist() == [-1, -1]
  assert group([], np.zeros(0, int), Compared()).shape == (0,)
