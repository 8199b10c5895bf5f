import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.data import step_labels, step_labels_prm800k
from pav_jax.data import step_targets_records as records
from pav_jax.problems import vocabulary
from pav_jax.problems.plain_text import PlainText
from pav_jax.rollout import StepTargets

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"


def frameworks():
  return pytest.importorskip(
    "pav_jax.problems.frameworks",
    reason="the extra `data` is not installed",
    exc_type=ImportError,
  )


def targets(**changes):
  """Two traces, of two steps and of none."""
  fields = {
    "tokens": np.array([[3, 4, 5, 6, 1, 0], [7, 8, 0, 0, 0, 0]], np.int32),
    "prefix_len": np.array([[2, 3, 5, 5], [2, 2, 2, 2]], np.int32),
    "num_completions": np.array([[4, 8, 1, 0], [4, 0, 0, 0]], np.int32),
    "num_correct": np.array([[1, 8, 1, 0], [0, 0, 0, 0]], np.float32),
    "outcome": np.array([1, np.nan], np.float32),
    "problem_id": np.array([5, 2**31 - 1], np.int32),
    "sample_id": np.array([0, 3], np.int32),
  }
  return StepTargets(**(fields | changes))


def changed(name, row, column, value):
  array = np.array(getattr(targets(), name))
  array[row, column] = value
  return {name: array}


def test_good_targets_pass_of_numpy_and_of_jax():
  records.check_targets(targets(), 0)
  on_device = {
    field.name: jnp.asarray(getattr(targets(), field.name))
    for field in dataclasses.fields(StepTargets)
  }
  records.check_targets(StepTargets(**on_device), 0)
  records.check_targets(
    step_labels.to_targets(
      step_labels_prm800k.read(DATA / "prm800k.jsonl"),
      PlainText(vocabulary.Vocabulary()),
    ),
    0,
  )


@pytest.mark.parametrize(
  ("change", "what"),
  [
    (changed("prefix_len", 0, 1, 1), "prefix_len decreases in row 0 of 2"),
    (changed("prefix_len", 0, 3, 7), r"prefix_len is not in 0 … 6 in row 0"),
    (changed("prefix_len", 1, 3, 6), "increases past the end in row 1"),
    (changed("tokens", 1, 0, -1), "tokens are negative in row 1"),
    (changed("tokens", 1, 2, 9), "are not padding, 0 in row 1"),
    (changed("num_completions", 0, 0, -1), "num_completions is negative"),
    (changed("num_completions", 1, 1, 4), "is not 0 past the end in row 1"),
    (changed("num_correct", 0, 0, 5), "num_correct is not in 0 … num_com"),
    (changed("num_correct", 0, 0, -1), "num_correct is not in 0 … num_com"),
    (changed("num_correct", 0, 0, np.nan), "num_correct is not in 0 … num_com"),
    (changed("num_correct", 0, 3, 1), "num_correct is not in 0 … num_com"),
    ({"outcome": np.array([2.0, 0.0])}, "outcome is not in"),
    ({"outcome": np.array([1, 0])}, "outcome has type int64, expected"),
    ({"tokens": np.zeros((2, 6))}, "tokens has type float64, expected"),
    ({"tokens": np.zeros(6, int)}, r"expected \[B, T\] and \[B, P\]"),
    ({"sample_id": np.zeros(3, int)}, r"sample_id has shape \(3,\), expected"),
    (
      {"num_correct": np.zeros((2, 3))},
      r"num_correct has shape \(2, 3\), expected \(2, 4\)",
    ),
  ],
)
def test_bad_targets_are_refused(change, what):
  with pytest.raises(ValueError, match=what):
    records.check_targets(targets(**change), 0)


def test_padding_is_the_vocabularys():
  with pytest.raises(ValueError, match="are not padding, 9 in row 0"):
    records.check_targets(targets(), 9)


def test_prefixes_are_counted():
  # The problem and two steps; the problem alone.
  assert records.num_prefixes_of(targets().prefix_len).tolist() == [3, 1]


def test_records_hold_what_the_table_says():
  tf = frameworks().tf
  first, second = map(tf.train.Example.FromString, records.encode(targets()))
  lists = {
    name: list(
      feature.float_list.value
      if feature.HasField("float_list")
      else feature.int64_list.value
    )
    for name, feature in first.features.feature.items()
  }
  assert lists == {
    "tokens": [3, 4, 5, 6, 1],
    "prefix_len": [2, 3, 5],
    "num_completions": [4, 8, 1],
    "num_correct": [1, 8, 1],
    "outcome": [1],
    "problem_id": [5],
    "sample_id": [0],
  }
  assert list(second.features.feature["tokens"].int64_list.value) == [7, 8]
  assert np.isnan(second.features.feature["outcome"].float_list.value[0])


def test_equal_targets_have_equal_bytes_whatever_their_padding():
  frameworks()
  wide = {
    name: np.pad(getattr(targets(), name), ((0, 0), (0, 2)), mode)
    for name, mode in (
      ("tokens", "constant"),
      ("prefix_len", "edge"),
      ("num_completions", "constant"),
      ("num_correct", "constant"),
    )
  }
  # Another NaN, and counts as whole numbers of another type.
  wide["outcome"] = np.array([1, -np.nan])
  wide["num_correct"] = wide["num_correct"].astype(np.float64)
  assert list(records.encode(targets(**wide))) == list(
    records.encode(targets())
  )
