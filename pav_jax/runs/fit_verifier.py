"""The run that trains a verifier: training, validation, keeping the best."""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from pav_jax.checks import check_positive
from pav_jax.models import partitioning
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems import text_format
from pav_jax.provers import verifier as provers_verifier
from pav_jax.provers.verifier import Verifier
from pav_jax.reporting import progress
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.runs import fit_loop, fit_report, labelled_data
from pav_jax.runs.fit_loop import FitSettings, Fitted, Job
from pav_jax.runs.labelled_data import LabelledData
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training import (
  calibration,
  labelling,
  processes,
  sft,
  target_splits,
  value_evaluation,
  value_fitting,
)
from pav_jax.training.fitting import FitState, Fitter
from pav_jax.training.labelling import Examples, Labelling
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierSettings(FitSettings):
  """Settings of `fit_verifier`, besides those of all `FitSettings`.

  Attributes:
    problem: that the data is of: a tokenizer, a delimiter and a fingerprint,
      and what `value_evaluation.references` asks for if it has it.
    data: a directory of step targets.
    backbone: `(key, layout, fingerprint) -> (config, params)` to start from, as
      `training.initial.PretrainedBackbone`.
    schedule: steps, learning rates and batches.
    reader_layers: see `models.value_network.VerifierConfig`.
    labels: which labels there are and how they count.
    aux_weight: of the next-token loss on the steps that `labels` says.
    held_out: a directory of step targets of other problems; None to hold out
      some of `data`'s.
    held_out_share: of `data`'s problems, if there is no `held_out`.
    held_out_traces: at most so many for validation, and for the test.
    exact: exact values, `rollout -> [B, P]`, to measure against.
    calibrate: whether the head is scaled to fit validation labels in the end.
    optimizer: `learning_rate -> optax.GradientTransformation`.
    process_bench: two files in ProcessBench's format, one to choose a threshold
      on and one to report on; () for none.
    validate_every: train steps; it is done at the end too.
    num_inspected: test traces on the page.

  Raises:
    ValueError: if a setting is out of its range.
  """

  problem: Any
  data: str | os.PathLike
  backbone: Callable[[jax.Array, Layout, str], tuple[TransformerConfig, dict]]
  schedule: value_fitting.VerifierSchedule
  reader_layers: int = 0
  labels: Labelling = dataclasses.field(default_factory=Labelling)
  aux_weight: float = 0.0
  held_out: str | os.PathLike | None = None
  held_out_share: float = 0.2
  held_out_traces: int = 2048
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None = None
  calibrate: bool = True
  optimizer: Callable = dataclasses.field(default_factory=sft.AdamW)
  process_bench: Sequence[str | os.PathLike] = ()
  validate_every: int = 250
  checkpoint_every: int = 500
  num_inspected: int = 50
  free = FitSettings.free | {
    "exact",
    "calibrate",
    "process_bench",
    "num_inspected",
  }

  def __post_init__(self):
    super().__post_init__()
    check_positive(
      validate_every=self.validate_every, held_out_traces=self.held_out_traces
    )
    if not 0 <= self.aux_weight < float("inf"):
      raise ValueError(f"aux_weight is {self.aux_weight}, expected >= 0")
    if self.aux_weight and not self.schedule.backbone_rate:
      raise ValueError(
        f"aux_weight is {self.aux_weight}, expected 0 with backbone_rate = 0: "
        "that loss trains the backbone alone"
      )
    if len(self.process_bench) not in (0, 2):
      raise ValueError(
        f"process_bench has {len(self.process_bench)} files, expected two: to "
        "choose a threshold on, and to report on"
      )

  def identity(self) -> dict[str, str]:
    """As of all `FitSettings`, with digests of the data."""
    digests = {
      name: labelled_data.digest(path)
      for name, path in (("data", self.data), ("held_out", self.held_out))
      if path is not None
    }
    return super().identity() | digests


@exclusive
def fit_verifier(
  workdir: str | os.PathLike, experiment: str, settings: VerifierSettings
) -> dict[str, Any]:
  """Trains a verifier; continues if the workdir holds the run's beginning.

  Problems that are held out are halved: validation chooses the verifier that is
  kept, its calibration and the threshold of first errors; the test half is
  reported on.

  In several processes it ends as in one with the same mesh. The number of
  processes, and the mesh, may differ when a run is continued.

  Args:
    workdir: gets metrics.jsonl, event files, report.json, figures,
      checkpoints, inspect.html, and `verifier/`, see `provers.verifier`.
    experiment: its name, for the report.
    settings: of the run.

  Returns:
    The `verifier` arm of report.json.

  Raises:
    ValueError: for data or a checkpoint of another tokenizer, a workdir of
      another run, or see `fit_loop.train`.
    FloatingPointError: if a loss is not finite; the last checkpoint stays.
    Preempted: after SIGTERM, with a checkpoint of the step it stopped at.
  """
  began, workdir = time.monotonic(), pathlib.Path(workdir)
  problem, schedule = settings.problem, settings.schedule
  layout = Layout(partitioning.for_batch(settings.mesh, schedule.batch_size))
  same = settings.identity()
  accept(workdir, experiment, {"run": "verifier"} | same)
  data = labelled_data.load(
    settings.data,
    settings.held_out,
    settings.held_out_share,
    settings.held_out_traces,
    problem,
  )
  train, validation = (
    labelling.examples(part, settings.labels)
    for part in (data.train, data.validation)
  )
  references = value_evaluation.references(
    problem, data.validation, settings.exact
  )
  config, fitter, state, start = _start(settings, data, layout)
  batches = labelling.batches(
    train, batch_size=schedule.batch_size, seed=settings.seed
  )

  def validate(params):
    logit = _score(_verifier(params, config, layout), data.validation)
    return fit_report.validation(logit, validation, references)

  job = Job(
    experiment=experiment,
    workdir=workdir,
    config=same,
    fingerprint=problem.fingerprint,
    fitter=fitter,
    stages=[(batches, schedule.num_steps)],
    validate=validate,
    score=lambda measures: -measures["loss"],
    validate_every=settings.validate_every,
    settings=settings,
    began=began,
  )
  fitted = fit_loop.train(job, state)
  progress.say(f"testing the verifier of step {fitted.step} …")
  verifier, scaling = _verifier(fitted.params, config, layout), None
  if settings.calibrate:
    verifier, scaling = _calibrated(verifier, data.validation, validation)
  _export(workdir / "verifier", verifier, problem, start)
  labels = int((train.weight > 0).sum())
  return _tested(job, fitted, data, labels, verifier, scaling)


def _export(
  path: pathlib.Path, verifier: Verifier, problem: Any, start: str
) -> None:
  """Writes the verifier's directory, with the digest of its start."""
  vocabulary = problem.vocabulary
  provers_verifier.save(
    path,
    verifier.config,
    verifier.params,
    identity=text_format.saved(
      problem,
      max_response_len=problem.max_response_len,
      max_steps=problem.max_steps,
    )
    | {"start": start},
    vocabulary=vocabulary,
    token_ids={
      "eos_token_id": vocabulary.eos_id,
      "pad_token_id": vocabulary.pad_id,
    },
  )


def _start(
  settings: VerifierSettings, data: LabelledData, layout: Layout
) -> tuple[VerifierConfig, Fitter, FitState, str]:
  """The network, its step of training, the state before the first.

  And the digest of the backbone that training begins with.
  """
  problem = settings.problem
  backbone_key, head_key = jax.random.split(jax.random.key(settings.seed))
  backbone, params = settings.backbone(
    backbone_key, layout, problem.fingerprint
  )
  labelled_data.check_room(backbone, problem, data)
  config = VerifierConfig(backbone, settings.reader_layers)
  fitter = value_fitting.fitter(
    config,
    settings.schedule.optimizer(settings.optimizer),
    layout,
    aux_weight=settings.aux_weight,
    split=settings.schedule.split,
  )
  start = sha256(params)
  state = fitter.init(network.init(config, params, head_key))
  return config, fitter, state, start


def _verifier(
  params: PyTree, config: VerifierConfig, layout: Layout
) -> Verifier:
  """A verifier to score with, where `processes.to_sample` has policies."""
  if layout.splits_parameters or jax.process_count() == 1:
    return Verifier(params, config, layout=layout)
  return Verifier(processes.on_own(params), config, layout=layout.own)


def _score(
  verifier: Verifier, targets: StepTargets
) -> Float[np.ndarray, "B P"]:
  """Logits of all prefixes; processes that can divide the traces."""
  number = len(targets.tokens)
  if number < jax.process_count() or processes.together(verifier):
    return value_evaluation.score(verifier, targets)
  share = target_splits.take(targets, processes.share(number))
  return processes.gather(value_evaluation.score(verifier, share))


def _calibrated(
  verifier: Verifier, targets: StepTargets, examples: Examples
) -> tuple[Verifier, tuple[float, float]]:
  """A verifier that fits labels better, and its head's scale and offset.

  Args:
    verifier: as it was trained.
    targets: that it was not trained on, and that nothing is reported on.
    examples: of the same traces.
  """
  logit, labelled = _score(verifier, targets), examples.weight > 0
  n = np.maximum(targets.num_completions, 1)
  scaling = calibration.fit(
    logit[labelled], examples.label[labelled], n[labelled]
  )
  head = calibration.apply(verifier.params["head"], *scaling)
  params = verifier.params | {"head": head}
  return dataclasses.replace(verifier, params=params), scaling


def _tested(
  job: Job,
  fitted: Fitted,
  data: LabelledData,
  labels: int,
  verifier: Verifier,
  scaling: tuple[float, float] | None,
) -> dict[str, Any]:
  """Tests the verifier in all processes, and reports on it in the first."""
  score_fn = functools.partial(value_evaluation.score, verifier)
  several = processes.together(verifier)
  if not processes.is_first():
    if several:
      processes.follow(score_fn)
    return processes.agree(None)
  from pav_jax.reporting import fit_plots

  settings, train = job.settings, data.train
  tested, more, figures = fit_report.test(
    job.workdir,
    processes.led(score_fn) if several else score_fn,
    settings.problem,
    data,
    exact=settings.exact,
    scaling=scaling,
    process_bench=settings.process_bench,
    num_inspected=settings.num_inspected,
    title=job.experiment,
  )
  if several:
    processes.dismiss()
  loss = fitted.log.history("train", "values", job.num_steps)[:, 0]
  validated = fitted.log.rows("validation")
  figures.append(fit_plots.summary(job.workdir, loss, validated))
  rate = fitted.tokens_per_second
  middle = tested.get("outcome", {}).get("auc", {}).get("middle")
  fit_loop.write_report(
    job,
    fitted,
    {"verifier": tested},
    [job.workdir / "verifier", *figures],
    training={
      "traces": len(train.tokens),
      "problems": len(np.unique(train.problem_id)),
      "labels": labels,
      "completions": int(train.num_completions.sum(dtype=np.int64)),
      "traces_per_second": rate and rate / train.tokens.shape[1],
    },
    verdict=f"tested on {tested['traces']} traces"
    + (
      ""
      if middle is None
      else f"; midway it tells the outcome with AUC {middle:.3f} (.5 is chance)"
    ),
    **more,
  )
  return processes.agree(tested)
