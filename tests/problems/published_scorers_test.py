import pytest

from pav_jax.problems import published_scorers as scorers


@pytest.mark.parametrize(
  ("text", "want"),
  [
    (r"\boxed{1}, no: $\boxed{2}$", "2"),
    (r"\boxed{\frac{1}{2}} and } {", r"\frac{1}{2}"),
    (r"\boxed{5} or \fbox{6}", "5"),
    (r"\fbox{6}", "6"),
    (r"\boxed{1} but \boxed{2", None),
    (r"\boxed {5}", "5"),
    ("#### 5", None),
  ],
)
def test_answers_of_math(text, want):
  assert scorers.math_answer(text) == want


# Rule by rule, faults included.
EQUAL = [
  ("1\n2", "12"),
  ("3 4", "34"),
  (r"10,\!000", "10,000"),
  (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\2\end{pmatrix}"),
  (r"\dfrac{1}{2}", r"\frac{1}{2}"),
  (r"\left( 1, 2 \right)", "(1,2)"),
  (r"90^\circ", "90"),
  (r"90^{\circ}", "90"),
  (r"\$12", "12"),
  (r"5\text{ or 6}", "5"),
  ("15%", r"15\%"),
  (r"0.3\%", "0.3"),
  (".5", "0.5"),
  ("{.5}", "{0.5}"),
  ("x = 7", "7"),
  ("8=7", "7"),
  (r"\sqrt3", r"\sqrt{3}"),
  (r"\frac12", r"\frac{1}{2}"),
  (r"\frac1{72}", r"\frac{1}{72}"),
  ("0.5", r"\frac{1}{2}"),
  ("3/4", r"\frac{3}{4}"),
  (r"1\text{ a}\text{ b}", r"1\text{ a}\text{ b}"),  # no rule, but the same
]
DIFFERENT = [
  ("7", "8"),
  (r"\frac{1}2", r"\frac{1}{2}"),
  (r"5\text{cm}", "5"),
  ("5.0", "5"),
  ("1,000", "1000"),
  ("03/4", r"\frac{3}{4}"),
  ("abc=7", "7"),
  (r"1\text{ a}\text{ b}", "1"),
]


@pytest.mark.parametrize(("answer", "other"), EQUAL)
def test_what_math_takes_for_equal(answer, other):
  assert scorers.math_equal(answer, other)
  assert scorers.math_equal(other, answer)


@pytest.mark.parametrize(("answer", "other"), DIFFERENT)
def test_what_math_does_not_take_for_equal(answer, other):
  assert not scorers.math_equal(answer, other)
  assert not scorers.math_equal(other, answer)


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("6 * 12 = 72\n#### 72", "72"),
    ("#### -1,200.5\n", "-1200.5"),
    ("#### 72 clips", "72"),
    ("#### 7 and #### 8", "7"),
    ("####72", None),
    ("#### $72", None),
    ("#### +3", None),
    ("72", None),
  ],
)
def test_answers_of_gsm8k(text, want):
  assert scorers.gsm8k_answer(text) == want
  assert want is None or scorers.gsm8k_equal(want, want)


def test_commas_do_not_count_in_gsm8k():
  assert scorers.gsm8k_equal("1,200", "1200")
  assert not scorers.gsm8k_equal("1200.0", "1200")
