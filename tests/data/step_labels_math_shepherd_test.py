import json
import pathlib

import pytest

from pav_jax.data import step_labels_math_shepherd

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"


def test_problems_steps_and_labels_by_hand():
  # The texts have + and - of their own, which are no labels.
  first, second = step_labels_math_shepherd.read(DATA / "math_shepherd.jsonl")
  assert first.prompt == "Ann has 3 + 4 eggs and buys 5. How many has she?"
  assert first.steps == (
    "Step 1: She has 3 + 4 = 7 eggs.",
    "Step 2: 7 + 5 = 12. The answer is: 12",
  )
  assert first.labels == (True, True)
  assert second.steps[1:] == ("Step 2: 6 - 3 = 2", "Step 3: The answer is: 2")
  assert second.labels == (True, False, False)
  assert (first.outcome, second.outcome) == (1, 0)
  assert first.is_whole and second.is_whole


def test_a_problem_may_speak_of_steps_itself(tmp_path):
  text = "Say why. Step 1: add. Step 2: stop. Step 1: 1 + 1 = 2 "
  path = tmp_path / "a.jsonl"
  row = {"input": text + "ки", "label": text + "-", "task": "MATH"}
  path.write_text(json.dumps(row))
  (trace,) = step_labels_math_shepherd.read(path)
  assert trace.prompt == "Say why. Step 1: add. Step 2: stop."
  assert trace.steps == ("Step 1: 1 + 1 = 2",)


@pytest.mark.parametrize(
  ("change", "what"),
  [
    ({"label": "P Step 1: a ?"}, "label has .* at the end of step 1"),
    ({"label": "P Step 1: b +"}, "label has .* at the end of step 1"),
    ({"label": "P Step 1: a"}, "label has .* at the end of step 1"),
    ({"label": "P Step 1: a + b"}, "label goes on with ' b'"),
    ({"input": "P Step 1: a"}, "expected the step tag ки"),
    ({"input": "P Step 1: a ки b"}, "expected the step tag ки"),
    ({"input": "P a ки", "label": "P a +"}, "there is no 'Step 1:'"),
    ({"label": True}, "field 'label' is True"),
    ({"task": None}, "field 'task' is None"),
  ],
)
def test_what_the_schema_does_not_allow_is_refused(tmp_path, change, what):
  good = {"input": "P Step 1: a ки", "label": "P Step 1: a +", "task": "MATH"}
  path = tmp_path / "a.jsonl"
  path.write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
  with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{what}"):
    step_labels_math_shepherd.read(path)
  with pytest.warns(UserWarning, match=r"a\.jsonl:2 is left out"):
    (trace,) = step_labels_math_shepherd.read(path, max_bad_lines=1)
  assert trace.prompt == "P" and trace.steps == ("Step 1: a",)
