"""Each pair both ways, by strings and by what they mean."""

import json
import pathlib
from fractions import Fraction

import pytest

from pav_jax.problems import final_answers
from pav_jax.problems.answer_equality import equal, same
from pav_jax.problems.answer_forms import Form, form, value_of

PAIRS = [
  json.loads(line)
  for line in (pathlib.Path(__file__).parents[1] / "data/answer_pairs.jsonl")
  .read_text()
  .splitlines()
]
# By rules like those published with MATH.
EQUAL = [
  (r"10,\!000", "10,000"),
  (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\2\end{pmatrix}"),
  (r"\dfrac{1}{2}", r"\frac{1}{2}"),
  (r"\tfrac{x}{3}", r"\frac{x}{3}"),
  (r"\left( 1, 2 \right)", "(1,2)"),
  (r"90^\circ", "90"),
  (r"90^{\circ}", "90"),
  (r"\$12", "12"),
  (r"5\text{ cm}", "5"),
  (r"5\text{ cm}^2", "5"),
  (r"5 \mbox{ inches}", "5"),
  (r"15\%", "15"),
  ("15%", "15"),
  (".5", "0.5"),
  ("{.5}", "{0.5}"),
  ("x = 7", "7"),
  ("k=7", "7"),
  (r"\sqrt3", r"\sqrt{3}"),
  (r"2\sqrt 3", r"2\sqrt{3}"),
  ("x + 1", "x+1"),
  (r"\frac12", r"\frac{1}{2}"),
  (r"\frac1{72}", r"\frac{1}{72}"),
  (r"\frac{1}2", r"\frac{1}{2}"),
  ("0.5", r"\frac{1}{2}"),
  ("3/4", r"\frac{3}{4}"),
  (r"\text{Evelyn}", "Evelyn"),
  (r"\text{ even}", "even"),
  ("1,234,567", "1234567"),
  ("1{,}234", "1234"),
  ("1,234.50", "1234.5"),
  ("5.0", "5"),
  ("-2.50", "-2.5"),
  (r"\frac{-1}{2}", r"-\frac{1}{2}"),
  ("-1/2", r"-\frac{1}{2}"),
  ("$7$", "7"),
  (r"\(7\)", "7"),
  ("7.", "7"),
  ("+7", "7"),
  ("−7", "-7"),
  ("1 1/2", "3/2"),
  (r"-1\frac12", r"-\frac{3}{2}"),
  ("90°", "90"),
  (r"90\text{ degrees}", "90°"),
  (r"5~\text{cm}", "5"),
  ("5 cm", "5"),
  (r"\$18", r"18\text{ dollars}"),
  (r"\boldsymbol{8}", "8"),
  (r"\color{blue}{8}", "8"),
  (r"{\color{blue} 8}", "8"),
  (r"\textcolor{blue}{8}", "8"),
  ("3e2", "300"),
  ("1.5e-3", "0.0015"),
  (r"3 \times 10^{2}", "300"),
  (r"10\,000", "10000"),
  (r"5^{\text{th}}", "5"),
]
DIFFERENT = [
  ("1\n2", "12"),
  ("3 4", "34"),
  (r"3\ 4", "34"),
  ("1 1/2", r"\frac{11}{2}"),
  ("2 3/4", "23/4"),
  (r"5\text{ or }6", "5"),
  (r"1\text{ and }5", r"1\text{ and }7"),
  (r"x=2\text{ or }x=3", "2"),
  ("y=9", "x=9"),
  (r"0.3\%", "0.3"),
  ("8=7", "7"),
  (r"7 \text{ is wrong, it is 8}", "7"),
  (r"5\text{ million}", "5"),
  (r"5\text{ cm}", r"5\text{ kg}"),
  (r"5\text{ cm}", r"5\text{ cm}^2"),
  ("\\$5", "5%"),
  ("x", "X"),
  ("7", "8"),
  ("-7", "7"),
  (r"\frac{1}{2}", r"\frac{2}{1}"),
  ("1,2", "12"),
  ("(1,2)", "(12)"),
  ("1, 234", "1234"),  # a list of two
  ("50", "5"),
  ("10.5", "1.5"),
  ("100", "1"),  # zeros of integers count
  ("abc=7", "7"),
  ("a=b=7", "7"),
  (r"\text{even}", r"\text{odd}"),
  (r"\text{ even}", r"\text{ odd}"),
  (r"\sqrt[3]{2}", r"\sqrt{2}"),
  (r"\leftarrow", "arrow"),
  (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}"),
  ("2x", "x2"),
]


@pytest.mark.parametrize(("answer", "other"), EQUAL)
def test_forms_of_one_answer_are_the_same(answer, other):
  assert same(answer, other) and same(other, answer)


@pytest.mark.parametrize(("answer", "other"), DIFFERENT)
def test_different_answers_stay_different(answer, other):
  assert not same(answer, other) and not same(other, answer)


@pytest.mark.parametrize(
  ("answer", "want"),
  [
    (r"x = 1\tfrac12\text{ cm}", Form("x", r"\frac{3}{2}", "cm")),
    (r"\theta=90^\circ", Form(r"\theta", "90", r"^\circ")),
    (r"x \in [1, 2)", Form("x", "[1,2)", "")),
    (r"\$1,250.50", Form("", "1250.5", "$")),
    ("40 percent", Form("", "40", "%")),
    (r"5 \text{ square inches}", Form("", "5", "square inche")),
    (r"\sin 30^\circ", Form("", r"\sin30^\circ", "")),
    (r"\pi r", Form("", r"\pi r", "")),
    ("", Form("", "", "")),
  ],
)
def test_forms(answer, want):
  assert form(answer) == want


@pytest.mark.parametrize(
  "answer", [a for pair in (*EQUAL, *DIFFERENT) for a in pair]
)
def test_the_value_of_a_form_is_its_own(answer):
  value = form(answer).value
  assert form(value).value == value


@pytest.mark.parametrize(
  "pair", PAIRS, ids=lambda p: p["answer"] + "|" + p["other"]
)
def test_equal_means_equal(pair):
  pytest.importorskip("mpmath")
  answer, other = pair["answer"], pair["other"]
  assert equal(answer, other) == equal(other, answer) == pair["equal"]
  assert equal(answer, answer) and equal(other, other)
  if not pair["equal"]:
    assert not same(answer, other)


def test_percent_is_a_hundredth_or_a_number():
  pytest.importorskip("mpmath")
  assert equal(r"50\%", "0.5") and equal("0.5%", "0.005")
  assert same("50%", "50") and not equal("0.5%", "0.5")


@pytest.mark.parametrize(
  ("value", "want"),
  [
    ("12", Fraction(12)),
    ("-1000.5", Fraction(-2001, 2)),
    (r"\frac{3}{4}", Fraction(3, 4)),
    (r"-\frac{3}{4}", Fraction(-3, 4)),
    (r"\frac{1}{0}", None),
    ("x", None),
    (r"2\pi", None),
    ("1" * 61, None),
    ("٣", None),  # a digit, but none that int and regular expressions agree on
  ],
)
def test_numbers(value, want):
  assert value_of(value) == want


@pytest.mark.parametrize(
  "part",
  [
    "{",
    "1",
    ",",
    r"\frac",
    r"\sqrt ",
    "=",
    ".",
    r"\text{ ",
    r"\circ",
    " ",
    "-",
  ],
)
def test_the_longest_answers_have_a_form(part):
  # A backtracking expression would never end. What is left is the part again.
  answer = (part * final_answers.MAX_LENGTH)[: final_answers.MAX_LENGTH]
  left = form(answer).value.replace("{", "").replace("}", "")
  assert set(left) <= set(part + "0")
