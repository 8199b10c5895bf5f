import dataclasses
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.data import step_labels, step_labels_math_shepherd, step_labels_trl
from pav_jax.data.step_labels import Trace
from pav_jax.problems import vocabulary
from pav_jax.problems.plain_text import PlainText

DATA = pathlib.Path(__file__).parents[1] / "data" / "step_labels"
VOCABULARY = vocabulary.Vocabulary()
PROBLEM = PlainText(VOCABULARY)
# Of the default vocabulary: 0 padding, 1 end, 2 newline, then + - * / ~ = , :
# from 3, integers from 11.
PLUS, EQUALS, COLON = 3, 8, 10


def ints(*numbers):
  return [11 + number for number in numbers]


@dataclasses.dataclass(frozen=True)
class Characters:
  """A toy vocabulary: padding 0, end 1, and code points from 2 on."""

  vocab_size: int = 1200
  pad_id: int = 0
  eos_id: int = 1

  def token_text(self, token):
    return "" if token < 2 else chr(token - 2)

  def encode(self, text):
    return [ord(character) + 2 for character in text]

  def decode(self, ids):
    return "".join(self.token_text(i) for i in ids)


def test_offsets_by_hand():
  targets = step_labels.to_targets(
    [
      Trace("3+4:", ("3+4=7",), (1.0,)),
      Trace("1:", ("1", "1+1=2"), (None, 0.25), outcome=1.0, is_whole=True),
    ],
    PROBLEM,
  )
  first = [*ints(3), PLUS, *ints(4), COLON]
  first += [*ints(3), PLUS, *ints(4), EQUALS, *ints(7), 2]
  # The last step of the second ends with the end token, for it is whole.
  second = [*ints(1), COLON, *ints(1), 2]
  second += [*ints(1), PLUS, *ints(1), EQUALS, *ints(2), 1]
  np.testing.assert_array_equal(
    targets.tokens, [first, second + [0] * (len(first) - len(second))]
  )
  np.testing.assert_array_equal(targets.prefix_len, [[4, 10, 10], [2, 4, 10]])
  np.testing.assert_array_equal(targets.num_completions, [[0, 1, 0], [0, 0, 1]])
  np.testing.assert_array_equal(targets.num_correct, [[0, 1, 0], [0, 0, 0.25]])
  np.testing.assert_array_equal(
    targets.q_mc,
    [[math.nan, 1, math.nan], [math.nan, math.nan, 0.25]],
  )
  np.testing.assert_array_equal(targets.outcome, [math.nan, 1])
  assert targets.num_correct.dtype == np.float32  # which holds these


def test_a_delimiter_within_a_step_starts_no_other():
  # PRM800K has such steps: "… = 12.\n\n# Answer\n\n12".
  targets = step_labels.to_targets(
    [Trace("ab", ("c\nd", "e"), (True, False))], PlainText(Characters())
  )
  np.testing.assert_array_equal(targets.prefix_len, [[2, 6, 8]])


def test_neighbouring_texts_are_tokenised_apart():
  # As one text, "3" and "4" would be the integer 34.
  targets = step_labels.to_targets(
    [Trace("3", ("4",), (True,))], PlainText(VOCABULARY, ":")
  )
  np.testing.assert_array_equal(targets.tokens, [[*ints(3, 4), COLON]])


def test_traces_are_numbered_by_prompt_and_within_it():
  prompts = ("1", "2", "1", "1", "2")
  traces = [Trace(prompt, ("3",), (True,)) for prompt in prompts]
  targets = step_labels.to_targets(traces, PROBLEM)
  np.testing.assert_array_equal(targets.problem_id, [0, 1, 0, 0, 1])
  np.testing.assert_array_equal(targets.sample_id, [0, 0, 1, 2, 1])


def test_soft_labels_are_kept_to_the_last_bit():
  trace = Trace("1", ("2", "3"), (1 / 3, 0.1))
  targets = step_labels.to_targets([trace], PROBLEM)
  assert targets.num_correct[0].tolist() == [0.0, 1 / 3, 0.1]


@pytest.mark.parametrize("label", [-100, 2, -1, 1.5, -0.1, math.nan, "1", [1]])
def test_labels_of_no_meaning_are_refused(label):
  with pytest.raises(ValueError, match=r"label 1 is .*, expected true or"):
    Trace("1", ("2", "3"), (None, label))


@pytest.mark.parametrize(
  "labels", [(True, 1), (True, 0.5), (0, 0.5), (None, False, 0)]
)
def test_labels_of_two_types_are_refused(labels):
  with pytest.raises(ValueError, match=r"labels are of types .* and .*"):
    Trace("1", ("2",) * len(labels), labels)


@pytest.mark.parametrize(("steps", "labels"), [((), ()), (("1",), (1, 1))])
def test_there_is_a_label_for_each_step(steps, labels):
  with pytest.raises(ValueError, match="expected as many, at least one"):
    Trace("1", steps, labels)


def test_texts_that_cannot_be_tokens_are_refused():
  for step, what in (("x", "no token"), ("<end>", "padding or end")):
    trace = Trace("1", (step,), (True,), where="a.jsonl:7")
    with pytest.raises(ValueError, match=rf"a\.jsonl:7: .*{what}"):
      step_labels.to_targets([trace], PROBLEM)
  with pytest.raises(ValueError, match="delimiter is"):
    step_labels.to_targets(
      [Trace("1", ("2",), (True,))], PlainText(VOCABULARY, "\n\n")
    )
  with pytest.raises(ValueError, match="there are no traces"):
    step_labels.to_targets([], PROBLEM)


def test_a_prompt_may_have_the_end_as_the_messages_of_a_chat_do():
  class Chat(PlainText):
    def encode_problem(self, problem):
      return [*super().encode_problem(problem), VOCABULARY.eos_id, COLON]

  trace = Trace("1", ("2",), (True,))
  tokens, prefix_len = step_labels.tokenize([trace], Chat(VOCABULARY))
  end = VOCABULARY.eos_id
  # Integers are from 11: the problem 1, and the step 2 with its newline, 2.
  assert tokens.tolist() == [[12, end, COLON, 13, 2]]
  assert prefix_len.tolist() == [[3, 5]]


def test_a_delimiter_that_is_not_encoded_as_one_is_refused():
  @dataclasses.dataclass(frozen=True)
  class Lossy(Characters):
    def encode(self, text):
      return super().encode(text.replace("\n", " "))

  with pytest.raises(ValueError, match="the last contains it"):
    step_labels.to_targets([Trace("1", ("2",), (True,))], PlainText(Lossy()))


def test_texts_survive_a_vocabulary_of_characters():
  traces = step_labels_math_shepherd.read(DATA / "math_shepherd.jsonl")
  characters = PlainText(Characters())
  targets = step_labels.to_targets(traces, characters)
  rows = step_labels_trl.rows(targets, characters, label_type=bool)
  assert list(rows) == [
    {
      "prompt": trace.prompt,
      "completions": list(trace.steps),
      "labels": list(trace.labels),
    }
    for trace in traces
  ]


def parse(row):
  steps = step_labels.field(row, "steps", list)
  return [Trace(row.get("prompt", "1"), steps, (True,) * len(steps))]


def test_lines_are_read_in_order_and_numbered(tmp_path):
  path = tmp_path / "a.jsonl"
  # A byte-order mark, a blank line, U+2028 within a text, no newline at the
  # end: four lines to an editor, two of them objects.
  path.write_bytes(
    '\ufeff{"steps": ["a\u2028b"]}\n\n \n{"steps": ["c", "d"]}'.encode()
  )
  first, second = step_labels.read_jsonl(path, parse)
  assert (first.steps, second.steps) == (["a\u2028b"], ["c", "d"])
  assert (first.where, second.where) == (f"{path}:1", f"{path}:4")


@pytest.mark.parametrize(
  ("line", "what"),
  [
    (b'{"steps": ["a"]', "not a line of JSON"),
    (b"\xff", "not a line of JSON"),
    (b'["a"]', "a JSON object is expected"),
    (b'{"step": ["a"]}', "field 'steps' is missing"),
    (b'{"steps": "a"}', "field 'steps' is 'a', expected list"),
    (b'{"steps": []}', "expected as many"),
    (b'{"steps":' * 100_000, "nested too deeply"),
  ],
)
def test_bad_lines_are_named_or_left_out(tmp_path, line, what):
  path = tmp_path / "a.jsonl"
  good = b'{"steps": ["a"]}\n'
  path.write_bytes(good + line + b"\n" + good + line + b"\n")
  with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{what}.*max_bad_lines"):
    step_labels.read_jsonl(path, parse)
  with (
    pytest.warns(UserWarning, match=r"a\.jsonl:2 is left out"),
    pytest.raises(ValueError, match=r"a\.jsonl:4: "),
  ):
    step_labels.read_jsonl(path, parse, max_bad_lines=1)
  with pytest.warns(UserWarning, match="left out"):
    assert len(step_labels.read_jsonl(path, parse, max_bad_lines=2)) == 2


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_files_are_refused(tmp_path, content):
  path = tmp_path / "a.jsonl"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"a\.jsonl holds no labelled response"):
    step_labels.read_jsonl(path, parse)


def test_a_bool_is_no_int():
  with pytest.raises(ValueError, match="field 'a' is True, expected int"):
    step_labels.field({"a": True}, "a", int)
  assert step_labels.field({"a": None}, "a", int, None) is None
  with pytest.raises(ValueError, match=r"field 'a' is None, expected int$"):
    step_labels.field({"a": None}, "a", int)


def test_importing_data_files_imports_no_tensorflow():
  names = ("step_labels", "step_labels_trl", "step_targets")
  names += ("step_targets_seqio", "step_targets_writer")
  code = ";".join(f"import pav_jax.data.{name}" for name in names)
  code += ";import sys; print({'tensorflow', 'seqio'} & set(sys.modules))"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout == "set()\n"
