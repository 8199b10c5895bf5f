"""A run on sums modulo 4, with a random policy and exact values."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from pav_jax.models import hf, partitioning, transformer
from pav_jax.models import value_network as verifier_network
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import verifier
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.rollout import Rollout
from pav_jax.runs import search_arms
from pav_jax.runs.compare_searches import Tuning, compare_searches
from pav_jax.runs.search_arms import Arm


@dataclasses.dataclass(frozen=True)
class Parity(Chain):
  """Chain that a random policy gets right half of the time."""

  def outcomes(self, rollout):
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
    "arms": [Arm("beam"), Arm("beam, Bo4", k=4.0, alpha=0.3)],
    "ns": (2,),
    "num_samples": SAMPLES,
    "num_problems": NUM,
    "tuning": Tuning((0.0, 1.0), num_problems=3, num_beams=2, num_samples=4),
    "max_step_tokens": 4,
    "beams_per_call": 8,
    "rows_per_call": 12,
  }
  return compare_searches(
    workdir, "test", policy=policy, **(settings | changes)
  )


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
    np.testing.assert_allclose(
      row["q_policy"], ClosedForm(values)(None, rollout)[0], atol=1e-5
    )
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
    ({"seed": 1}, "another configuration: seed was 0, is 1"),
    ({"arms": [Arm("beam", alpha=0.9)]}, "arm beam was .*, is .*alpha=0.9"),
    ({"verifier": ClosedForm(len)}, "verifier was "),
    ({"beams_per_call": 4}, "calls was"),
    ({"arms": []}, r"arms are \[\]"),
    ({"arms": [Arm("a"), Arm("a")]}, "all unlike"),
    ({"num_problems": 1}, "num_problems 1"),
    ({"first_problem": 2**30}, "start and stop are 1073741824"),
    ({"split": "validation"}, "α is tuned on those before"),
    ({"problem": dataclasses.replace(PROBLEM, modulus=5)}, "fingerprint"),
  ],
)
def test_bad_settings(finished, policy, change, message):
  with pytest.raises(ValueError, match=message):
    run(finished[0], policy, **change)


def test_arms_are_settings_of_searches():
  settings = Arm("trees", beams_per_tree=4, num_candidates=2).settings(8, 5)
  assert (settings.num_trees, settings.num_candidates) == (2, 2)
  assert Arm("trees", beams_per_tree=4).settings(2, 5).num_trees == 1


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
    run(tmp_path / name, policy, verifier=loaded, mesh=mesh)
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
