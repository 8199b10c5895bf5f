import json
import pathlib

import numpy as np
import pytest

from pav_jax.data import step_labels, step_labels_trl
from pav_jax.problems import vocabulary
from pav_jax.problems.plain_text import PlainText
from pav_jax.rollout import StepTargets

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"
VOCABULARY = vocabulary.Vocabulary()
PROBLEM = PlainText(VOCABULARY)


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def row(labels, prompt="1"):
  return {"prompt": prompt, "completions": ["2"] * len(labels)} | {
    "labels": labels
  }


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(
  ("name", "label_type"), [("trl_bool", bool), ("trl_float", float)]
)
def test_files_survive_the_round_trip_byte_for_byte(
  tmp_path, name, label_type, is_whole
):
  source = DATA / f"{name}.jsonl"
  traces = step_labels_trl.read(source, is_whole=is_whole)
  targets = step_labels.to_targets(traces, PROBLEM)
  out = tmp_path / "out.jsonl"
  step_labels_trl.write(out, targets, PROBLEM, label_type=label_type)
  assert out.read_bytes() == source.read_bytes()
  assert list(tmp_path.iterdir()) == [out]


def test_whole_responses_end_with_the_end_token():
  for is_whole, last in ((False, 2), (True, 1)):
    traces = step_labels_trl.read(DATA / "trl_bool.jsonl", is_whole=is_whole)
    targets = step_labels.to_targets(traces, PROBLEM)
    end = np.take_along_axis(targets.tokens, targets.prefix_len[:, -1:] - 1, 1)
    np.testing.assert_array_equal(end[:, 0], [last] * 3)


def test_integers_survive_too(tmp_path):
  rows = [row([0, 1]), row([1], "3")]
  traces = step_labels_trl.read(write(tmp_path / "a.jsonl", *rows))
  targets = step_labels.to_targets(traces, PROBLEM)
  out = list(step_labels_trl.rows(targets, PROBLEM, label_type=int))
  assert out == rows
  assert type(out[0]["labels"][0]) is int  # which == does not tell from bool


@pytest.mark.parametrize(
  ("second", "what"),
  [
    (row([True, -100]), r"label 1 is -100, expected"),
    (row([-100.0]), r"label 0 is -100\.0, expected"),
    (row([2]), "label 0 is 2, expected"),
    (row(["+"]), r"label 0 is '\+', expected"),
    (row([True, 1.0]), "types bool and float"),
    (row([1]), "types bool and int"),  # the line before it has a bool
    (row([0.5]), "types bool and float"),
    (row([True, None]), "expected one for each step"),
    (row([]), "at least one"),
    (row([True]) | {"labels": [True, True]}, "1 steps and 2 labels"),
    (row([True]) | {"labels": True}, "field 'labels' is True, expected list"),
    (row([True]) | {"completions": [3]}, "a completion is 3, expected text"),
    (row([True], [{"role": "user", "content": "1"}]), "field 'prompt'"),
    ({"prompt": "1", "completions": ["2"]}, "field 'labels' is missing"),
  ],
)
def test_what_the_schema_does_not_allow_is_refused(tmp_path, second, what):
  path = write(tmp_path / "a.jsonl", row([True]), second)
  with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{what}"):
    step_labels_trl.read(path)


def test_json_numbers_that_are_none_are_refused(tmp_path):
  path = tmp_path / "a.jsonl"
  for number in ("NaN", "Infinity", "1e999"):
    path.write_text(
      f'{{"prompt": "1", "completions": ["2"], "labels": [{number}]}}'
    )
    with pytest.raises(ValueError, match=r"a\.jsonl:1: label 0 is"):
      step_labels_trl.read(path)


def collected():
  """`3:`, then steps `4`, `5` and `6`, the last ended by the end token.

  The first step has no label; the others are 1/4 and 3/4.
  """
  tokens = [[11 + 3, 10, 11 + 4, 2, 11 + 5, 2, 11 + 6, 1, 0]]
  return StepTargets(
    tokens=np.array(tokens, np.int32),
    prefix_len=np.array([[2, 4, 6, 8, 8]], np.int32),
    num_completions=np.array([[4, 0, 4, 4, 0]], np.int32),
    num_correct=np.array([[2, 0, 1, 3, 0]], np.float32),
    outcome=np.array([1], np.float32),
    problem_id=np.array([0], np.int32),
    sample_id=np.array([0], np.int32),
  )


def test_counts_become_shares_and_steps_without_label_join_the_next():
  rows = step_labels_trl.rows(collected(), PROBLEM, merge_unlabelled=True)
  assert list(rows) == [
    {"prompt": "3:", "completions": ["4\n5", "6"], "labels": [0.25, 0.75]}
  ]
  with pytest.raises(ValueError, match="step 1 of row 0 has no label"):
    list(step_labels_trl.rows(collected(), PROBLEM))


@pytest.mark.parametrize(
  ("threshold", "labels"),
  [(0.25, [1, 1]), (0.26, [0, 1]), (0.75, [0, 1]), (0.8, [0, 0])],
)
def test_a_threshold_makes_soft_labels_hard(threshold, labels):
  for kind in (bool, int, float):
    (out,) = step_labels_trl.rows(
      collected(),
      PROBLEM,
      label_type=kind,
      threshold=threshold,
      merge_unlabelled=True,
    )
    assert out["labels"] == labels
    assert {type(label) for label in out["labels"]} == {kind}


def test_soft_labels_are_no_bools_and_a_failed_export_leaves_no_file(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text("before")
  with pytest.raises(ValueError, match=r"label 2 of row 0 is 0\.25"):
    step_labels_trl.write(
      path,
      collected(),
      PROBLEM,
      label_type=bool,
      merge_unlabelled=True,
    )
  assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
  assert path.read_text() == "before"
  with pytest.raises(ValueError, match="expected bool, int or float"):
    list(step_labels_trl.rows(collected(), PROBLEM, label_type=str))
