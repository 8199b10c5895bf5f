"""`reinforce` of arms and seeds in one program."""

import dataclasses
import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.credit import Centred, EffectiveReward
from pav_jax.models import partitioning
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural
from pav_jax.runs.preemption import Preempted
from pav_jax.runs.reinforce import RlSettings, reinforce
from pav_jax.runs.rl_arms import Candidates
from pav_jax.runs.rl_fresh import FreshSamples
from pav_jax.runs.rl_start import FreshPolicy
from pav_jax.training.baselines import BatchMean, less_baseline
from pav_jax.training.imitation import ImitateProver
from pav_jax.training.learning_rate import LearningRateSchedule
from pav_jax.training.rl import Arm
from pav_jax.training.rl_replicas import Together
from pav_jax.training.state import sha256
from pav_jax.training.updates import Gradient

PROBLEM = Planted((1, 0), length=4, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(12,))
PROVER = Procedural(PROBLEM, 6.0)
ARMS = [
  Arm(
    name,
    less_baseline(reward=EffectiveReward(alpha), baseline=BatchMean()),
    Gradient("adam", 3e-2),
    PROVER,
  )
  for name, alpha in (("pav", 1.0), ("outcome", 0.0))
]


def run(workdir, *, num_eval_samples=256, analyses=(), **settings):
  init_params = ImitateProver(Procedural(PROBLEM, 2.0), num_iterations=3)
  defaults = dict(
    problem=PROBLEM,
    start=FreshPolicy(POLICY, init_params),
    arms=ARMS,
    num_iterations=20,
    evaluation=FreshSamples(num_eval_samples, analyses),
    num_problems=1,
    num_samples=16,
    num_seeds=2,
    schedule=LearningRateSchedule(0.0, 1.0),
    stride=5,
    checkpoint_every=10,
    mesh=partitioning.make_mesh(devices=jax.devices()[:1]),
  )
  return reinforce(
    workdir, "tiny", settings=RlSettings(**(defaults | settings))
  )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run's workdir and what `reinforce` gave."""
  workdir = tmp_path_factory.mktemp("finished")
  return workdir, run(workdir)


def test_report_has_what_programs_rely_on(finished):
  workdir, arms = finished
  report = json.loads((workdir / "report.json").read_text())
  assert report["experiment"] == "tiny"
  assert report["seconds"] > 0
  assert report["arms"] == arms and list(arms) == ["pav", "outcome"]
  for metrics in arms.values():
    for name in (
      "it_50",
      "it_90",
      "it_99",
      "lowest_since_99",
      "mean_accuracy",
      "initial_accuracy",
      "final_accuracy",
      "params_sha256",
    ):
      assert len(metrics[name]) == 2, name
    assert len(set(metrics["params_sha256"])) == 2
  assert arms["pav"]["initial_accuracy"] == arms["outcome"]["initial_accuracy"]


def test_metrics_hold_every_iteration_of_every_arm_and_seed(finished):
  workdir, arms = finished
  rows = [
    json.loads(line)
    for line in (workdir / "metrics.jsonl").read_text().splitlines()
  ]
  assert [(row["arm"], row["iteration"]) for row in rows if row["arm"] == "pav"]
  for arm in ("pav", "outcome"):
    mine = [row for row in rows if row["arm"] == arm]
    assert [row["iteration"] for row in mine] == list(range(1, 21))
    accuracy = np.array([row["accuracy"] for row in mine])
    assert accuracy.shape == (20, 2)
    np.testing.assert_allclose(
      accuracy.mean(axis=0), arms[arm]["mean_accuracy"], rtol=1e-6
    )
  assert list((workdir / "tensorboard").glob("*/events.out.tfevents.*"))
  assert (workdir / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_finished_run_is_not_trained_again(finished, monkeypatch):
  workdir, arms = finished
  before = (workdir / "metrics.jsonl").read_bytes()

  def no_training(*args, **kwargs):
    raise AssertionError("trained")

  monkeypatch.setattr(Together, "advance", no_training)
  assert run(workdir) == arms
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_raised_run_goes_on_and_equals_an_uninterrupted_one(finished, tmp_path):
  _, arms = finished
  run(tmp_path, num_iterations=13)  # in the middle of a chunk
  assert run(tmp_path) == arms
  with pytest.raises(ValueError, match="has done 20; choose another workdir"):
    run(tmp_path, num_iterations=13)


def test_metrics_written_after_the_checkpoint_are_not_kept(finished, tmp_path):
  # As a run leaves them that is killed in the middle of a line, three
  # iterations after its last checkpoint.
  workdir, arms = finished
  run(tmp_path, num_iterations=10)
  lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
  later = [line for line in lines if 10 < json.loads(line)["iteration"] <= 13]
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write("".join(later) + later[0][:20])
  assert run(tmp_path) == arms


def test_lost_metrics_are_an_error_and_not_a_gap(tmp_path):
  run(tmp_path, num_iterations=10)
  (tmp_path / "metrics.jsonl").unlink()
  with pytest.raises(ValueError, match="lacks rows of arm 'pav'"):
    run(tmp_path)


def test_another_configuration_is_refused(finished):
  workdir, _ = finished
  with pytest.raises(ValueError, match="seed was 0, now 1"):
    run(workdir, seed=1)
  with pytest.raises(ValueError, match="batch was 1 × 16, now 1 × 32"):
    run(workdir, num_samples=32)


def test_arms_of_two_structures_share_the_report(finished, tmp_path):
  other = dataclasses.replace(ARMS[0], name="sgd", update=Gradient("sgd", 1.0))
  arms = run(tmp_path, arms=[ARMS[0], other, ARMS[1]])
  assert list(arms) == ["pav", "sgd", "outcome"]
  _, alone = finished
  assert arms["pav"]["params_sha256"] == alone["pav"]["params_sha256"]
  assert run(tmp_path, arms=[ARMS[0], other, ARMS[1]]) == arms


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
  # The reward is NaN from a batch on: sample ids tell the iteration.
  def breaks(rollout, q, groups=None):
    late = rollout.sample_id[:, None] >= 16 * 12
    return jnp.where(late, jnp.nan, jnp.ones_like(q[:, 1:]))

  arm = Arm("breaks", Centred(breaks), Gradient("sgd", 1.0), PROVER)
  with pytest.raises(
    FloatingPointError,
    match=r"loss is nan at iteration 13 \(arm 'breaks', seed number 0\); "
    "checkpoint 10 is kept",
  ):
    run(tmp_path, arms=[arm])
  kept = [p.name for p in (tmp_path / "checkpoints" / "group_0").iterdir()]
  assert kept == ["10"]


def test_analyses_see_what_was_trained(finished):
  workdir, arms = finished
  seen = {}

  def analysis(trained):
    seen["trained"] = trained
    return {"extra": 1}, [pathlib.Path("figure.png")]

  run(workdir, analyses=[analysis])
  trained = seen["trained"]
  assert trained.accuracy["pav"].shape == (20, 2)
  last = jax.tree.map(lambda x: x[1], trained.params["pav"])
  assert sha256(last) == arms["pav"]["params_sha256"][1]
  assert json.loads((workdir / "report.json").read_text())["extra"] == 1


@pytest.mark.parametrize(
  "setting",
  [
    "num_iterations",
    "num_seeds",
    "num_problems",
    "num_samples",
    "stride",
    "checkpoint_every",
    "tuning_iterations",
  ],
)
def test_settings_out_of_range_are_refused(tmp_path, setting):
  with pytest.raises(ValueError, match=f"{setting} is 0, expected >= 1"):
    run(tmp_path, **{setting: 0})


def test_candidates_need_validation_problems(tmp_path):
  with pytest.raises(ValueError, match="tuned has candidates and evaluation"):
    run(tmp_path, arms=[Candidates("tuned", ARMS)])


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(
  finished, tmp_path, monkeypatch
):
  _, arms = finished
  advance = Together.advance

  def told(self, state, start, scales):
    if start == 5:
      signal.raise_signal(signal.SIGTERM)
    return advance(self, state, start, scales)

  monkeypatch.setattr(Together, "advance", told)
  with pytest.raises(Preempted, match="stopped after iteration 10 of 20"):
    run(tmp_path)
  monkeypatch.setattr(Together, "advance", advance)
  assert run(tmp_path) == arms


def test_arms_run_one_by_one_where_that_is_asked_for(finished, tmp_path):
  """The same learning, in lanes of their own; the report has the same form."""
  _, arms = finished
  alone = run(tmp_path, one_program=False, num_iterations=5)
  assert {p.name for p in (tmp_path / "lanes").iterdir()} == {"pav", "outcome"}
  together = run(tmp_path / "together", num_iterations=5)
  for name, of_arm in together.items():
    np.testing.assert_allclose(
      alone[name]["mean_accuracy"], of_arm["mean_accuracy"], atol=0.02
    )
    assert set(alone[name]) == set(arms[name])
