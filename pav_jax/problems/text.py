"""What every text problem has: splits, examples, a grader, steps by offsets.

Prompts, responses and answers are token ids throughout. A response is the
tokens after the prompt: steps ended by a delimiter token, the last one by the
end token instead. A delimiter token followed by the end token is a response
whose last step is empty.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from pav_jax.problems import hashing, vocabulary
from pav_jax.problems.answer_groups import NO_ANSWER
from pav_jax.problems.base import SPLITS, Example, Tokens
from pav_jax.problems.prefixes import prefix_lengths
from pav_jax.rollout import Rollout

# Purposes of random numbers; the split of each tenth of all problems.
PROBLEM, DEMONSTRATION, SPLIT = range(3)
_SPLIT_OF_TENTH = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
_MAX_ATTEMPTS = 2000


class GeneratedProblem(abc.ABC):
  """Problems made from a seed and an id; all prompts are of one length.

  The id of problem `index` of split s is `3 index + s`. Which split a problem
  belongs to is decided by a hash of the problem itself, whatever the seed: so
  splits are disjoint as sets of problems, also between seeds. Train has about
  8 tenths of all there are, the others 1 each. Within a split a problem may
  come twice, under two ids, if there are few.

  Attributes:
    seed: of problems and demonstrations.
    prompt_len: L, tokens in a prompt.
    max_steps: H, most steps in a demonstration.
    max_response_len: most tokens in a demonstration's response.
  """

  placement: ClassVar[Literal["device", "host"]] = "host"
  delimiter: ClassVar[str] = "\n"
  seed: int

  @property
  @abc.abstractmethod
  def vocabulary(self) -> vocabulary.Vocabulary:
    """The tokeniser."""

  @property
  @abc.abstractmethod
  def prompt_len(self) -> int:
    """L, tokens in every prompt."""

  @property
  @abc.abstractmethod
  def max_steps(self) -> int:
    """H, most steps in a demonstration."""

  @property
  @abc.abstractmethod
  def max_response_len(self) -> int:
    """Most tokens in a demonstration's response, the end token included."""

  @abc.abstractmethod
  def prompts(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of the prompts, int32[B, L]."""

  def answers(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B A"]:
    """What `is_correct` needs to know of each problem, int32[B, A].

    The prompts, unless a subclass overrides both.
    """
    return self.prompts(problem_id)

  def is_correct(self, response: Tokens, answer: Tokens) -> bool:
    """`grade` of one response.

    Args:
      response: token ids, any at all; what follows the end token does not
        count, and one without end token is wrong.
      answer: from `answers`.

    Raises:
      ValueError: if the answer is none of this problem's.
    """
    answer = np.asarray(answer, np.int64)
    if answer.shape != (self.prompt_len,):
      raise ValueError(
        f"answer has shape {answer.shape}, expected ({self.prompt_len},)"
      )
    tokens = np.concatenate([answer, np.asarray(response, np.int64)])[None]
    return bool(self.grade(Rollout(tokens, *[None] * 5))[0])

  @abc.abstractmethod
  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """The outcomes of whole responses, 1 for a correct one, float32[B]."""

  def final_answers(self, rollout: Rollout) -> Int[np.ndarray, "B"]:
    """The token before the end token, int64[B]: a response's last number.

    `NO_ANSWER` for responses that were cut off or end at once.
    """
    tokens, prefix_len = map(np.asarray, (rollout.tokens, rollout.prefix_len))
    length = prefix_len[:, -1:]
    last, before = (
      np.take_along_axis(tokens, np.maximum(length - back, 0), axis=1)[:, 0]
      for back in (1, 2)
    )
    ended = last == self.vocabulary.eos_id
    ended &= length[:, 0] > prefix_len[:, 0] + 1
    return np.where(ended, before, NO_ANSWER).astype(np.int64)

  @abc.abstractmethod
  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong for certain, whatever follows: bool[B, H + 1]."""

  @abc.abstractmethod
  def responses(
    self, problem_id: Int[np.ndarray, "B"], sample_id: Int[np.ndarray, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """Demonstrated responses, padded to `max_response_len`: int32[B, R]."""

  @property
  def max_demonstration_len(self) -> int:
    """Most tokens of a prompt and its demonstrated response."""
    return self.prompt_len + self.max_response_len

  def encode_problem(self, problem: str) -> list[int]:
    """The ids of a problem's text, which is all of its prompt.

    Raises:
      ValueError: if the text has no token, or one that the vocabulary lacks.
    """
    return vocabulary.encode_prompt(self.vocabulary, problem)

  def decode_problem(self, tokens: Tokens) -> str:
    """The text of a prompt."""
    return self.vocabulary.decode(np.asarray(tokens).tolist())

  def split_size(self, split: str) -> int:
    """Problems that can be asked for; of every split alike."""
    del split
    return (2**31 - 1) // len(SPLITS)

  def prompt_lengths(
    self, problem_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B"]:
    """Tokens in each prompt, int32[B]: all `prompt_len`."""
    return np.full(len(np.asarray(problem_id)), self.prompt_len, np.int32)

  @functools.cached_property
  def ends_step(self) -> Bool[np.ndarray, "V"]:
    """Which tokens end a step."""
    return vocabulary.delimiter_table(self.vocabulary, self.delimiter)

  @property
  def fingerprint(self) -> str:
    """Identifies vocabulary and delimiter, see `vocabulary.fingerprint`."""
    return vocabulary.fingerprint(self.vocabulary, self.delimiter)

  def problem_ids(
    self, split: str, start: int, stop: int
  ) -> Int[np.ndarray, "B"]:
    """The ids of problems `start` … `stop - 1` of a split, int32[B].

    Raises:
      ValueError: if there is no such split, or the range is empty or beyond
        what int32 can number.
    """
    if split not in SPLITS:
      raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    most = (2**31 - 1) // len(SPLITS)
    if not 0 <= start < stop <= most:
      raise ValueError(
        f"start and stop are {start} and {stop}, expected "
        f"0 <= start < stop <= {most}; an empty problem set has no use"
      )
    ids = np.arange(start, stop, dtype=np.int64) * len(SPLITS)
    return (ids + SPLITS.index(split)).astype(np.int32)

  def examples(
    self,
    split: str,
    start: int = 0,
    stop: int | None = None,
    *,
    host: int = 0,
    num_hosts: int = 1,
  ) -> Iterator[Example]:
    """Problems of a split, in order.

    Args:
      split: "train", "validation" or "test".
      start: the first problem's number within the split; to resume.
      stop: one past the last; None for no end.
      host: this host's number; it gets every `num_hosts`-th problem.
      num_hosts: between them, hosts get each problem once.

    Yields:
      `Example`s; problem i of a split is the same whatever the range and hosts.

    Raises:
      ValueError: if there is no such split or host, or the range is empty.
    """
    if not 0 <= host < num_hosts:
      raise ValueError(f"host is {host}, expected 0 … {num_hosts - 1}")
    # Checked at the call, and not when the first example is asked for.
    self.problem_ids(split, start, start + 1 if stop is None else stop)
    return self._examples(split, start, stop, host, num_hosts)

  def _examples(self, split, start, stop, host, num_hosts):
    most = (2**31 - 1) // len(SPLITS)
    stop = most if stop is None else stop
    block = 256 * num_hosts
    for low in range(start, stop, block):
      ids = self.problem_ids(split, low, min(low + block, stop))
      ids = ids[(host - low) % num_hosts :: num_hosts]
      if not len(ids):
        continue
      rows = zip(
        ids.tolist(), self.prompts(ids), self.answers(ids), strict=True
      )
      for problem_id, prompt, answer in rows:
        yield Example(problem_id, prompt, answer)

  def demonstrations(
    self,
    problem_id: Int[ArrayLike, "B"],
    sample_id: Int[ArrayLike, "B"],
  ) -> Rollout:
    """Demonstrations as arrays, ready for supervised fine-tuning.

    Args:
      problem_id: from `problem_ids`.
      sample_id: which of the problem's demonstrations, >= 0.

    Returns:
      A rollout of numpy arrays: T is `prompt_len + max_response_len`, H is
      `max_steps`; `prefix_len[:, 0]` is the prompt's length; outcomes are
      graded; `logp` is 0, for no policy sampled it. Row b depends on the seed
      and its two ids alone.

    Raises:
      ValueError: if the ids differ in number, or there are none.
    """
    problem_id = np.asarray(problem_id, np.int32)
    sample_id = np.asarray(sample_id, np.int32)
    if problem_id.shape != sample_id.shape or not problem_id.size:
      raise ValueError(
        f"problem_id and sample_id have shapes {problem_id.shape} and "
        f"{sample_id.shape}, expected one shape [B] with B >= 1"
      )
    responses = self.responses(problem_id, sample_id)
    return self.rollout(problem_id, responses, sample_id)

  def rollout(
    self,
    problem_id: Int[ArrayLike, "B"],
    responses: Int[ArrayLike, "B R"],
    sample_id: Int[ArrayLike, "B"],
    num_steps: int | None = None,
  ) -> Rollout:
    """Puts responses behind their prompts and grades them.

    Args:
      problem_id: int32[B].
      responses: token ids, padded on the right.
      sample_id: int32[B].
      num_steps: H, room for steps; None for `max_steps`.

    Returns:
      A rollout of numpy arrays with `logp` 0.
    """
    problem_id = np.asarray(problem_id, np.int32)
    prompts = self.prompts(problem_id)
    tokens = np.concatenate([prompts, np.asarray(responses, np.int32)], -1)
    rollout = Rollout(
      tokens=tokens,
      logp=np.zeros(tokens.shape, np.float32),
      prefix_len=self.prefix_lengths(tokens, num_steps or self.max_steps),
      outcome=np.zeros(len(tokens), np.float32),
      problem_id=problem_id,
      sample_id=np.asarray(sample_id, np.int32),
    )
    return dataclasses.replace(rollout, outcome=self.grade(rollout))

  def prefix_lengths(
    self, tokens: Int[ArrayLike, "B T"], num_steps: int | None = None
  ) -> Int[np.ndarray, "B P"]:
    """`text.prefix_lengths` with this problem's vocabulary and prompts."""
    return prefix_lengths(
      tokens,
      np.full(len(tokens), self.prompt_len),
      self.ends_step,
      eos_id=self.vocabulary.eos_id,
      pad_id=self.vocabulary.pad_id,
      num_steps=num_steps,
    )

  def readable(self, rollout: Rollout) -> Bool[np.ndarray, "B"]:
    """Rows whose steps are where `prefix_lengths` finds them: bool[B]."""
    tokens, prefix_len = map(np.asarray, (rollout.tokens, rollout.prefix_len))
    ends = self.prefix_lengths(tokens, prefix_len.shape[1] - 1)
    return (ends == prefix_len).all(-1)

  def written(self, rollout: Rollout) -> Int[np.ndarray, "B T"]:
    """Tokens, where padding within a response is an id without a meaning.

    A policy may draw the padding token like any other; the response goes on
    behind it, to where the rollout's last prefix ends.
    """
    tokens = np.asarray(rollout.tokens)
    within = np.arange(tokens.shape[1]) < np.asarray(rollout.prefix_len)[:, -1:]
    drawn = within & (tokens == self.vocabulary.pad_id)
    return np.where(drawn, len(self.ends_step), tokens).astype(np.int32)

  def steps_before(self, rollout: Rollout) -> Int[np.ndarray, "B P"]:
    """How many steps of its response each prefix holds, int64[B, P].

    That is 0 … H in order, but where the rollout has no room for all steps and
    the last prefix holds several more.

    Raises:
      ValueError: if a prompt is not `prompt_len` long, or a prefix ends within
        a step.
    """
    prefix_len = np.asarray(rollout.prefix_len)
    if (prefix_len[:, 0] != self.prompt_len).any():
      raise ValueError(
        f"prompts have {prefix_len[:, 0].min()} … {prefix_len[:, 0].max()} "
        f"tokens, expected {self.prompt_len}"
      )
    ends = self.prefix_lengths(self.written(rollout))
    at = np.sum(ends[:, None, 1:] <= prefix_len[:, :, None], -1)
    at[:, 0] = 0
    if (np.take_along_axis(ends, at, -1) != prefix_len).any():
      raise ValueError(
        "a prefix of the rollout ends within a step, expected ends at "
        "delimiters and at the response's end"
      )
    return at

  @abc.abstractmethod
  def propose(
    self, problem_id: Int[np.ndarray, "B"], attempt: int
  ) -> tuple[
    Int[np.ndarray, "B C"], Int[np.ndarray, "B K"], Bool[np.ndarray, "B"]
  ]:
    """Draws a problem for each id.

    Returns:
      `(content, identity, valid)`: what describes the problem, what its split
      is decided by, and whether it may be used.
    """

  def contents(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B C"]:
    """What describes each problem: the first valid draw of its own split.

    Raises:
      ValueError: if an id is negative, or no problem of its split turns up,
        because the settings allow too few.
    """
    problem_id = np.asarray(problem_id, np.int64)
    if (problem_id < 0).any():
      raise ValueError(
        f"problem_id is {problem_id.min()}, expected numbers from 0 up"
      )
    pending = np.arange(len(problem_id))
    content = None
    for attempt in range(_MAX_ATTEMPTS):
      drawn, identity, valid = self.propose(problem_id[pending], attempt)
      if content is None:
        content = np.zeros((len(problem_id), drawn.shape[-1]), np.int64)
      tenth = hashing.bits(SPLIT, *identity.T) % np.uint64(10)
      split = _SPLIT_OF_TENTH[tenth.astype(np.int64)]
      found = valid & (split == problem_id[pending] % len(SPLITS))
      content[pending[found]] = drawn[found]
      pending = pending[~found]
      if not len(pending):
        return content
    raise ValueError(
      f"no problem of split {SPLITS[problem_id[pending[0]] % 3]!r} in "
      f"{_MAX_ATTEMPTS} attempts; expected settings that allow more problems"
    )
