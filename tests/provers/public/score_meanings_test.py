import numpy as np
import pytest

from pav_jax.provers.public import score_meanings

SCORES = np.array([[0.9, 0.5, 0.8, np.nan], [np.nan, 0.25, np.nan, 1.0]])
SCORES = SCORES.astype(np.float32)


@pytest.mark.parametrize(
  "rule, expected",
  [
    ("product", [[1, 0.9, 0.45, 0.36, 0.36], [1, 1, 0.25, 0.25, 0.25]]),
    ("minimum", [[1, 0.9, 0.5, 0.5, 0.5], [1, 1, 0.25, 0.25, 0.25]]),
    ("last", [[1, 0.9, 0.5, 0.8, 0.8], [1, 1, 0.25, 0.25, 1]]),
  ],
)
def test_scores_become_values_by_a_rule(rule, expected):
  q = score_meanings.prefix_values(SCORES, rule, "one")
  assert q.dtype == np.float32
  np.testing.assert_allclose(q, expected, rtol=1e-6)


def test_log_ratios_add_up_to_log_odds():
  ratios = np.array([[np.log(3), np.nan, -np.log(3), -1e4]], np.float32)
  q = score_meanings.prefix_values(ratios, "sigmoid", "half")
  np.testing.assert_allclose(q, [[0.5, 0.75, 0.75, 0.5, 0.0]], atol=1e-6)


def test_only_one_rule_goes_without_saying():
  assert score_meanings.checked_rule("value", None) == "last"
  assert score_meanings.checked_rule("log_ratio", None) == "sigmoid"
  with pytest.raises(ValueError, match="no rule says how they become values"):
    score_meanings.checked_rule("correctness", None)


@pytest.mark.parametrize(
  "meaning, rule",
  [
    ("value", "product"),
    ("value", "minimum"),
    ("log_ratio", "last"),
    ("correctness", "sigmoid"),
    ("correctness", "mean"),
  ],
)
def test_rules_and_meanings_are_not_mixed(meaning, rule):
  with pytest.raises(ValueError, match=f"'{rule}'.*'{meaning}'.*mixed up"):
    score_meanings.checked_rule(meaning, rule)


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="meaning is 'reward', expected one of"):
    score_meanings.checked_rule("reward", None)
  with pytest.raises(ValueError, match="start is 'first', expected one of"):
    score_meanings.checked_start("value", "first")
  assert score_meanings.checked_start("correctness", None) == "one"
  assert score_meanings.checked_start("value", None) == "half"
