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


def row(text, signs):
  """A line with a tag for each sign, in whose place the label has the sign."""
  label = text
  for sign in signs:
    label = label.replace("ки", sign, 1)
  return json.dumps({"input": text, "label": label, "task": "MATH"})


@pytest.mark.parametrize(
  ("text", "signs", "prompt", "steps"),
  [
    (
      "How many? step 1: a ки\nSTEP 2 : b ки",
      "+-",
      "How many?",
      ("step 1: a", "STEP 2 : b"),
    ),
    # No numbers: what stands behind the question.
    (
      "A is 3? So? What is B? B is 4. ки\nDone. ки",
      "+-",
      "A is 3? So? What is B?",
      ("B is 4.", "Done."),
    ),
    (
      "Is it so? ки\nWhy? Step 1: a ки",
      "++",
      "Is it so?\nWhy?",
      ("Step 1: a",),
    ),
    # A tag in the problem that the label leaves as it is.
    ("Let ки be. Step 1: a ки", ["ки", "-"], "Let be.", ("Step 1: a",)),
  ],
)
def test_problems_and_steps_are_told_apart(
  tmp_path, text, signs, prompt, steps
):
  path = tmp_path / "a.jsonl"
  if signs[0] == "ки":
    line = {"input": text, "label": text[:-2] + signs[1], "task": "MATH"}
    path.write_text(json.dumps(line))
  else:
    path.write_text(row(text, signs))
  (trace,) = step_labels_math_shepherd.read(path)
  assert (trace.prompt, trace.steps) == (prompt, steps)
  assert trace.labels == tuple(x == "+" for x in signs[-len(steps) :])


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
    ({"input": "P Step 2: a ки"}, "there is no 'Step 1:' before the other"),
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
