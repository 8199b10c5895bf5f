"""How verifiers depend on how their data was spent (Fig. 6b, Fig. 11)."""

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import numpy as np
from jaxtyping import Float, Int

from pav_jax.data import step_targets
from pav_jax.models import partitioning
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers.verifier import Verifier
from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.runs import hosts
from pav_jax.training import fitting, labelling, sft, value_fitting
from pav_jax.training import target_splits as data_sets
from pav_jax.training import value_evaluation as evaluation
from pav_jax.training.collect_seeds import owners
from pav_jax.training.fitting import FitState, Fitter
from studies.scaling import figure


@gin.register
@dataclasses.dataclass(frozen=True)
class Design:
  """One way of spending a budget.

  Attributes:
    group: designs of a group cost alike, and are compared.
    name: within the group.
    data: directory of step targets that has enough of everything.
    num_problems: of the data's, drawn by the seed; the most, if there is a
      budget.
    num_seeds: n_cov, traces of each that are kept; None for all.
    num_completions: n_mc, completions of each prefix that are kept; None for
      all.
    least_completions: of prefixes, if these keep unlike numbers: each one drawn
      from here to `num_completions`, evenly on a logarithmic scale.
    likelihood: of labels, see `training.labelling.Labelling`; None for that of
      the run.
    budget: completions that may be made, see `completions_made`; problems are
      kept, in the order in which they are drawn, until it is spent. None for
      all of `num_problems`, whatever they cost.

  Raises:
    ValueError: if `least_completions` is no number in 1 … `num_completions`.
  """

  group: str
  name: str
  data: str
  num_problems: int
  num_seeds: int | None = None
  num_completions: int | None = None
  least_completions: int | None = None
  likelihood: str | None = None
  budget: int | None = None

  def __post_init__(self):
    least, most = self.least_completions, self.num_completions
    if least is not None and not (most is not None and 1 <= least <= most):
      raise ValueError(
        f"least_completions is {least}, expected a number in 1 … "
        f"num_completions = {most}"
      )


def thin(
  targets: StepTargets, design: Design, rng: np.random.Generator
) -> StepTargets:
  """The data that a smaller budget would have collected.

  c of n completions, of which m are kept, leave a hypergeometric number of
  correct ones: that is what m completions would have given, whatever n was.
  A prefix that several traces of a problem share is completed once, so it has
  one m and one number of correct ones.

  Args:
    targets: traces, those of a problem numbered from 0.
    design: what to keep.
    rng: decides which problems and completions.

  Raises:
    ValueError: if there is less than the design asks for, or so little that its
      budget is not spent.
  """
  targets = jax.tree.map(np.asarray, targets)
  problems = np.unique(targets.problem_id)
  if len(problems) < design.num_problems:
    raise ValueError(
      f"{design.data} has {len(problems)} problems, expected at least "
      f"{design.num_problems}"
    )
  drawn = rng.choice(problems, design.num_problems, replace=False)
  rows = np.isin(targets.problem_id, drawn)
  if design.num_seeds is not None:
    numbers = np.bincount(np.searchsorted(problems, targets.problem_id))
    if numbers.min() < design.num_seeds:
      raise ValueError(
        f"{design.data} has {numbers.min()} traces of a problem, expected at "
        f"least {design.num_seeds}"
      )
    rows &= targets.sample_id < design.num_seeds
  targets = data_sets.take(targets, rows)
  if design.num_completions is not None:
    targets = _fewer_completions(targets, design, rng)
  if design.budget is not None:
    targets = _within_budget(targets, design, drawn)
  return targets


def completions_made(targets: StepTargets) -> Int[np.ndarray, "B"]:
  """How many completions a collector makes for each trace: int64[B].

  Those of prefixes that no earlier trace of the problem has and that are no
  whole responses, whose outcome is known. Dead prefixes are charged like
  others: a collector need not know that they are.

  Args:
    targets: of numpy arrays.
  """
  length = targets.prefix_len
  real = np.diff(length, axis=-1, prepend=-1) > 0
  whole = (length == length[:, -1:]) & (np.arange(length.shape[1]) > 0)
  first = owners(targets) == np.arange(len(length))[:, None]
  return np.sum(targets.num_completions * (real & ~whole & first), -1)


def _fewer_completions(targets, design, rng):
  n = targets.num_completions.astype(np.int64)
  c = targets.num_correct.astype(np.int64)
  fewest = n[n > 0].min(initial=design.num_completions)
  if fewest < design.num_completions:
    raise ValueError(
      f"{design.data} has {fewest} completions of a prefix, expected at least "
      f"{design.num_completions}"
    )
  owner = owners(targets), np.arange(n.shape[1])
  uniform = rng.random(n.shape)[owner]
  m = np.full(n.shape, design.num_completions)
  if design.least_completions is not None:
    low, high = np.log([design.least_completions, design.num_completions + 1])
    m = np.exp(rng.uniform(low, high, n.shape)).astype(np.int64)[owner]
  m = np.where(n > 0, m, 0)
  return dataclasses.replace(
    targets,
    num_completions=m.astype(np.int32),
    num_correct=_hypergeometric(uniform, c, n, m).astype(np.float32),
  )


def _within_budget(targets, design, drawn):
  """The first of the problems drawn whose completions the budget pays for."""
  of = np.searchsorted(np.sort(drawn), targets.problem_id)
  cost = np.bincount(of, completions_made(targets), len(drawn)).astype(np.int64)
  spent = np.cumsum(cost[np.argsort(np.argsort(drawn))])
  if spent[-1] < design.budget:
    raise ValueError(
      f"budget is {design.budget} and the {len(drawn)} problems of "
      f"{design.group} {design.name} cost {spent[-1]} completions, expected at "
      "least as many: more problems, or a smaller budget"
    )
  kept = drawn[spent <= design.budget]
  return data_sets.take(targets, np.isin(targets.problem_id, kept))


def _hypergeometric(
  uniform: np.ndarray, c: np.ndarray, n: np.ndarray, m: np.ndarray
) -> np.ndarray:
  """The quantiles at `uniform` of how many of m drawn from n are among c."""
  from scipy import stats

  out = np.zeros(n.shape, np.int64)
  some = m > 0
  out[some] = stats.hypergeom.ppf(uniform[some], n[some], c[some], m[some])
  return out


@gin.register
def scaling(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  problem: Any,
  designs: Sequence[Design],
  held_out: str | os.PathLike,
  backbone: Callable,
  schedule: value_fitting.VerifierSchedule,
  reader_layers: int = 0,
  labels: labelling.Labelling | None = None,
  aux_weight: float = 0.0,
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None = None,
  optimizer: sft.AdamW | None = None,
  seeds: Sequence[int] = (0, 1, 2),
  held_out_traces: int = 1024,
  chunk: int = 50,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """Trains a verifier for each design and seed, all in one way.

  A run that was interrupted goes on with what is missing.

  Args:
    workdir: gets results.jsonl, a line for each verifier; report.json; a
      figure.
    experiment: its name.
    problem: of the data.
    designs: how budgets are spent.
    held_out: step targets of other problems, to measure on.
    backbone: see `runs.fit_verifier`, as for the next six.
    schedule: steps and learning rates, the same for all.
    reader_layers: of the verifier.
    labels: which, and how they count.
    aux_weight: of the next-token loss.
    exact: exact values to measure against.
    optimizer: but for its learning rate.
    seeds: of what is kept, of new parameters and of the order of traces.
    held_out_traces: at most so many.
    chunk: train steps in a compiled call.
    mesh: from `make_mesh`; None for all devices on the data axis.

  Returns:
    For each group, design and measure the values of all seeds.

  Raises:
    ValueError: for designs alike, or that ask for more than their data has.
  """
  hosts.require_one_process("scaling")
  names = [(design.group, design.name) for design in designs]
  if not names or len(set(names)) < len(names):
    raise ValueError(f"designs are {names}, expected one or more, all unlike")
  start = time.monotonic()
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  layout = Layout(partitioning.for_batch(mesh, schedule.batch_size))
  labels = labels or labelling.Labelling()
  optimizer = optimizer or sft.AdamW()
  load = _loader([held_out, *(d.data for d in designs)], problem)
  known = evaluation.references(
    problem,
    data_sets.take(load(held_out), slice(held_out_traces)),
    exact,
  )
  settings = repr(
    (problem, schedule, reader_layers, labels, aux_weight, optimizer)
  )
  results = _Results(workdir / "results.jsonl", settings)
  fitter = None
  total = len(designs) * len(seeds)
  with progress.Progress(
    total, done=results.count(designs, seeds), label=experiment
  ) as bar:
    for seed in seeds:
      for design in designs:
        if results.find(design, seed):
          continue
        backbone_key, head_key = jax.random.split(jax.random.key(seed))
        backbone_config, params = backbone(
          backbone_key, layout, problem.fingerprint
        )
        config = VerifierConfig(backbone_config, reader_layers)
        fitter = fitter or value_fitting.fitter(
          config, schedule.optimizer(optimizer), layout, aux_weight=aux_weight
        )
        data = thin(load(design.data), design, np.random.default_rng(seed))
        state = _train(
          fitter,
          fitter.init(network.init(config, params, head_key)),
          labelling.examples(
            data,
            dataclasses.replace(
              labels, likelihood=design.likelihood or labels.likelihood
            ),
          ),
          schedule,
          seed,
          chunk,
        )
        scorer = Verifier(state.params, config, layout=layout)
        logit = evaluation.score(scorer, known.targets)
        found = evaluation.summary(1 / (1 + np.exp(-logit)), known)
        found["completions"] = int(completions_made(data).sum())
        results.add(design, seed, found)
        note = f"{design.group} {design.name} seed {seed}" + "".join(
          f" · {name} {value:.4g}" for name, value in found.items()
        )
        bar.update(results.count(designs, seeds), {}, note=note)
  table = results.table(designs, seeds)
  drawn = figure.spread_of_designs(workdir, table)
  write_config(workdir)
  write_report(
    workdir / "report.json",
    experiment=experiment,
    arms=table,
    seconds=time.monotonic() - start,
    seeds=list(seeds),
    designs=[dataclasses.asdict(design) for design in designs],
  )
  figure.print_tables(experiment, table)
  for path in (workdir / "report.json", workdir / "results.jsonl", drawn):
    progress.say(f"wrote {path}")
  return table


def _loader(paths: Sequence[str | os.PathLike], problem: Any) -> Callable:
  """Reads data sets, all with room for the longest trace; each once."""
  manifests = [
    step_targets.finished_manifest(path, problem.fingerprint)
    for path in {str(path) for path in paths}
  ]

  @functools.cache
  def load(path):
    return step_targets.load(
      path,
      fingerprint=problem.fingerprint,
      num_tokens=max(manifest.max_tokens for manifest in manifests),
      num_prefixes=max(manifest.max_prefixes for manifest in manifests),
    )

  return load


def _train(
  fitter: Fitter,
  state: FitState,
  examples: labelling.Examples,
  schedule: value_fitting.VerifierSchedule,
  seed: int,
  chunk: int,
) -> FitState:
  """The state after all steps of the schedule."""
  batch = labelling.batches(examples, batch_size=schedule.batch_size, seed=seed)
  for begin in range(0, schedule.num_steps, chunk):
    number = min(chunk, schedule.num_steps - begin)
    batches = [batch(step)[0] for step in range(begin, begin + number)]
    state, metrics = fitter.train_chunk(
      state, fitter.put(batches, chunk), np.int32(number)
    )
    loss = np.asarray(metrics["loss"])[:number]
    fitting.check_finite(loss, begin, None)
  return state


class _Results:
  """What was measured, a line for each design and seed."""

  def __init__(self, path: pathlib.Path, settings: str):
    self._path, self._settings = path, settings
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # A line that was cut off is measured again.
    self._rows = [json.loads(line) for line in lines if line.endswith("\n")]
    path.write_text("".join(json.dumps(row) + "\n" for row in self._rows))
    if any(row["settings"] != settings for row in self._rows):
      raise ValueError(
        f"{path} was measured with other settings; choose another workdir, or "
        "move it away"
      )

  def find(self, design: Design, seed: int) -> dict[str, float] | None:
    """What was measured, if it was."""
    wanted = dataclasses.asdict(design)
    for row in self._rows:
      if row["design"] == wanted and row["seed"] == seed:
        return row["found"]
    return None

  def count(self, designs: Sequence[Design], seeds: Sequence[int]) -> int:
    """How many of these are there."""
    return sum(bool(self.find(d, seed)) for d in designs for seed in seeds)

  def add(self, design: Design, seed: int, found: dict[str, float]) -> None:
    """Keeps a line, on the disk too."""
    row = {
      "design": dataclasses.asdict(design),
      "seed": seed,
      "found": {name: float(value) for name, value in found.items()},
      "settings": self._settings,
    }
    self._rows.append(row)
    with self._path.open("a") as file:
      file.write(json.dumps(row) + "\n")

  def table(
    self, designs: Sequence[Design], seeds: Sequence[int]
  ) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Group -> design -> measure -> value of each seed."""
    out: dict = {}
    for design in designs:
      found = [self.find(design, seed) for seed in seeds]
      out.setdefault(design.group, {})[design.name] = {
        name: [of_seed[name] for of_seed in found] for name in found[0]
      }
    return out
