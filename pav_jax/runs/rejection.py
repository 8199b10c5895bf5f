"""The run that fine-tunes a policy on its own correct responses (RFT)."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from pav_jax.checks import check_positive
from pav_jax.files import describe
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.reporting import progress
from pav_jax.runs import hosts, networks
from pav_jax.runs.finetune import FinetuneSettings, finetune
from pav_jax.runs.fit_loop import FitSettings
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.shards import Shards
from pav_jax.training import correct_responses, processes, sft
from pav_jax.training.fitting import LearningRates
from pav_jax.training.initial import Pretrained
from pav_jax.training.validation import FinetuneEvaluationConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectionSettings(LearningRates, FitSettings):
  """Settings of `rejection_finetune`, besides what it derives from.

  Attributes:
    policy: directory of the checkpoint that samples and is fine-tuned, in
      Hugging Face's format.
    problem: a text problem.
    evaluation: how the policy is evaluated, and which is kept.
    num_problems: of the train split, that are answered.
    num_samples: responses to each.
    num_rows: of a batch.
    row_length: tokens in a row.
    optimizer: `learning_rate -> optax.GradientTransformation`.
    make_policy: `(config, problem) -> LanguageModel`.
    dtype: of computation; None for that of the parameters.
    param_dtype: of parameters; None for the checkpoint's.
    remat: what gradients compute again, see `TransformerConfig`.
    lora: adapters that are trained in place of the policy; None to train all.

  Raises:
    ValueError: if a number is not positive.
  """

  policy: str
  problem: Any
  evaluation: FinetuneEvaluationConfig
  num_problems: int
  num_samples: int = 8
  num_rows: int = 32
  row_length: int
  optimizer: Callable = dataclasses.field(default_factory=sft.AdamW)
  make_policy: Callable[..., LanguageModel] = language_model
  dtype: str | None = None
  param_dtype: str | None = None
  remat: str = "none"
  lora: Lora | None = None

  def __post_init__(self):
    LearningRates.__post_init__(self)
    FitSettings.__post_init__(self)
    check_positive(
      num_problems=self.num_problems,
      num_samples=self.num_samples,
      num_rows=self.num_rows,
      row_length=self.row_length,
    )


@exclusive
def rejection_finetune(
  workdir: str | os.PathLike, experiment: str, settings: RejectionSettings
) -> dict[str, Any]:
  """Samples responses, keeps the correct ones, and fine-tunes on them.

  Several processes divide the problems that are sampled.

  Args:
    workdir: gets what `finetune` writes, and the correct responses.
    experiment: its name, for the report.
    settings: of the run.

  Returns:
    The `policy` arm of report.json.

  Raises:
    ValueError: if no response is correct, or as `finetune`.
  """
  workdir, problem = pathlib.Path(workdir), settings.problem
  policy, path = _sample(workdir, experiment, settings)
  trained = dataclasses.replace(policy.config, lora=settings.lora)
  policy = dataclasses.replace(policy, config=trained)
  batches = correct_responses.Seeds(
    str(path), settings.num_rows, settings.row_length, settings.seed
  )

  def part(kind):
    fields = dataclasses.fields(kind)
    return {field.name: getattr(settings, field.name) for field in fields}

  return finetune(
    workdir,
    experiment,
    FinetuneSettings(
      policy=policy,
      problem=problem,
      stages=[sft.Stage(batches, **part(LearningRates))],
      evaluation=settings.evaluation,
      optimizer=settings.optimizer,
      init_params=Pretrained(settings.policy, problem.fingerprint),
      **part(FitSettings),
    ),
  )


def _sample(
  workdir: pathlib.Path, experiment: str, settings: RejectionSettings
) -> tuple[LanguageModel, pathlib.Path]:
  """The policy, and the file of its correct responses."""
  problem = settings.problem
  number = f"{settings.num_problems} × {settings.num_samples}"
  layout = Layout(settings.mesh or partitioning.make_mesh())
  if not layout.splits_parameters:
    layout = layout.own  # each process has a copy
  start = networks.load(
    settings.policy,
    problem=problem,
    make_policy=settings.make_policy,
    layout=layout,
    dtype=settings.dtype,
    param_dtype=settings.param_dtype,
    remat=settings.remat,
  )
  policy = dataclasses.replace(start.policy, layout=None)
  identity = {
    "rejection policy": describe(policy),
    "rejection params": start.digest,
    "rejection problem": describe(problem),
    "rejection sampled": number,
    "rejection seed": str(settings.seed),
  }
  accept(workdir, experiment, identity)
  shards = Shards(workdir, identity)
  path = workdir / correct_responses.FILE
  if shards.missing(path.name):
    progress.say(f"sampling {number} responses …")
    correct = correct_responses.sample_correct(
      *processes.to_sample(policy, start.params, layout),
      jax.random.fold_in(jax.random.key(settings.seed), 4),
      problem,
      num_problems=settings.num_problems,
      num_samples=settings.num_samples,
    )
    if processes.is_first():
      correct_responses.save(shards, correct)
  hosts.wait_for_all("correct responses")
  kept = len(correct_responses.load(path).tokens)
  progress.say(f"{kept} distinct correct responses")
  return policy, path
