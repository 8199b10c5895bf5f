"""What a problem is: what is asked, and what is right.

Every problem obeys `Problem`, and those that language models answer obey
`TextProblem`. What only some can do is a protocol of its own, whose name begins
with `Has`. Nobody but this file asks which of them a problem obeys: the
functions below give a neutral answer for problems that do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.rollout import Rollout

# Token ids, one after another.
Tokens = Sequence[int] | np.ndarray | jax.Array

SPLITS = ("train", "validation", "test")


@runtime_checkable
class Problem(Protocol):
  """What sampling, training, search and evaluation need of any problem."""

  @property
  def placement(self) -> Literal["device", "host"]:
    """Where `grade` runs.

    "device": pure JAX, so that it may be traced inside jit, vmap and scan.
    "host": numpy, or other processes.
    """
    ...

  @property
  def fingerprint(self) -> str:
    """Identifies tokens and steps.

    Kept with checkpoints and data sets, and compared when they are read.
    """
    ...

  @property
  def prompt_len(self) -> int:
    """L, room for a prompt; 0 where all prompts are empty."""
    ...

  @property
  def max_steps(self) -> int:
    """H, room for the steps of a response."""
    ...

  @property
  def max_response_len(self) -> int:
    """Room for a demonstrated response, the end token included."""
    ...

  def split_size(self, split: str) -> int:
    """How many problems a split has; `split` is one of `SPLITS`."""
    ...

  def problem_ids(
    self, split: str, start: int, stop: int
  ) -> Int[np.ndarray, "B"]:
    """The ids of problems `start` … `stop - 1` of a split, int32[B].

    An id is in 0 … 2³¹ - 1 and the address of its problem's randomness.

    Raises:
      ValueError: if there is no such split, or the range is empty or beyond it.
    """
    ...

  def prompts(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B L"]:
    """Token ids of the prompts, padded on the right: int32[B, L]."""
    ...

  def prompt_lengths(
    self, problem_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B"]:
    """Tokens in each prompt, int32[B], each in 0 … `prompt_len`."""
    ...

  def grade(self, rollout: Rollout) -> Float[ArrayLike, "B"]:
    """The outcome reward of whole responses, float32[B]: 1 correct, 0 wrong.

    Never raises on any response; one that was cut off is wrong.
    """
    ...


class Example(NamedTuple):
  """One problem.

  Attributes:
    problem_id: int in 0 … 2³¹ - 1, the address of its randomness; no two
      problems of any split share it.
    prompt: int32[L], token ids.
    answer: int32[A], token ids; what `is_correct` needs to know of the problem.
  """

  problem_id: int
  prompt: Int[np.ndarray, "L"]
  answer: Int[np.ndarray, "A"]


@runtime_checkable
class TextProblem(Problem, Protocol):
  """What a language model needs besides: tokens, and steps by offsets."""

  @property
  def vocabulary(self) -> Vocabulary:
    """The tokenizer."""
    ...

  @property
  def delimiter(self) -> str:
    """What ends a step."""
    ...

  @property
  def ends_step(self) -> Bool[np.ndarray, "V"]:
    """Which tokens end a step: bool[V]."""
    ...

  def examples(
    self, split: str, start: int = 0, stop: int | None = None
  ) -> Iterator[Example]:
    """Problems `start` … `stop - 1` of a split, in order."""
    ...

  def answers(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B A"]:
    """What `is_correct` needs to know of each problem, int32[B, A]."""
    ...

  def is_correct(self, response: Tokens, answer: Tokens) -> bool:
    """Whether a response is correct; never raises on any tokens."""
    ...

  def final_answers(self, rollout: Rollout) -> Int[np.ndarray, "B"]:
    """Numbers that are equal where final answers of a problem are equal.

    Voting counts them. Responses that were cut off, or that give no answer,
    have `answer_groups.NO_ANSWER`.
    """
    ...

  def encode_problem(self, problem: str) -> list[int]:
    """A problem's text as its prompt's token ids, as policies see problems."""
    ...

  def decode_problem(self, tokens: Tokens) -> str:
    """The text of the problem of such a prompt."""
    ...

  def rollout(
    self,
    problem_id: Int[ArrayLike, "B"],
    responses: Int[ArrayLike, "B R"],
    sample_id: Int[ArrayLike, "B"],
    num_steps: int | None = None,
  ) -> Rollout:
    """Puts responses behind their prompts, finds their steps, grades them."""
    ...


@runtime_checkable
class HasDemonstrations(Protocol):
  """Responses to imitate."""

  @property
  def max_demonstration_len(self) -> int:
    """Most tokens of a prompt and its demonstration."""
    ...

  def demonstrations(
    self, problem_id: Int[ArrayLike, "B"], sample_id: Int[ArrayLike, "B"]
  ) -> Rollout:
    """Demonstration `sample_id` of each problem, graded; `logp` is 0."""
    ...


@runtime_checkable
class HasDiagnostics(Protocol):
  """Knows better than a stranger what the steps of its responses do."""

  def diagnostics(self, rollout: Rollout) -> dict[str, float]:
    """Numbers that describe responses, for the log of every iteration.

    Args:
      rollout: of this problem, any responses, numpy arrays.

    Returns:
      By name, each finite. `no_progress`, the share of steps that change
      nothing, replaces what `training.probes` guesses.
    """
    ...


class PromptFrame(NamedTuple):
  """What stands around a problem's text in its prompt.

  Attributes:
    before: text before it: of a template, and problems that are solved.
    after: text behind it.
    stop: text that ends a response as an end token would; None for no such.
  """

  before: str = ""
  after: str = ""
  stop: str | None = None


@runtime_checkable
class HasPromptFrame(Protocol):
  """Puts a problem's text into a template."""

  @property
  def prompt_frame(self) -> PromptFrame:
    """That of problems that are no example for others."""
    ...


class ExactValues(NamedTuple):
  """Values of prefixes in closed form.

  Attributes:
    values: `rollout -> q`, float[B, H + 1] in [0, 1], of rollouts whose steps
      the problem can read.
    assumptions: what they rest on, as JSON has it, for reports.
  """

  values: Callable[[Rollout], Float[np.ndarray, "B P"]]
  assumptions: Mapping[str, Any]


@runtime_checkable
class HasExactValues(Protocol):
  """Knows values of prefixes in closed form, under a model of the policy."""

  def exact_values(self, traces: Rollout) -> ExactValues:
    """Values under the policy that sampled these traces from bare problems."""
    ...


@runtime_checkable
class Mistakes(Protocol):
  """Counts of what went wrong; those of two batches are added with `+`."""

  def __add__(self, other: Any) -> Any:
    """The counts of both."""
    ...


class Table(NamedTuple):
  """A table to print: a line above it, names of columns, rows of texts."""

  title: str
  header: list[str]
  rows: list[list[str]]


@runtime_checkable
class HasMistakes(Protocol):
  """Counts the mistakes of responses by their kind."""

  def count_mistakes(self, rollout: Rollout) -> Mistakes:
    """Counts of any responses to this problem; `prefix_len` is not read."""
    ...

  def report_mistakes(
    self, mistakes: Mistakes, problem_id: Int[ArrayLike, "B"]
  ) -> dict[str, Any] | None:
    """What a report says of them, as JSON has it; None if they are too few.

    Args:
      mistakes: from `count_mistakes`, added up.
      problem_id: of the problems that were answered.
    """
    ...

  def mistakes_table(self, report: Mapping[str, Any]) -> Table:
    """What is printed of `report_mistakes`."""
    ...


@runtime_checkable
class HasDeadPrefixes(Protocol):
  """Sees of some prefixes that they are wrong for certain."""

  def dead_prefixes(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes that are wrong whatever follows: bool[B, H + 1].

    Raises:
      ValueError: if a row is not `readable`.
    """
    ...

  def readable(self, rollout: Rollout) -> Bool[np.ndarray, "B"]:
    """Rows whose steps the problem finds where the rollout has them."""
    ...


@runtime_checkable
class HasForm(Protocol):
  """Tells the form of a solution from its content."""

  def well_formed(self, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
    """Prefixes in the form of a solution, right or not: bool[B, H + 1]."""
    ...


@runtime_checkable
class HasTokensLeft(Protocol):
  """Knows how long a response must become."""

  def tokens_left(self, rollout: Rollout) -> Int[np.ndarray, "B P"]:
    """Tokens that a prefix needs at least to be complete: int[B, H + 1]."""
    ...


@runtime_checkable
class HasStepKinds(Protocol):
  """Steps are of kinds, within which verifiers are judged."""

  @property
  def step_kind_names(self) -> tuple[str, ...]:
    """One name a kind."""
    ...

  def step_kinds(self, rollout: Rollout) -> Int[np.ndarray, "B H"]:
    """Each step's index into `step_kind_names`, or a negative one: [B, H]."""
    ...


def demonstrations(
  problem: Any, problem_id: Int[ArrayLike, "B"], sample_id: Int[ArrayLike, "B"]
) -> Rollout:
  """`HasDemonstrations.demonstrations`.

  Raises:
    ValueError: if the problem has none: nothing can be learnt by imitation.
  """
  if not isinstance(problem, HasDemonstrations):
    raise ValueError(
      f"{type(problem).__name__} has no demonstrations, expected a problem "
      "with `demonstrations` and `max_demonstration_len`"
    )
  return problem.demonstrations(problem_id, sample_id)


def prompt_frame(problem: Any) -> PromptFrame:
  """`HasPromptFrame.prompt_frame`, or one without text."""
  if isinstance(problem, HasPromptFrame):
    return problem.prompt_frame
  return PromptFrame()


def diagnostics(problem: Any, rollout: Rollout) -> dict[str, float]:
  """`HasDiagnostics.diagnostics`, or no numbers."""
  if isinstance(problem, HasDiagnostics):
    return problem.diagnostics(rollout)
  return {}


def exact_values(problem: Any, traces: Rollout) -> ExactValues | None:
  """`HasExactValues.exact_values`, or None."""
  if isinstance(problem, HasExactValues):
    return problem.exact_values(traces)
  return None


def count_mistakes(problem: Any, rollout: Rollout) -> Mistakes | None:
  """`HasMistakes.count_mistakes`, or None."""
  if isinstance(problem, HasMistakes):
    return problem.count_mistakes(rollout)
  return None


def report_mistakes(
  problem: Any, mistakes: Mistakes | None, problem_id: Int[ArrayLike, "B"]
) -> dict[str, Any] | None:
  """`HasMistakes.report_mistakes`, or None where nothing was counted."""
  if mistakes is not None and isinstance(problem, HasMistakes):
    return problem.report_mistakes(mistakes, problem_id)
  return None


def mistakes_table(
  problem: Any, report: Mapping[str, Any] | None
) -> Table | None:
  """`HasMistakes.mistakes_table`, or None where nothing was reported."""
  if report is not None and isinstance(problem, HasMistakes):
    return problem.mistakes_table(report)
  return None


def readable(problem: Any, rollout: Rollout) -> Bool[np.ndarray, "B"]:
  """`HasDeadPrefixes.readable`; of other problems all rows are, bool[B].

  A row is not where a policy sampled padding within a response, which little
  training makes rare and none impossible.
  """
  if isinstance(problem, HasDeadPrefixes):
    return problem.readable(rollout)
  return np.ones(len(rollout.prefix_len), bool)


def dead_prefixes(problem: Any, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
  """`HasDeadPrefixes.dead_prefixes`; of other problems no prefix is dead.

  Nor are those of rows that are not `readable`.
  """
  dead = np.zeros(np.shape(rollout.prefix_len), bool)
  if not isinstance(problem, HasDeadPrefixes):
    return dead
  rows = np.flatnonzero(problem.readable(rollout))
  if len(rows):
    some = jax.tree.map(lambda x: np.asarray(x)[rows], rollout)
    dead[rows] = problem.dead_prefixes(some)
  return dead


def well_formed(problem: Any, rollout: Rollout) -> Bool[np.ndarray, "B P"]:
  """`HasForm.well_formed`; of other problems all prefixes are."""
  if isinstance(problem, HasForm):
    return problem.well_formed(rollout)
  return np.ones(np.shape(rollout.prefix_len), bool)


def tokens_left(problem: Any, rollout: Rollout) -> Int[np.ndarray, "B P"]:
  """`HasTokensLeft.tokens_left`; of other problems 0 for all prefixes."""
  if isinstance(problem, HasTokensLeft):
    return problem.tokens_left(rollout)
  return np.zeros(np.shape(rollout.prefix_len), np.int64)


def step_kinds(
  problem: Any, rollout: Rollout
) -> tuple[tuple[str, ...], Int[np.ndarray, "B H"]] | None:
  """Names of kinds and the kind of each step, see `HasStepKinds`; or None."""
  if isinstance(problem, HasStepKinds):
    return problem.step_kind_names, problem.step_kinds(rollout)
  return None
