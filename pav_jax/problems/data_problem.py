"""Text problems that come from a data set: prompts differ in length."""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from pav_jax.checks import check_least
from pav_jax.problems import vocabulary as vocabularies
from pav_jax.problems.answer_groups import group
from pav_jax.problems.base import SPLITS, Example, PromptFrame, Tokens
from pav_jax.problems.data_splits import split_of
from pav_jax.problems.grading import (
  ComparesAnswers,
  Grader,
  NormalizedMatch,
)
from pav_jax.problems.prefixes import prefix_lengths
from pav_jax.problems.prompt_format import PromptFormat, Record
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataProblem(abc.ABC):
  """A data set's problems, with the interface of `text.GeneratedProblem`.

  Prompts are rows of `prompt_len` tokens, of which `prompt_lengths` are a
  problem's. The id of problem `index` of split s is `3 index + s`, whatever is
  left out.

  Attributes:
    vocabulary: the tokeniser; has `encode` and `decode`.
    grader: says which responses have the right final answer.
    prompt: the texts of prompts and responses.
    max_prompt_len: most tokens of a prompt.
    max_response_len: most tokens of a solution, the end token included.
    max_length: most tokens of both; None for the sum of the two. Problems of
      train and validation that exceed any of these are left out.
    cut_prompts: whether longer prompts of the test split lose their beginnings;
      otherwise they are refused. None of that split is left out.
    max_steps: H; the last step of a response with more is all the rest.

  Raises:
    ValueError: if a number is not positive.
  """

  placement: ClassVar[Literal["device", "host"]] = "host"
  delimiter: ClassVar[str] = "\n"

  vocabulary: Any
  grader: Grader = dataclasses.field(default_factory=NormalizedMatch)
  prompt: PromptFormat = dataclasses.field(default_factory=PromptFormat)
  max_prompt_len: int = 1024
  max_response_len: int = 1024
  max_length: int | None = None
  cut_prompts: bool = False
  max_steps: int = 48

  def __post_init__(self):
    check_least(
      1,
      max_prompt_len=self.max_prompt_len,
      max_response_len=self.max_response_len,
      max_demonstration_len=self.max_demonstration_len,
      max_steps=self.max_steps,
    )

  @abc.abstractmethod
  def records(self) -> Mapping[str, Sequence[Record]]:
    """All problems of the splits train, validation and test, in fixed order."""

  @property
  def prompt_len(self) -> int:
    """S, room for a prompt."""
    return self.max_prompt_len

  @property
  def max_demonstration_len(self) -> int:
    """Most tokens of a prompt and its solution."""
    if self.max_length is not None:
      return self.max_length
    return self.max_prompt_len + self.max_response_len

  @functools.cached_property
  def ends_step(self) -> Bool[np.ndarray, "V"]:
    """Which tokens end a step."""
    return vocabularies.delimiter_table(self.vocabulary, self.delimiter)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies vocabulary and delimiter, see `vocabulary.fingerprint`."""
    return vocabularies.fingerprint(self.vocabulary, self.delimiter)

  @functools.cached_property
  def _shots(self) -> tuple[Record, ...]:
    return self.prompt.shots(self.records()["train"])

  def encode_problem(self, problem: str, *, key: str = "") -> list[int]:
    """The ids of a problem's prompt: `<bos>`, shots and the template.

    Everything that shows a problem to a policy or a verifier uses this: the
    data set's problems, and those of imported labels and benchmarks.

    Args:
      problem: its text.
      key: its name in the data set, lest it be a shot of its own prompt.

    Raises:
      ValueError: if the prompt has no token.
    """
    record = Record(key, problem, "", "")
    text = self.prompt.prompt(record, self._shots)
    return vocabularies.encode_prompt(self.vocabulary, text)

  @property
  def prompt_frame(self) -> PromptFrame:
    """What `encode_problem` puts around a text."""
    before, after = self.prompt.frame(self._shots)
    return PromptFrame(before, after, self.prompt.stop)

  def decode_problem(self, tokens: Tokens) -> str:
    """The text of the problem that `encode_problem` has encoded.

    Raises:
      ValueError: if tokens are no such prompt.
    """
    text = self.vocabulary.decode(np.asarray(tokens).tolist())
    return self.prompt.problem(text)

  def split_size(self, split: str) -> int:
    """Problems of a split that are not left out."""
    return len(split_of(self, split).kept)

  def problem_ids(
    self, split: str, start: int, stop: int
  ) -> Int[np.ndarray, "B"]:
    """The ids of problems `start` … `stop - 1` of a split, int32[B].

    Raises:
      ValueError: if there is no such split, or the range is empty or beyond it.
    """
    size = self.split_size(split)
    if not 0 <= start < stop <= size:
      raise ValueError(
        f"start and stop are {start} and {stop}, expected 0 <= start < stop "
        f"<= {size}, the size of split {split!r}"
      )
    kept = split_of(self, split).kept[start:stop]
    return (kept * len(SPLITS) + SPLITS.index(split)).astype(np.int32)

  def examples(
    self,
    split: str,
    start: int = 0,
    stop: int | None = None,
    *,
    host: int = 0,
    num_hosts: int = 1,
  ) -> Iterator[Example]:
    """Problems of a split, in order; see `text.GeneratedProblem.examples`."""
    if not 0 <= host < num_hosts:
      raise ValueError(f"host is {host}, expected 0 … {num_hosts - 1}")
    stop = self.split_size(split) if stop is None else stop
    ids = self.problem_ids(split, start, stop)
    return (
      Example(
        int(problem_id),
        self._at(problem_id, "prompts"),
        self.answers(np.array([problem_id]))[0],
      )
      for problem_id in ids[(host - start) % num_hosts :: num_hosts]
    )

  def prompts(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B S"]:
    """Token ids of the prompts, padded to `prompt_len`: int32[B, S]."""
    return self._padded(
      [self._at(i, "prompts") for i in np.asarray(problem_id)], self.prompt_len
    )

  def prompt_lengths(
    self, problem_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B"]:
    """Tokens in each prompt, int32[B]."""
    lengths = [len(self._at(i, "prompts")) for i in np.asarray(problem_id)]
    return np.array(lengths, np.int32)

  def answers(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B A"]:
    """The right answers' token ids, padded to the longest: int32[B, A]."""
    rows = [
      self._encoded(self._at(i, "records").answer)
      for i in np.asarray(problem_id)
    ]
    return self._padded(rows, max(map(len, rows), default=0))

  def solution(self, problem_id: int | np.integer) -> Int[np.ndarray, "_"]:
    """Token ids of a problem's solution, with the end token."""
    return self._at(problem_id, "responses")

  def responses(
    self, problem_id: Int[ArrayLike, "B"], sample_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """Solutions, padded to `max_response_len`: int32[B, R].

    A problem has one solution, which all of its samples are.

    Raises:
      ValueError: if one is longer, as those of the test split may be.
    """
    del sample_id
    rows = [self.solution(i) for i in np.asarray(problem_id)]
    longest = max(map(len, rows), default=0)
    if longest > self.max_response_len:
      raise ValueError(
        f"a solution has {longest} tokens, expected at most max_response_len = "
        f"{self.max_response_len}"
      )
    return self._padded(rows, self.max_response_len)

  def is_correct(self, response: Tokens, answer: Tokens) -> bool:
    """1 for a correct response, else 0; never raises on any tokens.

    Args:
      response: token ids; what follows the end token or padding does not count.
      answer: from `answers`.
    """
    answer = np.asarray(answer)
    right = self.vocabulary.decode(answer[answer != self.vocabulary.pad_id])
    response = np.asarray(response, np.int64)
    (prefix_len,) = self._prefix_lengths(response[None], np.zeros(1, int), 1)
    text = self._text(response[: prefix_len[-1]])
    return bool(text is not None and self.grader([text], [right])[0])

  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """The outcome reward of whole responses, float32[B].

    A response is wrong if it has neither an end token nor, after shots, the
    beginning of another problem, whose text does not count.
    """
    texts = self._texts(rollout)
    problem_id = np.asarray(rollout.problem_id)
    ended = [row for row, text in enumerate(texts) if text is not None]
    out = np.zeros(len(texts), np.float32)
    if ended:
      out[ended] = self.grader(
        [texts[row] for row in ended],
        [self._at(problem_id[row], "records").answer for row in ended],
      )
    return out

  def final_answers(self, rollout: Rollout) -> Int[np.ndarray, "B"]:
    """Numbers that are equal where the grader takes answers for equal.

    They are counted from 0 for each problem. A response has no answer
    (`NO_ANSWER`) if the grader finds none, or it would be graded as one without
    an end. For a grader that does not compare answers (`ComparesAnswers`) a
    response's answer is its last line.
    """
    texts = self._texts(rollout)
    ended = [row for row, text in enumerate(texts) if text is not None]
    responses = [texts[row] for row in ended]
    if isinstance(self.grader, ComparesAnswers):
      given = self.grader.final_answers(responses)
      equal = self.grader.equal
    else:
      given = [text.strip().rpartition("\n")[2] or None for text in responses]
      equal = _are_one
    answers: list[str | None] = [None] * len(texts)
    for row, answer in zip(ended, given, strict=True):
      answers[row] = answer
    return group(answers, np.asarray(rollout.problem_id), equal)

  def demonstrations(
    self, problem_id: Int[ArrayLike, "B"], sample_id: Int[ArrayLike, "B"]
  ) -> Rollout:
    """Solutions as arrays; see `text.GeneratedProblem.demonstrations`.

    Outcomes are 1: what the data set gives as a solution is right.
    """
    rollout = self._rollout(
      problem_id, self.responses(problem_id, sample_id), sample_id
    )
    return dataclasses.replace(
      rollout, outcome=np.ones(len(rollout.tokens), np.float32)
    )

  def rollout(
    self,
    problem_id: Int[ArrayLike, "B"],
    responses: Int[ArrayLike, "B R"],
    sample_id: Int[ArrayLike, "B"],
    num_steps: int | None = None,
  ) -> Rollout:
    """Puts responses behind their prompts and grades them.

    Arguments and result are those of `text.GeneratedProblem.rollout`.
    """
    rollout = self._rollout(problem_id, responses, sample_id, num_steps)
    return dataclasses.replace(rollout, outcome=self.grade(rollout))

  def _rollout(self, problem_id, responses, sample_id, num_steps=None):
    problem_id = np.asarray(problem_id, np.int32)
    responses = np.asarray(responses, np.int32)
    lengths = self.prompt_lengths(problem_id)
    rows = [
      np.concatenate([self._at(i, "prompts"), response])
      for i, response in zip(problem_id, responses, strict=True)
    ]
    tokens = self._padded(rows, self.prompt_len + responses.shape[1])
    return Rollout(
      tokens=tokens,
      logp=np.zeros(tokens.shape, np.float32),
      prefix_len=self._prefix_lengths(
        tokens, lengths, num_steps or self.max_steps
      ),
      outcome=np.zeros(len(tokens), np.float32),
      problem_id=problem_id,
      sample_id=np.asarray(sample_id, np.int32),
    )

  def _prefix_lengths(self, tokens, prompt_len, num_steps):
    return prefix_lengths(
      tokens,
      prompt_len,
      self.ends_step,
      eos_id=self.vocabulary.eos_id,
      pad_id=self.vocabulary.pad_id,
      num_steps=num_steps,
    )

  def _texts(self, rollout: Rollout) -> list[str | None]:
    tokens, prefix_len = map(np.asarray, (rollout.tokens, rollout.prefix_len))
    return [
      self._text(row[begin:end])
      for row, begin, end in zip(
        tokens, prefix_len[:, 0], prefix_len[:, -1], strict=True
      )
    ]

  def _text(self, response: np.ndarray) -> str | None:
    """A response as it is graded; None for one without an end."""
    ended = len(response) > 0 and response[-1] == self.vocabulary.eos_id
    try:
      text = self.vocabulary.decode(response[:-1] if ended else response)
    except ValueError:  # ids of no token
      return None
    if self.prompt.stop is not None and self.prompt.stop in text:
      return text.split(self.prompt.stop)[0]
    return text if ended else None

  def _at(self, problem_id: int | np.integer, what: str) -> Any:
    index, split = divmod(int(problem_id), len(SPLITS))
    values = getattr(split_of(self, SPLITS[split]), what)
    if not 0 <= index < len(values):
      raise ValueError(
        f"problem_id is {problem_id}, expected one from `problem_ids`"
      )
    return values[index]

  def _encoded(self, text: str) -> np.ndarray:
    return np.array(self.vocabulary.encode(text), np.int32)

  def _padded(self, rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    out = np.full((len(rows), width), self.vocabulary.pad_id, np.int32)
    for row, ids in zip(out, rows, strict=True):
      row[: len(ids)] = ids
    return out


def _are_one(answers: Sequence[str], others: Sequence[str]) -> np.ndarray:
  return np.array([x == y for x, y in zip(answers, others, strict=True)], bool)
