import jax
import numpy as np
import pytest

from pav_jax.models import adapters, hf, partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.training.initial import PretrainedBackbone

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
  path = tmp_path_factory.mktemp("initial") / "policy"
  params = transformer.init(CONFIG, jax.random.key(0))
  side = identity(PROBLEM.vocabulary, PROBLEM.delimiter)
  hf.save(path, CONFIG, params, identity=side)
  return path, params


def test_starts_from_the_policy_and_may_be_deeper(policy):
  path, params = policy
  for num_layers in (None, 4):
    backbone = PretrainedBackbone(str(path), num_layers=num_layers)
    config, loaded = backbone(KEY, LAYOUT, PROBLEM.fingerprint)
    assert config.num_layers == (num_layers or 2)
    np.testing.assert_array_equal(loaded["embedding"], params["embedding"])
    np.testing.assert_array_equal(
      loaded["layers"]["local"]["mlp"]["up"][0],
      params["layers"]["local"]["mlp"]["up"][0],
    )


def test_adapters_leave_the_backbone_as_it_is(policy):
  path, params = policy
  lora = Lora(2, 4.0, ("up",))
  backbone = PretrainedBackbone(str(path), lora=lora)
  config, loaded = backbone(KEY, LAYOUT, PROBLEM.fingerprint)
  assert config.lora == lora
  trained, base = adapters.split(loaded)
  jax.tree.map(np.testing.assert_array_equal, base, params)
  assert set(trained["layers"]["local"]["mlp"]) == {"up_lora_a", "up_lora_b"}
  with pytest.raises(ValueError, match="num_layers is 4 and lora is"):
    PretrainedBackbone(str(path), num_layers=4, lora=lora)


def test_another_vocabulary_is_refused(policy):
  backbone = PretrainedBackbone(str(policy[0]))
  with pytest.raises(ValueError, match="fingerprint"):
    backbone(KEY, LAYOUT, Chain(modulus=11).fingerprint)
