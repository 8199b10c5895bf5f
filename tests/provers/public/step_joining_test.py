import pytest

from pav_jax.provers.public import step_joining
from pav_jax.provers.public.step_joining import (
  PURE,
  SKYWORK,
  ChatAnswer,
  ChatSteps,
  SeparatedSteps,
  TaggedSteps,
  TurnSteps,
)
from pav_jax.testing.byte_tokens import ByteTokens

CHAT = ("<|im_start|>", "<|im_end|>", "<extra_0>")
TURNS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# ".\n" and ".\n\n" are a token each, as in the vocabularies of Qwen and Llama.
MERGED = (".\n", ".\n\n", "\n\n")
TOKENS = ByteTokens((*CHAT, *TURNS, *MERGED, "+", "ки"))
LLAMA = ByteTokens(TOKENS.texts, bos_id=2)
PROBLEM, STEPS = "1+1?", ["One and one.", "So 2."]
QWEN_SYSTEM = (
  "Please reason step by step, and put your final answer within \\boxed{}."
)
LLAMA_SYSTEM = (
  "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
)


def ids(*texts):
  """Texts that are encoded one by one."""
  return [token for text in texts for token in TOKENS.encode(text)]


def ends(*parts):
  """The index of the last token of every second of some parts."""
  total, out = 0, []
  for number, part in enumerate(parts):
    total += len(ids(*part))
    out += [total - 1] if number % 2 else []
  return out


def test_trl_puts_together_what_it_encodes_one_by_one():
  # PRMTrainer.tokenize_row: prompt, then each completion and the separator.
  joined = SeparatedSteps()(LLAMA, PROBLEM, STEPS)
  parts = ["1+1?", "One and one.", "\n", "So 2.", "\n"]
  assert joined.tokens == [2, *ids(*parts)]
  # The full stop has not merged with the newline.
  assert TOKENS.encode(".\n")[0] not in joined.tokens
  marks = ends(parts[:2], parts[2:3], parts[3:4], parts[4:])
  assert joined.marks == [mark + 1 for mark in marks]
  assert joined.begin == 1 + len(ids("1+1?"))


def test_process_bench_encodes_steps_with_their_newlines():
  # Its run_eval_prm_trl.py: the problem and each step with "\n" behind it.
  joined = SeparatedSteps("\n", prompt_end="\n", jointly=True)(
    TOKENS, PROBLEM, STEPS
  )
  parts = ["1+1?\n", "One and one.\n", "So 2.\n"]
  assert joined.tokens == ids(*parts)
  assert [joined.tokens[mark] for mark in joined.marks] == ids(".\n", ".\n")


def test_pure_and_skywork_have_separators_of_their_own():
  joined = PURE(TOKENS, PROBLEM, STEPS)
  assert joined.tokens == ids("1+1?", STEPS[0], "\n\n", STEPS[1], "\n\n")
  assert [joined.tokens[mark] for mark in joined.marks] == ids("\n\n", "\n\n")
  # skywork-o1-prm-inference: bos + problem + "\n", then step and "\n" each.
  joined = SKYWORK(LLAMA, PROBLEM, STEPS)
  assert joined.tokens == [2, *ids("1+1?\n", STEPS[0], "\n", STEPS[1], "\n")]
  assert [joined.tokens[mark] for mark in joined.marks] == ids("\n", "\n")


def test_qwen_marks_each_step_in_one_turn_of_the_chat():
  joined = ChatSteps()(TOKENS, PROBLEM, STEPS)
  assert joined.tokens == ids(
    f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n"
    "<|im_start|>user\n1+1?<|im_end|>\n"
    "<|im_start|>assistant\nOne and one.<extra_0>So 2.<extra_0><|im_end|>\n"
  )
  mark = TOKENS.encode("<extra_0>")[0]
  assert joined.marks == [
    i for i, token in enumerate(joined.tokens) if token == mark
  ]
  assert joined.tokens[joined.begin :][:3] == ids("One")
  # A text that has the mark in it is not scored there.
  marked = ChatSteps()(TOKENS, "<extra_0>?", STEPS)
  assert len(marked.marks) == 2 and marked.tokens.count(mark) == 3


def test_math_shepherd_encodes_the_whole_and_reads_at_the_tag():
  joined = TaggedSteps()(LLAMA, PROBLEM, STEPS)
  assert joined.tokens == [2, *ids("1+1? One and one. ки\nSo 2. ки")]
  assert [joined.tokens[mark] for mark in joined.marks] == ids("ки", "ки")
  numbered = TaggedSteps(numbered=True)(LLAMA, PROBLEM, ["Step 1: a", "b"])
  assert numbered.tokens == [2, *ids("1+1? Step 1: a ки\nStep 2: b ки")]
  with pytest.raises(ValueError, match="stands 3 times in a sequence of 2"):
    TaggedSteps()(LLAMA, "ки?", STEPS)


def test_rlhflow_asks_for_each_step_and_marks_the_answer():
  joined = TurnSteps()(LLAMA, PROBLEM, [f" {STEPS[0]}", f"{STEPS[1]}\n"])

  def turn(role, text):
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"

  # Its template trims what turns say; a step's first turn has the problem too.
  text = (
    turn("system", LLAMA_SYSTEM)
    + turn("user", "1+1?  One and one.")
    + turn("assistant", "+")
    + turn("user", "So 2.")
    + turn("assistant", "+")
  )
  assert joined.tokens == [2, *ids(text)]
  assert [joined.tokens[mark] for mark in joined.marks] == ids("+", "+")
  # It is predicted by the blank line behind the header, as PRMBench reads it.
  assert [joined.tokens[mark - 1] for mark in joined.marks] == ids("\n\n") * 2
  assert [joined.tokens[mark + 1] for mark in joined.marks] == (
    ids("<|eot_id|>") * 2
  )


def test_eurus_encodes_steps_with_the_blank_lines_between():
  joined = ChatAnswer(system="")(TOKENS, PROBLEM, STEPS)
  head = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
  assert joined.tokens == ids(head, "One and one.\n\n", "So 2.\n\n")
  assert [joined.tokens[mark] for mark in joined.marks] == ids(".\n\n") * 2
  assert joined.begin == len(ids(head))


@pytest.mark.parametrize(
  "joining",
  [
    SeparatedSteps(),
    SeparatedSteps(jointly=True),
    ChatSteps(),
    TaggedSteps(),
    TurnSteps(),
    ChatAnswer(),
  ],
)
def test_what_stands_up_to_a_mark_does_not_depend_on_what_follows(joining):
  whole = joining(LLAMA, PROBLEM, STEPS)
  part = joining(LLAMA, PROBLEM, STEPS[:1])
  stop = whole.marks[0] + 1
  assert part.marks == whole.marks[:1] and part.begin == whole.begin
  assert part.tokens[:stop] == whole.tokens[:stop]


@pytest.mark.parametrize(
  "joining, message",
  [
    (ChatSteps(), "'<extra_0>' is encoded as .* expected a single token"),
    (TurnSteps(), "'<|eot_id|>' is encoded as"),
    (ChatAnswer(), "'<|im_start|>' is encoded as"),
    (SeparatedSteps(""), "'' has no token, expected at least one"),
  ],
)
def test_a_tokenizer_of_another_model_is_refused(joining, message):
  with pytest.raises(ValueError, match=message.replace("|", r"\|")):
    joining(ByteTokens(), PROBLEM, STEPS)


def test_joinings_have_names_by_which_runs_tell_them_apart():
  assert repr(PURE) != repr(SKYWORK) != repr(SeparatedSteps())
  assert "SeparatedSteps" in repr(step_joining.PURE)
