import pytest

from pav_jax.problems.near_duplicates import near_duplicates, words

LONG = " ".join(f"w{chr(97 + i)}" for i in range(24))  # 24 words


def test_form_does_not_count():
  one = r"What is $\dfrac{3}{4}$ of  the sum $8+12$?"
  other = r"what is $\frac{3}{4}$ of the \text{sum} $8 + 12$"
  assert words(one) == words(other)
  (match,) = near_duplicates({"a": one}, {"b": other})
  assert match == ("a", "b", 1.0)


def test_numbers_and_signs_count():
  texts = {"a": "Add 3 + 4.", "b": "Add 3 - 4.", "c": "Add 3 + 5."}
  assert not near_duplicates(texts, {"x": "Add 3 + 6."})


def test_the_share_of_common_phrases():
  # 24 words are 20 phrases of 5; the last word is in one of them. So 19 are in
  # common and 21 in either. A word in the middle is in 5: 15 of 25.
  ends = LONG[:-2] + "other"
  middle = LONG.replace("wm", "other")
  (match,) = near_duplicates({"ends": ends}, {"x": LONG})
  assert match.similarity == pytest.approx(19 / 21)
  assert not near_duplicates({"middle": middle}, {"x": LONG})
  (match,) = near_duplicates({"middle": middle}, {"x": LONG}, 0.6)
  assert match.similarity == pytest.approx(15 / 25)


def test_the_nearest_is_told_in_order():
  others = {"far": LONG[:-2] + "other", "near": LONG, "none": "1 2 3 4 5 6"}
  found = near_duplicates({"b": LONG, "c": "7 8", "a": LONG}, others)
  assert found == [("b", "near", 1.0), ("a", "near", 1.0)]


def test_short_texts_are_one_phrase():
  assert near_duplicates({"a": "Add $1$."}, {"b": "add 1"})
  assert not near_duplicates({"a": "Add 1"}, {"b": "Add 1 and 2"})
  assert near_duplicates({"a": ""}, {"b": "?"}) == [("a", "b", 1.0)]
