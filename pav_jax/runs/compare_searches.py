"""The run that compares ways of searching on held-out problems."""

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pav_jax.models import hf
from pav_jax.policies.for_problem import language_model
from pav_jax.reporting import progress, search_plots
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.runs import search_report, search_samples
from pav_jax.runs.division import Division
from pav_jax.runs.networks import copied, layout_of
from pav_jax.runs.preemption import Watch
from pav_jax.runs.search_arms import Arm, Searcher
from pav_jax.search.judging import Judge, network
from pav_jax.search.tune_alpha import GRID, best_alpha
from pav_jax.training import processes
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True)
class Tuning:
  """How α is chosen, on the validation split (App. C).

  Attributes:
    alphas: that are tried; the first of equally good ones is taken. A single
      one is taken without trying.
    num_problems: of the validation split.
    num_beams: N.
    num_samples: of each problem, for thresholds of Fig. 10.
  """

  alphas: Sequence[float] = GRID
  num_problems: int = 128
  num_beams: int = 16
  num_samples: int = 16


def compare_searches(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  policy: str | os.PathLike,
  verifier: Callable,
  problem: Any,
  arms: Sequence[Arm],
  ns: Sequence[int] = (1, 2, 4, 8, 16),
  num_samples: int = 128,
  num_problems: int = 512,
  first_problem: int = 0,
  split: str = "test",
  tuning: Tuning | None = None,
  temperature: float = 1.0,
  max_step_tokens: int | None = None,
  seed: int = 0,
  beams_per_call: int = 1024,
  rows_per_call: int = 4096,
  mesh: jax.sharding.Mesh | None = None,
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
    policy: directory of the policy, in Hugging Face's format.
    verifier: a prover whose values are the policy's, `provers.verifier.load`
      say; also the outcome model of all re-rankers.
    problem: a text problem.
    arms: ways of beam search.
    ns: numbers of beams.
    num_samples: of each problem, for re-rankers; the largest N of theirs.
    num_problems: that are answered.
    first_problem: the first one's number within the split.
    split: of the problems; α is tuned on "validation".
    tuning: of α; None for `Tuning()`.
    temperature: of the policy.
    max_step_tokens: see `search.language_model.search`.
    seed: of samples and searches.
    beams_per_call: B · N of a search; bounds memory.
    rows_per_call: responses sampled at a time.
    mesh: over which the policy is split, from `make_mesh` with `local`; None
      for all devices on the data axis. `load_verifier.mesh` splits a verifier.

  Returns:
    The `arms` of report.json.

  Raises:
    ValueError: for arms of one name, a policy of another vocabulary, problems
      that α is tuned on, a mesh with devices of other processes, or a workdir
      of another run.
    FileNotFoundError: if processes do not see each other's files.
    Preempted: after SIGTERM, when the parts that were begun are written.
  """
  start = time.monotonic()
  tuning = tuning or Tuning()
  names = [arm.name for arm in arms]
  if not names or len(set(names)) < len(names):
    raise ValueError(f"arms are {names}, expected one or more, all unlike")
  if num_samples < 1 or num_problems < 2:
    raise ValueError(
      f"num_samples is {num_samples} and num_problems {num_problems}, expected "
      "at least 1 and 2"
    )
  if split == "validation" and first_problem < tuning.num_problems:
    raise ValueError(
      f"first_problem is {first_problem} of the validation split, expected at "
      f"least {tuning.num_problems}, for α is tuned on those before"
    )
  # Too few problems are found before the search and not after the tuning.
  problem.problem_ids(split, first_problem, first_problem + num_problems)
  problem.problem_ids("validation", 0, tuning.num_problems)
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  hf.check_fingerprint(policy, problem.fingerprint)
  layout = layout_of(mesh)
  config, params = hf.load(policy, layout=layout)
  model = language_model(config, problem, temperature=temperature)
  same = {"policy": repr(model)}
  model = dataclasses.replace(model, layout=layout)
  if any(map(processes.together, (verifier, *(arm.prover for arm in arms)))):
    raise ValueError(
      "a verifier is split over several processes, expected make_mesh.local = "
      "True: processes search at a pace of their own"
    )
  verifier = copied(verifier, layout)
  arms = [
    dataclasses.replace(arm, prover=copied(arm.prover, layout)) for arm in arms
  ]
  _check_same_run(
    workdir,
    same
    | {
      "problem": repr(problem),
      "tuning": repr(tuning),
      "samples": repr((num_samples, num_problems, split, first_problem)),
      "max_step_tokens": repr(max_step_tokens),
      "seed": repr(seed),
      "params": sha256(params),
      "verifier": _identity(verifier),
      "calls": repr((beams_per_call, rows_per_call)),
      **{f"arm {arm.name}": _arm_identity(arm) for arm in arms},
    },
  )
  keys = jax.random.key(seed)
  judge = Judge(verifier)
  ids = problem.problem_ids(split, first_problem, first_problem + num_problems)
  with Watch() as told_to_stop:
    division = Division(told_to_stop)
    draw = functools.partial(
      search_samples.draw,
      division,
      params=params,
      judge=judge,
      problem=problem,
      rows_per_call=rows_per_call,
    )
    searcher = Searcher(
      division,
      workdir / "units",
      model,
      params,
      problem,
      jax.random.fold_in(keys, 0),
      max_step_tokens,
      beams_per_call,
    )
    tuned = _tune(searcher, judge, tuning)
    draw(
      workdir / "samples",
      model,
      key=jax.random.fold_in(keys, 1),
      problem_id=ids,
      num_samples=num_samples,
    )
    draw(
      workdir / "greedy",
      dataclasses.replace(model, temperature=0.0),
      key=keys,
      problem_id=ids,
      num_samples=1,
    )
    for arm in arms:
      searcher.write(arm, ids, verifier, ns, tuned["alpha"])
    if tuning.num_samples:
      draw(
        workdir / "validation",
        model,
        key=jax.random.fold_in(keys, 2),
        problem_id=problem.problem_ids("validation", 0, tuning.num_problems),
        num_samples=tuning.num_samples,
      )
    division.wait()
  if not processes.is_first():
    return processes.agree(None)
  samples = search_samples.read(workdir / "samples")
  methods = search_report.rerank(
    ids,
    samples,
    search_samples.read(workdir / "greedy"),
    alpha=tuned["alpha"],
    policy=config,
    verifier=network(verifier),
  )
  for arm in arms:
    methods[arm.name] = searcher.read(arm, ids, ns)
  with (workdir / "rows.partial").open("w") as file:
    for name, sizes in methods.items():
      for number, rows in sizes.items():
        for row in rows:
          row = {"method": name, "n": number} | row
          file.write(json.dumps(row) + "\n")
  os.replace(workdir / "rows.partial", workdir / "rows.jsonl")
  report = search_report.summarize(methods)
  more = {"alpha": tuned}
  if tuning.num_samples:
    validation = search_samples.read(workdir / "validation")
    more["outcome_error"] = search_report.outcome_errors(
      validation, samples, alpha=tuned["alpha"]
    )
  figures = search_plots.every(workdir, report, more)
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=report,
    seconds=time.monotonic() - start,
    problems=num_problems,
    samples=num_samples,
    **more,
  )
  search_report.print_tables(experiment, report, tuned)
  for path in (workdir / "report.json", workdir / "rows.jsonl", *figures):
    progress.say(f"wrote {path}")
  return processes.agree(report)


def _tune(searcher: Searcher, judge: Judge, tuning: Tuning) -> dict[str, Any]:
  """α and how it was found; searches of all α are one batch."""
  alphas = list(tuning.alphas)
  if len(alphas) == 1:
    return {"alpha": float(alphas[0])}
  settings = Arm("tuning").settings(tuning.num_beams, searcher.policy.max_steps)
  ids = searcher.problem.problem_ids("validation", 0, tuning.num_problems)
  every = np.tile(ids, len(alphas))
  weights = np.repeat(np.array(alphas, np.float64), len(ids))
  searcher.write_rows("tuning alpha", judge, settings, every, weights)
  searcher.division.wait()
  correct = None
  if processes.is_first():
    rows = searcher.read_rows("tuning alpha", settings, every)
    correct = np.array([row["correct"] for row in rows])
  correct = processes.agree(correct)
  return best_alpha(alphas, correct.reshape(len(alphas), len(ids)))


def _identity(prover: Any) -> str:
  """What a prover is, in few words."""
  if hasattr(prover, "params"):
    return f"{type(prover).__name__} {sha256(prover.params)}"
  return repr(prover)


def _arm_identity(arm: Arm) -> str:
  return f"{dataclasses.replace(arm, prover=None)} {_identity(arm.prover)}"


def _check_same_run(workdir: pathlib.Path, settings: dict[str, str]) -> None:
  """Raises ValueError if the workdir holds another run's answers.

  Arms may be added to it, and left out.
  """
  file = workdir / "settings.json"
  before = json.loads(file.read_text()) if file.exists() else {}
  changes = [
    f"{name} was {before[name]}, is {value}"
    for name, value in settings.items()
    if before.get(name, value) != value
  ]
  if changes:
    raise ValueError(
      f"{workdir} holds a search with another configuration: "
      f"{'; '.join(changes)}. Choose another workdir"
    )
  if processes.is_first():
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(before | settings, indent=1) + "\n")
    os.replace(partial, file)
