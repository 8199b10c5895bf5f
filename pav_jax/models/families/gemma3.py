"""Gemma 3's language model (arXiv 2503.19786), also out of its image models.

Five layers with windows come before each one without, and the two kinds have
rotary positions of their own.
"""

from typing import Any

from pav_jax.models.families import base, gemma2
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import Rotary, TransformerConfig

_GLOBAL, _LOCAL = 1_000_000.0, 10_000.0
_TYPES = ("full_attention", "sliding_attention")


def _read(fields: Fields) -> TransformerConfig:
  if fields.content.get("model_type") == "gemma3":
    return _read_multimodal(fields)
  sizes = base.sizes(
    fields,
    vocab_size=262_208,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=131_072,
  )
  # Private in transformers 5, where layer_types says the same.
  period = fields.integer(
    "sliding_window_pattern", fields.get("_sliding_window_pattern", 6)
  )
  if not 1 <= period <= 64:
    raise ValueError(
      f"config.json: sliding_window_pattern is {period}, expected 1 … 64"
    )
  kinds = ("local",) * (period - 1) + ("global",)
  everywhere, nearby = _rotary(fields)
  return TransformerConfig(
    **sizes,
    **gemma2.read_common(fields),
    family="gemma3",
    pattern=base.pattern(fields, sizes["num_layers"], kinds),
    rotary=everywhere,
    local_rotary=nearby,
    qk_norm=True,
    attn_softcap=fields.optional("attn_logit_softcapping", None),
    final_softcap=fields.optional("final_logit_softcapping", None),
  )


def _read_multimodal(fields: Fields) -> TransformerConfig:
  """The configuration of a model of images and text, of which text is read."""
  for name in (
    *("vision_config", "mm_tokens_per_image", "image_token_index"),
    *("boi_token_index", "eoi_token_index", "image_token_id"),
    *("boi_token_id", "eoi_token_id"),
  ):
    fields.get(name)
  inner = fields.get("text_config")
  if not isinstance(inner, dict):
    raise ValueError(
      f"config.json: text_config is {inner!r}, expected named fields"
    )
  fields.check("tie_word_embeddings", True)
  text = Fields({"model_type": "gemma3_text", **inner})
  text.check("model_type", "gemma3_text")
  config = _read(text)
  text.finish()
  return config


def _rotary(fields: Fields) -> tuple[Rotary, Rotary]:
  """Positions of global and of local layers."""
  old = base.rope_dict(fields.get("rope_scaling"), "rope_scaling")
  if "rope_theta" in fields.content:
    old = {"rope_theta": fields.number("rope_theta")} | old
  nearby = {}
  if "rope_local_base_freq" in fields.content:
    nearby = {"rope_theta": fields.number("rope_local_base_freq")}
  fields.names |= {"rope_theta", "rope_local_base_freq"}
  new = base.rope_dict(fields.get("rope_parameters"), "rope_parameters")
  for name in new:
    if name not in _TYPES:
      raise ValueError(
        f"config.json: rope_parameters has {name!r}, expected {_TYPES}"
      )
  new = [base.rope_dict(new.get(x), f"rope_parameters.{x}") for x in _TYPES]
  return (
    base.merged_rotary(new[0], old, _GLOBAL),
    base.merged_rotary(new[1], nearby, _LOCAL),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  everywhere = base.rotary_fields(config.rotary)
  nearby = config.local_rotary or config.rotary
  parts = (base.rope_fields(config.rotary), base.rope_fields(nearby))
  return {
    **gemma2.write_common(config),
    **everywhere,
    "rope_local_base_freq": nearby.theta,
    "rope_parameters": dict(zip(_TYPES, parts, strict=True)),
    **_period(config),
  }


def _period(config: TransformerConfig) -> dict[str, int]:
  """The length of a period, for versions of transformers before 4.54."""
  size = len(config.pattern)
  is_simple = config.pattern == ("local",) * (size - 1) + ("global",)
  return {"sliding_window_pattern": size} if is_simple else {}


def _preset(**sizes: Any) -> TransformerConfig:
  defaults = {
    "vocab_size": 262_208,
    "head_dim": 256,
    "query_pre_attn_scalar": 256.0,
    "sliding_window": 1024,
    "max_length": 131_072,
    "rotary": Rotary(_GLOBAL, "linear", 8.0),
  }
  return TransformerConfig(
    family="gemma3",
    pattern=("local",) * 5 + ("global",),
    local_rotary=Rotary(_LOCAL),
    qk_norm=True,
    attn_softcap=None,
    final_softcap=None,
    **{**defaults, **sizes},
  )


FAMILY = Family(
  model_types=("gemma3_text", "gemma3"),
  architecture="Gemma3ForCausalLM",
  read=_read,
  write=_write,
  tensors=base.POST_NORM_TENSORS,
  prefixes=("", "language_model.", "model.language_model."),
  ignored=(
    *("vision_tower.", "multi_modal_projector."),
    *("model.vision_tower.", "model.multi_modal_projector."),
  ),
  presets={
    "gemma3_270m": _preset(
      vocab_size=262_144,
      width=640,
      num_layers=18,
      num_heads=4,
      num_kv_heads=1,
      mlp_width=2048,
      sliding_window=512,
      max_length=32_768,
      rotary=Rotary(_GLOBAL),
    ),
    "gemma3_1b": _preset(
      vocab_size=262_144,
      width=1152,
      num_layers=26,
      num_heads=4,
      num_kv_heads=1,
      mlp_width=6912,
      sliding_window=512,
      max_length=32_768,
      rotary=Rotary(_GLOBAL),
    ),
    "gemma3_4b": _preset(
      width=2560, num_layers=34, num_heads=8, num_kv_heads=4, mlp_width=10_240
    ),
    "gemma3_12b": _preset(
      width=3840, num_layers=48, num_heads=16, num_kv_heads=8, mlp_width=15_360
    ),
    "gemma3_27b": _preset(
      width=5376,
      num_layers=62,
      num_heads=32,
      num_kv_heads=16,
      head_dim=128,
      mlp_width=21_504,
      query_pre_attn_scalar=168.0,
    ),
  },
)
