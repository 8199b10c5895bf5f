"""Llama 2 and 3 (arXiv 2407.21783), and SmolLM2, which has their form."""

from typing import Any

from pav_jax.models.families import base
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import Rotary, TransformerConfig


def _read(fields: Fields) -> TransformerConfig:
  fields.check("hidden_act", "silu")
  bias = fields.flag("attention_bias", False)
  return TransformerConfig(
    **base.PLAIN,
    **base.sizes(fields, max_position_embeddings=2048),
    family="llama",
    pattern=("global",),
    rotary=base.rotary(fields),
    qkv_bias=bias,
    out_bias=bias,
    mlp_bias=fields.flag("mlp_bias", False),
    tied=fields.flag("tie_word_embeddings", False),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  return {
    "hidden_act": "silu",
    "attention_bias": config.qkv_bias,
    "mlp_bias": config.mlp_bias,
    "tie_word_embeddings": config.tied,
    **base.rotary_fields(config.rotary),
  }


def _llama3(factor: float, **sizes: Any) -> TransformerConfig:
  return TransformerConfig(
    **base.PLAIN,
    family="llama",
    pattern=("global",),
    vocab_size=128_256,
    num_kv_heads=8,
    max_length=131_072,
    norm_eps=1e-5,
    rotary=Rotary(500_000.0, "llama3", factor),
    **sizes,
  )


def _smollm2(**sizes: Any) -> TransformerConfig:
  return TransformerConfig(
    **base.PLAIN,
    family="llama",
    pattern=("global",),
    vocab_size=49_152,
    head_dim=64,
    max_length=8192,
    norm_eps=1e-5,
    **sizes,
  )


FAMILY = Family(
  model_types=("llama",),
  architecture="LlamaForCausalLM",
  read=_read,
  write=_write,
  tensors=base.PRE_NORM_TENSORS,
  presets={
    "llama3_2_1b": _llama3(
      32.0,
      width=2048,
      num_layers=16,
      num_heads=32,
      head_dim=64,
      mlp_width=8192,
    ),
    "llama3_2_3b": _llama3(
      32.0,
      width=3072,
      num_layers=28,
      num_heads=24,
      head_dim=128,
      mlp_width=8192,
    ),
    "llama3_1_8b": _llama3(
      8.0,
      width=4096,
      num_layers=32,
      num_heads=32,
      head_dim=128,
      mlp_width=14_336,
      tied=False,
    ),
    "smollm2_135m": _smollm2(
      width=576,
      num_layers=30,
      num_heads=9,
      num_kv_heads=3,
      mlp_width=1536,
      rotary=Rotary(100_000.0),
    ),
    "smollm2_360m": _smollm2(
      width=960,
      num_layers=32,
      num_heads=15,
      num_kv_heads=5,
      mlp_width=2560,
      rotary=Rotary(100_000.0),
    ),
    "smollm2_1_7b": _smollm2(
      width=2048,
      num_layers=24,
      num_heads=32,
      num_kv_heads=32,
      mlp_width=8192,
      rotary=Rotary(130_000.0),
    ),
  },
)
