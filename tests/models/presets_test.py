import dataclasses
import pathlib

import gin
import jax
import pytest

from pav_jax.cli import registry
from pav_jax.models import transformer
from pav_jax.models.presets import PRESETS, preset

GIN = pathlib.Path(__file__).parents[2] / "gin" / "models"

# Parameters as the published checkpoints have them, of those with images
# without the 416,866,032 of the image tower and (D + 1) · 1,152 of its
# projection.
COUNTS = {
  "gemma2_2b": 2_614_341_888,
  "gemma2_9b": 9_241_705_984,
  "gemma2_27b": 27_227_128_320,
  "gemma3_270m": 268_098_176,
  "gemma3_1b": 999_885_952,
  "gemma3_4b": 4_300_079_472 - 416_866_032 - 2561 * 1152,
  "gemma3_12b": 12_187_325_040 - 416_866_032 - 3841 * 1152,
  "gemma3_27b": 27_432_406_640 - 416_866_032 - 5377 * 1152,
  "llama3_1_8b": 8_030_261_248,
  "llama3_2_1b": 1_235_814_400,
  "llama3_2_3b": 3_212_749_824,
  "mistral_7b": 7_248_023_552,
  "mistral_7b_v0_1": 7_241_732_096,
  "qwen2_5_0_5b": 494_032_768,
  "qwen2_5_1_5b": 1_543_714_304,
  "qwen2_5_7b": 7_615_616_512,
  "qwen2_5_math_1_5b": 1_543_714_304,
  "qwen2_5_math_7b": 7_615_616_512,
  "qwen3_0_6b": 596_049_920,
  "qwen3_1_7b": 1_720_574_976,
  "qwen3_4b": 4_022_468_096,
  "qwen3_8b": 8_190_735_360,
  "smollm2_135m": 134_515_008,
  "smollm2_360m": 361_821_120,
  "smollm2_1_7b": 1_711_376_384,
}


@pytest.mark.parametrize(
  "name", sorted(PRESETS.keys() - {"tiny", "small", "medium"})
)
def test_presets_have_the_published_sizes(name):
  shapes = transformer.shapes(preset(name))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[name]


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
  registry.register((GIN / f"{file}.gin").read_text())
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
