import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from pav_jax import files, values
from pav_jax.models import transformer
from pav_jax.models import value_network as network
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import verifier
from pav_jax.provers.best_of_k import BestOfK

PROBLEM = Chain(horizon=3, modulus=10)
CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  sliding_window=8,
  max_length=64,
)
NETWORK = VerifierConfig(CONFIG, reader_layers=2)
PARAMS = network.init(
  NETWORK, transformer.init(CONFIG, jax.random.key(0)), jax.random.key(1)
) | {
  "head": {
    "kernel": jax.random.normal(jax.random.key(1), (16,)),
    "bias": jnp.float32(-0.5),
  },
}
VERIFIER = verifier.Verifier(PARAMS, NETWORK)
IDS = PROBLEM.problem_ids("test", 0, 4)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))
score = jax.jit(verifier.Verifier.logits)


def test_one_pass_scores_each_prefix_as_if_it_stood_alone():
  logits = score(VERIFIER, ROLLOUT)
  assert np.std(logits) > 0.1
  for h in range(logits.shape[1]):
    length = ROLLOUT.prefix_len[:, h, None]
    # What came after is gone, and the scoring token is the last one.
    alone = dataclasses.replace(
      ROLLOUT,
      tokens=np.where(
        np.arange(ROLLOUT.num_tokens) < length, ROLLOUT.tokens, 0
      ),
      prefix_len=np.broadcast_to(length, logits.shape),
    )
    np.testing.assert_allclose(
      score(VERIFIER, alone)[:, -1], logits[:, h], atol=2e-5
    )


def test_values_past_the_end_repeat_the_last():
  q = np.asarray(VERIFIER(None, ROLLOUT))
  past = np.diff(ROLLOUT.prefix_len) == 0
  assert past.any()
  np.testing.assert_array_equal((np.diff(q) == 0)[past], True)


def test_values_are_probabilities_and_best_of_k_of_them_keeps_small_ones():
  q = VERIFIER(jax.random.key(0), ROLLOUT)
  assert q.shape == ROLLOUT.prefix_len.shape
  expected = jax.nn.sigmoid(score(VERIFIER, ROLLOUT))
  np.testing.assert_allclose(q, expected, rtol=1e-5)
  # A value of e^−30 is far below what 1 − q can tell from 1.
  sure = {"kernel": jnp.zeros(16), "bias": jnp.float32(-30.0)}
  sure = dataclasses.replace(VERIFIER, params=PARAMS | {"head": sure})
  q = BestOfK(sure, 1000)(None, ROLLOUT)
  np.testing.assert_allclose(q, 1000 * np.exp(-30.0), rtol=1e-5)
  np.testing.assert_allclose(
    q, values.best_of_k_from_logit(jnp.full(q.shape, -30.0), 1000), rtol=1e-6
  )


def test_an_outcome_model_reads_the_last_token():
  np.testing.assert_allclose(
    VERIFIER.outcome(ROLLOUT), VERIFIER(None, ROLLOUT)[:, -1], rtol=1e-6
  )


def test_is_a_pytree_whose_parameters_are_leaves():
  assert len(jax.tree.leaves(VERIFIER)) == len(jax.tree.leaves(PARAMS))


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "verifier"
  verifier.save(
    path,
    NETWORK,
    PARAMS,
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  return path


def test_loads_what_was_saved(saved):
  loaded = verifier.load(saved, fingerprint=PROBLEM.fingerprint)
  assert loaded.config == NETWORK
  jax.tree.map(np.testing.assert_array_equal, loaded.params, PARAMS)
  # Saving again replaces it, and nothing else is left in the folder.
  verifier.save(
    saved,
    NETWORK,
    PARAMS | {"head": jax.tree.map(jnp.zeros_like, PARAMS["head"])},
    identity=identity(PROBLEM.vocabulary, PROBLEM.delimiter),
  )
  assert not verifier.load(saved).params["head"]["kernel"].any()
  assert [x.name for x in saved.parent.iterdir()] == ["verifier"]


def test_computes_in_the_type_it_is_told(saved):
  loaded = verifier.load(saved, dtype="bfloat16")
  assert loaded.config.trunk.dtype == "bfloat16"
  assert loaded.config.trunk.param_dtype == CONFIG.param_dtype
  # 8 bits of mantissa through four layers.
  ours, theirs = loaded(None, ROLLOUT), VERIFIER(None, ROLLOUT)
  assert 0 < np.max(np.abs(np.asarray(ours) - np.asarray(theirs))) < 0.1


def test_another_fingerprint_is_refused(saved):
  other = Chain(modulus=11).fingerprint
  with pytest.raises(ValueError, match=f"expected {other}"):
    verifier.load(saved, fingerprint=other)
  (saved / "pav_jax.json").unlink()
  with pytest.raises(ValueError, match="does not say of which vocabulary"):
    verifier.load(saved, fingerprint=PROBLEM.fingerprint)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda x: x.pop("head.bias"), "tensor head.bias is missing"),
    (
      lambda x: x.update(scale=np.zeros(1, np.float32)),
      "tensor scale in .* is not one of",
    ),
    (
      lambda x: x.update({"head.kernel": np.zeros(15, np.float32)}),
      r"tensor head.kernel in .* has shape \(15,\), expected \(16,\)",
    ),
    (
      lambda x: x.pop("reader.surprise.into"),
      "tensor reader.surprise.into is missing",
    ),
  ],
)
def test_other_tensors_are_refused(saved, change, message):
  file = saved / "verifier.safetensors"
  tensors = safetensors.numpy.load_file(file)
  change(tensors)
  safetensors.numpy.save_file(tensors, file, metadata={"reader_layers": "2"})
  with pytest.raises(
    ValueError, match=r"\.safetensors is damaged: its SHA-256"
  ):
    verifier.load(saved)
  (saved / files.SUMS).unlink()  # the way out, for changes on purpose
  with pytest.raises(ValueError, match=message):
    verifier.load(saved)


def test_what_is_no_verifier_is_refused(saved):
  file = saved / "verifier.safetensors"
  safetensors.numpy.save_file(safetensors.numpy.load_file(file), file)
  (saved / files.SUMS).unlink()
  with pytest.raises(ValueError, match="reader_layers '' among its metadata"):
    verifier.load(saved)
  file.write_bytes(b"{}")
  with pytest.raises(ValueError, match="safetensors cannot be read"):
    verifier.load(saved)
  file.unlink()
  with pytest.raises(ValueError, match="so it is no verifier"):
    verifier.load(saved)


def test_an_empty_problem_has_no_token_to_read_its_value_at():
  empty = dataclasses.replace(
    ROLLOUT, prefix_len=np.maximum(ROLLOUT.prefix_len - PROBLEM.prompt_len, 0)
  )
  with pytest.raises(ValueError, match="a prefix has 0 tokens"):
    VERIFIER.logits(empty)
