import json
import math

import numpy as np
import pytest

from pav_jax.data import prm_bench
from pav_jax.problems.plain_text import PlainText
from pav_jax.testing.byte_tokens import ByteTokens


def entry(kind, name="p_0", steps=("Step 1. a", "2. b", "c"), errors=(2,)):
  return {
    "idx": name,
    "classification": kind,
    "modified_question": "changed?",
    "modified_process": list(steps),
    "error_steps": list(errors),
    "original_question": "unchanged?",
    "original_process": ["1. x", "y"],
    "reason": "passed over",
  }


def write(path, *entries):
  path.write_text("".join(json.dumps(x) + "\n" for x in entries))
  return path


def test_entries_are_read_as_the_authors_read_them(tmp_path):
  write(tmp_path / "b.jsonl", entry("circular", errors=(1, 3, 9)))
  write(
    tmp_path / "a.jsonl",
    entry("redundency"),
    entry("redundency", steps=("another of the same name",)),
  )
  (tmp_path / "notes.txt").write_text("no entry")
  assert prm_bench.read(tmp_path) == [
    prm_bench.Sample(
      "redundency_p_0", "redundency", "changed?", ("a", "b", "c"), (1,)
    ),
    prm_bench.Sample("correct_p_0", "correct", "unchanged?", ("x", "y"), ()),
    # No step has the number 9.
    prm_bench.Sample(
      "circular_p_0", "circular", "changed?", ("a", "b", "c"), (0, 2)
    ),
  ]
  (sample,) = prm_bench.read(tmp_path / "b.jsonl", without_numbers=False)
  assert sample.steps == ("Step 1. a", "2. b", "c")


@pytest.mark.parametrize(
  "change, message",
  [
    ({"classification": "typo"}, "classification is 'typo', expected one of"),
    ({"error_steps": [True]}, "error_steps are .*, expected whole numbers"),
    ({"modified_process": []}, "modified_process is .*, at least one"),
    ({"modified_process": [1]}, "expected texts"),
    ({"idx": 3}, "field 'idx' is 3, expected str"),
  ],
)
def test_other_files_are_refused_with_the_line(tmp_path, change, message):
  path = write(
    tmp_path / "x.jsonl", entry("circular"), entry("circular") | change
  )
  with pytest.raises(ValueError, match=f"line 2 of .*x.jsonl: .*{message}"):
    prm_bench.read(path)
  with pytest.raises(ValueError, match="holds no entry"):
    prm_bench.read(write(path))


def test_steps_become_those_of_rollouts(tmp_path):
  samples = prm_bench.read(write(tmp_path / "x.jsonl", entry("redundency")))
  problem = PlainText(ByteTokens())
  rollout = prm_bench.rollout(samples, problem)
  # "changed?", then "a\n", "b\n" and "c" with the end token.
  assert rollout.prefix_len.tolist()[0] == [8, 10, 12, 14]
  assert rollout.outcome.tolist() == [0, 1]


def sample(kind, errors, number=0, steps=4):
  return prm_bench.Sample(
    f"{kind}_{number}", kind, "?", ("s",) * steps, tuple(errors)
  )


def test_scores_by_hand():
  samples = [
    sample("circular", (1, 2)),
    sample("confidence", (3,)),
    sample("multi_solutions", (), steps=2),
    sample("correct", ()),
  ]
  is_valid = np.array(
    [
      [1, 0, 1, 0],  # right, caught, missed, refused
      [1, 1, 1, 0],  # three right, one caught
      [1, 0, 1, 1],  # right, refused, and two that are no steps
      [1, 1, 1, 0],
    ],
    bool,
  )
  got = prm_bench.scores(samples, is_valid)
  # Right 5, caught 2, missed 1, refused 2.
  assert got["f1"] == pytest.approx(10 / 13)
  assert got["negative_f1"] == pytest.approx(4 / 7)
  assert got["prm_score"] == pytest.approx((10 / 13 + 4 / 7) / 2)
  assert got["step_accuracy"] == pytest.approx(7 / 10)
  assert got["correct_step_accuracy"] == pytest.approx(5 / 7)
  assert got["wrong_step_accuracy"] == pytest.approx(2 / 3)
  assert got["first_error_accuracy"] == 1.0
  # Shares 2/4, 3/4 and 1/2 against 3/4 of the unchanged solution.
  assert got["similarity"] == pytest.approx((1 / 4 + 0 + 1 / 4) / 3)
  kinds = got["kinds"]
  assert kinds["circular"]["f1"] == kinds["circular"]["negative_f1"] == 0.5
  assert kinds["multi_solutions"]["prm_score"] == pytest.approx(2 / 3)
  assert kinds["multi_solutions"]["negative_f1"] == 0.0
  assert math.isnan(kinds["deception"]["prm_score"])
  assert math.isnan(got["categories"]["simplicity"])  # redundency is not there


def test_categories_are_means_of_their_kinds():
  samples = [sample(kind, (0,), steps=2) for kind in prm_bench.KINDS]
  is_valid = np.array([[i % 2, 1] for i in range(len(samples))], bool)
  got = prm_bench.scores(samples, is_valid)
  # An error that is missed: F1 2/3, and 0 of wrong steps; caught: 1 and 1.
  of_kind = [1.0 if i % 2 == 0 else 1 / 3 for i in range(9)]
  of_kind[8] = 1.0  # multi_solutions
  for name, part in (
    ("simplicity", of_kind[:2]),
    ("soundness", of_kind[2:6]),
    ("sensitivity", of_kind[6:]),
  ):
    assert got["categories"][name] == pytest.approx(np.mean(part))


def test_judgements_are_of_all_steps():
  with pytest.raises(ValueError, match=r"expected \[1, H\] with H >= 4"):
    prm_bench.scores([sample("circular", ())], np.ones((1, 3), bool))
