"""From questions with answers to a policy and a verifier of its steps."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from pav_jax.files import read_json

EXPERIMENT = "gin/experiments/own_questions.gin"
_LEAST = 12


@dataclasses.dataclass(frozen=True)
class Trained:
  """What `train` has made.

  Attributes:
    policy: directory of the fine-tuned policy, for `load_policy`.
    verifier: directory of its verifier, for `load_verifier`.
    page: of responses, each step with the verifier's value.
    report: the numbers of all parts, as in report.json.
  """

  policy: pathlib.Path
  verifier: pathlib.Path
  page: pathlib.Path
  report: dict[str, Any] = dataclasses.field(repr=False)


def train(
  questions: str | os.PathLike,
  *,
  workdir: str | os.PathLike,
  checkpoint: str | os.PathLike = "smollm2",
  bindings: Sequence[str] = (),
) -> Trained:
  """Trains a policy and a verifier of its steps on questions of one's own.

  Fine-tunes the model on the solutions, samples responses and completions of
  their beginnings, trains a verifier on the values of these, and compares
  searches with it on questions that were held out. What is finished is not run
  again: the same call goes on where one that was stopped has been.

  Settings of gin that were made before are cleared.

  Args:
    questions: a file of JSON lines with problem, solution and answer, see
      `problems.json_lines.JsonLines`.
    workdir: gets all results.
    checkpoint: the model to begin with, with a chat template, as
      `pav_jax.models.load` takes it.
    bindings: further settings, `NAME=VALUE` each as in gin files, such as
      `"SEEDS=(0, 1)"`.

  Raises:
    ValueError: for a line, a setting or a checkpoint that is not as expected.
    OSError: if the file cannot be read, or the directory not be written.
    MissingPackageError: without tokenizers and jinja2 (the extra hf).
  """
  # What takes seconds to import is imported when it is used.
  import gin

  from pav_jax.cli.configuration import run_files

  gin.clear_config()
  run_files(
    [EXPERIMENT],
    [*settings(questions, checkpoint), *bindings],
    os.fspath(workdir),
    pathlib.Path(EXPERIMENT).stem,
  )
  gin.clear_config()
  return trained(workdir)


def trained(workdir: str | os.PathLike) -> Trained:
  """What `train` has made in a directory, of the first seed.

  Raises:
    OSError, ValueError: if it has not ended there.
  """
  workdir = pathlib.Path(workdir)
  home = workdir if (workdir / "sft").is_dir() else workdir / "seed0"
  return Trained(
    home / "sft" / "policy",
    home / "verifier" / "verifier",
    home / "traces" / "inspect.html",
    read_json(workdir / "report.json", way_out="run it again"),
  )


def settings(
  questions: str | os.PathLike, checkpoint: str | os.PathLike
) -> list[str]:
  """What `train` binds in gin for a file and a model.

  Parts get numbers of problems that the file has, and no more than usual. A
  tenth of the training problems may be left out as too long.

  Raises:
    ValueError: if there are fewer than 12 lines of train, of which a tenth is
      left out for the verifier; and as of `problems.json_lines.count`.
    OSError: if the file cannot be read.
  """
  from pav_jax.problems.json_lines import count

  train, validation, test = count(questions)
  if train < _LEAST:
    raise ValueError(
      f"{os.fspath(questions)} has {train} lines for training, expected at "
      f"least {_LEAST}"
    )
  least = max(train * 9 // 10, 1)
  sizes = {
    "sft": [
      f"FinetuneEvaluationConfig.num_problems={min(16, validation)}",
      f"FinetuneEvaluationConfig.test_problems={min(128, test)}",
    ],
    "collect": [f"NUM_PROBLEMS={min(768, least)}"],
    "search": [
      f"NUM_PROBLEMS={min(300, test)}",
      f"TUNING_PROBLEMS={min(32, validation)}",
    ],
  }
  return [
    f"CHECKPOINT={os.fspath(checkpoint)!r}",
    f"DATA_FILE={str(pathlib.Path(questions).resolve())!r}",
    *(f"{part}/Part.sizes={texts!r}" for part, texts in sizes.items()),
  ]
