"""Demonstrations of one or several data sets, for supervised fine-tuning."""

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from pav_jax.data.packing import Batches, Demonstrations
from pav_jax.files import describe
from pav_jax.rollout import PackedTokens

READERS = ("seqio", "python")


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Problems' demonstrations, mixed, in packed batches: `packing.Batches`.

  seqio reads them where it is installed: each problem is a task, whose examples
  it shuffles, and tasks are mixed at their rates. Without seqio
  the demonstrations of one problem come in their order (`Demonstrations`). A
  position counts batches with seqio and demonstrations without.

  Attributes:
    problems: one or more with demonstrations, of one tokenizer and delimiter.
    num_rows: B, rows of a batch.
    row_length: T, tokens of a row; at least the longest demonstration's.
    rates: how often each problem is drawn from, relative to the others; None
      for as often as it has examples.
    split: "train" or "validation".
    seed: of the order, with seqio.
    reader: "seqio" or "python"; None for seqio if it is installed. A run goes
      on with the reader that it began with.

  Raises:
    ValueError: if there is no problem, problems differ in tokens, rates are not
      one positive number each, a row is too short, the reader is unknown, or
      without seqio there are several problems.
  """

  problems: Sequence[Any]
  num_rows: int
  row_length: int
  rates: Sequence[float | int] | None = None
  split: str = "train"
  seed: int = 0
  reader: str | None = None

  def __post_init__(self):
    object.__setattr__(self, "problems", tuple(self.problems))
    if self.reader is None:
      installed = importlib.util.find_spec("seqio") is not None
      object.__setattr__(self, "reader", READERS[0 if installed else 1])
    if self.reader not in READERS:
      raise ValueError(f"reader is {self.reader!r}, expected one of {READERS}")
    fingerprints = {problem.fingerprint for problem in self.problems}
    if len(fingerprints) != 1:
      raise ValueError(
        f"problems have {len(fingerprints)} kinds of tokens and steps, "
        "expected one or more problems that share theirs"
      )
    if self.rates is not None and (
      len(self.rates) != len(self.problems) or min(self.rates) <= 0
    ):
      raise ValueError(
        f"rates are {list(self.rates)}, expected a positive number for each of "
        f"{len(self.problems)} problems"
      )
    longest = max(problem.max_demonstration_len for problem in self.problems)
    if self.row_length < longest:
      raise ValueError(
        f"row_length is {self.row_length}, expected at least {longest}, the "
        "longest demonstration"
      )
    if self.reader == "python" and len(self.problems) > 1:
      raise ValueError(
        f"there are {len(self.problems)} problems, expected one: several are "
        "mixed by seqio (the extra `data`)"
      )

  def __call__(self, position: int) -> tuple[PackedTokens, int]:
    """The batch at a position, and the position of the next."""
    return self._batches(position)

  @functools.cached_property
  def _batches(self) -> Batches:
    """Made when it is first asked for: data sets are read, seqio imported."""
    shape = {"num_rows": self.num_rows, "row_length": self.row_length}
    if self.reader == "python":
      return Demonstrations(self.problems[0], **shape, split=self.split)
    from pav_jax.data import packed_tasks, tasks

    provider = tasks.mixture(
      [self._name(problem) for problem in self.problems],
      self.problems,
      rates=self.rates,
      split=self.split,
    )
    return packed_tasks.PackedTask(
      provider, **shape, split=self.split, seed=self.seed
    )

  def _name(self, problem: Any) -> str:
    """The same in every process that has this problem."""
    digest = hashlib.sha256(
      describe((problem, self.split)).encode()
    ).hexdigest()
    return f"{type(problem).__name__.lower()}_{digest[:16]}"
