"""Mistral (arXiv 2310.06825): every layer attends within a window, or none."""

from typing import Any

from pav_jax.models.families import base
from pav_jax.models.families.base import Family, Fields
from pav_jax.models.transformer_config import Rotary, TransformerConfig


def _read(fields: Fields) -> TransformerConfig:
  fields.check("hidden_act", "silu")
  sizes = base.sizes(
    fields, num_key_value_heads=8, max_position_embeddings=131_072
  )
  # A file that does not mention the window means the first version's.
  if fields.get("sliding_window", 4096) is None:
    kinds = {"pattern": ("global",)}
  else:
    window = fields.integer("sliding_window", 4096)
    kinds = {"pattern": ("local",), "sliding_window": window}
  return TransformerConfig(
    **base.PLAIN,
    **sizes,
    **kinds,
    family="mistral",
    rotary=base.rotary(fields),
    tied=fields.flag("tie_word_embeddings", False),
  )


def _write(config: TransformerConfig) -> dict[str, Any]:
  is_local = config.pattern == ("local",)
  return {
    "hidden_act": "silu",
    "sliding_window": config.sliding_window if is_local else None,
    "tie_word_embeddings": config.tied,
    **base.rotary_fields(config.rotary),
  }


def _preset(**fields: Any) -> TransformerConfig:
  return TransformerConfig(
    **base.PLAIN,
    family="mistral",
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_width=14_336,
    max_length=32_768,
    norm_eps=1e-5,
    tied=False,
    **fields,
  )


FAMILY = Family(
  model_types=("mistral",),
  architecture="MistralForCausalLM",
  read=_read,
  write=_write,
  tensors=base.PRE_NORM_TENSORS,
  presets={
    "mistral_7b_v0_1": _preset(vocab_size=32_000, pattern=("local",)),
    # Version 0.3, without windows.
    "mistral_7b": _preset(
      vocab_size=32_768, pattern=("global",), rotary=Rotary(1_000_000.0)
    ),
  },
)
