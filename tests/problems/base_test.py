"""Every problem obeys the protocol, and so grades what it is given."""

import numpy as np
import pytest

from pav_jax.problems import base
from pav_jax.problems.chain import Chain
from pav_jax.problems.countdown import Countdown
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.planted import Planted
from pav_jax.problems.prompt_format import PromptFormat, Record
from pav_jax.problems.two_routes_text import TwoRoutesText
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.rollout import Rollout


class Echo(DataProblem):
  """A data set of three problems, one a split."""

  def records(self):
    return {
      split: [Record(split, f"{i}+1", f"{i}+1={i + 1}", str(i + 1))]
      for i, split in enumerate(base.SPLITS)
    }


def last_number(responses, answers):
  pairs = zip(responses, answers, strict=True)
  return [r.rsplit("=")[-1] == answer for r, answer in pairs]


def name(problem):
  return type(problem).__name__


TEXT = [
  Chain(horizon=3),
  Countdown(),
  TwoRoutesText(),
  Echo(
    vocabulary=Vocabulary(num_integers=10),
    grader=last_number,
    prompt=PromptFormat(question="{problem}:"),
    max_prompt_len=8,
    max_response_len=8,
  ),
]
PROBLEMS = [Planted(), *TEXT]
each = pytest.mark.parametrize("problem", PROBLEMS, ids=name)


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_obeys_the_protocol(problem):
  assert isinstance(problem, base.Problem)
  assert problem.placement in ("device", "host")
  for split in base.SPLITS:
    assert problem.split_size(split) >= 1
    ids = problem.problem_ids(split, 0, 1)
    assert ids.dtype == np.int32 and ids.shape == (1,)
    prompts, lengths = problem.prompts(ids), problem.prompt_lengths(ids)
    assert prompts.shape == (1, problem.prompt_len)
    assert 0 <= lengths[0] <= problem.prompt_len
  for split, start, stop in (("dev", 0, 1), ("train", 1, 1), ("test", -1, 1)):
    with pytest.raises(ValueError, match="expected"):
      problem.problem_ids(split, start, stop)


@pytest.mark.parametrize("problem", TEXT, ids=name)
def test_demonstrations_are_graded_as_they_are_judged_one_by_one(problem):
  assert isinstance(problem, base.TextProblem)
  ids = problem.problem_ids("train", 0, 1)
  rollout = base.demonstrations(problem, ids, np.zeros(1, np.int32))
  begin, end = rollout.prefix_len[0, [0, -1]]
  response, answer = rollout.tokens[0, begin:end], problem.answers(ids)[0]
  assert problem.is_correct(response, answer) == rollout.outcome[0]
  assert problem.grade(rollout) == rollout.outcome
  # Cut off, it is wrong.
  assert not problem.is_correct(response[:-1], answer)


def test_problems_that_know_nothing_get_neutral_answers():
  problem = object()
  rollout = Rollout(
    tokens=np.zeros((2, 4), np.int32),
    logp=np.zeros((2, 4), np.float32),
    prefix_len=np.array([[0, 2, 4], [0, 3, 3]], np.int32),
    outcome=np.zeros(2, np.float32),
    problem_id=np.zeros(2, np.int32),
    sample_id=np.arange(2, dtype=np.int32),
  )
  assert base.diagnostics(problem, rollout) == {}
  assert base.exact_values(problem, rollout) is None
  assert base.count_mistakes(problem, rollout) is None
  assert base.report_mistakes(problem, None, rollout.problem_id) is None
  assert base.mistakes_table(problem, None) is None
  assert base.step_kinds(problem, rollout) is None
  assert base.readable(problem, rollout).all()
  assert base.well_formed(problem, rollout).all()
  assert not base.dead_prefixes(problem, rollout).any()
  assert not base.tokens_left(problem, rollout).any()
  with pytest.raises(ValueError, match="object has no demonstrations"):
    base.demonstrations(problem, rollout.problem_id, rollout.sample_id)
