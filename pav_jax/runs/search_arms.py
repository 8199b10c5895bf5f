"""Beam searches of a run, in parts that are kept."""

import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from pav_jax.policies.language_model import LanguageModel
from pav_jax.runs import search_report
from pav_jax.runs.division import Division, in_parts
from pav_jax.search import costs
from pav_jax.search.cached_beams import Found, search
from pav_jax.search.judging import Judge, network
from pav_jax.search.selection import Settings


@dataclasses.dataclass(frozen=True)
class Arm:
  """A way of searching, at several numbers of beams.

  Attributes:
    name: of the arm; all are unlike.
    alpha: weight of progress; None for what was tuned, 0 for Q alone.
    k: the prover is Best-of-K.
    prover: of another policy, `(key, rollout) -> q`; None for Best-of-K of the
      searched policy's own verifier.
    ns: numbers of beams N; None for those of the run.
    num_candidates: C.
    beams_per_tree: in diverse verifier tree search; None for one tree.
    lookahead: see `Settings`, like `merge`, `temperature`.
    merge: likewise.
    temperature: likewise.
  """

  name: str
  alpha: float | int | None = None
  k: float | int = 1
  prover: Callable | None = None
  ns: Sequence[int] | None = None
  num_candidates: int = 3
  beams_per_tree: int | None = None
  lookahead: int = 0
  merge: bool = False
  temperature: float | None = None

  def settings(self, num_beams: int, num_steps: int) -> Settings:
    """Of a search with N beams."""
    each = min(self.beams_per_tree or num_beams, num_beams)
    return Settings(
      num_beams=num_beams,
      num_steps=num_steps,
      num_candidates=self.num_candidates,
      num_trees=num_beams // each,
      lookahead=self.lookahead,
      merge=self.merge,
      temperature=self.temperature,
    )


@dataclasses.dataclass(frozen=True)
class Searcher:
  """Runs searches in units that are kept, a file each.

  Attributes:
    division: among processes.
    path: of the directory of units.
    policy: that is searched.
    params: of its network.
    problem: that is answered.
    key: of the searches.
    max_step_tokens: see `search.language_model.search`.
    beams_per_call: B · N.
  """

  division: Division
  path: pathlib.Path
  policy: LanguageModel
  params: PyTree
  problem: Any
  key: jax.Array
  max_step_tokens: int | None
  beams_per_call: int

  def write(
    self,
    arm: Arm,
    ids: Int[np.ndarray, "B"],
    verifier: Callable,
    ns: Sequence[int],
    alpha: float,
  ) -> None:
    """Searches this process's share of all problems and numbers of beams."""
    judge = Judge(verifier, arm.prover, float(arm.k))
    alpha = alpha if arm.alpha is None else float(arm.alpha)
    for number in arm.ns or ns:
      settings = arm.settings(number, self.policy.max_steps)
      weights = np.full(len(ids), alpha)
      self.write_rows(_label(arm, number), judge, settings, ids, weights)

  def read(
    self, arm: Arm, ids: Int[np.ndarray, "B"], ns: Sequence[int]
  ) -> dict[int, list[dict[str, Any]]]:
    """Rows of all problems, for every number of beams."""
    return {
      number: self.read_rows(
        _label(arm, number), arm.settings(number, self.policy.max_steps), ids
      )
      for number in arm.ns or ns
    }

  def write_rows(
    self,
    label: str,
    judge: Judge,
    settings: Settings,
    ids: Int[np.ndarray, "B"],
    alpha: Float[np.ndarray, "B"],
  ) -> None:
    """A row for each problem, in the files of this process's parts."""
    parts = self._parts(label, settings, len(ids))

    def make(number):
      _, at, valid = parts[number]
      rows = self._search(judge, settings, ids[at], alpha[at])[:valid]
      right = float(np.mean([row["correct"] for row in rows]))
      text = "".join(json.dumps(row) + "\n" for row in rows)
      return text.encode(), {label: right}

    files = [file for file, _, _ in parts]
    sizes = [valid for _, _, valid in parts]
    self.division.write(label, files, sizes, make)

  def read_rows(
    self, label: str, settings: Settings, ids: Int[np.ndarray, "B"]
  ) -> list[dict[str, Any]]:
    """The row of each problem, in order."""
    return [
      json.loads(line)
      for file, _, _ in self._parts(label, settings, len(ids))
      for line in file.read_text().splitlines()
    ]

  def _parts(self, label, settings, number) -> list[tuple]:
    """Of searches: the file, problems by their place, how many count."""
    width = settings.num_beams * settings.num_candidates
    each = min(max(1, self.beams_per_call * 3 // width), number)
    name = re.sub(r"[^\w.=]+", "_", label)
    return [
      (self.path / f"{name}_{first:06d}.jsonl", at, valid)
      for first, at, valid in in_parts(np.arange(number), each)
    ]

  def _search(self, judge, settings, ids, alpha) -> list[dict[str, Any]]:
    start = time.monotonic()
    prompts = self.problem.prompts(ids)
    prompt_len = self.problem.prompt_lengths(ids)
    found = search(
      self.policy,
      self.params,
      judge,
      self.key,
      prompts,
      prompt_len,
      ids,
      settings=settings,
      alpha=alpha,
      max_step_tokens=self.max_step_tokens,
    )
    found = jax.tree.map(np.asarray, found)
    seconds = (time.monotonic() - start) / len(ids)
    return list(self._rows(judge, found, prompt_len, seconds, alpha))

  def _rows(
    self,
    judge: Judge,
    found: Found,
    prompt_len: Int[np.ndarray, "B"],
    seconds: float,
    alpha: Float[np.ndarray, "B"],
  ) -> Iterator[dict[str, Any]]:
    networks = [x for x in map(network, judge.verifiers) if x is not None]
    config = self.policy.config
    cost = costs.of_problems(config, networks, prompt_len)
    cost += costs.of_steps(config, networks, found.start, found.count)
    batch, num_beams = found.valid.shape
    every = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found.rollout)
    right = self.problem.outcomes(every).reshape(batch, num_beams)
    right *= found.valid
    for b, of_cost in enumerate(cost.rows()):
      chosen = found.chosen[b]
      prefix_len = found.rollout.prefix_len[b, chosen]
      yield {
        "problem": int(found.rollout.problem_id[b, 0]),
        "correct": float(right[b, chosen]),
        "any_correct": float(right[b].max()),
        "alpha": float(alpha[b]),
        **search_report.trace(
          found.rollout.tokens[b, chosen],
          prefix_len,
          found.q_policy[b, chosen],
          found.q_prover[b, chosen],
        ),
        **of_cost,
        "seconds": seconds,
      }


def _label(arm: Arm, num_beams: int) -> str:
  return f"{arm.name}, {num_beams} beams"
