"""Adapters that PEFT wrote, read and written."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from pav_jax import models
from pav_jax.models import adapters, hf_adapters, partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora

# Made by tests/data/make_adapter_golden.py with PEFT, on transformers' model.
DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDEN, BASE = DATA / "adapters", DATA / "decoders" / "qwen2"


@pytest.fixture(scope="module")
def base():
  return models.load(BASE, param_dtype="float32")


def test_logits_are_those_of_peft(base):
  expected = np.load(GOLDEN / "expected.npz")
  config, params = hf_adapters.load(GOLDEN, base.config, base.params)
  assert config.lora == Lora(3, 9.0, ("query", "value", "out", "gate", "down"))
  tokens = jnp.asarray(expected["tokens"], jnp.int32)
  apply = jax.jit(transformer.apply, static_argnums=0)
  logits = apply(config, params, tokens)
  np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-4)
  plain, merged = adapters.merge(config, params)
  logits = apply(plain, merged, tokens)
  np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-4)
  # The adapters matter: without them logits are others.
  of_base = np.load(BASE / "expected.npz")["logits"]
  assert np.abs(of_base - expected["logits"]).max() > 0.5


def test_files_come_back_as_peft_wrote_them(base, tmp_path):
  config, params = hf_adapters.load(GOLDEN, base.config, base.params)
  arrays = hf_adapters.to_host(config, params)
  hf_adapters.write(
    tmp_path / "copy", config.lora, arrays, base="decoders/qwen2"
  )
  ours, theirs = (
    safetensors.numpy.load_file(path / hf_adapters.TENSORS)
    for path in (tmp_path / "copy", GOLDEN)
  )
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x)
  fields, written = (
    json.loads((path / hf_adapters.CONFIG).read_text())
    for path in (GOLDEN, tmp_path / "copy")
  )
  assert set(written.pop("target_modules")) == set(fields["target_modules"])
  assert written.items() <= fields.items()


def test_peft_computes_the_same_from_what_is_written(base, tmp_path):
  torch = pytest.importorskip("torch", reason="the extra `bench` is absent")
  transformers = pytest.importorskip("transformers")
  peft = pytest.importorskip("peft")
  config, params = hf_adapters.load(GOLDEN, base.config, base.params)
  arrays = hf_adapters.to_host(config, params)
  hf_adapters.write(tmp_path / "copy", config.lora, arrays)
  models.save(tmp_path / "base", base)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "base", attn_implementation="eager", dtype=torch.float32
  )
  theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "copy").eval()
  expected = np.load(GOLDEN / "expected.npz")
  with torch.no_grad():
    logits = theirs(torch.tensor(expected["tokens"])).logits.numpy()
  np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-4)


def test_a_mesh_holds_its_parts(base):
  layout = Layout(partitioning.make_mesh(4, 2))
  config, params = hf_adapters.load(
    GOLDEN, base.config, base.params, layout=layout
  )
  where = transformer.shardings(config, layout)
  trained, _ = adapters.split(params)
  assert jax.tree.map(lambda x: x.sharding, trained) == adapters.split(where)[0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"use_rslora": True}, "use_rslora is True, which is not supported"),
    ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is .*not supported"),
    ({"bias": "all"}, "bias is 'all'"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
    ({"target_modules": "all-linear"}, "target_modules is 'all-linear'"),
    ({"r": 4}, "lora_A.weight .* is \\(3, 40\\), expected \\(4, 40\\)"),
    ({"r": None}, "r and lora_alpha are"),
    ({"target_modules": ["q_proj"]}, "expected no such tensor"),
  ],
)
def test_what_would_change_the_numbers_is_refused(
  base, tmp_path, change, message
):
  shutil.copytree(GOLDEN, tmp_path / "changed")
  file = tmp_path / "changed" / hf_adapters.CONFIG
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(ValueError, match=message):
    hf_adapters.load(tmp_path / "changed", base.config, base.params)
