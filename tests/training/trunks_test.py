import jax
import numpy as np
import pytest

from pav_jax.models import hf, partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.training.trunks import PretrainedTrunk, RandomTrunk

PROBLEM = Chain(modulus=10)
CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
)
LAYOUT = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  path = tmp_path_factory.mktemp("trunk") / "policy"
  params = transformer.init(CONFIG, jax.random.key(0))
  side = identity(PROBLEM.vocabulary, PROBLEM.delimiter)
  hf.save(path, CONFIG, params, identity=side)
  return path, params


def test_starts_from_the_policy_and_may_be_deeper(policy):
  path, params = policy
  for num_layers in (None, 4):
    trunk = PretrainedTrunk(str(path), num_layers=num_layers)
    config, found = trunk(KEY, LAYOUT, PROBLEM.fingerprint)
    assert config.num_layers == (num_layers or 2)
    np.testing.assert_array_equal(found["embedding"], params["embedding"])
    np.testing.assert_array_equal(
      found["layers"]["local"]["mlp"]["up"][0],
      params["layers"]["local"]["mlp"]["up"][0],
    )


def test_another_vocabulary_is_refused(policy):
  trunk = PretrainedTrunk(str(policy[0]))
  with pytest.raises(ValueError, match="fingerprint"):
    trunk(KEY, LAYOUT, Chain(modulus=11).fingerprint)


def test_random_parameters_are_those_of_the_key():
  config, found = RandomTrunk(CONFIG)(KEY, LAYOUT, PROBLEM.fingerprint)
  assert config == CONFIG
  expected = transformer.init(CONFIG, KEY)
  np.testing.assert_allclose(
    found["embedding"], expected["embedding"], rtol=1e-6
  )
