import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import load_policy
from pav_jax.data.packing import Demonstrations
from pav_jax.models import (
  adapters,
  hf,
  hf_adapters,
  partitioning,
  transformer,
)
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.chain import Chain
from pav_jax.runs import finetune as sft_run
from pav_jax.training import sft
from pav_jax.training.initial import Pretrained, random_params
from pav_jax.training.state import Checkpoints, sha256
from pav_jax.training.validation import FinetuneEvaluationConfig

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
    "evaluation": FinetuneEvaluationConfig(
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
  settings = sft_run.FinetuneSettings(**(settings | changes))
  return sft_run.finetune(workdir, "test", settings)


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
  # What it began with: parameters drawn with the first key of seed 0.
  key, _, _ = jax.random.split(jax.random.key(0), 3)
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  start = random_params(language_model(CONFIG, PROBLEM), key, layout)
  side = json.loads((workdir / "policy" / "pav_jax.json").read_text())
  assert side["start"] == sha256(start)
  # It says how it is asked in words.
  in_words = load_policy(workdir / "policy")
  assert in_words.text_format.fingerprint == PROBLEM.fingerprint
  assert in_words.model == language_model(config, PROBLEM)


def test_adapters_of_a_policy_are_trained_and_go_on(tmp_path, monkeypatch):
  # The base is read again when a run goes on; checkpoints hold adapters alone.
  hf.save(
    tmp_path / "base", CONFIG, transformer.init(CONFIG, jax.random.key(1))
  )
  config = dataclasses.replace(CONFIG, lora=Lora(2, 8.0, ("query", "down")))
  settings = {
    "policy": language_model(config, PROBLEM),
    "init_params": Pretrained(str(tmp_path / "base")),
    "stages": (sft.Stage(BATCHES, num_steps=20, learning_rate=4e-3),),
    "evaluation": FinetuneEvaluationConfig(
      dataclasses.replace(BATCHES, split="validation"),
      every=20,
      num_problems=2,
      num_samples=2,
      ks=(2,),
      num_batches=1,
      test_problems=2,
      test_samples=2,
    ),
    "checkpoint_every": 10,
    "chunk": 10,
  }
  finetune(tmp_path / "whole", **settings)
  save = Checkpoints.save

  def killed(self, *args):
    save(self, *args)
    raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    finetune(tmp_path / "killed", **settings)
  monkeypatch.setattr(Checkpoints, "save", save)
  finetune(tmp_path / "killed", **settings)
  for name in ("model", "adapters/adapter_model"):
    one, two = (
      tmp_path / run / "policy" / f"{name}.safetensors"
      for run in ("whole", "killed")
    )
    assert one.read_bytes() == two.read_bytes()
  # What is written is merged: targets moved by a matrix of rank 2.
  _, base = hf.load(tmp_path / "base")
  written, params = hf.load(tmp_path / "whole" / "policy")
  assert written == CONFIG
  change = jax.tree.map(lambda a, b: np.asarray(a - b), params, base)
  layer = change["layers"]["local"]
  for kernel in layer["attention"].pop("query"), layer["mlp"].pop("down"):
    singular = np.linalg.svd(kernel[0].reshape(32, 32), compute_uv=False)
    assert singular[1] > 1e-4 > 1e-6 > singular[2]
  del change["layers"]["global"]
  assert not any(x.any() for x in jax.tree.leaves(change))
  # Beside them are the adapters, of which that is the sum.
  _, adapted = hf_adapters.load(
    tmp_path / "whole" / "policy" / "adapters", CONFIG, base
  )
  _, merged = adapters.merge(config, adapted)
  jax.tree.map(np.testing.assert_array_equal, merged, params)
  # Another base is not gone on with.
  other = transformer.init(CONFIG, jax.random.key(2))
  hf.save(tmp_path / "base", CONFIG, other, replace=True)
  with pytest.raises(ValueError, match="another configuration: base was"):
    finetune(tmp_path / "whole", **settings)


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


def short(workdir, **changes):
  """Four steps on clean problems and four others, of which one is kept."""
  stages = (
    dataclasses.replace(STAGES[0], num_steps=4, warmup_steps=1),
    dataclasses.replace(STAGES[1], num_steps=4),
  )
  evaluation = FinetuneEvaluationConfig(
    dataclasses.replace(BATCHES, split="validation"),
    every=4,
    num_problems=2,
    num_samples=2,
    ks=(2,),
    num_batches=1,
    select_by="loss",
    test_problems=2,
    test_samples=2,
    test_ks=(2,),
  )
  settings = {"stages": stages, "evaluation": evaluation, "chunk": 4}
  finetune(workdir, **(settings | {"checkpoint_every": 4} | changes))
  return (workdir / "policy" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("short")
  return workdir, short(workdir)


def test_a_killed_run_ends_with_the_same_bits(short_run, tmp_path, monkeypatch):
  whole, policy = short_run
  save = Checkpoints.save

  def killed(self, *args):
    save(self, *args)
    raise KeyboardInterrupt  # after the checkpoint of step 4

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    short(tmp_path)
  monkeypatch.setattr(Checkpoints, "save", save)
  assert short(tmp_path) == policy
  reports = [
    json.loads((path / "report.json").read_text())["arms"]["policy"]
    for path in (whole, tmp_path)
  ]
  for report in reports:
    del report["tokens_per_second"]  # may be another
  assert reports[0] == reports[1]


def damage(checkpoints):
  for path in checkpoints.glob("*/meta/metadata"):
    path.write_text("{")


@pytest.mark.filterwarnings("ignore:checkpoint .* cannot be read")
@pytest.mark.parametrize(
  "harm, message",
  [
    (lambda best, last: damage(best), "has 1 unreadable checkpoints and none"),
    (lambda best, last: damage(last), "has 2 unreadable checkpoints and none"),
    (lambda best, last: shutil.rmtree(best), "best has lost its checkpoint"),
    (lambda best, last: shutil.rmtree(last), None),
  ],
  ids=["best damaged", "last damaged", "best gone", "last gone"],
)
def test_lost_checkpoints_are_named_and_the_way_out_works(
  short_run, tmp_path, harm, message
):
  whole, policy = short_run
  workdir = shutil.copytree(whole, tmp_path / "w")
  checkpoints = workdir / "checkpoints"
  harm(checkpoints / "best", checkpoints / "last")
  if message:
    advice = f"{message}.*; move {checkpoints} away to start afresh"
    with pytest.raises(ValueError, match=advice):
      short(workdir)
    checkpoints.rename(tmp_path / "moved")
  assert short(workdir) == policy
  rows = (workdir / "metrics.jsonl").read_text().count("\n")
  assert rows == 8 + 2


def test_lost_metrics_are_told_at_the_start_and_the_ways_out_work(
  short_run, tmp_path
):
  whole, policy = short_run
  workdir = shutil.copytree(whole, tmp_path / "w")
  metrics = workdir / "metrics.jsonl"
  good = metrics.read_text()
  metrics.unlink()
  with pytest.raises(ValueError, match="restore the file, or move the workdir"):
    short(workdir)
  metrics.write_text(good)
  assert short(workdir) == policy
  assert short(tmp_path / "elsewhere") == policy


@pytest.mark.parametrize("select_by", ["accuracy", "loss"])
def test_a_policy_that_is_not_finite_is_never_kept(tmp_path, select_by):
  """The loss of the last step is that before its update."""
  stages = (sft.Stage(BATCHES, num_steps=1, learning_rate=1e38),)
  with pytest.raises(FloatingPointError, match=r"loss is|parameters after 1"):
    short(
      tmp_path,
      stages=stages,
      evaluation=FinetuneEvaluationConfig(
        dataclasses.replace(BATCHES, split="validation"),
        num_problems=2,
        num_samples=2,
        ks=(),
        num_batches=1,
        select_by=select_by,
        test_problems=2,
        test_samples=2,
      ),
    )
  assert not (tmp_path / "policy").exists()
  assert not list(tmp_path.glob("checkpoints/*/[0-9]*"))


# A stage of four steps, tested on other problems than it is validated on.
WIRING = {
  "stages": (sft.Stage(BATCHES, num_steps=6, learning_rate=4e-3),),
  "evaluation": FinetuneEvaluationConfig(
    dataclasses.replace(BATCHES, split="validation"),
    every=2,
    num_problems=3,
    num_samples=2,
    ks=(2,),
    num_batches=1,
    test_problems=5,
    test_samples=2,
    test_ks=(2,),
  ),
  "chunk": 2,
}


def by_the_teacher(reads):
  """`LanguageModel.sample` by the teacher, which records problems' ids."""

  def sample(
    self, params, key, prompts, lengths, ids, *, num_samples, first_sample=0
  ):
    del self, params, key, prompts, lengths, first_sample
    reads.append(set(ids.tolist()))
    every = np.repeat(ids, num_samples)
    sample_id = np.tile(np.arange(num_samples, dtype=np.int32), len(ids))
    return PROBLEM.demonstrations(every, sample_id)

  return sample


def ids_of(split, number):
  return set(PROBLEM.problem_ids(split, 0, number).tolist())


def test_validation_chooses_and_test_problems_are_read_at_the_end(
  tmp_path, monkeypatch
):
  reads = []
  monkeypatch.setattr(LanguageModel, "sample", by_the_teacher(reads))
  finetune(tmp_path, **WIRING)
  # After steps 2, 4 and 6; then samples and greedy responses.
  assert reads == [ids_of("validation", 3)] * 3 + [ids_of("test", 5)] * 2
  assert not ids_of("validation", 3) & ids_of("test", 5)


@pytest.mark.parametrize("best", [2, 4, 6])
def test_the_best_policy_is_exported_not_the_last(tmp_path, monkeypatch, best):
  params_at, tested = {}, []

  def validate(policy, params, *_):
    step = 2 * len(params_at) + 2
    params_at[step] = np.asarray(params["embedding"]).copy()
    accuracy = 0.9 if step == best else 0.1
    return {"loss": 1.0, "accuracy": accuracy, "pass_at_2": 0.0}

  def report(policy, params, *_):
    tested.append(np.asarray(params["embedding"]))
    return REPORT

  monkeypatch.setattr(sft_run.validation, "validate", validate)
  monkeypatch.setattr(sft_run.validation, "report", report)
  finetune(tmp_path, **WIRING)
  assert not np.array_equal(params_at[2], params_at[6])
  _, exported = hf.load(tmp_path / "policy")
  np.testing.assert_array_equal(exported["embedding"], params_at[best])
  np.testing.assert_array_equal(tested[0], params_at[best])
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["training"]["kept_step"] == best


REPORT = {
  "temperature": 1.0,
  "problems": 1,
  "samples": 1,
  "accuracy": 0.5,
  "standard_error": 0.0,
  "pass_at_k": {},
  "greedy_accuracy": 0.5,
}


def test_a_policy_of_the_last_stage_is_kept(tmp_path, monkeypatch):
  scores = iter([0.9, 0.1, 0.2])

  def validate(*_):
    return {"loss": 1.0, "accuracy": next(scores)}

  monkeypatch.setattr(sft_run.validation, "validate", validate)
  monkeypatch.setattr(sft_run.validation, "report", lambda *_: REPORT)
  half = sft.Stage(BATCHES, num_steps=3, learning_rate=4e-3)
  finetune(tmp_path, **(WIRING | {"stages": (half, half)}))
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["training"]["kept_step"] == 6
