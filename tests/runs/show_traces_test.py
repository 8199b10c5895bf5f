import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.data import step_targets_writer
from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import Vocabulary, identity
from pav_jax.provers import verifier
from pav_jax.rollout import StepTargets
from pav_jax.runs import show_traces

PROBLEM = Chain(horizon=2, modulus=10, rho=0.0)
CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
)


def test_chooses_half_correct_traces_where_there_are_enough():
  outcome = np.array([0, 1, np.nan, 0, 1, 0, 1, 0, 1, np.nan])
  rows = show_traces.choose(outcome, 6)
  assert sorted(rows) == list(rows) and outcome[rows].sum() == 3
  assert len(rows) == len(set(rows)) == 6
  # All eight that are known, though four of a kind are fewer than five.
  assert len(show_traces.choose(outcome, 10)) == 8
  some = np.array([1.0, 0, 0, 0, 0, 0])
  assert list(show_traces.choose(some, 4)[:1]) == [0]
  assert len(show_traces.choose(1 - some, 4)) == 4
  chosen = {tuple(show_traces.choose(outcome, 2, seed)) for seed in range(9)}
  assert len(chosen) > 1


def test_nothing_to_choose_from():
  with pytest.raises(ValueError, match="none of 2 traces has an outcome"):
    show_traces.choose(np.array([np.nan, np.nan]), 3)
  with pytest.raises(ValueError, match="num_traces is 0"):
    show_traces.choose(np.array([1.0]), 0)


def test_writes_a_page_of_a_data_set(tmp_path):
  pytest.importorskip(
    "pav_jax.problems.frameworks",
    reason="the extra `data` is not installed",
    exc_type=ImportError,
  )
  ids = PROBLEM.problem_ids("train", 0, 12)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  n = np.full(rollout.prefix_len.shape, 4, np.int32)
  targets = StepTargets(
    rollout.tokens,
    rollout.prefix_len,
    n,
    np.float32(n - 1),
    rollout.outcome,
    rollout.problem_id,
    rollout.sample_id,
  )
  step_targets_writer.write(
    tmp_path / "data",
    targets,
    config={"source": "test"},
    fingerprint=PROBLEM.fingerprint,
    pad_id=0,
  )
  # A verifier that gives every prefix σ(log 3) = 0.75.
  head = {"kernel": jnp.zeros(16), "bias": jnp.float32(np.log(3))}
  shapes = transformer.shapes(CONFIG)
  trunk = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
  verifier.save(
    tmp_path / "verifier",
    VerifierConfig(CONFIG),
    {"trunk": trunk, "head": head},
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  path = show_traces.inspect_traces(
    tmp_path,
    "some traces",
    show_traces.InspectSettings(
      problem=PROBLEM,
      data=tmp_path / "data",
      verifiers={"mine": tmp_path / "verifier"},
      exact=PROBLEM.teacher_values,
      num_traces=5,
    ),
  )
  (text,) = re.findall(
    r"<script[^>]*application/json[^>]*>(.*?)</script>",
    path.read_text(),
    re.DOTALL,
  )
  page = json.loads(text)
  assert page["title"] == "some traces"
  assert page["names"] == ["mine", "Monte Carlo", "exact"]
  assert len(page["traces"]) == 5
  for trace in page["traces"]:
    row = ids.tolist().index(trace["problem_id"])
    np.testing.assert_allclose(trace["values"][0], [0.75] * 3, rtol=1e-5)
    np.testing.assert_allclose(trace["values"][1], [0.75] * 3)
    exact = PROBLEM.teacher_values(rollout)[row]
    np.testing.assert_allclose(trace["values"][2], exact, rtol=1e-5)
    # The pit is the first wrong result, as the problem knows it.
    wrong = PROBLEM.dead_prefixes(rollout)[row, 1:]
    assert trace["pits"][0] == (wrong.argmax() if wrong.any() else -1)
  with pytest.raises(ValueError, match="fingerprint"):
    show_traces.inspect_traces(
      tmp_path,
      "another vocabulary",
      show_traces.InspectSettings(
        problem=Chain(modulus=11),
        data=tmp_path / "data",
        verifiers={"mine": tmp_path / "verifier"},
      ),
    )


def test_ids_beyond_the_vocabulary_have_a_text():
  vocabulary = Vocabulary(num_integers=10)  # 2 + 9 symbols + 10 integers
  assert show_traces.token_text(vocabulary, 20) == "9"
  assert show_traces.token_text(vocabulary, 21) == "<21>"
