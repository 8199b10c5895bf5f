r"""How the authors of a reward model join a problem and steps.

A joining is `(tokenizer, problem, steps) -> Joined`. Texts of steps come from
where they were sampled, without what ends them, and are never found again in a
joined text. Models were trained on one way of joining, and another costs: of a
published model the F1 on ProcessBench moved from 56 to 60.

| joining | of | sequence, marks in brackets |
|---|---|---|
| `SeparatedSteps` | TRL, PURE, Skywork | `problem step[\n]step[\n]` |
| `ChatSteps` | Qwen2.5-Math-PRM | chat; `step[<extra_0>]step[<extra_0>]` |
| `TaggedSteps` | Math-Shepherd | `problem step [ки]\nstep [ки]` |
| `TurnSteps` | RLHFlow | chat; each step asked, and answered by `[+]` |
| `ChatAnswer` | EurusPRM | chat; `step[\n\n]step[\n\n]` |

In all of them what stands up to a mark does not depend on what follows, so that
a step has one score however the response goes on.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class EncodesText(Protocol):
  """What a joining needs of a tokenizer; `bos_id` is looked for too."""

  def encode(self, text: str) -> list[int]:
    """The ids of a text, in which names of special tokens are these tokens.

    Nothing is put before it or behind it.
    """
    ...


class Joined(NamedTuple):
  """A sequence that a reward model reads.

  Attributes:
    tokens: all of it.
    marks: index of the token of each step at which it is marked, in order.
    begin: index of the first token of the first step.
  """

  tokens: list[int]
  marks: list[int]
  begin: int


@runtime_checkable
class Joining(Protocol):
  """A way of joining; a frozen dataclass, so that it has a name and `repr`."""

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """Joins a problem's text and those of one or more steps, none empty.

    Raises:
      ValueError: if the tokenizer does not have a token that is needed.
    """
    ...


@dataclasses.dataclass(frozen=True)
class SeparatedSteps:
  r"""Steps with a separator after each, the last one too; marked at its end.

  TRL's `PRMTrainer` puts the beginning token, where the tokenizer has one, and
  the problem, the steps and the separators together, each encoded by itself.
  PURE's models want "\n\n" for a separator. Skywork's prompt ends with "\n"
  (`SKYWORK`). ProcessBench's script for TRL's models wants `prompt_end="\n"`
  and `jointly`.

  Attributes:
    separator: that a model was trained with: TRL's `step_separator`.
    prompt_end: text after the problem, encoded with it.
    jointly: whether a step is encoded with its separator and not by itself.
  """

  separator: str = "\n"
  prompt_end: str = ""
  jointly: bool = False

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """See `Joining`."""
    end = _encoded(tokenizer, self.separator)
    prompt = _beginning(tokenizer) + _ids(tokenizer, problem + self.prompt_end)
    if self.jointly:
      parts = [_ids(tokenizer, step + self.separator) for step in steps]
    else:
      parts = [_ids(tokenizer, step) + end for step in steps]
    return _behind(prompt, parts)


PURE = SeparatedSteps("\n\n")
SKYWORK = SeparatedSteps("\n", prompt_end="\n")

_QWEN_SYSTEM = (
  "Please reason step by step, and put your final answer within \\boxed{}."
)


def _chat(system: str, problem: str) -> str:
  """A chat in Qwen's form, up to where the assistant begins to speak."""
  head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
  return f"{head}<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"


@dataclasses.dataclass(frozen=True)
class ChatSteps:
  """A chat in which the assistant gives all steps, a special token after each.

  Attributes:
    system: the system prompt; "" for none.
    mark: the special token.
  """

  system: str = _QWEN_SYSTEM
  mark: str = "<extra_0>"

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """See `Joining`."""
    mark, head = _special(tokenizer, self.mark), _chat(self.system, problem)
    tokens, marks = [], []
    # As the authors encode it: what stands between special tokens at once.
    for text in (head + steps[0], *steps[1:]):
      tokens += [*_ids(tokenizer, text), mark]
      marks.append(len(tokens) - 1)
    tokens += _ids(tokenizer, "<|im_end|>\n")
    return Joined(tokens, marks, len(_ids(tokenizer, head)))


@dataclasses.dataclass(frozen=True)
class TaggedSteps:
  r"""The problem, a space, and steps that each end with a tag and a newline.

  The whole is encoded at once, as the authors do, who count on the tag being a
  token of its own.

  Attributes:
    tag: of the end of a step.
    numbered: whether "Step 1: " and so on is put before steps that do not begin
      with "Step", as the steps did that the model was trained on.
  """

  tag: str = "ки"
  numbered: bool = False

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """See `Joining`.

    Raises:
      ValueError: if a text has the tag in it, or the tokenizer another token
        for it within a text.
    """
    tag = _encoded(tokenizer, self.tag)[-1]
    if self.numbered:
      steps = [
        step if step.lower().startswith("step") else f"Step {i}: {step}"
        for i, step in enumerate(steps, 1)
      ]
    prompt = _beginning(tokenizer) + _ids(tokenizer, f"{problem} ")
    text = "\n".join(f"{step} {self.tag}" for step in steps)
    tokens = _beginning(tokenizer) + _ids(tokenizer, f"{problem} {text}")
    marks = [i for i, token in enumerate(tokens) if token == tag]
    if len(marks) != len(steps):
      raise ValueError(
        f"the token {tag} of the tag {self.tag!r} stands {len(marks)} times in "
        f"a sequence of {len(steps)} steps, expected once after each: no text "
        "may have it, and the tokenizer has to be the model's"
      )
    return Joined(tokens, marks, len(prompt))


@dataclasses.dataclass(frozen=True)
class TurnSteps:
  r"""A chat of Llama 3.1 in which each step is a user's turn, answered by "+".

  The first turn is the problem, a space and the first step. Marked is the
  answer; a score is read where it is predicted, one token before.

  Attributes:
    system: what the chat template of Llama 3.1 says by itself; "" for none.
    answer: of the assistant, a single token.
  """

  system: str = (
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
  )
  answer: str = "+"

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """See `Joining`."""
    answer = _special(tokenizer, self.answer)
    end = "<|eot_id|>"

    def header(role):
      return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    head = f"{header('system')}{self.system}{end}" if self.system else ""
    tokens = _beginning(tokenizer) + _ids(tokenizer, head)
    begin, marks = len(tokens), []
    for text in (f"{problem} {steps[0]}", *steps[1:]):
      asked = f"{header('user')}{text.strip()}{end}{header('assistant')}"
      tokens += _ids(tokenizer, asked)
      marks.append(len(tokens))
      tokens += [answer, _special(tokenizer, end)]
    return Joined(tokens, marks, begin)


@dataclasses.dataclass(frozen=True)
class ChatAnswer:
  r"""A chat in which the assistant gives all steps, a separator after each.

  Each step is encoded with its separator. So is the last one, which EurusPRM's
  authors end with the end of the turn instead: here a step's score may not
  depend on whether another follows.

  Attributes:
    system: the system prompt; "" for none.
    separator: of steps.
  """

  system: str = _QWEN_SYSTEM
  separator: str = "\n\n"

  def __call__(
    self, tokenizer: EncodesText, problem: str, steps: Sequence[str]
  ) -> Joined:
    """See `Joining`."""
    _special(tokenizer, "<|im_start|>")
    prompt = _ids(tokenizer, _chat(self.system, problem))
    return _behind(
      prompt, (_ids(tokenizer, step + self.separator) for step in steps)
    )


def _behind(prompt: list[int], parts: Iterable[list[int]]) -> Joined:
  """Steps behind a prompt, each marked at its last token."""
  tokens, marks = list(prompt), []
  for part in parts:
    tokens += part
    marks.append(len(tokens) - 1)
  return Joined(tokens, marks, len(prompt))


def _ids(tokenizer: EncodesText, text: str) -> list[int]:
  return [int(token) for token in tokenizer.encode(text)] if text else []


def _beginning(tokenizer: EncodesText) -> list[int]:
  bos = getattr(tokenizer, "bos_id", None)
  return [] if bos is None else [int(bos)]


def _encoded(tokenizer: EncodesText, text: str) -> list[int]:
  """The tokens of a text, at least one."""
  ids = _ids(tokenizer, text)
  if not ids:
    raise ValueError(f"{text!r} has no token, expected at least one")
  return ids


def _special(tokenizer: EncodesText, text: str) -> int:
  """The one token of a text."""
  ids = _ids(tokenizer, text)
  if len(ids) != 1:
    raise ValueError(
      f"{text!r} is encoded as {ids}, expected a single token: the tokenizer "
      "has to be the reward model's"
    )
  return ids[0]
