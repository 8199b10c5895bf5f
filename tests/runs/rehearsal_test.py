"""A smaller part of benchmarks/rehearsal.py, in this process."""

import json
import pathlib
import sys

import gin
import numpy as np
import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("seqio", reason="seqio is not installed")

from benchmarks import rehearsal, rehearsal_inputs
from pav_jax.cli import configuration
from pav_jax.data import step_targets
from pav_jax.models import hf

# Of the rehearsal's sizes, those that take the time.
SMALLER = {
  "sft": (
    "preset.num_layers=2",
    "preset.width=16",
    "preset.mlp_width=16",
    "NUM_STEPS=3",
    "WARMUP_STEPS=1",
    "FinetuneEvaluationConfig.num_problems=2",
    "FinetuneEvaluationConfig.test_problems=2",
    "FinetuneEvaluationConfig.num_samples=8",
  ),
  "collect": ("NUM_PROBLEMS=2", "NUM_SEEDS=2", "NUM_COMPLETIONS=4"),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
  """A directory with the inputs, and what the first two stages have made."""
  out = tmp_path_factory.mktemp("rehearsal")
  rehearsal_inputs.make_inputs(
    out, train=30, test=8, num_layers=2, width=16, mlp_width=16
  )
  for stage in rehearsal.STAGES[:2]:
    gin.clear_config()
    configuration.run_files(
      [rehearsal.gin_file(stage)],
      [
        *rehearsal.bindings_of(stage, out, num_devices=8),
        *SMALLER[stage.name],
      ],
      str(out / stage.name),
      stage.name,
    )
  yield out
  gin.clear_config()


def test_a_policy_starts_from_the_checkpoint_and_is_exported(out):
  problem = rehearsal_inputs.make_problem(out)
  before, old = hf.load(out / "gemma")
  after, new = hf.load(out / "sft" / "policy")
  assert after == before
  assert hf.check_fingerprint(out / "sft" / "policy", problem.fingerprint)
  # Three steps at 5e-3 at most have changed it by so much at most, Adam's
  # updates being about the learning rate.
  change = np.abs(np.asarray(new["embedding"] - old["embedding"])).max()
  assert 0 < change < 3 * 5e-3 * 1.5
  report = json.loads((out / "sft" / "report.json").read_text())
  assert report["training"]["steps"] == 3
  assert report["arms"]["policy"]["problems"] == 2


def test_its_prefixes_are_collected(out):
  problem = rehearsal_inputs.make_problem(out)
  targets = step_targets.load(
    out / "collect" / "targets", fingerprint=problem.fingerprint
  )
  assert targets.tokens.shape[0] == 2 * 2
  prompts = problem.prompts(problem.problem_ids("train", 0, 2))
  lengths = problem.prompt_lengths(problem.problem_ids("train", 0, 2))
  for row, prompt in enumerate(np.repeat(prompts, 2, axis=0)):
    size = lengths[row // 2]
    np.testing.assert_array_equal(targets.tokens[row, :size], prompt[:size])
    assert targets.prefix_len[row, 0] == size
  # Every prefix that exists has all its completions.
  steps = np.diff(targets.prefix_len, axis=1) > 0
  exists = np.pad(steps, ((0, 0), (1, 0)), constant_values=True)
  assert (targets.num_completions[exists] == 4).all()


def test_reference_computes_equal_logits(out):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  policy = out / "sft" / "policy"
  assert rehearsal.compare(out, policy, sys.executable) < 1e-4


@pytest.mark.parametrize("index", range(6))
def test_settings_of_all_stages_are_known(index):
  stage = rehearsal.STAGES[index]
  gin.clear_config()
  configuration.parse_gin(
    [rehearsal.gin_file(stage)],
    rehearsal.bindings_of(stage, pathlib.Path("/somewhere")),
  )
  gin.clear_config()
