import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax import load_verifier
from pav_jax.data import step_targets_writer
from pav_jax.models import hf, transformer
from pav_jax.models.partitioning import make_mesh
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.chain.error_rates import ErrorRateValues
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import verifier as provers_verifier
from pav_jax.rollout import StepTargets
from pav_jax.runs import fit_verifier as verifier_run
from pav_jax.training import (
  calibration,
  target_splits,
  value_evaluation,
  value_fitting,
)
from pav_jax.training.initial import PretrainedBackbone
from pav_jax.training.state import Checkpoints

pytest.importorskip(
  "pav_jax.problems.frameworks",
  reason="the extra `data` is not installed",
  exc_type=ImportError,
)

# Tables of 4 × 3 sums: so few that a tiny network learns them by heart.
PROBLEM = Chain(
  horizon=2,
  modulus=4,
  operations=(dataclasses.replace(Chain().operations[0], error=0.4),),
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


def backbone(key, layout, fingerprint):
  """Random parameters, as `transformer.init` has them but not compiled."""
  del key, layout, fingerprint
  rng = np.random.default_rng(0)
  shapes = transformer.shapes(CONFIG)

  def random(path, x):
    size = 0.0 if path[-1].key == "scale" else CONFIG.width**-0.5
    return rng.normal(0, size, x.shape).astype(np.float32)

  return CONFIG, jax.tree_util.tree_map_with_path(random, shapes)


def other_backbone(**changes):
  return lambda *_: (dataclasses.replace(CONFIG, **changes), {})


def traces(start, stop, seeds=4):
  """The teacher's responses, and counts of 16 from their exact values."""
  ids = np.repeat(PROBLEM.problem_ids("train", start, stop), seeds)
  sample_id = np.tile(np.arange(seeds, dtype=np.int32), stop - start)
  rollout = PROBLEM.demonstrations(ids, sample_id)
  n = np.full(rollout.prefix_len.shape, 16, np.int32)
  q = PROBLEM.teacher_values(rollout)
  c = np.random.default_rng(start).binomial(n, q).astype(np.float32)
  return StepTargets(
    rollout.tokens,
    rollout.prefix_len,
    n,
    c,
    rollout.outcome,
    rollout.problem_id,
    rollout.sample_id,
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  for name, (start, stop) in (
    ("train", (0, 120)),
    ("held_out", (120, 240)),
    ("same", (100, 140)),
  ):
    step_targets_writer.write(
      folder / name,
      traces(start, stop, seeds=8 if name == "train" else 4),
      config={"source": "test"},
      fingerprint=PROBLEM.fingerprint,
      pad_id=0,
    )
  return folder


SCHEDULE = value_fitting.VerifierSchedule(
  num_steps=600, learning_rate=5e-3, warmup_steps=10, batch_size=64
)


def fit(workdir, data, **changes):
  settings = {
    "problem": PROBLEM,
    "data": data / "train",
    "held_out": data / "held_out",
    "backbone": backbone,
    "schedule": SCHEDULE,
    "exact": ErrorRateValues(PROBLEM, {"+": 0.4}),
    "aux_weight": 0.1,
    "chunk": 20,
    "validate_every": 100,
    "checkpoint_every": 100,
    "held_out_traces": 200,
    "num_inspected": 10,
    "mesh": make_mesh(devices=jax.devices()[:1]),
  }
  settings = verifier_run.VerifierSettings(**(settings | changes))
  return verifier_run.fit_verifier(workdir, "test", settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
  workdir = tmp_path_factory.mktemp("verifier")
  return workdir, fit(workdir, data)


def test_learns_what_is_right(finished):
  _, tested = finished
  # Whether a sum of a 4 × 3 table is right, and what that leaves: the values
  # are 0, .36, .6 and 1.
  assert tested["no_error"]["within"]["least_middle"] > 0.95
  assert tested["exact"]["correlation"]["all"] > 0.9
  assert tested["exact"]["ece"]["all"] < 0.08
  assert tested["first_error"]["f1"] > 0.9


def test_writes_what_a_later_run_needs(finished):
  workdir, tested = finished
  report = json.loads((workdir / "report.json").read_text())
  assert report["arms"]["verifier"] == tested
  training = report["training"]
  assert training["kept_step"] in (300, 400, 500, 600)
  # It says how texts are read.
  in_words = load_verifier(workdir / "verifier").text_format
  assert in_words.fingerprint == PROBLEM.fingerprint
  assert in_words.max_steps == PROBLEM.max_steps
  assert training["traces"] == 960
  assert training["completions"] == 960 * 16 * 3
  assert set(report["calibration"]) == {"scale", "offset", "ece_before"}
  for name in (
    "verifier",
    "reliability",
    "value_traces",
    "value_distribution",
    "auc_by_step",
    "ece_by_step",
  ):
    assert (workdir / f"{name}.png").stat().st_size > 1000
  assert "Monte Carlo" in (workdir / "inspect.html").read_text()

  prover = provers_verifier.load(
    workdir / "verifier", fingerprint=PROBLEM.fingerprint
  )
  # Problems that no part of the run has seen: values near the exact ones.
  some = traces(240, 300)
  rollout = PROBLEM.demonstrations(some.problem_id, some.sample_id)
  q = np.asarray(prover(jax.random.key(0), rollout))
  exact = PROBLEM.teacher_values(rollout)
  assert np.corrcoef(q.ravel(), exact.ravel())[0, 1] > 0.9
  assert np.mean((prover.outcome(rollout) > 0.5) == rollout.outcome) > 0.9


def test_another_configuration_is_refused(finished, data):
  workdir, _ = finished
  with pytest.raises(ValueError, match="another configuration: aux_weight was"):
    fit(workdir, data, aux_weight=0.2)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"chunk": 0}, "chunk is 0"),
    ({"aux_weight": -1.0}, "aux_weight is -1.0"),
    (
      {"schedule": dataclasses.replace(SCHEDULE, backbone_rate=0.0)},
      "aux_weight is 0.1, expected 0 with backbone_rate = 0",
    ),
    ({"process_bench": ("a",)}, "process_bench has 1 files"),
    ({"held_out": None, "held_out_share": 1.0}, "held_out_share is 1.0"),
    (
      {"backbone": other_backbone(vocab_size=8)},
      "vocab_size is 8, expected at least 15",
    ),
    (
      {"backbone": other_backbone(max_length=16)},
      "traces have up to 18 tokens, expected at most max_length = 16",
    ),
    ({"problem": Chain()}, "fingerprint"),
  ],
)
def test_bad_settings(tmp_path, data, change, message):
  with pytest.raises(ValueError, match=message):
    fit(tmp_path, data, **change)


def test_problems_that_are_trained_on_are_not_held_out(tmp_path, data):
  with pytest.raises(ValueError, match="20 problems are in the training data"):
    fit(tmp_path, data, held_out=data / "same")


# Six steps, validated three times.
SHORT = {
  "schedule": value_fitting.VerifierSchedule(
    num_steps=6, learning_rate=5e-3, batch_size=8
  ),
  "held_out_traces": 10_000,
  "chunk": 2,
  "validate_every": 2,
  "checkpoint_every": 2,
}
WIRING = SHORT | {"aux_weight": 0.0, "exact": None}


def halves():
  """The problems that are held out: validation's, then the test's."""
  parts = target_splits.split_by_problem(traces(120, 240), (0.5, 0.5))
  return [set(part.problem_id.tolist()) for part in parts]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory, data):
  """Its workdir and report, and what was scored, fitted and located."""
  workdir = tmp_path_factory.mktemp("short")
  reads, fitted, located = [], [], []
  score, fit_scaling = value_evaluation.score, calibration.fit
  locate = value_evaluation.locate_first_errors
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      value_evaluation,
      "score",
      lambda verifier, targets: (
        reads.append(set(targets.problem_id.tolist()))
        or score(verifier, targets)
      ),
    )
    patch.setattr(
      calibration,
      "fit",
      lambda *args: fitted.append((args, len(reads))) or fit_scaling(*args),
    )
    patch.setattr(
      value_evaluation,
      "locate_first_errors",
      lambda *parts: located.append(parts) or locate(*parts),
    )
    tested = fit(workdir, data, **SHORT)
  return workdir, tested, reads, fitted, located


def test_validation_chooses_and_calibrates_and_the_test_half_is_reported(
  short_run,
):
  _, tested, reads, fitted, located = short_run
  validation, test = halves()
  assert not validation & test
  # Three validations and the calibration; then the test half, the threshold of
  # first errors, and the page.
  assert reads[:4] == [validation] * 4
  assert reads[4:6] == [test, validation]
  assert reads[6] <= test and len(reads) == 7
  (((logit, label, n), after),) = fitted
  assert after == 4 and len(logit) == len(label)
  targets = traces(120, 240)
  rows = np.isin(targets.problem_id, list(validation))
  np.testing.assert_allclose(label, (targets.q_mc[rows]).ravel())
  assert (n == 16).all()
  (chosen_on, reported_on) = located[0]
  assert set(chosen_on[1].targets.problem_id.tolist()) == validation
  assert set(reported_on[1].targets.problem_id.tolist()) == test
  assert tested["problems"] == len(test)


def test_a_killed_run_ends_with_the_same_bits(
  short_run, data, tmp_path, monkeypatch
):
  workdir, tested, *_ = short_run
  save = Checkpoints.save

  def killed(self, step, state, seconds):
    save(self, step, state, seconds)
    if step == 4 and state.optimizer:  # not the best one's
      raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path, data, **SHORT)
  assert not (tmp_path / "verifier").exists()
  monkeypatch.setattr(Checkpoints, "save", save)
  assert fit(tmp_path, data, **SHORT) == tested
  for name in ("model.safetensors", "verifier.safetensors"):
    files = [path / "verifier" / name for path in (workdir, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("best", [2, 4, 6])
def test_the_best_verifier_is_exported_not_the_last(
  tmp_path, data, monkeypatch, best
):
  params_at, score = {}, verifier_run._score

  def remember(verifier, targets):
    step = 2 * len(params_at) + 2
    head = verifier.params["head"]["kernel"]
    params_at[step] = np.asarray(head).copy()
    return score(verifier, targets)

  def validation(*_):
    return {"loss": 0.1 if 2 * len(params_at) == best else 0.9}

  monkeypatch.setattr(verifier_run, "_score", remember)
  monkeypatch.setattr(verifier_run.fit_report, "validation", validation)
  fit(tmp_path, data, calibrate=False, num_inspected=1, **WIRING)
  assert not np.array_equal(params_at[2], params_at[6])
  kept = provers_verifier.load(tmp_path / "verifier")
  np.testing.assert_array_equal(kept.params["head"]["kernel"], params_at[best])
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["training"]["kept_step"] == best


def test_a_frozen_backbone_is_the_verifiers_trunk(tmp_path, data, monkeypatch):
  trained, train = [], verifier_run.fit_loop.train
  monkeypatch.setattr(
    verifier_run.fit_loop,
    "train",
    lambda job, state: trained.append(set(state.params)) or train(job, state),
  )
  schedule = dataclasses.replace(SHORT["schedule"], backbone_rate=0.0)
  changes = WIRING | {"schedule": schedule, "reader_layers": 1}
  fit(tmp_path, data, num_inspected=1, **changes)
  assert trained == [{"reader", "head"}]  # a rate of 0 alone costs as ever
  kept = provers_verifier.load(tmp_path / "verifier").params
  jax.tree.map(
    np.testing.assert_array_equal, kept["trunk"], backbone(*[None] * 3)[1]
  )
  assert np.abs(kept["head"]["kernel"]).max() > 0  # zeros at first


def test_trains_in_the_precision_that_its_backbone_is_read_with(
  tmp_path, data, monkeypatch
):
  config, params = backbone(None, None, None)
  hf.save(
    tmp_path / "policy",
    config,
    params,
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  configs = []

  def fitter(config, *args, **settings):
    configs.append(config.trunk)
    raise Stop

  class Stop(Exception):
    pass

  monkeypatch.setattr(value_fitting, "fitter", fitter)
  for expected in (
    {"dtype": "float32", "param_dtype": "float32", "remat": "none"},
    {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full"},
    {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "dots"},
  ):
    start = PretrainedBackbone(str(tmp_path / "policy"), **expected)
    with pytest.raises(Stop):
      fit(tmp_path / expected["remat"], data, backbone=start)
    for name, value in expected.items():
      assert getattr(configs[-1], name) == value
