"""Each data set of reasoning-gym scores what it calls right and wrong.

The package scores with code of its own; so reference answers, and worked
solutions that come to other ways to the same answer, are the oracles here.
"""

import dataclasses
import sys

import numpy as np
import pytest

from pav_jax import packages
from pav_jax.problems import grading_pool, gym_solvers
from pav_jax.problems.base import SPLITS, TextProblem
from pav_jax.problems.gym import ReasoningGym, TemplateGym
from pav_jax.problems.gym_grading import GymGrader
from pav_jax.problems.prompt_format import PromptFormat

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")


@dataclasses.dataclass(frozen=True)
class Bytes:
  """A token for each byte."""

  vocab_size: int = 259
  pad_id: int = 256
  eos_id: int = 257
  bos_id: int = 258

  def token_text(self, token):
    return chr(token) if token < 256 else f"<{token}>"

  def encode(self, text):
    return list(text.encode())

  def decode(self, ids):
    return bytes(int(i) for i in ids if i < 256).decode(errors="replace")


SETTINGS = {
  "vocabulary": Bytes(),
  "prompt": PromptFormat(question="{problem}\n"),
  "grader": GymGrader(num_workers=1),
  "max_prompt_len": 16_384,
  "max_response_len": 8192,
  "train_size": 40,
  "held_out_size": 20,
}
NO_REFERENCE = "gives no reference answer"
LISTED = {
  "boxnet": NO_REFERENCE,
  # It takes bool("False") for True.
  "game_of_life_halting": "scores any answer as right",
  "composite": "mixes others, by settings that are objects",
  "graph_color": NO_REFERENCE,
  "propositional_logic": NO_REFERENCE,
  "rubiks_cube": NO_REFERENCE,
  "rush_hour": NO_REFERENCE,
}


@pytest.fixture(scope="module", autouse=True)
def processes():
  yield
  grading_pool.close()


@pytest.fixture(scope="module")
def seen():
  return TemplateGym(**SETTINGS)


def answered(problem, ids, texts):
  """Outcomes of responses with these texts."""
  words = problem.vocabulary
  rows = [[*words.encode(text), words.eos_id] for text in texts]
  width = max(map(len, rows))
  rows = [row + [words.pad_id] * (width - len(row)) for row in rows]
  return problem.rollout(ids, np.array(rows), np.zeros(len(ids), int)).outcome


def test_every_data_set_is_a_problem():
  from reasoning_gym.factory import DATASETS

  assert len(DATASETS) > 100 and LISTED.keys() <= DATASETS.keys()
  reasons = {}
  for name in sorted(DATASETS):
    problem = ReasoningGym(**SETTINGS, name=name)
    try:
      ids = problem.problem_ids("train", 0, 2)
    except ValueError as error:
      assert "composite" in str(error)
      reasons[name] = LISTED["composite"]
      continue
    (right, _) = (record.answer for record in map(problem.record, ids))
    assert len(problem.prompts(ids)) == 2
    # Of two possible answers the other is wrong; `zzz` is no answer to any.
    wrong = {"True": "False", "False": "True"}.get(right, "zzz")
    texts = [f"<answer>{text}</answer>" for text in (right, wrong)]
    outcomes = answered(problem, ids[[0, 0]], texts)
    if not right:
      reasons[name] = NO_REFERENCE
      assert not outcomes.any(), name
    elif outcomes.all():
      reasons[name] = LISTED["game_of_life_halting"]
    else:
      assert outcomes.tolist() == [1, 0], (name, right)
  assert reasons == LISTED


def test_it_is_a_text_problem(seen):
  assert isinstance(seen, TextProblem)
  same = TemplateGym(**SETTINGS)
  assert same == seen and hash(same) == hash(seen)
  settings = {"min_terms": 2, "max_terms": 3}
  one, two = (
    ReasoningGym(**SETTINGS, name="chain_sum", configuration=x)
    for x in (settings, dict(reversed(settings.items())))
  )
  assert one == two != ReasoningGym(**SETTINGS, name="chain_sum")
  question = one.record(one.problem_ids("test", 3, 4)[0]).problem
  assert question.count("+") + question.count("-") <= 3


def test_splits_have_no_question_in_common():
  # Sums of two digits: 200 questions, which seeds draw again and again.
  few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
  problem = ReasoningGym(**SETTINGS, name="chain_sum", configuration=few)
  questions = {
    split: [
      problem.record(i).problem
      for i in problem.problem_ids(split, 0, problem.split_size(split))
    ]
    for split in SPLITS
  }
  assert [len(questions[split]) for split in SPLITS] == [40, 20, 20]
  assert len(set().union(*questions.values())) == 80
  # Whatever is asked first, a problem's id is its seed.
  other = dataclasses.replace(problem, held_out_size=19)
  last = problem.problem_ids("test", 18, 19)
  np.testing.assert_array_equal(other.problem_ids("test", 18, 19), last)
  assert other.record(last[0]).problem == questions["test"][18]
  many = dataclasses.replace(problem, train_size=1000)
  with pytest.raises(ValueError, match="different problems of split 'train'"):
    many.problem_ids("train", 0, 1000)


def test_the_order_of_sets_does_not_matter():
  # Its questions name the elements of a set of letters in the set's order, so
  # that they differ between processes with different hashes of strings.
  problem = ReasoningGym(**SETTINGS, name="ransom_note")
  ids = problem.problem_ids("train", 0, 5)
  texts = [problem.record(i).problem for i in ids]
  grading_pool.close()
  again = dataclasses.replace(problem, train_size=39)
  assert [again.record(i).problem for i in ids] == texts


def test_templates_are_held_out(seen):
  unseen = dataclasses.replace(seen, tested="unseen")
  for split in ("train", "validation"):
    np.testing.assert_array_equal(
      seen.problem_ids(split, 0, 20), unseen.problem_ids(split, 0, 20)
    )
  rows = {
    (tested, split): problem.problem_ids(split, 0, 20)
    for tested, problem in (("seen", seen), ("unseen", unseen))
    for split in SPLITS
  }
  templates = {
    key: {template_of(int(i)) % 5 for i in ids} for key, ids in rows.items()
  }
  assert templates.pop(("unseen", "test")) == {4}
  assert all(4 not in x for x in templates.values())
  assert len(set(rows["seen", "test"]) | set(rows["unseen", "test"])) == 40
  with pytest.raises(ValueError, match="has no templates"):
    dataclasses.replace(seen, name="chain_sum").problem_ids("train", 0, 1)
  with pytest.raises(ValueError, match="tested is 'new'"):
    dataclasses.replace(seen, tested="new")
  with pytest.raises(ValueError, match="held_out_every is 1"):
    dataclasses.replace(seen, held_out_every=1)


def test_problems_are_of_the_chosen_templates(seen):
  chosen = dataclasses.replace(seen, templates=[10, 43, 44])
  seeds = chosen.problem_ids("train", 0, 8)
  assert {template_of(int(i)) for i in seeds} == {10, 43}  # 44 is held out
  assert hash(chosen) == hash(dataclasses.replace(seen, templates=(10, 43, 44)))


def template_of(seed):
  """By the package alone: blocks of 8 seeds, as `gym_entries` draws them."""
  from reasoning_gym.factory import create_dataset

  block = create_dataset("gsm_symbolic", seed=seed // 8 * 8, size=8)
  return block.task_indices[seed % 8]


@pytest.mark.parametrize(
  "name",
  ["gsm_symbolic", "simple_equations", "binary_alternation", "knights_knaves"],
)
def test_worked_solutions_are_right(name):
  solver = None if name == "gsm_symbolic" else getattr(gym_solvers, name)
  problem = ReasoningGym(
    **SETTINGS | {"train_size": 200}, name=name, solver=solver
  )
  ids = problem.problem_ids("train", 0, 200)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  assert problem.grade(rollout).all()
  # A step is a line, and each solution has the answer as a line of its own.
  steps = np.diff(rollout.prefix_len[:, : 1 + problem.max_steps]) > 0
  lines = [problem.record(i).solution.count("\n") + 1 for i in ids]
  assert steps.sum(-1).tolist() == lines and min(lines) >= 2


def test_solvers_write_true_lines():
  entry = {"question": "", "answer": "2"}
  equations = {
    "8*t + 4 = 20": "8*t = 20 - 4 = 16\nt = 16 / 8 = 2",
    "t - 3 = -1": "1*t = -1 + 3 = 2\nt = 2 / 1 = 2",
    "5 - 3*t = -1": "-3*t = -1 - 5 = -6\nt = -6 / -3 = 2",
    "0 = 0": None,
  }
  for equation, lines in equations.items():
    metadata = {"equation": equation, "variable": "t"}
    got = gym_solvers.simple_equations(entry | {"metadata": metadata})
    assert got == lines
  strings = {
    "1001": "2 ones, 2 zeros\n1010\nwrong at 3 4\n2 / 2 = 1",
    "01100": "2 ones, 3 zeros\n01010\nwrong at 3 4\n2 / 2 = 1",
    "101": "2 ones, 1 zeros\n101\nthe same\n0 / 2 = 0",
    "1110": "3 ones, 1 zeros\nimpossible",
  }
  for string, lines in strings.items():
    metadata = {"string": string}
    got = gym_solvers.binary_alternation(entry | {"metadata": metadata})
    assert got == lines
  # Bo says that Ann is a knave; Ann says that both are of one kind. If she were
  # a knight so would he be, who then lies; so she is a knave, and he a knight.
  knights = {
    "names": ["Ann", "Bo"],
    "knight_knave_terms": {"a_knight": "a knight", "a_knave": "a knave"},
    "statements": [
      ["<=>", ["telling-truth", 0], ["telling-truth", 1]],
      ["not", ["telling-truth", 0]],
    ],
  }
  assert gym_solvers.knights_knaves(
    entry | {"metadata": knights}
  ).splitlines() == [
    "Ann a knight, Bo a knight: Bo is wrong but a knight",
    "Ann a knight, Bo a knave: Ann is wrong but a knight",
    "Ann a knave, Bo a knight: all fits",
  ]


def test_answers_are_shown_in_any_convention(seen):
  ids = seen.problem_ids("train", 0, 1)
  answer = seen.record(ids[0]).answer
  shown = [
    "#### {}",
    r"so \boxed{{{}}}.",
    "<answer>\n{}\n</answer>",
    "The answer is {}.",
    "{}",
  ]
  right = answered(
    seen, ids.repeat(len(shown)), [text.format(answer) for text in shown]
  )
  assert right.tolist() == [1, 1, 1, 1, 0]
  late = f"<answer>1{answer}</answer> or <answer>{answer}</answer>"
  assert answered(seen, ids, [late])[0] == 1
  assert not answered(seen, ids, ["<answer></answer>"])[0]
  assert seen.grader.final_answers(["#### 7", "no", "x" * 2**21]) == [
    "7",
    None,
    None,
  ]
  # What has no end is wrong, and ids of no token are.
  tokens = np.array(seen.vocabulary.encode(f"#### {answer}"))
  assert not seen.rollout(ids, tokens[None], np.zeros(1, int)).outcome[0]
  (needed,) = seen.answers(ids)
  assert seen.is_correct(np.append(tokens, seen.vocabulary.eos_id), needed)
  assert not seen.is_correct([10_000, seen.vocabulary.eos_id], needed)
  assert not seen.is_correct([], needed)


def test_votes_are_counted_by_form(seen):
  ids = seen.problem_ids("train", 0, 1).repeat(3)
  words = seen.vocabulary
  rows = [
    [*words.encode(text), words.eos_id]
    for text in ("#### 12.0", "#### 12  ", "#### 13  ")
  ]
  votes = seen.final_answers(
    seen.rollout(ids, np.array(rows), np.zeros(3, int))
  )
  assert votes[0] == votes[1] != votes[2]


def test_scores_below_1_are_wrong_or_kept(seen):
  # A number that is not the right one scores 0.01 (gsm_symbolic.py).
  ids = seen.problem_ids("train", 0, 1)
  wrong = [f"#### 1{seen.record(ids[0]).answer}"]
  assert answered(seen, ids, wrong)[0] == 0
  kept = dataclasses.replace(
    seen, grader=dataclasses.replace(seen.grader, partial=True)
  )
  assert answered(kept, ids, wrong)[0] == np.float32(0.01)
  tokens = [*kept.vocabulary.encode(wrong[0]), kept.vocabulary.eos_id]
  assert not kept.is_correct(tokens, kept.answers(ids)[0])


def test_answers_that_are_evaluated_break_nothing():
  # number_sorting evaluates answers as JSON, string_insertion as Python.
  problem = ReasoningGym(
    **SETTINGS | {"grader": GymGrader(num_workers=1, seconds=0.5)},
    name="string_insertion",
  )
  ids = problem.problem_ids("train", 0, 1).repeat(4)
  right = problem.record(ids[0]).answer
  bad = ["['A'" * 300, "[__import__('os')._exit(0)]", "[9**9**9**9]", right]
  outcomes = answered(problem, ids, [f"<answer>{x}</answer>" for x in bad])
  assert outcomes.tolist() == [0, 0, 0, 1]


def test_long_problems_are_left_out_of_every_split():
  problem = TemplateGym(**SETTINGS | {"max_prompt_len": 300})
  short = dataclasses.replace(problem, max_response_len=200, max_length=450)
  for split in SPLITS:
    ids = short.problem_ids(split, 0, 10)
    lengths = short.prompt_lengths(ids)
    solutions = np.array([len(short.solution(i)) for i in ids])
    assert lengths.max() <= 300 and solutions.max() <= 200
    assert (lengths + solutions).max() <= 450
  few = dataclasses.replace(problem, max_steps=3)
  ids = few.problem_ids("train", 0, 40)
  assert max(few.record(i).solution.count("\n") for i in ids) == 2
  cut = dataclasses.replace(problem, max_prompt_len=10)
  with pytest.raises(ValueError, match="gives 0 different problems"):
    cut.problem_ids("train", 0, 1)


def test_shots_and_missing_solutions():
  bare = ReasoningGym(**SETTINGS, name="chain_sum")
  ids = bare.problem_ids("train", 0, 2)
  with pytest.raises(ValueError, match="has no worked solution"):
    bare.demonstrations(ids, np.zeros_like(ids))
  shown = dataclasses.replace(
    bare,
    solver=gym_solvers.answer_alone,
    prompt=PromptFormat(num_shots=2, question="Q: {problem}\nA: "),
  )
  text = shown.vocabulary.decode(shown.prompts(ids)[0])
  assert text.count("Q: ") == 3 and text.count("<answer>") == 2
  (example,) = shown.examples("test", 4, 5)
  assert example.problem_id == shown.problem_ids("test", 4, 5)[0]
  np.testing.assert_array_equal(example.answer, [example.problem_id])


def test_bad_settings_are_told(monkeypatch):
  for settings, message in (
    ({"name": "chain_sums"}, "name is 'chain_sums', expected one of"),
    (
      {"name": "chain_sum", "configuration": {"terms": 3}},
      "configuration of chain_sum is .*terms",
    ),
  ):
    with pytest.raises(ValueError, match=message):
      ReasoningGym(**SETTINGS, **settings).problem_ids("train", 0, 1)
  with pytest.raises(ValueError, match="train_size is 0"):
    ReasoningGym(**SETTINGS | {"train_size": 0}, name="chain_sum")
  problem = ReasoningGym(**SETTINGS, name="chain_sum")
  with pytest.raises(ValueError, match="expected 0 <= start < stop <= 40"):
    problem.problem_ids("train", 0, 41)
  with pytest.raises(ValueError, match="split is 'dev'"):
    problem.split_size("dev")
  with pytest.raises(ValueError, match="problem_id is -1"):
    problem.prompts(np.array([-1]))
  monkeypatch.setattr(sys, "path", [])
  monkeypatch.delitem(sys.modules, "reasoning_gym", raising=False)
  with pytest.raises(packages.MissingPackageError, match="pip install reason"):
    ReasoningGym(**SETTINGS, name="chain_sum")
