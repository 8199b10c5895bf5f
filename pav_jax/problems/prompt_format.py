"""How a problem becomes a prompt, with or without solved ones before it."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_PLACEHOLDER = re.compile(r"\{(problem|solution|answer)\}")


class Record(NamedTuple):
  """A problem of a data set.

  Attributes:
    key: names it; no two problems of the data set share it.
    problem: text.
    solution: text of a worked solution, which gives the answer.
    answer: the final answer that is right.
  """

  key: str
  problem: str
  solution: str
  answer: str


@dataclasses.dataclass(frozen=True)
class PromptFormat:
  r"""The texts of prompts and responses.

  With `num_shots` k a prompt begins with k problems of the train split, each
  with its solution; a response then ends where it begins another problem.

  Attributes:
    question: of a prompt; `{problem}` stands for the problem's text.
    response: of a demonstration; may have `{solution}` and `{answer}`, so that
      `"{solution}\n\n# Answer\n\n{answer}"` asks for final answers as PRM800K
      has them.
    num_shots: k.
    separator: stands between one solution and the next problem.
    seed: draws the k problems.

  Raises:
    ValueError: if a placeholder is missing, k is negative, or there are shots
      and nothing before a problem shows that another one begins.
  """

  question: str = "Problem:\n{problem}\n\nSolution:\n"
  response: str = "{solution}"
  num_shots: int = 0
  separator: str = "\n\n"
  seed: int = 0

  def __post_init__(self):
    if "{problem}" not in self.question:
      raise ValueError(
        f"question is {self.question!r}, expected {{problem}} in it"
      )
    if "{solution}" not in self.response and "{answer}" not in self.response:
      raise ValueError(
        f"response is {self.response!r}, expected {{solution}} or {{answer}} "
        "in it"
      )
    if self.num_shots < 0:
      raise ValueError(f"num_shots is {self.num_shots}, expected >= 0")
    if self.num_shots and not self._head:
      raise ValueError(
        f"question is {self.question!r}, expected text before {{problem}}, by "
        "which the end of a response is known after shots"
      )

  @property
  def _head(self) -> str:
    return self.question.split("{problem}")[0]

  @property
  def stop(self) -> str | None:
    """Ends a response as an end token would; None without shots."""
    return self.separator + self._head if self.num_shots else None

  def shots(self, train: Sequence[Record]) -> tuple[Record, ...]:
    """k + 1 problems for prompts, of which a problem skips itself or the last.

    Raises:
      ValueError: if there are too few.
    """
    if not self.num_shots:
      return ()
    if len(train) <= self.num_shots:
      raise ValueError(
        f"num_shots is {self.num_shots} and train has {len(train)} problems, "
        "expected more problems than shots"
      )
    order = np.random.default_rng(self.seed).permutation(len(train))
    return tuple(train[i] for i in order[: self.num_shots + 1])

  def prompt(self, record: Record, shots: Sequence[Record] = ()) -> str:
    """The prompt of a problem; `shots` are from `shots`."""
    others = [shot for shot in shots if shot.key != record.key]
    parts = [
      self._question(shot) + self.target(shot) + self.separator
      for shot in others[: self.num_shots]
    ]
    return "".join([*parts, self._question(record)])

  def frame(self, shots: Sequence[Record] = ()) -> tuple[str, str]:
    """What stands before and behind the text of a problem that is no shot."""
    head, tail = self.question.split("{problem}", 1)
    solved = self.prompt(Record("", "", "", ""), shots)
    return solved.removesuffix(head + tail) + head, tail

  def problem(self, prompt: str) -> str:
    """The text of the problem that `prompt` has made a prompt of.

    Raises:
      ValueError: if the text is no such prompt.
    """
    head, tail = self.question.split("{problem}", 1)
    begin = prompt.rfind(self.separator + head) if self.num_shots else 0
    begin += len(self.separator) * bool(self.num_shots)
    rest = prompt[begin:]
    if begin < 0 or not (rest.startswith(head) and rest.endswith(tail)):
      raise ValueError(
        f"a prompt is {prompt!r:.80}, expected one of the form "
        f"{self.question!r}"
      )
    return rest[len(head) : len(rest) - len(tail)]

  def target(self, record: Record) -> str:
    """The response of a demonstration."""
    return _filled(self.response, record)

  def _question(self, record: Record) -> str:
    return _filled(self.question, record)


def chat_prompt(
  tokenizer: Any,
  *,
  user: str = "{problem}",
  system: str | None = None,
  response: str = "{solution}",
  **variables: Any,
) -> PromptFormat:
  """Prompts as the chats that a model was trained on, by its own template.

  Args:
    tokenizer: with a chat template, see `models.tokenizer.Tokenizer.chat`.
    user: what the user says; `{problem}` stands for the problem's text.
    system: what the system says; None for the template's own, if it has one.
    response: see `PromptFormat`.
    **variables: of the template, as enable_thinking.

  Raises:
    ValueError: if there is no template, or `{problem}` is not in `user`.
  """
  messages = [{"role": "user", "content": user}]
  if system is not None:
    messages = [{"role": "system", "content": system}, *messages]
  question = tokenizer.chat(messages, **variables)
  if tokenizer.bos_id is not None:  # which every prompt begins with
    begin = tokenizer.token_text(tokenizer.bos_id)
    question = question.removeprefix(begin)
  return PromptFormat(question=question, response=response)


def _filled(template: str, record: Record) -> str:
  """Texts may hold braces, and even what looks like a placeholder."""
  return _PLACEHOLDER.sub(lambda name: getattr(record, name[1]), template)
