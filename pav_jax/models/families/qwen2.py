"""Qwen 2 and 2.5 (arXiv 2412.15115): queries, keys and values have biases."""

from typing import Any

from pav_jax.models.families import base
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import Rotary, TransformerConfig


def read_kinds(fields: Fields, num_layers: int) -> dict[str, Any]:
  """The pattern and window of Qwen's layers; those of most models are global.

  Where windows are used, they are of the layers after `max_window_layers`.
  """
  first = fields.integer("max_window_layers", 28)
  uses_window = fields.flag("use_sliding_window", False)
  window = fields.get("sliding_window", 4096)
  if not uses_window or window is None:
    kinds = base.pattern(fields, num_layers, ("global",))
    if "local" in kinds:
      raise ValueError(
        f"config.json: layer_types has sliding_attention and use_sliding_window"
        f" is {uses_window}, expected windows where they are used"
      )
    return {"pattern": ("global",)}
  window = fields.integer("sliding_window", 4096)
  kinds = ("global",) * min(first, num_layers)
  kinds += ("local",) * (num_layers - len(kinds))
  kinds = base.shortest_period(kinds)
  return {
    "pattern": base.pattern(fields, num_layers, kinds),
    "sliding_window": window,
  }


def write_kinds(config: TransformerConfig) -> dict[str, Any]:
  """The fields that `read_kinds` reads."""
  types = base.layer_types(config)
  uses_window = "sliding_attention" in types
  return {
    "use_sliding_window": uses_window,
    "sliding_window": config.sliding_window if uses_window else None,
    "max_window_layers": types.index("sliding_attention")
    if uses_window
    else config.num_layers,
    "layer_types": types,
  }


def _read(fields: Fields) -> TransformerConfig:
  fields.check("hidden_act", "silu")
  sizes = base.sizes(
    fields, num_key_value_heads=32, max_position_embeddings=32_768
  )
  return TransformerConfig(
    **base.PLAIN,
    **sizes,
    **read_kinds(fields, sizes["num_layers"]),
    family="qwen2",
    rotary=base.rotary(fields),
    qkv_bias=True,
    tied=fields.flag("tie_word_embeddings", False),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  return {
    "hidden_act": "silu",
    "tie_word_embeddings": config.tied,
    **write_kinds(config),
    **base.rotary_fields(config.rotary),
  }


def _preset(**sizes: Any) -> TransformerConfig:
  defaults = {
    "vocab_size": 151_936,
    "max_length": 32_768,
    "rotary": Rotary(1_000_000.0),
  }
  return TransformerConfig(
    **base.PLAIN,
    family="qwen2",
    pattern=("global",),
    qkv_bias=True,
    **{**defaults, **sizes},
  )


_1_5B = {
  "width": 1536,
  "num_layers": 28,
  "num_heads": 12,
  "num_kv_heads": 2,
  "head_dim": 128,
  "mlp_width": 8960,
}
_7B = {
  "vocab_size": 152_064,
  "width": 3584,
  "num_layers": 28,
  "num_heads": 28,
  "num_kv_heads": 4,
  "head_dim": 128,
  "mlp_width": 18_944,
  "tied": False,
}
_MATH = {"max_length": 4096, "rotary": Rotary()}

FAMILY = Family(
  model_types=("qwen2",),
  architecture="Qwen2ForCausalLM",
  read=_read,
  write=_write,
  tensors=base.PRE_NORM_TENSORS,
  presets={
    "qwen2_5_0_5b": _preset(
      width=896,
      num_layers=24,
      num_heads=14,
      num_kv_heads=2,
      head_dim=64,
      mlp_width=4864,
    ),
    "qwen2_5_1_5b": _preset(**_1_5B),
    "qwen2_5_7b": _preset(**_7B),
    "qwen2_5_math_1_5b": _preset(**_1_5B, **_MATH),
    "qwen2_5_math_7b": _preset(**_7B, **_MATH),
  },
)
