"""The run that fine-tunes a policy on its own correct responses (RFT)."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from pav_jax.models import hf, partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.reporting import progress
from pav_jax.runs import hosts
from pav_jax.runs.finetune import finetune
from pav_jax.training import correct_responses, processes, sft
from pav_jax.training.initial import Pretrained
from pav_jax.training.validation import Validation


def rejection_finetune(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  policy: str,
  problem: Any,
  validation: Validation,
  num_problems: int,
  num_samples: int = 8,
  num_steps: int,
  learning_rate: float,
  warmup_steps: int = 0,
  num_rows: int = 32,
  row_length: int,
  optimizer: Callable | None = None,
  make_policy: Callable[..., LanguageModel] = language_model,
  seed: int = 0,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """Samples responses, keeps the correct ones, and fine-tunes on them.

  Several processes divide the problems that are sampled.

  Args:
    workdir: gets what `runs.sft.finetune` writes, and the correct responses.
    experiment: its name, for the report.
    policy: directory of the checkpoint that samples and is fine-tuned, in
      Hugging Face's format.
    problem: a text problem.
    validation: how the policy is judged, and which is kept.
    num_problems: of the train split, that are answered.
    num_samples: responses to each.
    num_steps: train steps.
    learning_rate: the highest; a cosine leads to 0.
    warmup_steps: of `num_steps`.
    num_rows: of a batch.
    row_length: tokens in a row.
    optimizer: see `runs.sft.finetune`.
    make_policy: `(config, problem) -> LanguageModel`.
    seed: of all samples and of the order of responses.
    mesh: see `runs.sft.finetune`.

  Returns:
    The `test` part of report.json.

  Raises:
    ValueError: if no response is correct, or as `runs.sft.finetune`.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  hf.check_fingerprint(policy, problem.fingerprint)
  layout = Layout(mesh or partitioning.make_mesh())
  if not layout.splits_parameters:
    layout = layout.own  # each process has a copy
  config, params = hf.load(policy, layout=layout)
  sampler = make_policy(config, problem)
  path = workdir / "correct.npz"
  if not path.exists():
    progress.say(f"sampling {num_problems} × {num_samples} responses …")
    correct = correct_responses.sample_correct(
      *processes.to_sample(sampler, params, layout),
      jax.random.fold_in(jax.random.key(seed), 4),
      problem,
      num_problems=num_problems,
      num_samples=num_samples,
    )
    if processes.is_first():
      correct_responses.save(path, correct)
  del params
  hosts.wait_for_all("correct responses")
  number = len(correct_responses.load(path).tokens)
  progress.say(f"{number} distinct correct responses")
  batches = correct_responses.Seeds(str(path), num_rows, row_length, seed)
  return finetune(
    workdir,
    experiment,
    policy=sampler,
    problem=problem,
    stages=[
      sft.Stage(batches, num_steps, learning_rate, warmup_steps=warmup_steps)
    ],
    validation=validation,
    optimizer=optimizer,
    init_params=Pretrained(str(policy), problem.fingerprint),
    seed=seed,
    mesh=mesh,
  )
