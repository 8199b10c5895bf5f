import pytest

from pav_jax.problems.prompt_format import PromptFormat, Record

TRAIN = tuple(Record(f"k{i}", f"p{i}", f"s{i}", f"a{i}") for i in range(6))


def test_a_bare_problem():
  form = PromptFormat()
  assert form.prompt(TRAIN[0]) == "Problem:\np0\n\nSolution:\n"
  assert form.target(TRAIN[0]) == "s0"
  assert form.stop is None and form.shots(TRAIN) == ()


def test_answers_may_be_asked_for():
  form = PromptFormat(response="{solution}\n\n# Answer\n\n{answer}")
  assert form.target(TRAIN[1]) == "s1\n\n# Answer\n\na1"


def test_texts_are_not_looked_at_for_placeholders():
  form = PromptFormat(response="{answer}|{solution}|{answer}")
  odd = Record("k", "{problem}{solution}", "{answer}{solution}", "{solution}")
  assert form.prompt(odd) == "Problem:\n{problem}{solution}\n\nSolution:\n"
  assert form.target(odd) == "{solution}|{answer}{solution}|{solution}"


def test_shots_stand_before_a_problem_and_are_never_itself():
  form = PromptFormat(
    question="Q: {problem}\nA: ", num_shots=2, separator="\n--\n"
  )
  shots = form.shots(TRAIN)
  assert len(set(shots)) == 3 and set(shots) <= set(TRAIN)
  assert form.shots(TRAIN) == shots
  outside = Record("x", "px", "sx", "ax")
  first, second, third = shots
  assert form.prompt(outside, shots) == (
    f"Q: {first.problem}\nA: {first.solution}\n--\n"
    f"Q: {second.problem}\nA: {second.solution}\n--\n"
    "Q: px\nA: "
  )
  assert form.prompt(first, shots) == (
    f"Q: {second.problem}\nA: {second.solution}\n--\n"
    f"Q: {third.problem}\nA: {third.solution}\n--\n"
    f"Q: {first.problem}\nA: "
  )
  # Where a response would go on with another problem.
  assert form.stop == "\n--\nQ: "
  drawn = {
    PromptFormat(num_shots=2, seed=seed).shots(TRAIN) for seed in range(8)
  }
  assert len(drawn) > 4


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"question": "Solve"}, "expected {problem}"),
    ({"response": "done"}, "expected {solution} or {answer}"),
    ({"num_shots": -1}, "num_shots is -1"),
    ({"num_shots": 1, "question": "{problem}\n"}, "text before {problem}"),
  ],
)
def test_bad_settings(settings, match):
  with pytest.raises(ValueError, match=match):
    PromptFormat(**settings)


def test_more_shots_than_problems():
  with pytest.raises(ValueError, match="num_shots is 6 and train has 6"):
    PromptFormat(num_shots=6).shots(TRAIN)
