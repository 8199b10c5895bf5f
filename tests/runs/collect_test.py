import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from pav_jax.data import step_targets
from pav_jax.data.step_targets_writer import Writer
from pav_jax.models import hf, partitioning
from pav_jax.models.transformer_config import KeptTokens, TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers.budget import Budget
from pav_jax.runs import collect as collect_run
from pav_jax.training.collect_first_pits import FirstPits
from pav_jax.training.collect_seeds import IndependentSeeds

PROBLEM = Chain(
  horizon=2, modulus=4, operations=(Chain().operations[0],), rho=0.0
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=16,
  max_length=32,
)
STRATEGY = IndependentSeeds(num_seeds=2, num_completions=4)


def export(path, *, scale=1.0):
  policy = language_model(CONFIG, PROBLEM)
  params = jax.jit(policy.init)(jax.random.key(0))
  params["embedding"] = params["embedding"] * scale
  vocabulary = PROBLEM.vocabulary
  hf.save(
    path,
    CONFIG,
    params,
    token_ids={
      "eos_token_id": vocabulary.eos_id,
      "pad_token_id": vocabulary.pad_id,
    },
    identity=identity(vocabulary, PROBLEM.delimiter),
  )
  return str(path)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  """A checkpoint of random parameters."""
  return export(tmp_path_factory.mktemp("policy"))


def collect(workdir, policy, **changes):
  settings = {
    "problem": PROBLEM,
    "policy": policy,
    "strategy": STRATEGY,
    "num_problems": 6,
    "problems_per_shard": 2,
    "skip_dead_prefixes": False,
    "rows_per_call": 16,
  } | changes
  settings = collect_run.CollectSettings(**settings)
  return collect_run.collect(workdir, "test", settings)


@pytest.fixture(scope="module")
def uninterrupted(policy, tmp_path_factory):
  """The workdir of a run that went through."""
  workdir = tmp_path_factory.mktemp("uninterrupted")
  collect(workdir, policy)
  return workdir


def test_a_mesh_collects_what_one_device_collects(
  uninterrupted, policy, tmp_path
):
  mesh = partitioning.make_mesh(2, 2, local=True, devices=jax.devices()[:4])
  collect(tmp_path, policy, mesh=mesh)
  assert files(tmp_path) == files(uninterrupted)


def files(workdir):
  """Names and bytes of all that belongs to the data set."""
  directory = pathlib.Path(workdir) / "targets"
  return {
    path.name: path.read_bytes()
    for path in directory.iterdir()
    if not path.name.startswith(".lock")
  }


def test_what_a_run_writes(uninterrupted, policy):
  targets = step_targets.load(
    uninterrupted / "targets", fingerprint=PROBLEM.fingerprint
  )
  expected = np.repeat(PROBLEM.problem_ids("train", 0, 6), 2)
  np.testing.assert_array_equal(targets.problem_id, expected)
  np.testing.assert_array_equal(targets.sample_id, [0, 1] * 6)
  manifest = step_targets.read_manifest(uninterrupted / "targets")
  assert [shard.num_traces for shard in manifest.shards] == [4, 4, 4]
  assert manifest.config["policy"] == manifest.config["prover"]
  assert manifest.checkpoint == manifest.config["prover"]["sha256"]
  report = json.loads((uninterrupted / "report.json").read_text())
  work = report["work"]
  assert work["stored"] == work["completions"] == 4 * work["prefixes"]
  labels = int(targets.num_completions.sum())
  free = sum(work[f"free_{kind}"] for kind in ("final", "dead", "shared"))
  assert work["stored"] + free == labels
  assert 0 < work["useful_slots"] <= 1
  assert report["arms"]["collected"]["traces"] == 12
  assert "closed_form" in report
  assert (uninterrupted / "collect.png").stat().st_size > 0
  # Once more, nothing is sampled and nothing changes.
  before = files(uninterrupted)
  collect(uninterrupted, policy)
  assert files(uninterrupted) == before


KILLED = """
import os, pathlib, signal, sys
from pav_jax.data import step_targets_records
from tests_runs_collect import collect

encode = step_targets_records.encode
calls = []

def encode_and_die(targets):
  calls.append(targets)
  for number, record in enumerate(encode(targets)):
    if len(calls) == 2 and number == 2:
      os.kill(os.getpid(), signal.SIGKILL)
    yield record

step_targets_records.encode = encode_and_die
collect(sys.argv[1], sys.argv[2])
"""


def test_killed_while_a_shard_is_written(uninterrupted, policy, tmp_path):
  # In the middle of the second shard; the first one is kept, byte for byte.
  module = tmp_path / "tests_runs_collect.py"
  module.write_text(pathlib.Path(__file__).read_text())
  root = pathlib.Path(__file__).parents[2]
  workdir = tmp_path / "killed"
  done = subprocess.run(
    [sys.executable, "-c", KILLED, str(workdir), policy],
    env=os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"},
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  kept = files(workdir)
  assert {n for n in kept if n.endswith(".tfrecord")} == {
    step_targets.shard_name(0, 3)
  } and not step_targets.read_manifest(workdir / "targets").is_complete
  collect(workdir, policy)
  assert files(workdir) == files(uninterrupted)


def test_hosts_write_the_same_data_set(uninterrupted, policy, tmp_path):
  assert collect(tmp_path, policy, host=1, num_hosts=2) == {}
  names = [n for n in files(tmp_path) if n.endswith(".tfrecord")]
  assert names == [step_targets.shard_name(1, 3)]
  collect(tmp_path, policy, host=0, num_hosts=2)
  assert files(tmp_path) == files(uninterrupted)


def test_waits_for_other_hosts(tmp_path, monkeypatch):
  waited = []

  def sleep(seconds):
    waited.append(seconds)
    (tmp_path / step_targets.shard_name(len(waited), 3)).touch()

  (tmp_path / step_targets.shard_name(0, 3)).touch()
  monkeypatch.setattr(collect_run.time, "sleep", sleep)
  collect_run._wait_for_others(tmp_path, 3)
  assert len(waited) == 2


def test_other_prover(uninterrupted, policy, tmp_path):
  other = export(tmp_path / "prover", scale=0.5)
  collect(tmp_path / "run", policy, prover=other)
  ours, theirs = (
    step_targets.load(x / "targets", fingerprint=PROBLEM.fingerprint)
    for x in (uninterrupted, tmp_path / "run")
  )
  # The policy's traces; the prover's digest.
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)
  first, second = (
    step_targets.read_manifest(x / "targets")
    for x in (uninterrupted, tmp_path / "run")
  )
  assert first.config["policy"] == second.config["policy"]
  assert first.checkpoint != second.checkpoint
  report = json.loads((tmp_path / "run" / "report.json").read_text())
  assert "closed_form" not in report
  # Into the directory of the first one, it is refused.
  with pytest.raises(ValueError, match=r"another configuration.*checkpoint"):
    collect(uninterrupted, policy, prover=other)


def test_budget_plans_seeds_and_completions(
  uninterrupted, policy, tmp_path, monkeypatch, capsys
):
  planned = []

  def split(self, num_problems, prefixes_per_seed):
    planned.append((num_problems, prefixes_per_seed))
    return STRATEGY.num_seeds, STRATEGY.num_completions

  monkeypatch.setattr(Budget, "split", split)
  # Plans of another strategy; those of the budget are used.
  strategy = IndependentSeeds(num_seeds=2, num_completions=99)
  collect(tmp_path, policy, strategy=strategy, budget=Budget(400))
  assert files(tmp_path) == files(uninterrupted)
  # Prefixes of the four seeds of the first shard, besides the bare problem.
  targets = step_targets.load(
    tmp_path / "targets", fingerprint=PROBLEM.fingerprint
  )
  length = targets.prefix_len[:4]
  open_ones = (np.diff(length) > 0) & (length[:, 1:] < length[:, -1:])
  assert planned == [(6, open_ones.sum() / 4)]
  assert "400 completions" in capsys.readouterr().out
  with pytest.raises(ValueError, match="for independent seeds"):
    collect(
      tmp_path / "b",
      policy,
      strategy=FirstPits(num_seeds=1, num_completions=1),
      budget=Budget(400),
    )


def test_refuses_another_vocabulary(policy, tmp_path):
  other = dataclasses.replace(PROBLEM, modulus=5)
  with pytest.raises(ValueError, match=r"fingerprint|vocabulary"):
    collect(tmp_path, policy, problem=other)


def test_refuses_a_policy_that_ends_elsewhere(policy, tmp_path, monkeypatch):
  lengths = iter([12, 13])

  def make_policy(config, problem):
    return language_model(config, problem, max_new_tokens=next(lengths))

  with pytest.raises(ValueError, match="max_new_tokens is 12 for the policy"):
    collect(tmp_path, policy, prover=policy, make_policy=make_policy)


def test_refuses_bad_settings(policy, tmp_path):
  for name in ("num_problems", "problems_per_shard", "rows_per_call"):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      collect(tmp_path, policy, **{name: 0})
  assert not (tmp_path / "targets").exists()


def test_a_lock_keeps_others_out(policy, tmp_path):
  kwargs = {"config": {}, "seed": 0, "checkpoint": "", "pad_id": 0}
  with (
    Writer(
      tmp_path / "targets",
      fingerprint=PROBLEM.fingerprint,
      num_shards=3,
      **kwargs,
    ),
    pytest.raises(RuntimeError, match="another process writes"),
  ):
    collect(tmp_path, policy)


def test_loads_in_the_precision_of_the_settings(policy):
  settings = collect_run.CollectSettings(
    problem=PROBLEM, policy=policy, strategy=STRATEGY, num_problems=1
  )
  for precision in (
    {"dtype": "float32", "param_dtype": "float32", "remat": "none"},
    {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full"},
    {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "dots"},
  ):
    # The checkpoint's own is float32 without rematerialisation.
    changes = {} if precision["remat"] == "none" else precision
    loaded = dataclasses.replace(settings, **changes).load(policy)
    for name, value in precision.items():
      assert getattr(loaded.policy.config, name) == value
    assert loaded.params["embedding"].dtype == precision["param_dtype"]


def test_a_policy_may_say_the_tokens_of_the_settings(policy):
  kept = KeptTokens((0, 1, 2, 3, PROBLEM.vocabulary.eos_id))
  settings = collect_run.CollectSettings(
    problem=PROBLEM,
    policy=policy,
    strategy=STRATEGY,
    num_problems=1,
    kept=kept,
  )
  assert settings.load(policy).policy.config.kept == kept
