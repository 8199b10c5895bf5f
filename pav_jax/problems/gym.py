"""Data sets of reasoning-gym (arXiv 2505.24760) as problems.

The package draws problems from seeds and scores answers. Here a problem's id is
its seed, and the split that it belongs to is decided by its question.
"""

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pav_jax import packages
from pav_jax.checks import check_least
from pav_jax.problems import gym_grading
from pav_jax.problems.base import SPLITS, Tokens
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.gym_entries import BLOCK
from pav_jax.problems.gym_grading import GymGrader
from pav_jax.problems.prompt_format import Record
from pav_jax.rollout import Rollout

# The split of each tenth of all questions.
_SPLIT_OF_TENTH = (0, 0, 0, 0, 0, 0, 1, 1, 2, 2)
_MOST_BLOCKS = 64  # drawn at a time
_PATIENCE = 256  # blocks without a new problem, after which there are no more
_MOST_SEEDS = 2**31

Entry = Mapping[str, Any]  # `question`, `answer`, `metadata`, as JSON has them


class _Item(NamedTuple):
  """A problem of a data set.

  Attributes:
    records: its texts.
    prompts: token ids of its prompt.
    responses: token ids of its solution, with the end token; None without one.
    split: one of `SPLITS`, or None for a problem of no split.
    identity: of its question.
  """

  records: Record
  prompts: np.ndarray
  responses: np.ndarray | None
  split: str | None
  identity: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasoningGym(DataProblem):
  r"""A data set of reasoning-gym.

  The id of a problem is its seed. Six in ten questions are of train, two of
  validation and two of test, by a hash of the question's text; so splits are
  disjoint as sets of questions, whatever the settings. Within a split no
  question comes twice. Problems are drawn when they are asked for. Those that
  exceed `max_prompt_len`, `max_response_len`, `max_length` or, with their
  solution, `max_steps` are left out of all splits.

  Answers are scored by the data set itself. A response shows its answer by
  `<answer>…</answer>`, `\boxed{…}` or `####`, see `GymGrader`.

  Attributes:
    name: of the data set, such as "gsm_symbolic".
    configuration: its settings besides seed and size, by name; of numbers,
      texts and lists.
    solver: writes the lines of a worked solution, without the answer, of an
      entry's question, answer and metadata; problems for which it gives None
      are left out. Without a solver a problem has demonstrations only if the
      data set has worked solutions of its own (gsm_symbolic).
    train_size: problems of the train split that may be asked for.
    held_out_size: those of validation, and of test.
    grader: scores responses.

  Raises:
    ValueError: if a number is not positive; when problems are first asked for,
      if there is no such data set or it does not take the configuration.
    MissingPackageError: without reasoning-gym.
  """

  name: str
  configuration: Any = dataclasses.field(default_factory=dict)
  solver: Callable[[Entry], str | None] | None = None
  train_size: int = 8192
  held_out_size: int = 1024
  grader: GymGrader = dataclasses.field(default_factory=GymGrader)

  def __post_init__(self):
    super().__post_init__()
    check_least(1, train_size=self.train_size, held_out_size=self.held_out_size)
    packages.require_installed(
      "reasoning_gym", package="reasoning-gym", purpose=type(self).__name__
    )
    # Text, so that equal problems have equal hashes.
    settings = self.configuration
    if not isinstance(settings, str):
      settings = json.dumps(settings, sort_keys=True)
      object.__setattr__(self, "configuration", settings)

  def records(self) -> Mapping[str, Sequence[Record]]:
    """All problems that may be asked for."""
    return {
      split: [
        self.record(problem_id)
        for problem_id in self.problem_ids(split, 0, self.split_size(split))
      ]
      for split in SPLITS
    }

  def split_size(self, split: str) -> int:
    """Problems of a split that may be asked for."""
    if split not in SPLITS:
      raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    return self.train_size if split == "train" else self.held_out_size

  def problem_ids(
    self, split: str, start: int, stop: int
  ) -> Int[np.ndarray, "B"]:
    """Seeds of problems `start` … `stop - 1` of a split, int32[B], ascending.

    Raises:
      ValueError: if there is no such split, the range is empty or beyond it, or
        the data set has fewer questions.
    """
    size = self.split_size(split)
    if not 0 <= start < stop <= size:
      raise ValueError(
        f"start and stop are {start} and {stop}, expected 0 <= start < stop "
        f"<= {size}, the size of split {split!r}"
      )
    ids = _drawn(self).ids(split, stop)[start:stop]
    return np.array(ids, np.int32)

  def record(self, problem_id: int | np.integer) -> Record:
    """The texts of a problem; its answer is "" if the data set gives none."""
    return self._at(problem_id, "records")

  def split_of(self, entry: Entry) -> str | None:
    """The split of an entry, by its question; None for an entry of none."""
    number = int.from_bytes(_identity(entry)[:8], "big")
    return SPLITS[_SPLIT_OF_TENTH[number % 10]]

  def solution_of(self, entry: Entry) -> str | None:
    """A worked solution, which shows its answer; None if there is none."""
    if self.solver is None:
      written = entry["metadata"].get("answer_cot", "")
      lines = [line.strip() for line in written.split("\n")]
      return "\n".join(line for line in lines if line) or None
    lines = self.solver(entry)
    if lines is None:
      return None
    answer = f"<answer>{entry['answer']}</answer>"
    return f"{lines}\n{answer}" if lines else answer

  def answers(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B A"]:
    """The seeds, which are all that scoring needs: int32[B, 1]."""
    return np.asarray(problem_id, np.int32)[:, None]

  def is_correct(self, response: Tokens, answer: Tokens) -> bool:
    """Whether a response scores 1; never raises on any tokens.

    Args:
      response: token ids; what follows the end token or padding does not count.
      answer: from `answers`.
    """
    response = np.asarray(response, np.int64)
    (prefix_len,) = self._prefix_lengths(response[None], np.zeros(1, int), 1)
    text = self._text(response[: prefix_len[-1]])
    return bool(self._scores([text], np.asarray(answer))[0] >= 1)

  def grade(self, rollout: Rollout) -> Float[np.ndarray, "B"]:
    """The data set's scores of whole responses, float32[B] in [0, 1].

    Without partial scores (`GymGrader.partial`) 1 correct, 0 wrong; 0 for
    responses that were cut off.
    """
    return self._scores(self._texts(rollout), np.asarray(rollout.problem_id))

  def responses(
    self, problem_id: Int[ArrayLike, "B"], sample_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B R"]:
    """Solutions, padded to `max_response_len`: int32[B, R].

    Raises:
      ValueError: if a problem has no worked solution.
    """
    for i in np.asarray(problem_id):
      if self._at(i, "responses") is None:
        raise ValueError(
          f"problem {i} of data set {self.name} has no worked solution, "
          "expected a solver that writes one"
        )
    return super().responses(problem_id, sample_id)

  @functools.cached_property
  def _shots(self) -> tuple[Record, ...]:
    records, seed = [], 0
    while len(records) <= self.prompt.num_shots * 4:
      entry = _drawn(self).entry(seed)
      if self.split_of(entry) == "train":
        records.append(self._record(entry))
      seed += 1
    return self.prompt.shots(records)

  def _scores(self, texts, problem_id):
    problems = [(self.name, self.configuration, int(i)) for i in problem_id]
    return self.grader.scores([text or "" for text in texts], problems)

  def _record(self, entry: Entry) -> Record:
    answer = "" if entry["answer"] is None else str(entry["answer"])
    solution = self.solution_of(entry)
    return Record(
      _identity(entry).hex(), entry["question"], solution or "", answer
    )

  def _at(self, problem_id: int | np.integer, what: str) -> Any:
    if not 0 <= problem_id < _MOST_SEEDS:
      raise ValueError(
        f"problem_id is {problem_id}, expected one from `problem_ids`"
      )
    return getattr(_drawn(self).item(int(problem_id)), what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateGym(ReasoningGym):
  """A data set whose problems are made of templates, some of them held out.

  Of 100 templates, numbered from 0, the 20 whose number leaves 4 when divided
  by 5 are held out; of gsm_symbolic the package draws 85, and 18 of these. They
  are in neither train nor validation; the test split is either of them or of
  the others.

  Attributes:
    name: of the data set, "gsm_symbolic" or "list_functions".
    tested: "seen" if the test split has new problems of the templates that
      train has, "unseen" if it has problems of those that are held out.
    held_out_every: one template in so many is held out.
    templates: numbers of the templates that problems are made of; None for all.

  Raises:
    ValueError: if `tested` or `held_out_every` is another; when problems are
      first asked for, if the data set has no templates.
  """

  name: str = "gsm_symbolic"
  tested: str = "seen"
  held_out_every: int = 5
  templates: Sequence[int] | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.tested not in ("seen", "unseen"):
      raise ValueError(
        f"tested is {self.tested!r}, expected 'seen' or 'unseen'"
      )
    if self.held_out_every < 2:
      raise ValueError(
        f"held_out_every is {self.held_out_every}, expected at least 2"
      )
    if self.templates is not None:  # a tuple, so that it has a hash
      object.__setattr__(self, "templates", tuple(self.templates))

  def split_of(self, entry: Entry) -> str | None:
    """The split of an entry by its question, if its template is in it."""
    if "template" not in entry:
      raise ValueError(
        f"data set {self.name} has no templates, expected one that does, such "
        "as 'gsm_symbolic'"
      )
    if self.templates is not None and entry["template"] not in self.templates:
      return None
    split = super().split_of(entry)
    held_out = entry["template"] % self.held_out_every == (
      self.held_out_every - 1
    )
    wanted = split == "test" and self.tested == "unseen"
    return split if held_out == wanted else None


class _Drawn:
  """The problems of a data set that have been drawn; threads take turns."""

  def __init__(self, problem: ReasoningGym):
    self._problem = problem
    self._lock = threading.RLock()
    self._entries: dict[int, Entry] = {}
    self._items: dict[int, _Item] = {}
    self._ids: dict[str, list[int]] = {split: [] for split in SPLITS}
    self._identities: set[bytes] = set()
    self._next = self._last_new = 0  # blocks

  def entry(self, seed: int) -> Entry:
    """The entry of a seed."""
    with self._lock:
      if seed not in self._entries:
        self._draw([seed // BLOCK])
      return self._entries[seed]

  def item(self, seed: int) -> _Item:
    """The problem of a seed."""
    with self._lock:
      if seed not in self._items:
        self._items[seed] = self._made(self.entry(seed))
        del self._entries[seed]
      return self._items[seed]

  def ids(self, split: str, number: int) -> list[int]:
    """The first problems of a split, in order of seeds."""
    with self._lock:
      ids = self._ids[split]
      while len(ids) < number:
        blocks = (number - len(ids)) * 5 // BLOCK
        self._walk(min(max(blocks, 1), _MOST_BLOCKS))
        if self._next - self._last_new > _PATIENCE:
          raise ValueError(
            f"data set {self._problem.name} with {self._problem.configuration} "
            f"gives {len(ids)} different problems of split {split!r} that are "
            f"not too long, expected {number}; smaller sizes or other settings "
            "allow it"
          )
      return ids[:number]

  def _walk(self, blocks: int) -> None:
    self._draw(range(self._next, self._next + blocks))
    for seed in range(self._next * BLOCK, (self._next + blocks) * BLOCK):
      item = self.item(seed)
      if item.split and item.identity not in self._identities:
        self._identities.add(item.identity)
        if self._fits(item):
          self._ids[item.split].append(seed)
          self._last_new = seed // BLOCK
    self._next += blocks

  def _draw(self, blocks: Sequence[int]) -> None:
    problem = self._problem
    rows = [(problem.name, problem.configuration, block) for block in blocks]
    drawing = dataclasses.replace(problem.grader, seconds=600.0)
    results = gym_grading.pool("gym_draw", drawing).run(rows)
    for block, entries in zip(blocks, results, strict=True):
      if isinstance(entries, str):
        raise ValueError(entries)
      if entries is None:
        raise ValueError(
          f"data set {problem.name} with {problem.configuration} cannot draw "
          f"seeds {block * BLOCK} … {block * BLOCK + BLOCK - 1}, expected "
          "settings with which it can"
        )
      for index, entry in enumerate(entries):
        self._entries.setdefault(block * BLOCK + index, entry)

  def _made(self, entry: Entry) -> _Item:
    problem = self._problem
    record, words = problem._record(entry), problem.vocabulary
    prompt = problem.encode_problem(record.problem, key=record.key)
    response = None
    if record.solution:
      target = words.encode(problem.prompt.target(record))
      response = np.array([*target, words.eos_id], np.int32)
    return _Item(
      record,
      np.array(prompt, np.int32),
      response,
      problem.split_of(entry),
      _identity(entry),
    )

  def _fits(self, item: _Item) -> bool:
    problem = self._problem
    if problem.solver is not None and item.responses is None:
      return False
    response = np.empty(0, int) if item.responses is None else item.responses
    length, steps = len(response), problem.ends_step[response[:-1]].sum() + 1
    return bool(
      len(item.prompts) <= problem.max_prompt_len
      and length <= problem.max_response_len
      and len(item.prompts) + length <= problem.max_demonstration_len
      and steps <= problem.max_steps
    )


# Equal problems share it; gin makes one wherever a problem is referred to.
@functools.lru_cache(maxsize=12)
def _drawn(problem: ReasoningGym) -> _Drawn:
  return _Drawn(problem)


def _identity(entry: Entry) -> bytes:
  """A digest of a question's words."""
  words = " ".join(entry["question"].split())
  return hashlib.sha256(words.encode()).digest()
