"""A public reward model as a prover over the rollouts of a policy.

Steps are where the rollout says, in tokens of the policy. Each is decoded, and
joined with the others as the model's authors join them (`step_joining`); what
the model scores becomes values of prefixes by a named rule (`score_meanings`).
"""

import abc
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers import base
from pav_jax.provers.base import Prover
from pav_jax.provers.public import score_meanings
from pav_jax.provers.public.step_joining import (
  EncodesText,
  Joined,
  Joining,
)
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import Rollout

# The policy's own tokens, read as our verifiers read them.
AS_SAMPLED = "as_sampled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicReader(abc.ABC):
  """What reads a reward model: sequences and marks in, scores of steps out.

  Attributes:
    params: of its networks.
    joining: how its authors join a problem and steps, or `AS_SAMPLED`.
    tokenizer: of the model; None if there is none beside it.
    fingerprint: of the tokens and delimiter of a model that reads a policy's
      own, see `problems.vocabulary.fingerprint`; None where it is not known.
    layout: how the parameters lie on a mesh; None for one device.
    meaning: of its scores, see `score_meanings`.
  """

  params: Any
  joining: Joining | Literal["as_sampled"]
  tokenizer: EncodesText | None = None
  fingerprint: str | None = None
  layout: Layout | None = dataclasses.field(default=None, repr=False)

  @property
  @abc.abstractmethod
  def networks(self) -> tuple[VerifierConfig, ...]:
    """Shapes of networks that read every token once."""

  @abc.abstractmethod
  def scores(
    self,
    tokens: Int[np.ndarray, "B T"],
    mark: Int[np.ndarray, "B H"],
    begin: Int[np.ndarray, "B"] | None = None,
  ) -> Float[np.ndarray, "B H"]:
    """Scores of steps, float32; NaN where there is no step.

    Args:
      tokens: of the reward model, from the first one on.
      mark: index of the token at which each step is marked; −1 for no step.
      begin: index of the first token of the first step; some need it.
    """

  def with_params(self, params: Any, layout: Layout | None) -> "PublicReader":
    """See `provers.base.HasParams`."""
    return dataclasses.replace(self, params=params, layout=layout)

  def as_verifier(self) -> Verifier:
    """The same network as a verifier, which reads any token.

    Raises:
      ValueError: if it is none in form or meaning.
    """
    raise ValueError(
      f"joining is {AS_SAMPLED!r} and the scores are of the meaning "
      f"{self.meaning!r}, expected 'value'"
    )

  def prover(
    self,
    problem: Any,
    *,
    rule: score_meanings.Rule | None = None,
    start: score_meanings.Start | None = None,
    joining: Joining | Literal["as_sampled"] | None = None,
    tokenizer: EncodesText | None = None,
    rows_per_call: int = 64,
  ) -> Prover:
    """A prover over rollouts of a policy.

    Args:
      problem: of the policy: has `vocabulary`, `delimiter`, `decode_problem`
        and, for `AS_SAMPLED`, `fingerprint`.
      rule: how scores of steps become values of prefixes, see
        `score_meanings`; None where one rule alone goes with their meaning.
      start: the value of a bare problem, see `score_meanings.checked_start`;
        None for what goes with the meaning.
      joining: None for the reader's.
      tokenizer: of the reward model; None for the reader's. The policy's, where
        both have the same one: `problem.vocabulary`.
      rows_per_call: sequences read at a time; bounds memory.

    Raises:
      ValueError: if rule and meaning do not go together, there is no tokenizer,
        or the model reads a policy's own tokens, and not this problem's.
    """
    rule = score_meanings.checked_rule(self.meaning, rule)
    joining = self.joining if joining is None else joining
    if joining == AS_SAMPLED:
      if start not in (None, "read"):
        raise ValueError(
          f"start is {start!r} and joining {joining!r}, expected 'read': the "
          "model reads bare problems too"
        )
      if self.fingerprint != problem.fingerprint:
        raise ValueError(
          f"the model reads tokens with the fingerprint {self.fingerprint}, "
          f"expected {problem.fingerprint}, the problem's"
        )
      return self.as_verifier()
    start = score_meanings.checked_start(self.meaning, start)
    if start == "read":
      raise ValueError(
        f"start is 'read' and joining {joining}, which marks steps alone; "
        "expected 'one' or 'half'"
      )
    tokenizer = self.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None:
      raise ValueError(
        "tokenizer is None and there is none beside the model, expected the "
        "reward model's; problem.vocabulary if it is the policy's too"
      )
    if rows_per_call < 1:
      raise ValueError(f"rows_per_call is {rows_per_call}, expected >= 1")
    return Reencoded(
      self, problem, tokenizer, joining, rule, start, rows_per_call
    )


@dataclasses.dataclass(frozen=True)
class Reencoded(base.FixedProver):
  """A prover that reads rollouts in the words of another model.

  A step without text, as before an end token that follows a delimiter, is not
  shown to the model, and its prefix has the value of the one before. What the
  policy's vocabulary cannot write, padding that was sampled included, is worth
  0, and so is everything behind it.

  Attributes:
    reader: of the reward model.
    problem: of the policy.
    tokenizer: of the reward model.
    joining: how its authors join steps.
    rule: how scores become values.
    start: the value of a bare problem.
    rows_per_call: sequences read at a time.
  """

  reader: PublicReader
  problem: Any
  tokenizer: EncodesText
  joining: Joining
  rule: str
  start: str
  rows_per_call: int = 64

  @property
  def meaning(self) -> str:
    """Of the scores that its values are made of, see `score_meanings`."""
    return self.reader.meaning

  @property
  def params(self) -> Any:
    """The reader's, like all of `provers.base.HasParams`."""
    return self.reader.params

  @property
  def layout(self) -> Layout | None:
    """The reader's."""
    return self.reader.layout

  @property
  def networks(self) -> tuple[VerifierConfig, ...]:
    """The reader's; they read about as many tokens as the policy wrote."""
    return self.reader.networks

  def with_params(self, params: Any, layout: Layout | None) -> "Reencoded":
    """See `provers.base.HasParams`."""
    reader = self.reader.with_params(params, layout)
    return dataclasses.replace(self, reader=reader)

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[np.ndarray, "B P"]:
    """float32 values of all prefixes; the key is not looked at."""
    del key
    rollout = jax.tree.map(np.asarray, rollout)
    scores, worthless = self.step_scores(rollout)
    q = score_meanings.prefix_values(scores, self.rule, self.start)
    return np.where(worthless, np.float32(0), q)

  def step_scores(
    self, rollout: Rollout
  ) -> tuple[Float[np.ndarray, "B H"], np.ndarray]:
    """Scores of steps, as the model means them, and what has none.

    Args:
      rollout: of numpy arrays.

    Returns:
      float32 scores, NaN where there is no text to be scored; and bool[B, P],
      prefixes that the policy's vocabulary cannot write.
    """
    written = [
      _texts(self.problem, *row)
      for row in zip(rollout.tokens, rollout.prefix_len, strict=True)
    ]
    num_steps = rollout.prefix_len.shape[1] - 1
    worthless = np.zeros((len(written), num_steps + 1), bool)
    for row, (_, _, readable) in enumerate(written):
      worthless[row, readable + 1 :] = True
    scores = self.text_scores(
      [x.problem for x in written], [x.steps for x in written], num_steps
    )
    return scores, worthless

  def text_scores(
    self,
    problems: Sequence[str],
    steps: Sequence[Sequence[str]],
    num_steps: int,
  ) -> Float[np.ndarray, "B H"]:
    """Scores of the steps of texts.

    Args:
      problems: B texts.
      steps: of each problem's response, without what ends them; "" is not
        shown to the model.
      num_steps: H, room for steps.

    Returns:
      float32 scores, NaN where there is no text to be scored.
    """
    scores = np.full((len(problems), num_steps), np.nan, np.float32)
    rows = [row for row, texts in enumerate(steps) if any(texts)]
    sequences = [
      self.joining(
        self.tokenizer, problems[row], [text for text in steps[row] if text]
      )
      for row in rows
    ]
    for first in range(0, len(rows), self.rows_per_call):
      part = slice(first, first + self.rows_per_call)
      read = self._read(sequences[part])
      for row, of_steps in zip(rows[part], read, strict=True):
        at = [h for h, text in enumerate(steps[row]) if text]
        scores[row, at] = of_steps[: len(at)]
    return scores

  def _read(self, sequences: Sequence[Joined]) -> Float[np.ndarray, "B H"]:
    """Scores of the steps of some sequences, filled up to few shapes."""
    rows = room_for(len(sequences), least=1)
    length = max(len(x.tokens) for x in sequences)
    marks = room_for(max(len(x.marks) for x in sequences), least=4)
    tokens = np.zeros((rows, length), np.int32)
    mark = np.full((rows, marks), -1, np.int32)
    begin = np.ones(rows, np.int32)
    for row, joined in enumerate(sequences):
      tokens[row, : len(joined.tokens)] = joined.tokens
      mark[row, : len(joined.marks)] = joined.marks
      begin[row] = joined.begin
    return self.reader.scores(tokens, mark, begin)[: len(sequences)]


class _Written(NamedTuple):
  """A rollout as text: `readable` steps, and "" for those without text."""

  problem: str
  steps: list[str]
  readable: int


def _texts(
  problem: Any, tokens: Int[np.ndarray, "T"], prefix_len: Int[np.ndarray, "P"]
) -> _Written:
  """The texts of a problem and of the steps up to one that is no text."""
  vocabulary, steps = problem.vocabulary, []
  asked = problem.decode_problem(tokens[: prefix_len[0]])
  for start, stop in itertools.pairwise(prefix_len):
    ids = tokens[start:stop]
    if len(ids) and ids[-1] == vocabulary.eos_id:
      ids = ids[:-1]
    try:
      text = vocabulary.decode(ids.tolist())
    except ValueError:  # ids of no token
      break
    if (ids == vocabulary.pad_id).any():
      break
    while text.endswith(problem.delimiter):
      text = text.removesuffix(problem.delimiter)
    steps.append(text)
  return _Written(asked, steps, len(steps))


def room_for(number: int, least: int = 32) -> int:
  """The least of 2^k and 3 · 2^k that is no less than either number.

  What is filled up to one of few sizes takes few programs.

  Args:
    number: that there has to be room for.
    least: a power of 2.
  """
  size = least
  while size < number:
    size *= 2
  middle = size * 3 // 4
  return middle if least < number <= middle else size
