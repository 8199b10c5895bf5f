import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax.models import hf, partitioning, transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.rollout_values import OwnCompletions, WellFormed
from pav_jax.runs import rl, rl_arms, rl_report
from pav_jax.training.baselines import GroupMean
from pav_jax.training.probes import Thresholds
from pav_jax.training.rewards import Reward
from pav_jax.training.rl_evaluation import HeldOut
from pav_jax.training.rl_text import LanguageArm, RateSchedule
from pav_jax.training.state import Checkpoints
from pav_jax.training.updates import Gradient

PROBLEM = Chain(
  horizon=2,
  modulus=4,
  operations=(dataclasses.replace(Chain().operations[0], error=0.25),),
  rho=0.0,
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=8,
  max_length=32,
)
ADAM = Gradient("adam", 3e-3, kl_weight=0.01, clip_norm=1.0)
OUTCOME = LanguageArm("outcome", Reward(None, 0.0), ADAM, GroupMean(own=False))
PAV = LanguageArm(
  "pav",
  Reward(OwnCompletions(PROBLEM, num_completions=2), 1.0),
  ADAM,
  "learned",
  k=AdaptiveK((1, 4)),
  num_updates=2,
)
HELD_OUT = HeldOut(
  every=2,
  num_problems=2,
  num_samples=4,
  ks=(2,),
  test_problems=2,
  test_samples=4,
  test_ks=(1, 2, 4),
  hard_samples=4,
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  path = tmp_path_factory.mktemp("start") / "policy"
  hf.save(
    path,
    CONFIG,
    transformer.init(CONFIG, jax.random.key(0)),
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  return path


def reinforce(workdir, start, **changes):
  settings = {
    "policy": str(start),
    "problem": PROBLEM,
    "arms": (OUTCOME, PAV),
    "num_iterations": 4,
    "num_problems": 2,
    "num_samples": 4,
    "num_seeds": 1,
    "schedule": RateSchedule(0.25),
    "held_out": HELD_OUT,
    "checkpoint_every": 2,
  }
  return rl.reinforce(workdir, "test", **(settings | changes))


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("rl")
  return workdir, reinforce(workdir, start)


def test_writes_curves_figures_and_policies(finished, start):
  workdir, arms = finished
  report = json.loads((workdir / "report.json").read_text())
  assert report["arms"] == arms
  for name in ("outcome", "pav"):
    found = arms[name]
    assert [len(c) for c in found["curves"]["accuracy"]] == [4]
    # Before the first iteration and after 2 and 4; the start's KL is 0.
    assert found["validation"]["iteration"] == [[0, 2, 4]]
    assert found["validation"]["kl"][0][0] == pytest.approx(0, abs=1e-6)
    assert found["validation"]["kl"][0][-1] > 0
    config, params = hf.load(workdir / "lanes" / name / "seed0" / "policy")
    hf.check_fingerprint(
      workdir / "lanes" / name / "seed0" / "policy", PROBLEM.fingerprint
    )
    assert dataclasses.replace(config, remat="none") == CONFIG
    assert np.isfinite(params["embedding"]).all()
  # Both begin with the same samples of the same policy.
  first = [arms[name]["curves"]["length"][0][0] for name in arms]
  assert first[0] == first[1]
  assert set(arms["pav"]["curves"]["k"][0]) <= {1.0, 4.0}
  assert "bound" not in arms["outcome"]["curves"]
  assert report["start"]["hard_problems"] <= 2
  for name in ("accuracy", "pass_at_n", "held_out", "theorem", "probes"):
    assert (workdir / f"{name}.png").stat().st_size > 1000


def test_a_killed_run_ends_with_the_same_bits(
  finished, start, tmp_path, monkeypatch
):
  workdir, arms = finished
  save, calls = Checkpoints.save, []

  def killed(self, *args):
    save(self, *args)
    calls.append(args[0])
    if len(calls) == 1:  # after iteration 2
      raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    reinforce(tmp_path, start, arms=(PAV,))
  monkeypatch.setattr(Checkpoints, "save", save)
  again = reinforce(tmp_path, start, arms=(PAV,))["pav"]
  assert again["curves"] == arms["pav"]["curves"]
  assert again["validation"] == arms["pav"]["validation"]
  policies = [
    path / "lanes/pav/seed0/policy/model.safetensors"
    for path in (workdir, tmp_path)
  ]
  assert policies[0].read_bytes() == policies[1].read_bytes()


def test_a_finished_run_is_read_and_not_trained_again(
  finished, start, monkeypatch
):
  workdir, arms = finished

  def no_training(*args):
    raise AssertionError("it trained")

  monkeypatch.setattr(rl.Trainer, "iterate", no_training)
  assert reinforce(workdir, start) == arms


def test_another_configuration_is_refused(finished, start):
  workdir, _ = finished
  with pytest.raises(ValueError, match="another configuration: iterations was"):
    reinforce(workdir, start, num_iterations=6)


def test_the_best_candidate_is_run(start, tmp_path):
  arms = [
    dataclasses.replace(
      OUTCOME, name=name, update=dataclasses.replace(ADAM, learning_rate=rate)
    )
    for name, rate in (("still", 1e-12), ("fast", 1e-2))
  ]
  found = reinforce(
    tmp_path,
    start,
    arms=[rl.Candidates("tuned", arms)],
    num_iterations=1,
    tuning_iterations=1,
  )
  report = json.loads((tmp_path / "report.json").read_text())
  scores = report["tuning"]["tuned"]
  assert list(found) == ["tuned"] and set(scores) == {"still", "fast"}
  # A lane's own validation is what it is chosen by.
  rows = (tmp_path / "tuning/tuned/fast/metrics.jsonl").read_text().splitlines()
  found = [json.loads(row) for row in rows]
  accuracy = [row["accuracy"][0] for row in found if row["arm"] == "validation"]
  assert len(accuracy) == 2
  assert scores["fast"] == pytest.approx(sum(accuracy) / 2)


def test_candidates_are_judged_over_the_whole_run():
  # (0 + .5) / 2 for ten iterations, and .5 for two: (2.5 + 1) / 12.
  early = {"iteration": [0, 10, 12], "accuracy": [0.0, 0.5, 0.5]}
  late = {"iteration": [0, 10, 12], "accuracy": [0.0, 0.1, 0.6]}
  scores = [
    rl_report.accuracy_over_run({k: np.array(v) for k, v in x.items()})
    for x in (early, late)
  ]
  np.testing.assert_allclose(scores, [3.5 / 12, (0.5 + 0.7) / 12])


def test_probes_warn_once_with_their_first_iteration():
  # Means of up to ten batches: .5, (.5 + .7) / 2 = .6, … against 0.55.
  curves = {
    "no_progress": [[0.5], [0.7], [0.9]],
    "empty": [[0.0]] * 3,
    "length": [[10.0], [10.0], [40.0]],
    "distinct": [[1.0]] * 3,
    "score_gap": [[0.0]] * 3,
    "accuracy": [[0.0]] * 3,
  }
  found = rl_report.warnings(curves, Thresholds(no_progress=0.55))
  assert {name: x["iteration"] for name, x in found.items()} == {
    "no_progress": 2,
    "length": 3,
  }


def test_a_policy_that_was_lost_is_noticed():
  """Of the best mean of ten batches, .27, less than half is left with .12."""
  number = 30
  curves = {
    name: [[value]] * number
    for name, value in (
      ("no_progress", 0.0),
      ("empty", 0.0),
      ("length", 10.0),
      ("distinct", 1.0),
    )
  }

  def found(high):
    curves["accuracy"] = [[0.9]] + [[high]] * 15 + [[0.0]] * (number - 16)
    return rl_report.warnings(curves, Thresholds())

  # (.9 + 9 · .2) / 10 = .27, and six batches of .2 beside four of none .12.
  assert found(0.2)["accuracy"]["iteration"] == 16 + 4
  # What never was 5 % comes and goes by chance.
  curves["accuracy"] = [[0.04]] * 15 + [[0.0]] * 15
  assert rl_report.warnings(curves, Thresholds()) == {}


@pytest.mark.parametrize(
  "level, batch_size, expected",
  # 128 responses hold 6.4 successes at 5 %: four batches have 25.6.
  [
    (0.05, 128, 4),
    (0.1, 128, 2),
    (0.9, 128, 2),
    (0.005, 128, 10),
    (0.001, 4096, 7),
  ],
)
def test_batches_are_averaged_until_they_hold_25_successes(
  level, batch_size, expected
):
  assert rl_report.window(level, batch_size) == expected


def test_iterations_are_counted_to_the_mean_of_as_many_batches():
  # Means of four are 5 % at the fourth, those of two 10 % there too.
  accuracy = np.array([0.0, 0.0, 0.1, 0.1, 0.05, 0.15, 0.0])
  lane = rl_report.Lane({}, 1.0, {"accuracy": accuracy}, {}, {})
  tested = [{"accuracy": 0.0, "pass_at_k": {}}]
  found = rl_report.summary([lane], tested, 128)["iterations_to"]
  assert found["0.05"] == [4] and found["0.1"] == [4]
  assert found["0.2"] == [None]
  # Two batches of .1 hold 25.6 successes, which is enough for 1 % as well.
  assert found["0.01"] == [4]


def test_a_low_level_needs_enough_successes():
  # 1.28 successes a batch: 25 would take twenty batches, and ten are the most.
  accuracy = np.array([0.0] + [0.01] * 11)
  assert rl_report.iterations_to(accuracy, 0.01, 128) == 11
  # Five batches of .04 hold 25.6.
  accuracy = np.array([0.0, 0.0] + [0.04] * 10)
  assert rl_report.iterations_to(accuracy, 0.01, 128) == 7
  assert rl_report.iterations_to(accuracy[:6], 0.01, 128) is None


def test_ratios_are_of_medians():
  a = {"iterations_to": {"0.5": [10, 30, None], "0.9": [None] * 3}}
  b = {"iterations_to": {"0.5": [5, 6, 7], "0.9": [1, 2, 3]}}
  # Sorted 10, 30, never: median 30; 30 / 6.
  assert rl_report.ratios(a, b) == {"0.5": 5.0, "0.9": None}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_seeds": 0}, "num_seeds is 0"),
    ({"arms": ()}, "arms are named"),
    ({"arms": (PAV, PAV)}, "arms are named"),
  ],
)
def test_bad_settings(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    reinforce(tmp_path, "nowhere", **change)


@dataclasses.dataclass(frozen=True)
class Parity(Chain):
  """Chain that a random policy gets right half of the time."""

  def outcomes(self, rollout):
    return np.asarray(rollout.tokens.sum(-1) % 2, np.float32)


def test_on_a_mesh_that_splits_the_policy_it_learns_the_same(start, tmp_path):
  """It samples split as well; sums over devices differ by rounding.

  With plain gradients, for Adam would enlarge rounding where there is none.
  """
  problem = Parity(
    **{f.name: getattr(PROBLEM, f.name) for f in dataclasses.fields(PROBLEM)}
  )
  arm = dataclasses.replace(PAV, update=Gradient("sgd", 0.1))
  found = []
  for name, mesh in (
    ("whole", None),
    ("split", partitioning.make_mesh(2, 2, devices=jax.devices()[:4])),
  ):
    arms = reinforce(
      tmp_path / name, start, problem=problem, arms=(arm,), mesh=mesh
    )
    found.append(arms["pav"])
  whole, split = (arm["curves"] for arm in found)
  for curve in ("accuracy", "length", "loss", "gradient_norm", "kl"):
    np.testing.assert_allclose(
      split[curve], whole[curve], 1e-4, 1e-6, err_msg=curve
    )
  assert np.min(whole["gradient_norm"]) > 0.01
  assert found[0]["pass_at_k"] == found[1]["pass_at_k"]


def test_arms_are_described_by_the_digest_of_their_verifier():
  """Also of one within another prover; runs of other verifiers are others."""

  def arm(prover):
    return dataclasses.replace(PAV, reward=Reward(prover, 1.0))

  @dataclasses.dataclass(frozen=True)
  class Fake:
    params: dict

  one, other = (Fake({"w": np.full(3, x)}) for x in (0.0, 1.0))
  found = [
    rl_arms.described(arm(prover))
    for prover in (one, other, WellFormed(one, None), WellFormed(other, None))
  ]
  assert len(set(found)) == 4
  assert all("array" not in text for text in found)
  assert rl_arms.described(OUTCOME) == repr(OUTCOME)
