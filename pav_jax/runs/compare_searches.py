"""The run that compares ways of searching on held-out problems."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from pav_jax import files, models
from pav_jax.files import describe
from pav_jax.models.transformer_config import KeptTokens
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.provers import base as provers
from pav_jax.provers.base import Prover
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.runs import search_report, search_samples
from pav_jax.runs.division import Division
from pav_jax.runs.networks import layout_of
from pav_jax.runs.preemption import Watch
from pav_jax.runs.search_arms import BeamArm, Searcher
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.search import tune_alpha
from pav_jax.search.value_function import ValueFunction, value_function
from pav_jax.shards import Shards
from pav_jax.training import processes
from pav_jax.training.state import sha256

# Of random numbers: those of searches, of test and of validation samples.
_SEARCH, _SAMPLES, _VALIDATION = range(3)
# Stands for an arm.
_TUNING = "tuning alpha"


@dataclasses.dataclass(frozen=True)
class Tuning:
  """How α is chosen, on the validation split (App. C).

  Attributes:
    alphas: that are tried; the first of equally good ones is taken. A single
      one is taken without trying.
    num_problems: of the validation split.
    num_beams: N.
    num_samples: of each problem, for thresholds of Fig. 10; 0 for no figure.
  """

  alphas: Sequence[float] = tune_alpha.GRID
  num_problems: int = 128
  num_beams: int = 16
  num_samples: int = 16


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """What is searched, how, and on which problems.

  Attributes:
    policy: directory of the policy, in Hugging Face's format.
    verifier: a prover whose values are the policy's; also the outcome model of
      all re-rankers.
    problem: a text problem.
    arms: ways of beam search, whose names differ.
    ns: numbers of beams.
    num_samples: of each problem, for re-rankers; the largest N of theirs.
    num_problems: that are answered.
    first_problem: the first one's number within the split.
    split: of the problems that are answered; α is tuned on "validation".
    tuning: of α.
    temperature: of the policy.
    max_step_tokens: a step that has so many cuts its response off, see
      `search.cached_beams.search`.
    dtype: of the policy's computation, such as "bfloat16"; None for that of its
      parameters. `load_verifier.dtype` is the verifier's.
    kept: tokens that the policy may say, see `for_problem.used_tokens`; None
      for all.
    seed: of samples and searches.
    beams_per_call: B · N of a search; bounds memory.
    rows_per_call: responses sampled at a time.
    mesh: over which the policy is split, from `make_mesh` with `local`; None
      for all devices on the data axis. `load_verifier.mesh` splits a verifier.

  Raises:
    ValueError: for no arms or two of one name, a number out of its range, or
      problems that α is tuned on.
  """

  policy: str | os.PathLike
  verifier: Prover
  problem: Any
  arms: Sequence[BeamArm]
  ns: Sequence[int] = (1, 2, 4, 8, 16)
  num_samples: int = 128
  num_problems: int = 512
  first_problem: int = 0
  split: str = "test"
  tuning: Tuning = Tuning()
  temperature: float = 1.0
  max_step_tokens: int | None = None
  dtype: str | None = None
  kept: KeptTokens | None = None
  seed: int = 0
  beams_per_call: int = 1024
  rows_per_call: int = 4096
  mesh: jax.sharding.Mesh | None = None

  def __post_init__(self):
    names = [arm.name for arm in self.arms]
    if not names or len(set(names)) < len(names):
      raise ValueError(f"arms are {names}, expected one or more, all unlike")
    if self.num_samples < 1 or self.num_problems < 2:
      raise ValueError(
        f"num_samples is {self.num_samples} and num_problems "
        f"{self.num_problems}, expected at least 1 and 2"
      )
    tuned = self.tuning.num_problems
    if self.split == "validation" and self.first_problem < tuned:
      raise ValueError(
        f"first_problem is {self.first_problem} of the validation split, "
        f"expected at least {tuned}, for α is tuned on those before"
      )

  @property
  def problem_ids(self) -> Int[np.ndarray, "B"]:
    """Problems that are answered."""
    stop = self.first_problem + self.num_problems
    return self.problem.problem_ids(self.split, self.first_problem, stop)

  @property
  def validation_ids(self) -> Int[np.ndarray, "B"]:
    """Problems that α is tuned on, and thresholds."""
    return self.problem.problem_ids("validation", 0, self.tuning.num_problems)


@exclusive
def compare_searches(
  workdir: str | os.PathLike, experiment: str, settings: SearchSettings
) -> dict[str, Any]:
  """Searches, ranks and votes; continues what the workdir has begun.

  Every method answers the same problems. All re-rankers, at every N and α,
  share one set of samples. Randomness is addressed, so a run that was killed
  ends with the same answers, and so do several processes, which take turns with
  parts of `beams_per_call` and `rows_per_call` in a workdir that all of them
  see.

  Args:
    workdir: gets rows.jsonl (a row for each problem, method and size: answer,
      values, cost), report.json, figures, and what is kept to continue.
    experiment: its name.
    settings: of the comparison.

  Returns:
    The `arms` of report.json.

  Raises:
    ValueError: for a policy of another vocabulary, too few problems, a mesh
      with devices of other processes, or a workdir of another run.
    FileNotFoundError: if processes do not see each other's files.
    Preempted: after SIGTERM, when the parts that were begun are written.
  """
  start = time.monotonic()
  # Too few problems are noticed before the search and not after the tuning.
  ids, validation = settings.problem_ids, settings.validation_ids
  workdir = pathlib.Path(workdir)
  searcher, values = _load(workdir, experiment, settings)
  keys = jax.random.key(settings.seed)
  with Watch() as told_to_stop:
    division = Division(told_to_stop)

    def draw(name, stream, problem_id, number, **changes):
      return search_samples.draw(
        division,
        Shards(workdir / name, searcher.run),
        dataclasses.replace(searcher.policy, **changes),
        searcher.params,
        values[None],
        jax.random.fold_in(keys, stream),
        settings.problem,
        problem_id,
        num_samples=number,
        rows_per_call=settings.rows_per_call,
      )

    tuned = _tune(division, searcher, values[None], settings)
    samples = draw("samples", _SAMPLES, ids, settings.num_samples)
    greedy = draw("greedy", _SAMPLES, ids, 1, temperature=0.0)
    for arm in settings.arms:
      alpha = tuned["alpha"] if arm.alpha is None else float(arm.alpha)
      for number in arm.sizes(settings.ns):
        searcher.write(
          division,
          arm.name,
          values[arm.name],
          arm.settings(number, searcher.policy.max_steps),
          ids,
          np.full(len(ids), alpha),
        )
    thresholds = None
    if number := settings.tuning.num_samples:
      thresholds = draw("validation", _VALIDATION, validation, number)
    division.wait()
  if not processes.is_first():
    return processes.agree(None)
  samples, more = samples(), {"alpha": tuned}
  methods = search_report.rerank(
    ids,
    samples,
    greedy(),
    alpha=tuned["alpha"],
    policy=searcher.policy.config,
    networks=values[None].networks,
  ) | _searched(settings, searcher)
  if thresholds:
    more["outcome_error"] = search_report.outcome_errors(
      thresholds(), samples, alpha=tuned["alpha"]
    )
  report = search_report.summarize(methods)
  _write(workdir, experiment, settings, methods, report, more, start)
  return processes.agree(report)


def _load(
  workdir: pathlib.Path, experiment: str, settings: SearchSettings
) -> tuple[Searcher, dict[str | None, ValueFunction]]:
  """The policy to search, and the value function of each arm, by its name.

  That of None has the policy's own values for the prover's.
  """
  problem, layout = settings.problem, layout_of(settings.mesh)
  model = models.load(
    settings.policy,
    fingerprint=problem.fingerprint,
    layout=layout,
    dtype=settings.dtype,
    kept=settings.kept,
  )
  params, temperature = model.params, settings.temperature
  policy = language_model(model.config, problem, temperature=temperature)
  run, arms = _identity(settings, policy, params), _arm_identities(settings)
  accept(
    workdir, experiment, run | {f"arm {name}": x for name, x in arms.items()}
  )
  policy = dataclasses.replace(policy, layout=layout)
  copies: dict[int, Prover] = {}

  def ready(prover):
    lies = provers.layout_of(prover)
    if lies is not None and lies.spans_processes:
      raise ValueError(
        "a verifier is split over several processes, expected make_mesh.local "
        "= True: processes search at a pace of their own"
      )
    prover = provers.placed(prover, layout, copies)
    return prover.with_policy(policy, params)

  verifier = ready(settings.verifier)
  values: dict[str | None, ValueFunction] = {None: value_function(verifier)}
  for arm in settings.arms:
    values[arm.name] = value_function(verifier, ready(arm.prover))
  searcher = Searcher(
    workdir / "units",
    run,
    arms,
    policy,
    params,
    problem,
    jax.random.fold_in(jax.random.key(settings.seed), _SEARCH),
    settings.max_step_tokens,
    settings.beams_per_call,
  )
  return searcher, values


def _tune(
  division: Division,
  searcher: Searcher,
  values: ValueFunction,
  settings: SearchSettings,
) -> dict[str, Any]:
  """α and how it was chosen; searches of all α are one batch."""
  tuning, ids = settings.tuning, settings.validation_ids
  alphas = list(tuning.alphas)
  if len(alphas) == 1:
    return {"alpha": float(alphas[0])}
  beams = BeamArm("tuning").settings(
    tuning.num_beams, searcher.policy.max_steps
  )
  every = np.tile(ids, len(alphas))
  weights = np.repeat(np.array(alphas, np.float64), len(ids))
  searcher.write(division, _TUNING, values, beams, every, weights)
  division.wait()
  correct = None
  if processes.is_first():
    rows = searcher.read(_TUNING, beams, len(every))
    correct = np.array([row["correct"] for row in rows])
  correct = processes.agree(correct)
  return tune_alpha.best_alpha(alphas, correct.reshape(len(alphas), len(ids)))


def _searched(
  settings: SearchSettings, searcher: Searcher
) -> search_report.Methods:
  """Rows of all beam searches, of what all processes have written."""
  return {
    arm.name: {
      number: searcher.read(
        arm.name,
        arm.settings(number, searcher.policy.max_steps),
        settings.num_problems,
      )
      for number in arm.sizes(settings.ns)
    }
    for arm in settings.arms
  }


def _write(
  workdir: pathlib.Path,
  experiment: str,
  settings: SearchSettings,
  methods: search_report.Methods,
  report: dict[str, Any],
  more: dict[str, Any],
  start: float,
) -> None:
  """Rows, report and figures, and what they say in short."""
  from pav_jax.reporting import search_plots

  with files.whole_file(workdir / "rows.jsonl", "w") as file:
    for name, sizes in methods.items():
      for number, rows in sizes.items():
        for row in rows:
          row = {"method": name, "n": number} | row
          file.write(json.dumps(row) + "\n")
  figures = search_plots.every(workdir, report, more)
  verdict = search_report.verdict(report)
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=time.monotonic() - start,
    problems=settings.num_problems,
    samples=settings.num_samples,
    verdict=verdict,
    **more,
  )
  table = workdir / "table.txt"
  search_report.write_table(table, experiment, report, more["alpha"])
  written = [workdir / name for name in ("report.json", "rows.jsonl")]
  progress.finish([*written, table, *figures], verdict)


def _identity(
  settings: SearchSettings, policy: LanguageModel, params: PyTree
) -> dict[str, str]:
  """What the answers depend on."""
  return {
    "run": "search",
    "problem": describe(settings.problem),
    "tuning": repr(settings.tuning),
    "max_step_tokens": repr(settings.max_step_tokens),
    "seed": repr(settings.seed),
    "policy": describe(policy),
    "params": sha256(params),
    "verifier": provers.described(settings.verifier, sha256),
    "samples": repr(
      (
        settings.num_samples,
        settings.num_problems,
        settings.split,
        settings.first_problem,
      )
    ),
    "calls": repr((settings.beams_per_call, settings.rows_per_call)),
  }


def _arm_identities(settings: SearchSettings) -> dict[str, str]:
  """What the answers of each arm depend on besides, by its name."""
  return {
    arm.name: f"{provers.described(arm.prover, sha256)} in "
    f"{describe(dataclasses.replace(arm, prover=provers.PolicyValues()))}"
    for arm in settings.arms
  }
