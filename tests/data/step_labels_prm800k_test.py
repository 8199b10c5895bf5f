import json
import math
import pathlib

import numpy as np
import pytest

from pav_jax.data import step_labels, step_labels_prm800k
from pav_jax.problems import vocabulary
from pav_jax.problems.plain_text import PlainText

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"
PATH = DATA / "prm800k.jsonl"


def summary(traces):
  return [(t.prompt, t.steps, t.labels, t.is_whole) for t in traces]


def test_responses_and_candidates_by_hand():
  # Line 1: a solution, whose second step has two more candidates, one of them
  # unrated. Line 2: a step written by the labeller, a neutral one, and then
  # none. Line 3: an error that was not gone on from. Line 4: a bad problem.
  assert summary(step_labels_prm800k.read(PATH)) == [
    ("3+4+5:", ("3+4=7", "7+5=12"), (1.0, 1.0), True),
    ("3+4+5:", ("3+4=7", "7+5=11"), (None, 0.0), False),
    ("8-2*3:", ("8-2=6", "6*3"), (1.0, 1.0), False),
    ("8-2*3:", ("8-2=5",), (0.0,), False),
    ("8-2*3:", ("8-2=6", "6*3=17"), (None, 0.0), False),
    ("3+4+5:", ("3+4=8",), (0.0,), False),
  ]


def test_outcomes_are_known_of_solutions_alone():
  outcome = [trace.outcome for trace in step_labels_prm800k.read(PATH)]
  np.testing.assert_array_equal(outcome, [1] + [math.nan] * 5)


@pytest.mark.parametrize("neutral", [0, 0.5, None])
def test_the_label_of_neutral_steps_is_a_setting(neutral):
  traces = step_labels_prm800k.read(PATH, neutral=neutral)
  assert traces[2].labels == (1.0, neutral)


def test_finish_reasons_choose_lines():
  found = step_labels_prm800k.read(PATH, finish_reasons=["found_error"])
  assert summary(found) == [("3+4+5:", ("3+4=8",), (0.0,), False)]
  with pytest.raises(ValueError, match=r"\['done'\]"):
    step_labels_prm800k.read(PATH, finish_reasons=["done"])
  with pytest.raises(ValueError, match="neutral is -1"):
    step_labels_prm800k.read(PATH, neutral=-1)


def test_labels_are_counted_once_among_tokenised_traces():
  # Ratings in the file: 3 in line 1, 3 in line 2 and the labeller's own step,
  # 1 in line 3; one more is null.
  targets = step_labels.to_targets(
    step_labels_prm800k.read(PATH),
    PlainText(vocabulary.Vocabulary()),
  )
  assert targets.num_completions.sum() == 8
  assert targets.num_correct.sum() == 4
  np.testing.assert_array_equal(targets.problem_id, [0, 0, 1, 1, 1, 0])
  np.testing.assert_array_equal(targets.sample_id, [0, 1, 0, 1, 2, 2])


def line(**changes):
  """A line of one step with one completion, changed anywhere."""
  completion = {"text": "1", "rating": 1, "flagged": None}
  step = {"completions": [completion | changes.pop("completion", {})]}
  step |= {"human_completion": None, "chosen_completion": 0}
  step |= changes.pop("step", {})
  label = {"steps": [step], "finish_reason": "solution"}
  label |= changes.pop("label", {})
  return {"question": {"problem": "1+0:"}, "label": label} | changes


def test_a_solution_whose_last_step_was_not_chosen_is_not_whole(tmp_path):
  good = line()
  (step,) = good["label"]["steps"]
  good["label"]["steps"].append(step | {"chosen_completion": None})
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps(good))
  response, candidate = step_labels_prm800k.read(path)
  assert summary([response]) == [("1+0:", ("1",), (1.0,), False)]
  assert math.isnan(response.outcome)
  assert candidate.labels == (None, 1.0)


@pytest.mark.parametrize(
  ("bad", "what"),
  [
    (line(completion={"rating": 2}), "rating is 2, expected -1, 0, 1 or null"),
    (line(completion={"rating": True}), "field 'rating' is True"),
    (line(completion={"rating": 1.0}), r"field 'rating' is 1\.0"),
    (line(completion={"text": None}), "field 'text' is None"),
    (line(step={"chosen_completion": 1}), "chosen_completion is 1"),
    (line(step={"chosen_completion": -1}), "chosen_completion is -1"),
    (line(step={"completions": ["1"]}), "a completion is '1'"),
    (line(step={"human_completion": "1"}), "field 'human_completion' is '1'"),
    (line(label={"finish_reason": "done"}), "finish_reason is 'done'"),
    (line(label={"steps": ["1"]}), "a step is '1'"),
    (line(label={"steps": []}), "0 steps and 0 labels"),
    (line(question={}), "field 'problem' is missing"),
    (line() | {"label": None}, "field 'label' is None"),
  ],
)
def test_what_the_schema_does_not_allow_is_refused(tmp_path, bad, what):
  path = tmp_path / "a.jsonl"
  path.write_text(f"{json.dumps(line())}\n{json.dumps(bad)}\n")
  with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{what}"):
    step_labels_prm800k.read(path)
