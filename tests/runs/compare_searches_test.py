"""A run on sums modulo 4, with a random policy and exact values."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from pav_jax import models
from pav_jax.models import hf, partitioning, transformer
from pav_jax.models import value_network as verifier_network
from pav_jax.models.transformer_config import KeptTokens, TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import verifier
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import Rollout
from pav_jax.runs import search_arms, search_report, search_samples
from pav_jax.runs.compare_searches import (
  SearchSettings,
  Tuning,
  compare_searches,
)
from pav_jax.runs.search_arms import BeamArm
from pav_jax.shards import from_npz


@dataclasses.dataclass(frozen=True)
class Parity(Chain):
  """Chain that a random policy gets right half of the time."""

  def grade(self, rollout):
    return np.asarray(rollout.tokens.sum(-1) % 2, np.float32)


PROBLEM = Parity(
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
  head_dim=4,
  mlp_width=16,
  sliding_window=16,
  max_length=32,
)
NUM, SAMPLES = 5, 4


def values(rollout):
  """A stand-in that tells responses apart: the share of low tokens."""
  position = np.arange(rollout.num_tokens)
  inside = position < rollout.prefix_len[..., None]
  low = (rollout.tokens < 8)[:, None] & inside
  return low.sum(-1) / inside.sum(-1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  path = tmp_path_factory.mktemp("policy") / "policy"
  shapes = transformer.shapes(CONFIG)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: np.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )
  hf.save(
    path,
    CONFIG,
    params,
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  return path


def run(workdir, policy, **changes):
  settings = {
    "verifier": ClosedForm(values),
    "problem": PROBLEM,
    "arms": [
      BeamArm("beam"),
      BeamArm("beam, Bo4", 0.3, BestOfK(PolicyValues(), 4.0)),
    ],
    "ns": (2,),
    "num_samples": SAMPLES,
    "num_problems": NUM,
    "tuning": Tuning((0.0, 1.0), num_problems=3, num_beams=2, num_samples=4),
    "max_step_tokens": 4,
    "beams_per_call": 8,
    "rows_per_call": 12,
  }
  settings = SearchSettings(policy=policy, **(settings | changes))
  return compare_searches(workdir, "test", settings)


def test_a_policy_may_say_the_tokens_of_the_settings(
  policy, tmp_path, monkeypatch
):
  kept, asked = KeptTokens((1, 2)), []

  def stop(path, **settings):
    asked.append((path, settings["kept"]))
    raise KeyboardInterrupt

  monkeypatch.setattr(models, "load", stop)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, policy, kept=kept)
  assert asked == [(policy, kept)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, policy):
  workdir = tmp_path_factory.mktemp("search")
  return workdir, run(workdir, policy)


def read(workdir):
  lines = (workdir / "rows.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_writes_a_row_for_each_problem_method_and_size(finished):
  workdir, report = finished
  rows = read(workdir)
  ids = PROBLEM.problem_ids("test", 0, NUM).tolist()
  sizes = {name: found["n"] for name, found in report.items()}
  assert sizes["best of N"] == [1, 2, 4] and sizes["greedy"] == [1]
  assert sizes["beam"] == sizes["beam, Bo4"] == [2]
  expected = [
    (name, n, i) for name, ns in sizes.items() for n in ns for i in ids
  ]
  assert [(r["method"], r["n"], r["problem"]) for r in rows] == expected
  for row in rows:
    prompt = PROBLEM.prompts(np.array([row["problem"]], np.int32))[0]
    tokens = np.array([*prompt, *row["response"]], np.int32)
    # Values are those of the response that the row has.
    rollout = Rollout(
      tokens[None], None, np.array([row["prefix_len"]]), None, None, None
    )
    want = np.array(ClosedForm(values)(None, rollout)[0])
    if row["response"][-1] != PROBLEM.vocabulary.eos_id:
      want[-1] = 0  # it was cut off
    np.testing.assert_allclose(row["q_policy"], want, atol=1e-5)
    assert row["prefix_len"][-1] == len(tokens)
    assert row["any_correct"] >= row["correct"]


def test_the_report_sums_up_the_rows(finished):
  workdir, report = finished
  rows = read(workdir)
  for name, found in report.items():
    for i, n in enumerate(found["n"]):
      of = [r for r in rows if (r["method"], r["n"]) == (name, n)]
      for metric in "generated", "prefill", "policy_flops":
        mean = np.mean([r[metric] for r in of])
        assert found[metric][i] == pytest.approx(mean)
      right = np.mean([r["correct"] for r in of])
      assert found["accuracy"][i] == pytest.approx(right)
      # Closed-form values cost no operations.
      assert found["verifier_flops"][i] == 0
  # Two beams, three candidates and at least one step each.
  assert report["beam"]["generated"][0] >= 6
  same = report["best of N"]
  assert same["equal_n"] == same["equal_tokens"] == [[0.0, 0.0]] * 3
  whole = json.loads((workdir / "report.json").read_text())
  assert whole["arms"] == report and whole["problems"] == NUM
  assert whole["alpha"]["alphas"] == [0.0, 1.0]
  assert whole["outcome_error"]["step"] == [1, 2]
  # A line for every row of a method and a size.
  table = (workdir / "table.txt").read_text()
  assert table.count(" ± ") >= sum(len(x["n"]) for x in report.values())
  best = max(
    (name for name in report if name != "Pass@N"),
    key=lambda name: report[name]["accuracy"][-1],
  )
  assert whole["verdict"].startswith(f"accuracy: {best} (N = ")
  for figure in "accuracy", "pass_at_n", "alpha", "outcome_error":
    assert (workdir / f"{figure}.png").stat().st_size > 1000


def test_a_killed_run_ends_with_the_same_rows(
  finished, policy, tmp_path, monkeypatch
):
  workdir, _ = finished
  search, calls = search_arms.search, []

  def killed(*args, **kwargs):
    calls.append(None)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return search(*args, **kwargs)

  monkeypatch.setattr(search_arms, "search", killed)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, policy)
  done = len(list((tmp_path / "units").iterdir()))
  monkeypatch.setattr(search_arms, "search", search)
  run(tmp_path, policy)
  assert 0 < done < len(list((tmp_path / "units").iterdir()))

  def timeless(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

  assert timeless(read(tmp_path)) == timeless(read(workdir))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"seed": 1}, "another configuration: seed was 0, now 1"),
    (
      {"arms": [BeamArm("beam", alpha=0.9)]},
      "arm beam was .*, now .*alpha=0.9",
    ),
    ({"verifier": ClosedForm(len)}, "verifier was "),
    ({"beams_per_call": 4}, "calls was"),
    ({"arms": []}, r"arms are \[\]"),
    ({"arms": [BeamArm("a"), BeamArm("a")]}, "all unlike"),
    ({"num_problems": 1}, "num_problems 1"),
    ({"first_problem": 2**30}, "start and stop are 1073741824"),
    ({"split": "validation"}, "α is tuned on those before"),
    ({"problem": dataclasses.replace(PROBLEM, modulus=5)}, "fingerprint"),
  ],
)
def test_bad_settings(finished, policy, change, message):
  with pytest.raises(ValueError, match=message):
    run(finished[0], policy, **change)


def test_what_is_fitted_and_tuned_reads_validation_problems_alone(
  policy, tmp_path, monkeypatch
):
  """And what is reported comes from the test problems."""
  searched, drawn, fitted = [], {}, []
  search, draw = search_arms.search, search_samples.draw
  errors = search_report.outcome_errors

  def searching(policy, params, values, key, prompts, lengths, ids, **more):
    searched.append((values, np.array(ids), np.array(more["alpha"])))
    return search(policy, params, values, key, prompts, lengths, ids, **more)

  def drawing(division, shards, policy, *args, num_samples, **more):
    ids, name = np.array(args[-1]), shards.directory.name
    drawn[name] = (ids, num_samples, policy.temperature)
    more["num_samples"] = num_samples
    return draw(division, shards, policy, *args, **more)

  def fitting(validation, samples, *, alpha):
    fitted.append((validation.outcome.shape, samples.outcome.shape, alpha))
    return errors(validation, samples, alpha=alpha)

  monkeypatch.setattr(search_arms, "search", searching)
  monkeypatch.setattr(search_samples, "draw", drawing)
  monkeypatch.setattr(search_report, "outcome_errors", fitting)
  other = ClosedForm(lambda rollout: 1 - values(rollout))
  run(
    tmp_path,
    policy,
    arms=[
      BeamArm("tuned"),
      BeamArm("other, 4", 0.25, BestOfK(other, 4.0)),
      BeamArm("Q", 0.0),
    ],
    tuning=Tuning((0.5, 1.0), num_problems=3, num_beams=2, num_samples=4),
    beams_per_call=64,
  )
  test = PROBLEM.problem_ids("test", 0, NUM)
  validation = PROBLEM.problem_ids("validation", 0, 3)
  assert not set(test) & set(validation)
  tuning, tuned, with_other, q_only = searched
  np.testing.assert_array_equal(tuning[1], np.tile(validation, 2))
  np.testing.assert_array_equal(tuning[2], np.repeat([0.5, 1.0], 3))
  report = json.loads((tmp_path / "report.json").read_text())
  best = report["alpha"]["alpha"]
  for (_, ids, alpha), weight in (
    (tuned, best),
    (with_other, 0.25),
    (q_only, 0.0),
  ):
    np.testing.assert_array_equal(ids, test)
    np.testing.assert_array_equal(alpha, weight)
  # Q^π is the policy's own everywhere, and the advantage each arm's prover's.
  rollout = PROBLEM.demonstrations(test, np.zeros_like(test))
  own, others = values(rollout), 1 - (1 - (1 - values(rollout))) ** 4
  for (guide, _, _), want in (
    (tuning, own),
    (tuned, own),
    (with_other, others),
    (q_only, own),
  ):
    q_policy, q_prover = guide(None, rollout)
    np.testing.assert_allclose(q_policy, own, atol=1e-6)
    np.testing.assert_allclose(q_prover, want, atol=1e-6)
  assert {name: (n, t) for name, (_, n, t) in drawn.items()} == {
    "samples": (SAMPLES, 1.0),
    "greedy": (1, 0.0),
    "validation": (4, 1.0),
  }
  np.testing.assert_array_equal(drawn["samples"][0], test)
  np.testing.assert_array_equal(drawn["greedy"][0], test)
  np.testing.assert_array_equal(drawn["validation"][0], validation)
  assert fitted == [((3, 4), (NUM, SAMPLES), best)]


def test_every_network_that_reads_candidates_is_counted(policy, tmp_path):
  """Best-of-K of the policy's own verifier reads nothing a second time."""
  key = jax.random.key(0)

  def verifier_of(config):
    params = transformer.init(config.trunk, key)
    return Verifier(verifier_network.init(config, params, key), config)

  small = dataclasses.replace(CONFIG, width=8, mlp_width=8)
  own, other = map(verifier_of, (VerifierConfig(CONFIG), VerifierConfig(small)))
  report = run(
    tmp_path,
    policy,
    verifier=own,
    arms=[
      BeamArm("Bo4", prover=BestOfK(PolicyValues(), 4)),
      BeamArm("the same", prover=BestOfK(own, 4)),
      BeamArm("other", prover=other),
    ],
    tuning=Tuning((0.0,), num_problems=3, num_samples=0),
    beams_per_call=64,
  )
  rows = {
    name: [row for row in read(tmp_path) if row["method"] == name]
    for name in report
  }
  for name in ("Bo4", "the same"):
    for row in rows[name]:
      read_once = row["generated"] + row["prefill"]
      assert row["verifier_tokens"] == read_once
      # A head on a network like the policy's, without its logits.
      logits = 2 * CONFIG.width * CONFIG.vocab_size * row["generated"]
      assert row["verifier_flops"] == pytest.approx(
        row["policy_flops"] - logits, rel=1e-6
      )
  # With α = 0 the same candidates, which the smaller network has read too.
  for row, once in zip(rows["other"], rows["Bo4"], strict=True):
    assert row["response"] == once["response"]
    assert row["verifier_tokens"] == 2 * once["verifier_tokens"]
    assert once["verifier_flops"] < row["verifier_flops"]
    assert row["verifier_flops"] < 2 * once["verifier_flops"]
  # Re-rankers read all samples; votes and Pass@N need no verifier.
  for name in ("best of N", "weighted majority"):
    assert all(row["verifier_flops"] > 0 for row in rows[name])
  for name in ("majority", "Pass@N", "greedy"):
    assert all(row["verifier_flops"] == 0 for row in rows[name])


def test_responses_that_the_limit_cuts_off_are_worth_nothing(policy, tmp_path):
  """Few responses of a random policy end; a verifier that likes all of them."""
  sure = ClosedForm(lambda rollout: np.full(rollout.prefix_len.shape, 0.9))
  run(
    tmp_path,
    policy,
    verifier=sure,
    num_problems=12,
    tuning=Tuning((0.0,), num_problems=3, num_samples=0),
  )
  end = PROBLEM.vocabulary.eos_id
  parts = [
    from_npz(file.read_bytes())
    for file in sorted((tmp_path / "samples").glob("*.npz"))
  ]
  samples = search_samples.Samples(
    **{name: np.concatenate([x[name] for x in parts]) for name in parts[0]}
  )
  last = samples.q_policy[..., -1]
  assert samples.ended.any() and not samples.ended.all()
  # One that ended is worth 0 only if it has padding within.
  assert not last[~samples.ended].any() and last[samples.ended].any()
  np.testing.assert_array_equal(samples.q_prover[..., -1], last)
  groups = {row["problem"]: row for row in read(tmp_path) if row["n"] == 4}
  for row in read(tmp_path):
    ended = row["response"][-1] == end
    assert ended or row["q_policy"][-1] == 0
    if row["n"] == 4 and "of N" in row["method"]:
      # A response that ended wins wherever there is one.
      at = list(groups).index(row["problem"])
      assert ended == samples.ended[at].any(), row["method"]


def test_sizes_are_those_of_the_arm_or_the_run_ascending():
  assert BeamArm("a").sizes((4, 1, 2, 4)) == [1, 2, 4]
  assert BeamArm("a", ns=(8, 2)).sizes((1,)) == [2, 8]


def test_arms_are_settings_of_searches():
  settings = BeamArm("trees", beams_per_tree=4, num_candidates=2).settings(8, 5)
  assert (settings.num_trees, settings.num_candidates) == (2, 2)
  assert BeamArm("trees", beams_per_tree=4).settings(2, 5).num_trees == 1


def test_a_mesh_finds_what_one_device_finds(policy, tmp_path):
  """Networks split over four devices; values differ by rounding alone."""
  config = VerifierConfig(CONFIG, 2)
  key = jax.random.key(0)
  params = verifier_network.init(config, transformer.init(CONFIG, key), key)
  params["head"] = jax.tree.map(lambda x: x + 0.5, params["head"])
  verifier.save(
    tmp_path / "verifier",
    config,
    params,
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  found = []
  for name, mesh in (
    ("whole", None),
    ("split", partitioning.make_mesh(2, 2, devices=jax.devices()[:4])),
  ):
    loaded = verifier.load(tmp_path / "verifier", mesh=mesh)
    assert (loaded.layout is None) == (mesh is None)
    run(
      tmp_path / name,
      policy,
      arms=[BeamArm("beam")],
      verifier=loaded,
      mesh=mesh,
    )
    found.append(read(tmp_path / name))
  whole, split = found
  assert len(whole) == len(split) > NUM
  for one, other in zip(whole, split, strict=True):
    assert one.keys() == other.keys()
    for field, value in one.items():
      if field == "seconds":
        continue
      if isinstance(value, float):
        assert other[field] == pytest.approx(value, abs=1e-5), field
      elif isinstance(value, list):
        np.testing.assert_allclose(other[field], value, atol=1e-5)
      else:
        assert other[field] == value, field


def test_a_mesh_of_other_processes_is_refused(policy, tmp_path, monkeypatch):
  mesh = partitioning.make_mesh(2, 2, devices=jax.devices()[:4])
  local = jax.devices()[:2]
  monkeypatch.setattr(jax, "local_devices", lambda: local)
  with pytest.raises(ValueError, match="expected make_mesh"):
    run(tmp_path, policy, mesh=mesh)


def _swap(a, b):
  first = a.read_bytes()
  a.write_bytes(b.read_bytes())
  b.write_bytes(first)


@pytest.mark.parametrize(
  "harm, changes, message",
  [
    (
      lambda unit, other: unit.write_text(
        unit.read_text().replace('"correct": 0.0', '"correct": 1.0')
        + " " * ('"correct": 0.0' not in unit.read_text())
      ),
      {},
      r"is damaged: its SHA-256 .*move it away",
    ),
    (_swap, {}, r"is damaged: its SHA-256"),
    (
      lambda unit, other: (unit.parents[1] / "run.json").unlink(),
      {"seed": 1},
      "was written by a run with another configuration",
    ),
  ],
  ids=["verdicts changed", "units swapped", "settings deleted"],
)
def test_units_that_are_not_what_was_written_are_named(
  finished, policy, tmp_path, harm, changes, message
):
  workdir = shutil.copytree(finished[0], tmp_path / "w")
  units = sorted((workdir / "units").glob("beam*.jsonl"))
  harm(units[0], units[1])
  with pytest.raises(ValueError, match=message):
    run(workdir, policy, **changes)
  if changes:
    return
  # The way out.
  for unit in units[:2]:
    unit.unlink()
  run(workdir, policy)
  assert [x["correct"] for x in read(workdir)] == [
    x["correct"] for x in read(finished[0])
  ]
