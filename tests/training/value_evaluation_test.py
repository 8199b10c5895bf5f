import jax
import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.rollout import StepTargets
from pav_jax.training import value_evaluation as evaluation

PROBLEM = Chain(horizon=6)
IDS = PROBLEM.problem_ids("validation", 0, 200)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))
EXACT = PROBLEM.teacher_values(ROLLOUT)


def targets():
  exists = np.diff(ROLLOUT.prefix_len, prepend=0) > 0
  n = np.where(exists, 16, 0).astype(np.int32)
  c = np.random.default_rng(0).binomial(n, EXACT)
  return StepTargets(
    ROLLOUT.tokens,
    ROLLOUT.prefix_len,
    n,
    c.astype(np.float32),
    ROLLOUT.outcome,
    ROLLOUT.problem_id,
    ROLLOUT.sample_id,
  )


@pytest.fixture(scope="module")
def known():
  return evaluation.references(PROBLEM, targets(), PROBLEM.teacher_values)


@pytest.fixture(scope="module")
def perfect(known):
  return evaluation.measure(EXACT, known)


def test_references_are_what_the_problem_says(known):
  steps = PROBLEM.steps(ROLLOUT)
  np.testing.assert_array_equal(known.alive, ~PROBLEM.dead_prefixes(ROLLOUT))
  assert known.kinds == ("+", "-", "*", "~")
  # The kind of a prefix is that of its last step; the problem has none, nor
  # has a restatement.
  assert (known.kind[:, 0] == -1).all()
  np.testing.assert_array_equal(known.kind[:, 1:], np.maximum(steps.kind, -1))
  row = int(np.argmax(known.first_error >= 0))
  first = known.first_error[row]
  assert known.alive[row, first] and not known.alive[row, first + 1]
  right = known.alive.all(-1)
  np.testing.assert_array_equal(known.first_error == -1, right)


def test_the_middle_is_the_second_and_third_quarter_of_the_steps(known):
  # Of six steps, those after 1.5 … 4.5 steps: prefixes 2, 3 and 4.
  six = known.mask.sum(-1) == 7
  assert six.any()
  np.testing.assert_array_equal(
    known.middle[six], [np.isin(np.arange(12), (2, 3, 4))] * six.sum()
  )


def test_exact_values_are_as_good_as_can_be(perfect):
  exact = perfect["exact"]
  assert exact["correlation"]["middle"] == 1
  assert exact["mse"]["all"] == 0
  assert exact["ece"]["worst_step"] == 0
  # A value is 0 exactly where there was an error.
  assert perfect["no_error"]["auc"]["middle"] == 1
  assert perfect["no_error"]["within"]["least_middle"] == 1
  assert perfect["step_right"]["within"]["middle"]["~"] == 1
  # Binomial noise of 16 completions: at most 1/64 each.
  assert 0 < perfect["monte_carlo"]["mse"]["all"] < 1 / 64
  last = [x for x in perfect["outcome"]["auc"]["by_step"] if x is not None][-1]
  assert last == 1
  assert perfect["traces"] == perfect["problems"] == 200
  assert perfect["prefixes_by_step"][:7] == [200] * 7


def test_knowing_the_operation_alone_is_chance_within_kinds(known):
  # How hard what is left is, and nothing of whether results are right.
  rates = np.array([o.error for o in PROBLEM.operations])
  blind = np.where(known.kind >= 0, 1 - rates[known.kind], 0.5)
  found = evaluation.measure(blind, known)
  assert found["step_right"]["auc"]["all"] > 0.6
  for auc in found["step_right"]["within"]["middle"].values():
    assert auc == 0.5


def test_step_right_asks_prefixes_that_were_right_before(known, perfect):
  # A verifier that forgets: only the last step decides.
  before = np.pad(known.alive[:, :-1], ((0, 0), (1, 0)))
  forgets = np.where(before & ~known.alive, 0.0, 1.0)
  found = evaluation.measure(forgets, known)
  assert found["step_right"]["auc"]["all"] == 1
  assert found["no_error"]["auc"]["all"] < 0.9


def test_a_problem_that_knows_nothing_of_steps(known):
  found = evaluation.references(object(), targets())
  assert found.alive is found.kind is found.exact is None
  measured = evaluation.measure(EXACT, found)
  assert set(measured) == {
    "traces",
    "problems",
    "prefixes_by_step",
    "outcome",
    "monte_carlo",
  }


def test_first_errors_are_found_by_values_that_fall_to_zero(known):
  half = 100
  parts = []
  for rows in (np.s_[:half], np.s_[half:]):
    some = jax.tree.map(lambda x, r=rows: x[r], targets())
    parts.append((EXACT[rows], evaluation.references(PROBLEM, some)))
  found = evaluation.locate_first_errors(*parts)
  assert found["f1"] == found["erroneous"] == found["correct"] == 1
  alive = EXACT[:half, 1:]
  assert 0 < found["threshold"] < alive[alive > 0].min()


class Fake:
  """Scores a row by its number of prefixes, and counts its calls."""

  def logits(self, rollout):
    return rollout.prefix_len * 1.0


jax.tree_util.register_static(Fake)


def test_scores_do_not_depend_on_how_many_are_scored_at_once():
  given = targets()
  for rows in (1000, 64):
    np.testing.assert_array_equal(
      evaluation.score(Fake(), given, rows_per_call=rows), given.prefix_len
    )


def test_reports_are_json():
  found = evaluation.plain(
    {"a": np.float32(0.1234567), "b": [np.nan, 3], "c": {"d": np.inf}}
  )
  assert found == {"a": 0.12346, "b": [None, 3], "c": {"d": None}}
