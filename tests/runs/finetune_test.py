import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.data.packing import Demonstrations
from pav_jax.models import hf, partitioning
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.runs import finetune as sft_run
from pav_jax.training import sft
from pav_jax.training.state import Checkpoints
from pav_jax.training.validation import Validation

# Tables of 4 × 3 sums: so few that a tiny network learns them by heart.
PROBLEM = Chain(
  horizon=2,
  modulus=4,
  operations=(dataclasses.replace(Chain().operations[0], error=0.25),),
  rho=0.0,
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=32,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  sliding_window=16,
  max_length=32,
)
BATCHES = Demonstrations(PROBLEM, num_rows=16, row_length=18)
STAGES = (
  sft.Stage(
    dataclasses.replace(BATCHES, problem=PROBLEM.clean()),
    num_steps=200,
    learning_rate=4e-3,
    warmup_steps=10,
    final_learning_rate=4e-3,
  ),
  sft.Stage(BATCHES, num_steps=500, learning_rate=4e-3),
)


def finetune(workdir, **changes):
  settings = {
    "policy": language_model(CONFIG, PROBLEM),
    "problem": PROBLEM,
    "stages": STAGES,
    "validation": Validation(
      dataclasses.replace(BATCHES, split="validation"),
      every=100,
      num_problems=8,
      num_samples=2,
      ks=(2,),
      num_batches=2,
      select_by="loss",
      test_problems=8,
      test_samples=64,
      test_ks=(2,),
    ),
    "chunk": 20,
    "checkpoint_every": 100,
    "mesh": partitioning.make_mesh(devices=jax.devices()[:1]),
  }
  return sft_run.finetune(workdir, "test", **(settings | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sft")
  return workdir, finetune(workdir)


def test_learns_the_teachers_mistakes_at_their_rate(finished):
  _, tested = finished
  rate = tested["mistakes"]["error_rates"]["+"]
  # 1,024 results; four deviations of 0.0135, and 0.05 for what training lacks.
  assert rate["teacher"] == 0.25
  assert abs(rate["policy"] - 0.25) < 0.105
  # Two results, each right with the measured rate, and nothing illegal.
  assert tested["mistakes"]["illegal"] < 0.02
  implied = (1 - rate["policy"]) ** 2
  assert tested["mistakes"]["implied_accuracy"] == pytest.approx(implied)
  assert abs(tested["accuracy"] - implied) < 0.1
  # Right results are the likeliest, so greedy responses have no mistake.
  assert tested["greedy_accuracy"] == 1.0


def test_writes_what_a_later_run_needs(finished):
  workdir, tested = finished
  report = json.loads((workdir / "report.json").read_text())
  assert report["arms"]["policy"] == tested
  assert report["training"]["steps"] == 700
  assert report["training"]["kept_step"] in (300, 400, 500, 600, 700)
  config, params = hf.load(workdir / "policy")
  assert dataclasses.replace(config, remat="none") == CONFIG
  logits = sft.transformer.apply(config, params, jnp.zeros((1, 2), jnp.int32))
  assert np.isfinite(logits).all()
  assert (workdir / "sft.png").stat().st_size > 1000


def test_a_killed_run_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
  workdir, tested = finished
  save, calls = Checkpoints.save, []

  def killed(self, *args):
    save(self, *args)
    calls.append(args[0])
    if len(calls) == 2:  # after the checkpoint of step 200
      raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    finetune(tmp_path)
  monkeypatch.setattr(Checkpoints, "save", save)
  # Its speed may be another.
  again = finetune(tmp_path)
  assert again == tested | {"tokens_per_second": again["tokens_per_second"]}
  policies = [path / "policy/model.safetensors" for path in (workdir, tmp_path)]
  assert policies[0].read_bytes() == policies[1].read_bytes()


def test_another_configuration_is_refused(finished):
  workdir, _ = finished
  with pytest.raises(ValueError, match="another configuration: seed was"):
    finetune(workdir, seed=1)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  def init(policy, key, layout):
    del layout
    return jax.tree.map(lambda x: x * np.nan, policy.init(key))

  with pytest.raises(FloatingPointError, match="loss is nan at step 1; no"):
    finetune(tmp_path, init_params=init)


@pytest.mark.parametrize(
  "change, message",
  [({"chunk": 0}, "chunk is 0"), ({"stages": ()}, "there are no stages")],
)
def test_bad_settings(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    finetune(tmp_path, **change)
