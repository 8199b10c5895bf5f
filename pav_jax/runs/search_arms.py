"""Beam searches of a run, in parts that are kept."""

import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PyTree

from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers.base import PolicyValues, Prover
from pav_jax.runs import search_report
from pav_jax.runs.division import Division, in_parts
from pav_jax.search import costs
from pav_jax.search.cached_beams import SearchResult, search
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import ValueFunction
from pav_jax.shards import Shards


@dataclasses.dataclass(frozen=True)
class BeamArm:
  """A way of searching, at several numbers of beams.

  Attributes:
    name: of the arm; all are unlike.
    alpha: weight of progress; None for what was tuned, 0 for Q alone.
    prover: whose advantages count, such as `BestOfK(PolicyValues(), 4)`.
    ns: numbers of beams N; None for those of the run.
    num_candidates: C.
    beams_per_tree: in diverse verifier tree search; None for one tree.
    lookahead: as of `selection.Settings`.
    merge: as of `selection.Settings`.
    temperature: as of `selection.Settings`.
  """

  name: str
  alpha: float | int | None = None
  prover: Prover = dataclasses.field(default_factory=PolicyValues)
  ns: Sequence[int] | None = None
  num_candidates: int = 3
  beams_per_tree: int | None = None
  lookahead: int = 0
  merge: bool = False
  temperature: float | None = None

  def sizes(self, ns: Sequence[int]) -> list[int]:
    """Its numbers of beams, ascending; `ns` are those of the run."""
    return sorted(set(self.ns or ns))

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
    path: of the directory of units.
    run: what decides all answers, as JSON.
    arms: what decides those of an arm, by its name.
    policy: that is searched.
    params: of its network.
    problem: that is answered.
    key: of the searches.
    max_step_tokens: see `cached_beams.search`.
    beams_per_call: B · N.
  """

  path: pathlib.Path
  run: Mapping[str, str]
  arms: Mapping[str, str]
  policy: LanguageModel
  params: PyTree
  problem: Any
  key: jax.Array
  max_step_tokens: int | None
  beams_per_call: int

  def write(
    self,
    division: Division,
    arm: str,
    value_function: ValueFunction,
    settings: Settings,
    problem_id: Int[np.ndarray, "B"],
    alpha: Float[np.ndarray, "B"],
  ) -> None:
    """Writes a row for each problem, in the files of this process's parts.

    Args:
      division: among processes.
      arm: its name.
      value_function: of prefixes.
      settings: of the search.
      problem_id: which problems; one may be there more than once.
      alpha: weight of progress for each.
    """
    label = f"{arm}, {settings.num_beams} beams"
    parts = self._parts(label, settings, len(problem_id))

    def make(number):
      _, at, valid = parts[number]
      rows = self._search(value_function, settings, problem_id[at], alpha[at])
      rows = rows[:valid]
      right = float(np.mean([row["correct"] for row in rows]))
      text = "".join(json.dumps(row) + "\n" for row in rows)
      return text.encode(), {label: right}

    names = [name for name, _, _ in parts]
    sizes = [valid for _, _, valid in parts]
    division.write(label, self._shards(arm), names, sizes, make)

  def read(
    self, arm: str, settings: Settings, number: int
  ) -> list[dict[str, Any]]:
    """The rows of so many problems, in the order in which they were given."""
    shards, label = self._shards(arm), f"{arm}, {settings.num_beams} beams"
    return [
      json.loads(line)
      for name, _, _ in self._parts(label, settings, number)
      for line in shards.read(name).decode().splitlines()
    ]

  def _shards(self, arm: str) -> Shards:
    return Shards(self.path, {**self.run, "arm": self.arms.get(arm, arm)})

  def _parts(self, label, settings, number) -> list[tuple]:
    """Of searches: the file's name, problems by their place, how many count."""
    width = settings.num_beams * settings.num_candidates
    each = min(max(1, self.beams_per_call * 3 // width), number)
    name = re.sub(r"[^\w.=]+", "_", label)
    return [
      (f"{name}_{first:06d}.jsonl", at, valid)
      for first, at, valid in in_parts(np.arange(number), each)
    ]

  def _search(
    self, value_function, settings, problem_id, alpha
  ) -> list[dict[str, Any]]:
    start = time.monotonic()
    prompt_len = self.problem.prompt_lengths(problem_id)
    result = search(
      self.policy,
      self.params,
      value_function,
      self.key,
      self.problem.prompts(problem_id),
      prompt_len,
      problem_id,
      settings=settings,
      alpha=alpha,
      max_step_tokens=self.max_step_tokens,
    )
    result = jax.tree.map(np.asarray, result)
    seconds = (time.monotonic() - start) / len(problem_id)
    config, networks = self.policy.config, value_function.networks
    cost = costs.of_problems(config, networks, prompt_len)
    cost += costs.of_steps(config, networks, result.start, result.count)
    return list(self._rows(result, cost, seconds, alpha))

  def _rows(
    self,
    result: SearchResult,
    cost: costs.Cost,
    seconds: float,
    alpha: Float[np.ndarray, "B"],
  ) -> Iterator[dict[str, Any]]:
    every = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result.rollout)
    right = self.problem.grade(every).reshape(result.valid.shape) * result.valid
    for b, of_cost in enumerate(cost.rows()):
      chosen = result.chosen[b]
      yield {
        "problem": int(result.rollout.problem_id[b, 0]),
        "correct": float(right[b, chosen]),
        "any_correct": float(right[b].max()),
        "alpha": float(alpha[b]),
        **search_report.trace(
          result.rollout.tokens[b, chosen],
          result.rollout.prefix_len[b, chosen],
          result.q_policy[b, chosen],
          result.q_prover[b, chosen],
        ),
        **of_cost,
        "seconds": seconds,
      }
