"""A verifier that reads words: ours, or a public reward model."""

import abc
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from pav_jax.api import beside
from pav_jax.api.answers import (
  Answer,
  Scored,
  Trace,
  listed,
  scored,
  without_delimiter,
)
from pav_jax.data import step_labels
from pav_jax.models import hf, sources
from pav_jax.problems.text_format import TextFormat
from pav_jax.problems.vocabulary import TextTokens
from pav_jax.provers import base, public, verifier
from pav_jax.provers.base import Prover
from pav_jax.provers.public import reencoding, score_meanings
from pav_jax.provers.public.reencoding import PublicReader, Reencoded, room_for
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import Rollout

# What can be scored: an answer, or a question and the steps of a response.
Scorable = Answer | tuple[str, str | Sequence[str]]


class _Asked(NamedTuple):
  """A response in words, and in tokens if a policy wrote it."""

  question: str
  steps: tuple[str, ...]
  is_whole: bool
  answer: Answer | None = None

  @property
  def trace(self) -> Trace | None:
    return None if self.answer is None else self.answer.trace


class TextVerifier(abc.ABC):
  """Values of the steps of responses.

  Attributes:
    name: of its checkpoint.
  """

  name: str
  delimiter: str

  @abc.abstractmethod
  def prover(self, text_format: TextFormat) -> Prover:
    """The same values, of rollouts of a policy that reads texts so.

    Raises:
      ValueError: if it cannot read the policy's tokens.
    """

  @abc.abstractmethod
  def _values(self, asked: Sequence[_Asked]) -> list[np.ndarray]:
    """Values [H + 1] of each response."""

  @overload
  def score(self, answer: Scorable, *, is_whole: bool = True) -> Scored: ...

  @overload
  def score(
    self, answer: list[Scorable], *, is_whole: bool = True
  ) -> list[Scored]: ...

  def score(self, answer, *, is_whole=True):
    r"""Values of the question and after each step.

    Args:
      answer: from a policy; or `(question, steps)` with a list of steps or a
        text, which ends a step at each delimiter ("\n", mostly); or a list of
        either.
      is_whole: whether a response that was brought as text ends with its last
        step; False for the beginning of one. A policy's answers say it.

    Returns:
      A `Scored`; for a list of answers a list.

    Raises:
      ValueError: for something else, a response without steps, or one that is
        too long for the verifier.
    """
    many, alone = listed(answer)
    asked = [self._asked(one, is_whole) for one in many]
    out = [
      scored(one.question, one.steps, q, one.answer)
      for one, q in zip(asked, self._values(asked), strict=True)
    ]
    return out[0] if alone else out

  def _asked(self, one: Any, is_whole: bool) -> _Asked:
    if isinstance(one, Answer):
      return _Asked(one.question, one.steps, one.ended, one)
    pair = isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)
    if not pair:
      raise ValueError(
        f"answer is {one!r:.80}, expected an Answer or (question, steps)"
      )
    question, steps = one
    if isinstance(steps, str):
      steps = steps.split(self.delimiter)
    texts = [without_delimiter(step, self.delimiter) for step in steps]
    texts = [text for text in texts if text]
    if not texts:
      raise ValueError(f"the response to {question!r:.60} has no steps")
    return _Asked(question, tuple(texts), is_whole)


@dataclasses.dataclass(frozen=True, repr=False)
class TokenVerifier(TextVerifier):
  """A verifier that one of our runs wrote; it reads a policy's own tokens.

  Attributes:
    name: of its checkpoint.
    network: the prover.
    text_format: what it was trained on.
  """

  name: str
  network: Verifier
  text_format: TextFormat

  @property
  def delimiter(self) -> str:
    """Ends a step."""
    return self.text_format.delimiter

  def __repr__(self) -> str:
    trunk = self.network.config.trunk
    return (
      f"TokenVerifier({self.name!r}, {trunk.family}, {trunk.num_layers} layers "
      f"of width {trunk.width}, up to {trunk.max_length} tokens)"
    )

  def prover(self, text_format: TextFormat) -> Prover:
    """See `TextVerifier`."""
    if text_format.fingerprint != self.text_format.fingerprint:
      raise ValueError(
        f"the verifier {self.name} reads other tokens or steps than the policy "
        "writes, expected one that was trained on this policy's; it can score "
        "finished texts"
      )
    return self.network

  def _values(self, asked: Sequence[_Asked]) -> list[np.ndarray]:
    rows = [self._tokens(one) for one in asked]
    length = max(len(tokens) for tokens, _ in rows)
    most = self.network.config.trunk.max_length
    if length > most:
      raise ValueError(
        f"a question and its response have {length} tokens, expected at most "
        f"{most}, the verifier's longest"
      )
    height = room_for(len(rows), least=1)
    width = min(room_for(length), most)
    depth = room_for(max(len(ends) for _, ends in rows), least=4)
    tokens = np.full(
      (height, width), self.text_format.vocabulary.pad_id, np.int32
    )
    prefix_len = np.ones((height, depth), np.int32)
    for row, (ids, ends) in enumerate(rows):
      tokens[row, : len(ids)] = ids
      prefix_len[row] = [*ends, *[ends[-1]] * (depth - len(ends))]
    number = np.arange(height, dtype=np.int32)
    rollout = Rollout(
      tokens=tokens,
      logp=np.zeros(tokens.shape, np.float32),
      prefix_len=prefix_len,
      outcome=np.full(height, math.nan, np.float32),
      problem_id=number,
      sample_id=number,
    )
    q = np.asarray(base.values(self.network, None, rollout))
    return [of[: len(ends)] for of, (_, ends) in zip(q, rows, strict=False)]

  def _tokens(self, one: _Asked) -> tuple[Sequence[int], Sequence[int]]:
    """Tokens, and where the question and each step end."""
    trace = one.trace
    if trace and trace.fingerprint == self.text_format.fingerprint:
      return trace.tokens, trace.prefix_len
    written = step_labels.Trace(
      prompt=one.question,
      steps=one.steps,
      labels=[None] * len(one.steps),
      is_whole=one.is_whole,
      where=f"the response to {one.question!r:.40}",
    )
    tokens, ends = step_labels.tokenize([written], self.text_format)
    return tokens[0].tolist(), ends[0].tolist()


@dataclasses.dataclass(frozen=True, repr=False)
class PublicVerifier(TextVerifier):
  """Somebody else's process reward model, which reads words as its authors do.

  Attributes:
    name: of its checkpoint.
    reader: of the model.
    rule: how scores become values, see `provers.public.score_meanings`.
    delimiter: ends a step of a response that is brought as one text.
    rows_per_call: sequences read at a time.
  """

  name: str
  reader: PublicReader
  rule: str
  delimiter: str = "\n"
  rows_per_call: int = 64

  def __repr__(self) -> str:
    return (
      f"PublicVerifier({self.name!r}, {type(self.reader.joining).__name__}, "
      f"scores of {self.reader.meaning}, rule {self.rule!r})"
    )

  def prover(self, text_format: TextFormat) -> Prover:
    """See `TextVerifier`."""
    return self.reader.prover(
      text_format, rule=self.rule, rows_per_call=self.rows_per_call
    )

  def _values(self, asked: Sequence[_Asked]) -> list[np.ndarray]:
    start = score_meanings.checked_start(self.reader.meaning, None)
    reads = Reencoded(
      self.reader,
      None,
      self.reader.tokenizer,
      self.reader.joining,
      self.rule,
      start,
      self.rows_per_call,
    )
    depth = max(len(one.steps) for one in asked)
    scores = reads.text_scores(
      [one.question for one in asked], [one.steps for one in asked], depth
    )
    q = score_meanings.prefix_values(scores, self.rule, start)
    return [of[: len(one.steps) + 1] for of, one in zip(q, asked, strict=True)]


def load_verifier(
  path: str | os.PathLike,
  *,
  tokenizer: TextTokens | str | os.PathLike | None = None,
  prompt: str | None = None,
  delimiter: str | None = None,
  rule: score_meanings.Rule | None = None,
  dtype: str | None = None,
  **options: Any,
) -> TextVerifier:
  """Reads a verifier of ours, or a public process reward model.

  Args:
    path: a folder in Hugging Face's format, or a name on the hub.
    tokenizer: of the model, or its path; None for what is beside it.
    prompt: of a verifier of ours, a template with `{problem}`; None for what is
      said beside it.
    delimiter: ends a step; None for what is said beside it, else a newline.
    rule: of a public model: how scores of steps become values of prefixes,
      "product", "minimum" or "last"; None where one rule alone fits.
    dtype: of computation, as "bfloat16"; None for that of the files.
    **options: of `provers.public.load`: `format`, `good`, `bad`, `joining`, …

  Raises:
    ValueError: naming what neither is beside the checkpoint nor was given, or
      the field, tensor or file that is not as expected.
  """
  where, name = sources.resolve(path), os.fspath(path)
  read = {"tokenizer": tokenizer, "prompt": prompt, "delimiter": delimiter}
  if (where / verifier.REST).exists():
    text_format = beside.read_format(where, hf.read_side(where), **read)
    network = verifier.load(
      where, fingerprint=text_format.fingerprint, dtype=dtype, **options
    )
    return TokenVerifier(name, network, text_format)
  if isinstance(tokenizer, str | os.PathLike):
    tokenizer = public.ModelTokenizer(os.fspath(tokenizer))
  reader = public.load(where, tokenizer=tokenizer, dtype=dtype, **options)
  if reader.joining == reencoding.AS_SAMPLED:
    text_format = beside.read_format(where, hf.read_side(where), **read)
    return TokenVerifier(name, reader.as_verifier(), text_format)
  if reader.tokenizer is None:
    raise ValueError(
      f"{name} has no tokenizer.json beside it, expected tokenizer= a path or "
      "an object with encode"
    )
  rule = score_meanings.checked_rule(reader.meaning, rule)
  return PublicVerifier(name, reader, rule, delimiter or "\n")
