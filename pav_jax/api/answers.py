"""Responses as texts, the values of their steps, and how these are shown."""

import dataclasses
import hashlib
import html
import importlib
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax.problems.text_format import TextFormat
from pav_jax.rollout import Rollout

_One = TypeVar("_One")


class Trace(NamedTuple):
  """A response in tokens.

  Attributes:
    fingerprint: of tokenizer and delimiter.
    tokens: of prompt and response.
    prefix_len: tokens of the prompt, and of it and the first h steps.
  """

  fingerprint: str
  tokens: tuple[int, ...]
  prefix_len: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Answer:
  """A response to a question.

  Attributes:
    question: what was asked.
    text: the response, without the token that ends it.
    steps: texts of its steps, without what ends them.
    step_tokens: how many tokens each step has, with what ends it.
    ended: whether it ended by itself; otherwise the length limit cut it off.
    logp: its log-probability under the policy that wrote it, in nats.
    trace: its tokens.
  """

  question: str
  text: str
  steps: tuple[str, ...]
  step_tokens: tuple[int, ...]
  ended: bool
  logp: float
  trace: Trace | None = dataclasses.field(default=None, compare=False)

  @property
  def num_tokens(self) -> int:
    """Tokens of the response."""
    return sum(self.step_tokens)

  def __str__(self) -> str:
    return self.text

  def __repr__(self) -> str:
    cut = "" if self.ended else ", cut off"
    return (
      f"Answer({_short(self.text)}, {len(self.steps)} steps, "
      f"{self.num_tokens} tokens{cut})"
    )


@dataclasses.dataclass(frozen=True)
class ScoredStep:
  """A step and what it was worth.

  Attributes:
    text: of the step.
    value: probability in [0, 1] that the response ends right, after the step.
    progress: the value less that before the step, in [−1, 1].
  """

  text: str
  value: float
  progress: float

  def __repr__(self) -> str:
    return (
      f"ScoredStep({_short(self.text)}, value {self.value:.2f}, "
      f"progress {self.progress:+.2f})"
    )


@dataclasses.dataclass(frozen=True)
class Scored:
  """A response whose steps have values.

  Attributes:
    question: what was asked.
    start: value of the bare question.
    steps: of the response.
    answer: the response, if a policy wrote it; None for a text from elsewhere.
  """

  question: str
  start: float
  steps: tuple[ScoredStep, ...]
  answer: Answer | None = None

  @property
  def value(self) -> float:
    """After the last step; the bare question's without steps."""
    return self.steps[-1].value if self.steps else self.start

  @property
  def text(self) -> str:
    """The response."""
    if self.answer is not None:
      return self.answer.text
    return "\n".join(step.text for step in self.steps)

  def show(self) -> None:
    """Prints question, steps and values; in a notebook a table is displayed."""
    show(self)

  def __str__(self) -> str:
    rows = [f"{self.start:5.2f}            (the question)"]
    rows += [
      f"{step.value:5.2f}     {step.progress:+5.2f}  {_indented(step.text)}"
      for step in self.steps
    ]
    return "\n".join([self.question.strip(), "", "value  progress", *rows])

  def __repr__(self) -> str:
    return (
      f"Scored({_short(self.text)}, {len(self.steps)} steps, "
      f"value {self.value:.2f})"
    )

  def _repr_html_(self) -> str:
    rows = [("", self.start, None)]
    rows += [(step.text, step.value, step.progress) for step in self.steps]
    cells = "".join(
      f'<tr style="background:{_colour(value)}">'
      f'<td style="text-align:left;white-space:pre-wrap">'
      f"{html.escape(text) or '<i>the question</i>'}</td>"
      f"<td>{value:.2f}</td>"
      f"<td>{'' if progress is None else f'{progress:+.2f}'}</td></tr>"
      for text, value, progress in rows
    )
    return (
      f"<p><b>{html.escape(self.question)}</b></p><table><tr>"
      f"<th>step</th><th>value</th><th>progress</th></tr>{cells}</table>"
    )


def scored(
  question: str,
  steps: Sequence[str],
  q: Sequence[float] | Float[np.ndarray, "P"],
  answer: Answer | None = None,
) -> Scored:
  """Steps with their values.

  Args:
    question: what was asked.
    steps: H texts.
    q: values of the question and after each step, H + 1.
    answer: whose steps they are.
  """
  q = [float(x) for x in q]
  return Scored(
    question,
    q[0],
    tuple(
      ScoredStep(text, after, after - before)
      for text, (before, after) in zip(
        steps, itertools.pairwise(q), strict=True
      )
    ),
    answer,
  )


def answers(
  text_format: TextFormat,
  rollout: Rollout,
  ended: Bool[np.ndarray, "B"],
  questions: Sequence[str],
) -> list[Answer]:
  """The rows of a rollout as texts.

  Args:
    text_format: of the policy.
    rollout: B responses.
    ended: which ended by themselves.
    questions: of each row.
  """
  rollout = jax.tree.map(np.asarray, rollout)
  return [
    _answer(text_format, row, bool(is_whole), question)
    for row, is_whole, question in zip(
      zip(rollout.tokens, rollout.logp, rollout.prefix_len, strict=True),
      ended,
      questions,
      strict=True,
    )
  ]


def _answer(text_format, row, ended: bool, question: str) -> Answer:
  tokens, logp, prefix_len = row
  vocabulary, stop = text_format.vocabulary, text_format.frame.stop
  ends = [int(prefix_len[0])]
  ends += [int(x) for x in np.unique(prefix_len) if x > prefix_len[0]]
  text = _written(vocabulary, tokens[ends[0] : ends[-1]])
  if stop is not None and stop in text:  # it goes on to another problem
    text, ended, length = text.split(stop)[0], True, ends[0]
    while len(_decoded(vocabulary, tokens[ends[0] : length])) < len(text):
      length += 1
    ends = [x for x in ends if x < length] + [length]
  steps = [
    _written(vocabulary, tokens[a:b]) for a, b in itertools.pairwise(ends)
  ]
  return Answer(
    question=question,
    text=text,
    steps=tuple(
      without_delimiter(step, text_format.delimiter) for step in steps
    ),
    step_tokens=tuple(b - a for a, b in itertools.pairwise(ends)),
    ended=ended,
    logp=float(logp[ends[0] : ends[-1]].sum()),
    trace=Trace(
      text_format.fingerprint,
      tuple(tokens[: ends[-1]].tolist()),
      tuple(ends),
    ),
  )


def without_delimiter(step: str, delimiter: str) -> str:
  """A step's text without what ends it."""
  while step.endswith(delimiter):
    step = step.removesuffix(delimiter)
  return step


def _written(vocabulary: Any, ids: Int[np.ndarray, "T"]) -> str:
  """The text of ids, but for the token that ends a response."""
  ended = len(ids) > 0 and ids[-1] == vocabulary.eos_id
  return _decoded(vocabulary, ids[:-1] if ended else ids)


def _decoded(vocabulary: Any, ids: Int[np.ndarray, "T"]) -> str:
  """A text; of ids that are no token's there is their number."""
  try:
    return vocabulary.decode(ids.tolist())
  except ValueError:
    size = vocabulary.vocab_size
    return "".join(
      vocabulary.token_text(x) if x < size else f"<{x}>" for x in ids.tolist()
    )


def address(question: str) -> int:
  """The address of a question's randomness, in 0 … 2³¹ − 1.

  So an answer depends on the question and not on those beside it.
  """
  digest = hashlib.blake2b(question.encode(), digest_size=4).digest()
  return int.from_bytes(digest, "big") >> 1


def listed(one_or_many: _One | list[_One]) -> tuple[list[_One], bool]:
  """A list, and whether a single thing was given.

  Raises:
    ValueError: if the list is empty.
  """
  if not isinstance(one_or_many, list):
    return [one_or_many], True
  if not one_or_many:
    raise ValueError("the list is empty, expected at least one")
  return one_or_many, False


def show(thing: Any) -> None:
  """Displays it in a notebook, and prints it elsewhere."""
  shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
  if shell is not None and hasattr(shell, "kernel"):
    importlib.import_module("IPython.display").display(thing)
  else:
    print(thing)


def _short(text: str) -> str:
  return repr(text if len(text) <= 50 else text[:49] + "…")


def _indented(text: str) -> str:
  return text.replace("\n", "\n" + " " * 17)


def _colour(value: float) -> str:
  """From red over white to green."""
  hue = 0 if value < 0.5 else 120
  return f"hsla({hue}, 70%, 50%, {abs(value - 0.5):.2f})"
