"""Configurations by name: published ones, and small ones for CPUs."""

import dataclasses
from typing import Any

from pav_jax.models.families import FAMILIES
from pav_jax.models.transformer_config import TransformerConfig

PRESETS = {
  name: config
  for family in FAMILIES.values()
  for name, config in family.presets.items()
} | {
  # Gemma 2's form with 0.2, 0.6 and 4.9 million parameters.
  "tiny": TransformerConfig(
    vocab_size=128,
    width=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_width=160,
    sliding_window=64,
    max_length=1024,
  ),
  "small": TransformerConfig(
    vocab_size=128,
    width=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_width=256,
    sliding_window=64,
    max_length=1024,
  ),
  "medium": TransformerConfig(
    vocab_size=512,
    width=256,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    mlp_width=512,
    sliding_window=64,
    max_length=1024,
  ),
}


def preset(name: str, **changes: Any) -> TransformerConfig:
  """A configuration by name, with some fields changed.

  Args:
    name: a key of `PRESETS`.
    **changes: fields of `TransformerConfig`.

  Raises:
    ValueError: if there is no such preset or field, or a value does not fit.
  """
  if name not in PRESETS:
    raise ValueError(f"preset is {name!r}, expected one of {sorted(PRESETS)}")
  allowed = {field.name for field in dataclasses.fields(TransformerConfig)}
  for field in changes:
    if field not in allowed:
      raise ValueError(f"field is {field!r}, expected one of {sorted(allowed)}")
  return dataclasses.replace(PRESETS[name], **changes)
