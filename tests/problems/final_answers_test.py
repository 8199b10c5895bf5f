import pytest

from pav_jax.problems.final_answers import final_answer


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
    # A mention of a box, or an empty one, is no answer.
    (r"So $\boxed{42}$. I used \boxed as you asked.", "42"),
    (r"So $\boxed{42}$. I used \fbox, for $5.", "42"),
    (r"$\boxed{42}$ and \boxed{}", "42"),
    (r"$\boxed{42}$, in the form $\boxed{\ldots}$", "42"),
    (r"\fbox{42}", "42"),
    (r"\boxed 42 and that is all.", "42"),
    (r"\boxed -1,042.5, then", "-1,042.5"),
    # A box around another says what it says.
    (r"\boxed{8 \boxed{7}}", r"8 \boxed{7}"),
    (r"\boxed{\boxed{\frac{1}{2}}}", r"\frac{1}{2}"),
    # Other headings.
    ("\\boxed{5}\n#### Check\nfine", "5"),
    ("\\boxed{5}\n##### Verification", "5"),
    ("\\boxed{5}\n#### 2. Verification", "5"),
    ("\\boxed{5}\n#### Step 2: check", "5"),
    ("#### Check", None),
    # Emphasis.
    ("#### **73**", "73"),
    ("#### `73`", "73"),
    ("so it is\n**73**", "73"),
    ("`73`", "73"),
    ("_73_", "73"),
    ("that is **73** of them", None),
    (r"\boxed{**73**}", "73"),
    ("# Answer\n\n**73**", "73"),
    # Phrases, where there is no mark.
    ("**Final Answer:** 73", "73"),
    ("**Final Answer**\n\n73", "73"),
    ("Answer: **B**", "B"),
    ("The answer is: 72", "72"),
    ("The answer is 72.", "72"),
    ("Final Answer: The final answer is $72$. I hope it is.", "72"),
    ("The answer is: Evelyn.", "Evelyn"),
    ("The answer is (C).", "(C)"),
    ("The answer is in the last line", None),
    ("my final answer comes later", None),
    ("\\boxed{42}. The answer is: 43", "42"),
    # As the pattern published with GSM8K reads them: the number.
    ("#### 72 clips", "72"),
    ("#### 72, in total", "72"),
    ("#### 1,250 dollars.", "1,250"),
    ("#### 72 clips in 3 days", "72"),
    # Which reads none of these, though they are numbers.
    ("#### $18 per day", "18"),
    (r"#### \$1,250.50", "1,250.50"),
    ("#### $18$", "18"),
    ("#### 40% of them", "40"),
    ("#### +3", "3"),
    ("#### −3", "-3"),
    ("#### -$5", "-5"),
    # No number that words follow.
    ("#### 72 or 73", "72 or 73"),
    ("#### 72, not 73", "72, not 73"),
    ("#### 36 + 36", "36 + 36"),
    ("#### 3 4", "3 4"),
    ("#### 1 1/2", "1 1/2"),
    ("#### 2x", "2x"),
    ("#### 10:30", "10:30"),
    (r"#### 5\frac{1}{2}", r"5\frac{1}{2}"),
    (r"\boxed{" + "1" * 1000 + "}", "1" * 1000),
    (r"\boxed{" + "1" * 1001 + "}", None),
  ],
)
def test_final_answers(text, want):
  assert final_answer(text) == want


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
    "#### \n" * 2**17,
    r"\boxed{} " * 2**17,
    r"\boxed as " * 2**16,
    "the answer is " * 2**16,
    "*" * 2**20,
  ],
)
def test_megabytes_have_no_answer(text):
  # In linear time: 2⁴⁰ steps would never end.
  assert final_answer(text) is None
