import dataclasses
import pathlib

import gin
import pytest

from pav_jax.models.transformer_config import (
  PRESETS,
  TransformerConfig,
  preset,
)

GIN = pathlib.Path(__file__).parents[2] / "gin" / "models"
CONFIG = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
)


def test_config_is_hashable_and_knows_its_default_scale():
  assert hash(CONFIG) == hash(dataclasses.replace(CONFIG))
  assert CONFIG.query_pre_attn_scalar == 8.0


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("vocab_size", 0, "vocab_size is 0, expected >= 1"),
    ("sliding_window", 0, "sliding_window is 0, expected >= 1"),
    ("num_layers", 3, "num_layers is 3, expected even"),
    ("head_dim", 5, "head_dim is 5, expected even"),
    ("num_kv_heads", 3, "num_heads is 4, expected a multiple .*, 3"),
    ("attn_softcap", 0.0, "attn_softcap is 0.0, expected > 0"),
    ("norm_eps", float("nan"), "norm_eps is nan, expected > 0"),
    ("query_pre_attn_scalar", -1.0, "query_pre_attn_scalar is -1.0, expected"),
    ("dtype", "float16", "dtype is 'float16', expected one of .*bfloat16"),
    ("param_dtype", "f32", "param_dtype is 'f32', expected one of"),
    ("remat", "all", "remat is 'all', expected one of .*'full'"),
  ],
)
def test_bad_sizes_are_refused(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **{field: value})


def test_presets_take_changes():
  config = preset("tiny", vocab_size=12, remat="full")
  assert (config.vocab_size, config.width, config.remat) == (12, 64, "full")
  with pytest.raises(ValueError, match="preset is 'gemma', expected one of"):
    preset("gemma")
  with pytest.raises(ValueError, match="field is 'depth', expected one of"):
    preset("tiny", depth=2)


@pytest.mark.parametrize(
  ("file", "name", "changes"),
  [
    ("gemma2_2b", "gemma2_2b", {"dtype": "bfloat16", "remat": "full"}),
    ("gemma2_9b", "gemma2_9b", {"dtype": "bfloat16", "remat": "full"}),
    ("gemma2_27b", "gemma2_27b", {"dtype": "bfloat16", "remat": "full"}),
    ("small", "small", {}),
  ],
)
def test_gin_files_bind_presets(file, name, changes):
  with gin.unlock_config():
    gin.parse_config_file(GIN / f"{file}.gin")
    gin.parse_config("preset.max_length = 512")
  model = gin.query_parameter("MODEL/macro.value")
  try:
    assert model.scoped_configurable_fn() == dataclasses.replace(
      PRESETS[name], **changes, max_length=512
    )
  finally:
    gin.clear_config()
