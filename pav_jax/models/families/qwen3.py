"""Qwen 3 (arXiv 2505.09388): queries and keys are normalised."""

from typing import Any

from pav_jax.models.families import base, qwen2
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import Rotary, TransformerConfig


def _read(fields: Fields) -> TransformerConfig:
  fields.check("hidden_act", "silu")
  bias = fields.flag("attention_bias", False)
  sizes = base.sizes(
    fields,
    head_dim=128,
    num_key_value_heads=32,
    max_position_embeddings=32_768,
  )
  return TransformerConfig(
    **base.PLAIN,
    **sizes,
    **qwen2.read_kinds(fields, sizes["num_layers"]),
    family="qwen3",
    rotary=base.rotary(fields),
    qk_norm=True,
    qkv_bias=bias,
    out_bias=bias,
    tied=fields.flag("tie_word_embeddings", False),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  return {
    "hidden_act": "silu",
    "attention_bias": config.qkv_bias,
    "tie_word_embeddings": config.tied,
    **qwen2.write_kinds(config),
    **base.rotary_fields(config.rotary),
  }


def _preset(**sizes: Any) -> TransformerConfig:
  return TransformerConfig(
    **base.PLAIN,
    family="qwen3",
    pattern=("global",),
    vocab_size=151_936,
    num_kv_heads=8,
    head_dim=128,
    max_length=40_960,
    rotary=Rotary(1_000_000.0),
    qk_norm=True,
    **sizes,
  )


FAMILY = Family(
  model_types=("qwen3",),
  architecture="Qwen3ForCausalLM",
  read=_read,
  write=_write,
  tensors=base.PRE_NORM_TENSORS,
  presets={
    "qwen3_0_6b": _preset(
      width=1024, num_layers=28, num_heads=16, mlp_width=3072
    ),
    "qwen3_1_7b": _preset(
      width=2048, num_layers=28, num_heads=16, mlp_width=6144
    ),
    "qwen3_4b": _preset(
      width=2560, num_layers=36, num_heads=32, mlp_width=9728
    ),
    "qwen3_8b": _preset(
      width=4096, num_layers=36, num_heads=32, mlp_width=12_288, tied=False
    ),
  },
)
