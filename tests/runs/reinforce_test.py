import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax.credit import EffectiveReward
from pav_jax.models import hf, partitioning, transformer
from pav_jax.models.transformer_config import (
  KeptTokens,
  Lora,
  TransformerConfig,
)
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.runs import reinforce as runs
from pav_jax.runs import rl_arms, rl_held_out, rl_loop, rl_report
from pav_jax.runs.reinforce import RlSettings
from pav_jax.runs.rl_held_out import EvaluationConfig
from pav_jax.runs.rl_loop import Replica
from pav_jax.runs.rl_start import PolicyCheckpoint
from pav_jax.training.baselines import (
  GroupMean,
  LearnedBaseline,
  less_baseline,
)
from pav_jax.training.evaluation import Evaluation
from pav_jax.training.learning_rate import LearningRateSchedule
from pav_jax.training.probes import Thresholds
from pav_jax.training.rl import Arm, Trainer
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
OUTCOME = Arm(
  "outcome",
  less_baseline(reward=EffectiveReward(0.0), baseline=GroupMean(own=False)),
  ADAM,
)
PAV = Arm(
  "pav",
  less_baseline(reward=EffectiveReward(1.0), baseline=LearnedBaseline()),
  ADAM,
  AdaptiveK(MonteCarlo(PROBLEM, num_completions=2), (1, 4)),
  num_updates=2,
)
HELD_OUT = EvaluationConfig(
  every=2,
  num_problems=2,
  num_samples=4,
  ks=(2,),
  test_problems=2,
  test_samples=4,
  test_ks=(1, 2, 4),
  hard_samples=4,
)


@dataclasses.dataclass(frozen=True)
class Parity(Chain):
  """Chain that a random policy gets right half of the time."""

  def grade(self, rollout):
    return np.asarray(rollout.tokens.sum(-1) % 2, np.float32)


PARITY = Parity(
  **{f.name: getattr(PROBLEM, f.name) for f in dataclasses.fields(PROBLEM)}
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


def test_a_policy_may_say_the_tokens_of_the_start(start):
  kept = KeptTokens((0, 1, 2, 3, PROBLEM.vocabulary.eos_id))
  keys = jax.random.split(jax.random.key(0), 1)
  loaded = PolicyCheckpoint(str(start), kept=kept).load(PROBLEM, keys, None)
  assert loaded.policy.model.config.kept == kept


def reinforce(workdir, start, *, lora=None, **changes):
  settings = {
    "start": PolicyCheckpoint(str(start), lora=lora),
    "problem": PROBLEM,
    "arms": (OUTCOME, PAV),
    "num_iterations": 4,
    "num_problems": 2,
    "num_samples": 4,
    "num_seeds": 1,
    "schedule": LearningRateSchedule(0.25),
    "evaluation": HELD_OUT,
    "checkpoint_every": 2,
  }
  return runs.reinforce(
    workdir, "test", settings=RlSettings(**(settings | changes))
  )


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


def test_adapters_of_policy_and_value_function_are_trained_and_go_on(
  start, tmp_path, monkeypatch
):
  settings = {
    "lora": Lora(2, 8.0, ("out", "up")),
    "problem": PARITY,  # there is something to learn
    "arms": (PAV,),
    "num_iterations": 2,
    "checkpoint_every": 1,
  }
  states, save = [], Checkpoints.save

  def killed(self, *args):
    save(self, *args)
    states.append(args[1])
    raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    reinforce(tmp_path / "killed", start, **settings)
  monkeypatch.setattr(Checkpoints, "save", save)
  arms = [
    reinforce(tmp_path / name, start, **settings)["pav"]
    for name in ("killed", "whole")
  ]
  assert arms[0]["curves"] == arms[1]["curves"]
  # The start is the base, exactly: adapters that add nothing.
  assert arms[0]["validation"]["kl"][0][0] == pytest.approx(0, abs=1e-6)
  one, two = (
    (tmp_path / name / "lanes/pav/seed0/policy") for name in ("killed", "whole")
  )
  for file in ("model.safetensors", "adapters/adapter_model.safetensors"):
    assert (one / file).read_bytes() == (two / file).read_bytes()
  # Two kernels of two layers have a pair of factors; the value function has as
  # many of its own, and a head; nothing is kept of the base.
  (state,) = states
  factors = 2 * (16 + 16) + 2 * (16 + 16)
  assert num_numbers(state.params) == 2 * factors
  value_params, _ = state.credit
  assert num_numbers(value_params["trunk"]) == 2 * factors
  assert value_params["head"]["kernel"].any()
  _, base = hf.load(start)
  _, trained = hf.load(one)
  change = jax.tree.map(lambda a, b: np.asarray(a - b), trained, base)
  for kind in ("local", "global"):
    layer = change["layers"][kind]
    for kernel in layer["attention"].pop("out"), layer["mlp"].pop("up"):
      rank = np.linalg.matrix_rank(kernel[0].reshape(16, 16), tol=1e-6)
      assert rank == 2
  assert not any(x.any() for x in jax.tree.leaves(change))


def num_numbers(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_a_finished_run_is_read_and_not_trained_again(
  finished, start, monkeypatch
):
  workdir, arms = finished

  def no_training(*args):
    raise AssertionError("it trained")

  monkeypatch.setattr(Trainer, "iterate", no_training)
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
    arms=[rl_arms.Candidates("tuned", arms)],
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
    rl_held_out.accuracy_over_run({k: np.array(v) for k, v in x.items()})
    for x in (early, late)
  ]
  np.testing.assert_allclose(scores, [3.5 / 12, (0.5 + 0.7) / 12])


def arrays(curves):
  return {name: np.array(x)[:, 0] for name, x in curves.items()}


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
  found = rl_report.warnings(arrays(curves), Thresholds(no_progress=0.55))
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
    return rl_report.warnings(arrays(curves), Thresholds())

  # (.9 + 9 · .2) / 10 = .27, and six batches of .2 beside four of none .12.
  assert found(0.2)["accuracy"]["iteration"] == 16 + 4
  # What never was 5 % comes and goes by chance.
  curves["accuracy"] = [[0.04]] * 15 + [[0.0]] * 15
  assert rl_report.warnings(arrays(curves), Thresholds()) == {}


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
  quiet = {name: np.zeros(7) for name in ("no_progress", "empty")}
  curves = quiet | {"accuracy": accuracy} | {"length": np.ones(7)}
  curves["distinct"] = np.ones(7)
  replica = Replica({}, 1.0, curves, {})
  tested = [{"accuracy": 0.0, "pass_at_k": {}}]
  found = rl_report.summary([replica], tested, 128, Thresholds())[
    "iterations_to"
  ]
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


def test_on_a_mesh_that_splits_the_policy_it_learns_the_same(start, tmp_path):
  """It samples split as well; sums over devices differ by rounding.

  With plain gradients, for Adam would enlarge rounding where there is none. KL
  sums what updates left behind, and gathers their rounding.
  """
  arm = dataclasses.replace(PAV, update=Gradient("sgd", 0.1))
  found = []
  for name, mesh in (
    ("whole", None),
    ("split", partitioning.make_mesh(2, 2, devices=jax.devices()[:4])),
  ):
    arms = reinforce(
      tmp_path / name, start, problem=PARITY, arms=(arm,), mesh=mesh
    )
    found.append(arms["pav"])
  whole, split = (arm["curves"] for arm in found)
  for curve in ("accuracy", "length", "loss", "gradient_norm", "kl"):
    np.testing.assert_allclose(
      split[curve], whole[curve], 1e-3, 1e-6, err_msg=curve
    )
  assert np.min(whole["gradient_norm"]) > 0.01
  assert found[0]["pass_at_k"] == found[1]["pass_at_k"]


class Watched:
  """In the place of `evaluation.evaluate`: notes what it is asked."""

  def __init__(self, solved):
    self.solved, self.asked = solved, []

  def __call__(self, policy, params, key, problem, ids, **options):
    weights = np.asarray(params["embedding"]).tobytes()
    self.asked.append((np.asarray(ids).tolist(), options, weights))
    number = options["num_samples"]
    if observe := options.get("observe"):
      observe(PROBLEM.demonstrations(ids, np.zeros_like(ids)))
    return Evaluation(
      np.array(self.solved(ids, number, len(self.asked))), number, 1, 1.0
    )

  def splits(self):
    """Of each call: which split its problems are of."""
    ids = {
      split: PROBLEM.problem_ids(split, 0, 2).tolist()
      for split in ("train", "validation", "test")
    }
    return [
      next(split for split, of in ids.items() if of == asked)
      for asked, *_ in self.asked
    ]


def test_only_the_report_reads_test_problems(start, tmp_path, monkeypatch):
  """And curves validation problems: of the start, at 2 and at 4 iterations."""
  watched = Watched(lambda ids, number, call: [1, 0])
  monkeypatch.setattr(rl_held_out.evaluation, "evaluate", watched)
  arms = [
    dataclasses.replace(OUTCOME, name=name, update=ADAM)
    for name in ("slow", "fast")
  ]
  reinforce(
    tmp_path,
    start,
    problem=PARITY,
    arms=[rl_arms.Candidates("tuned", arms)],
    num_iterations=4,
    tuning_iterations=2,
  )
  tuning, trained = 2 * 2, 3
  assert watched.splits() == (
    ["validation"] * tuning
    + ["test"] * 2  # hard problems, and the start
    + ["validation"] * trained
    + ["test"]
  )
  params = [weights for *_, weights in watched.asked]
  first = params[0]
  # Hard problems and `start` are of the start, the last test of what it became.
  assert params[tuning] == params[tuning + 1] == params[tuning + 2] == first
  assert params[-1] == params[-2] != first
  numbers = [options["num_samples"] for _, options, _ in watched.asked]
  assert numbers == [4] * len(numbers)


def test_hard_problems_are_those_that_the_start_never_solves(
  start, tmp_path, monkeypatch
):
  # The start solves problem 1 alone; what was trained both: of one hard problem
  # one is solved.
  def solved(ids, number, call):
    return [0, 3] if call <= 2 else [4, 4]

  watched = Watched(solved)
  monkeypatch.setattr(rl_held_out.evaluation, "evaluate", watched)
  arms = reinforce(tmp_path, start, arms=(OUTCOME,), num_iterations=1)
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["start"]["hard_problems"] == 1
  assert report["start"]["hard_problems_solved"] == 0
  assert arms["outcome"]["hard_problems_solved"] == [1]


def test_the_candidate_that_validates_best_is_run(start, tmp_path, monkeypatch):
  trained, keys = [], []

  def train(job):
    (arm,) = job.replicas.arms
    trained.append((job.label, arm.update.learning_rate))
    keys.append(job.replicas.key)
    accuracy = {"a": 0.2, "b": 0.6, "c": 0.4}.get(job.label[-1], 0.5)
    validation = {
      "iteration": np.array([0, 1]),
      "accuracy": np.array([accuracy, accuracy]),
    }
    if len(trained) > 3:
      raise KeyboardInterrupt
    return [[Replica(None, 0.0, {}, validation, False)]]

  monkeypatch.setattr(rl_loop, "train", train)
  monkeypatch.setattr(runs, "export", lambda *_: None)
  monkeypatch.setattr(rl_report.Reporter, "judge_start", lambda _: None)
  arms = [
    dataclasses.replace(
      OUTCOME, name=name, update=dataclasses.replace(ADAM, learning_rate=rate)
    )
    for name, rate in (("a", 1e-3), ("b", 2e-3), ("c", 3e-3))
  ]
  with pytest.raises(KeyboardInterrupt):
    reinforce(tmp_path, start, arms=[rl_arms.Candidates("tuned", arms)])
  assert [rate for _, rate in trained] == [1e-3, 2e-3, 3e-3, 2e-3]
  assert trained[-1][0] == "tuned, seed 0"
  # Candidates are compared on a seed that none of the runs has.
  assert keys == [jax.random.key(seed) for seed in (1, 1, 1, 0)]


def test_a_run_killed_before_its_first_checkpoint_begins_again(
  finished, start, tmp_path, monkeypatch
):
  """What it wrote of the start is written once, and the report is the same."""
  _, arms = finished
  iterate, calls = Trainer.iterate, []

  def killed(self, *args):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return iterate(self, *args)

  monkeypatch.setattr(Trainer, "iterate", killed)
  with pytest.raises(KeyboardInterrupt):
    reinforce(tmp_path, start, arms=(OUTCOME,))
  monkeypatch.setattr(Trainer, "iterate", iterate)
  again = reinforce(tmp_path, start, arms=(OUTCOME,))["outcome"]
  assert again["validation"] == arms["outcome"]["validation"]
  assert again["curves"] == arms["outcome"]["curves"]


def test_parameters_that_are_not_finite_are_not_kept(start, tmp_path):
  """The loss of an update is finite, and what it makes of parameters is not."""
  arm = dataclasses.replace(OUTCOME, update=Gradient("adam", 1e39))
  with pytest.raises(
    FloatingPointError,
    match=r"parameters after 1 are not finite: .*; no checkpoint was due",
  ):
    reinforce(tmp_path, start, problem=PARITY, arms=(arm,), num_iterations=1)
  assert not (tmp_path / "lanes/outcome/seed0/policy").exists()
