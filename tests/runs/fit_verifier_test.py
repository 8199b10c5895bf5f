import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax.data import step_targets_writer
from pav_jax.models import transformer
from pav_jax.models.partitioning import make_mesh
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.chain.error_rates import ErrorRateValues
from pav_jax.provers import verifier as provers_verifier
from pav_jax.rollout import StepTargets
from pav_jax.runs import fit_verifier as verifier_run
from pav_jax.training import value_fitting
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


def trunk(key, layout, fingerprint):
  """Random parameters, as `transformer.init` has them but not compiled."""
  del key, layout, fingerprint
  rng = np.random.default_rng(0)
  shapes = transformer.shapes(CONFIG)

  def random(path, x):
    size = 0.0 if path[-1].key == "scale" else CONFIG.width**-0.5
    return rng.normal(0, size, x.shape).astype(np.float32)

  return CONFIG, jax.tree_util.tree_map_with_path(random, shapes)


def other_trunk(**changes):
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


def fit(workdir, data, **changes):
  settings = {
    "problem": PROBLEM,
    "data": data / "train",
    "held_out": data / "held_out",
    "trunk": trunk,
    "schedule": value_fitting.Schedule(
      num_steps=600, learning_rate=5e-3, warmup_steps=10, batch_size=64
    ),
    "exact": ErrorRateValues(PROBLEM, {"+": 0.4}),
    "aux_weight": 0.1,
    "chunk": 20,
    "validate_every": 100,
    "checkpoint_every": 100,
    "held_out_traces": 200,
    "num_inspected": 10,
    "mesh": make_mesh(devices=jax.devices()[:1]),
  }
  return verifier_run.fit_verifier(workdir, "test", **(settings | changes))


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


def test_a_killed_run_ends_with_the_same_bits(
  finished, data, tmp_path, monkeypatch
):
  workdir, tested = finished
  save, calls = Checkpoints.save, []

  def killed(self, *args):
    save(self, *args)
    calls.append(args[0])
    if len(calls) == 4:  # the best and the last one, twice: step 200
      raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path, data)
  assert not (tmp_path / "verifier").exists()
  monkeypatch.setattr(Checkpoints, "save", save)
  assert fit(tmp_path, data) == tested
  for name in ("model.safetensors", "verifier.safetensors"):
    files = [path / "verifier" / name for path in (workdir, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_configuration_is_refused(finished, data):
  workdir, _ = finished
  with pytest.raises(ValueError, match="another configuration: aux_weight was"):
    fit(workdir, data, aux_weight=0.2)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"chunk": 0}, "chunk is 0"),
    ({"aux_weight": -1.0}, "aux_weight is -1.0"),
    ({"process_bench": ("a",)}, "process_bench has 1 files"),
    ({"held_out": None, "held_out_share": 1.0}, "held_out_share is 1.0"),
    (
      {"trunk": other_trunk(vocab_size=8)},
      "vocab_size is 8, expected at least 15",
    ),
    (
      {"trunk": other_trunk(max_length=16)},
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
