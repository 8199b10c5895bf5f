from fractions import Fraction

import pytest

from pav_jax.problems import final_answers
from pav_jax.problems.final_answers import final_answer, normalize, number, same


@pytest.mark.parametrize(
  ("text", "want"),
  [
    (r"so it is \boxed{42}.", "42"),
    (r"\boxed{1}, no: $\boxed{2}$", "2"),  # the last
    (r"\boxed{\frac{1}{2}} and } {", r"\frac{1}{2}"),  # balanced
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces are no braces
    (r"\boxed{\left\{1, x\right.}", r"\left\{1, x\right."),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\fbox{$\frac12$}", r"\frac12"),
    (r"\boxed 5$ is", "5"),
    (r"\boxed {5}", "5"),
    (r"\boxed{1} but \boxed{2", None),  # cut off
    (r"\boxed{}", None),
    ("the answer is 7", None),
    ("", None),
    ("# Answer\n\n7", "7"),
    ("so\n# Answer\n\n  $7$.\n\nmore", "7"),
    ("## Final Answer: 7", "7"),
    ("no # Answer 7", None),  # a heading begins a line
    ("# Answers vary", None),
    ("6 * 12 = 72\n#### 72", "72"),
    ("#### 1,200\n", "1,200"),
    ("\\boxed{3}\n# Answer\n\n4", "4"),  # whichever comes last
    ("# Answer\n\n4 or $\\boxed{3}$", "3"),
    ("# Answer\n\n\\boxed{3}", "3"),
    ("\\boxed{3}\n# Answer\n", None),
    (r"\boxed{" + "1" * 1000 + "}", "1" * 1000),
    (r"\boxed{" + "1" * 1001 + "}", None),
  ],
)
def test_final_answers(text, want):
  assert final_answer(text) == want


# What the scorer published with MATH takes for equal, rule by rule.
EQUAL = [
  ("1\n2", "12"),
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
  # Beyond it.
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
]
DIFFERENT = [
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
  assert not same(answer, other)


@pytest.mark.parametrize("answer", [a for pair in EQUAL for a in pair])
def test_a_normal_form_is_its_own(answer):
  assert normalize(normalize(answer)) == normalize(answer)


@pytest.mark.parametrize(
  ("answer", "want"),
  [
    ("12", Fraction(12)),
    ("-1,000.50", Fraction(-2001, 2)),
    (r"\dfrac{3}{4}", Fraction(3, 4)),
    ("-3/4", Fraction(-3, 4)),
    (".125", Fraction(1, 8)),
    ("1/0", None),
    ("x", None),
    (r"2\pi", None),
    ("1" * 61, None),
    ("٣", None),  # a digit, but none that int and regular expressions agree on
  ],
)
def test_numbers(answer, want):
  assert number(answer) == want


@pytest.mark.parametrize(
  "text",
  [
    "{" * 2**20,
    r"\boxed{" * 2**17,
    r"\boxed" + " " * 2**20,
    "#" * 2**20,
    "# answer " * 2**17,
    "\n" * 2**20,
    "\t" * 2**20,
    "#### " + "\t \n" * 2**18,
  ],
)
def test_megabytes_have_no_answer(text):
  # In linear time: 2⁴⁰ steps would never end.
  assert final_answer(text) is None


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
def test_the_longest_answers_are_normalized(part):
  # A backtracking expression would never end. What is left is the part again.
  answer = (part * final_answers.MAX_LENGTH)[: final_answers.MAX_LENGTH]
  left = normalize(answer).replace("{", "").replace("}", "")
  assert set(left) <= set(part + "0")
