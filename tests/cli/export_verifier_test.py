import dataclasses

import jax
import numpy as np

from pav_jax.cli import export_verifier
from pav_jax.models import transformer
from pav_jax.models import value_network as network
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import base, public, verifier

PROBLEM = Chain(horizon=2, modulus=10)
CONFIG = dataclasses.replace(
  preset("qwen2_5_0_5b"),
  vocab_size=24,
  width=16,
  num_layers=1,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  max_length=64,
  query_pre_attn_scalar=8.0,
)


def saved(path, reader_layers=0):
  """A verifier's directory, as a run writes it."""
  config = VerifierConfig(CONFIG, reader_layers)
  key = jax.random.key(0)
  params = network.init(config, transformer.init(CONFIG, key), key)
  params["head"]["kernel"] = jax.random.normal(key, (16,))
  verifier.save(
    path,
    config,
    params,
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
    token_ids={"eos_token_id": 1, "pad_token_id": 0},
  )
  return path


def test_a_runs_verifier_is_exported(tmp_path, capsys):
  path, target = saved(tmp_path / "verifier"), tmp_path / "served"
  assert export_verifier.main([str(path), str(target)]) == 0
  assert "Qwen2ForTokenClassification" in capsys.readouterr().out
  ids = PROBLEM.problem_ids("test", 0, 3)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  prover = public.load(target).prover(PROBLEM)
  want = base.values(verifier.load(path), None, rollout)
  np.testing.assert_allclose(
    base.values(prover, None, rollout), want, atol=1e-5
  )


def test_one_that_reads_surprisals_is_refused(tmp_path, capsys):
  path = saved(tmp_path / "verifier", reader_layers=1)
  assert export_verifier.main([str(path), str(tmp_path / "served")]) == 2
  error = capsys.readouterr().err
  assert (
    error.startswith("error: reader_layers is 1") and error.count("\n") == 1
  )
  assert export_verifier.main([str(tmp_path), str(tmp_path / "served")]) == 2
  assert "no verifier's directory" in capsys.readouterr().err
