"""Gemma 2 (arXiv 2408.00118): capped logits, windows in every other layer."""

from typing import Any

from pav_jax.models.families import base
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import KINDS, TransformerConfig


def read_common(fields: Fields) -> dict[str, Any]:
  """What Gemma 2 and 3 share besides sizes and rotary positions."""
  fields.check("hidden_activation", "gelu_pytorch_tanh")
  # Read by no version of Gemma 2 and 3, and published beside the other.
  fields.check("hidden_act", "gelu_pytorch_tanh")
  fields.check("use_bidirectional_attention", False, None)
  bias = fields.flag("attention_bias", False)
  return {
    "query_pre_attn_scalar": fields.number("query_pre_attn_scalar", 256.0),
    "sliding_window": fields.integer("sliding_window", 4096),
    "qkv_bias": bias,
    "out_bias": bias,
    "tied": fields.flag("tie_word_embeddings", True),
  }


def write_common(config: TransformerConfig) -> dict[str, Any]:
  """The fields that `read_common` reads."""
  return {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": base.whole(config.query_pre_attn_scalar),
    "sliding_window": config.sliding_window,
    "attention_bias": config.qkv_bias,
    "tie_word_embeddings": config.tied,
    "attn_logit_softcapping": config.attn_softcap,
    "final_logit_softcapping": config.final_softcap,
    "layer_types": base.layer_types(config),
  }


def _read(fields: Fields) -> TransformerConfig:
  sizes = base.sizes(
    fields,
    vocab_size=256_000,
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=8192,
  )
  return TransformerConfig(
    **sizes,
    **read_common(fields),
    family="gemma2",
    pattern=base.pattern(fields, sizes["num_layers"], KINDS),
    rotary=base.rotary(fields),
    attn_softcap=fields.optional("attn_logit_softcapping", 50.0),
    final_softcap=fields.optional("final_logit_softcapping", 30.0),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  return write_common(config) | base.rotary_fields(config.rotary)


FAMILY = Family(
  model_types=("gemma2",),
  architecture="Gemma2ForCausalLM",
  read=_read,
  write=_write,
  tensors=base.POST_NORM_TENSORS,
  presets={
    "gemma2_2b": TransformerConfig(
      vocab_size=256_000,
      width=2304,
      num_layers=26,
      num_heads=8,
      num_kv_heads=4,
      head_dim=256,
      mlp_width=9216,
    ),
    "gemma2_9b": TransformerConfig(
      vocab_size=256_000,
      width=3584,
      num_layers=42,
      num_heads=16,
      num_kv_heads=8,
      head_dim=256,
      mlp_width=14_336,
    ),
    "gemma2_27b": TransformerConfig(
      vocab_size=256_000,
      width=4608,
      num_layers=46,
      num_heads=32,
      num_kv_heads=16,
      head_dim=128,
      mlp_width=36_864,
      query_pre_attn_scalar=144.0,  # width / num_heads, not head_dim
    ),
  },
)
