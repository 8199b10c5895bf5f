"""Families of decoders: a config.json to a configuration, and back.

A family is one file with a `FAMILY`, see `base.Family`, named in this one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pav_jax.models.families import (
  base,
  gemma2,
  gemma3,
  llama,
  mistral,
  qwen2,
  qwen3,
)
from pav_jax.models.families.base import TOKEN_IDS, Family, Fields
from pav_jax.models.transformer_config import TransformerConfig

__all__ = ["FAMILIES", "TOKEN_IDS", "Family", "from_fields", "to_fields"]

FAMILIES: Mapping[str, Family] = {
  module.__name__.rsplit(".", 1)[-1]: module.FAMILY
  for module in (llama, mistral, qwen2, qwen3, gemma2, gemma3)
}


def from_fields(
  fields: Mapping[str, Any], *, with_head: bool = False
) -> TransformerConfig:
  """The configuration that a config.json describes.

  Args:
    fields: of the file.
    with_head: whether something else than the next token is read from the
      decoder, so that any architecture may be named; the configuration has no
      output layer of its own (`tied`).

  Raises:
    ValueError: naming a field that is missing, asks for something that is not
      supported, or is not understood.
  """
  by_type = {
    name: family for family in FAMILIES.values() for name in family.model_types
  }
  name = fields.get("model_type")
  if not isinstance(name, str) or name not in by_type:
    raise ValueError(
      f"config.json: model_type is {name!r}, expected one of "
      f"{', '.join(sorted(by_type))}"
    )
  reader = Fields(fields)
  named = fields.get("architectures") or []
  causal = ("ForCausalLM", "ConditionalGeneration")
  if not isinstance(named, list) or not all(
    isinstance(x, str) and (with_head or x.endswith(causal)) for x in named
  ):
    raise ValueError(
      f"config.json: architectures is {named!r}, expected "
      f"{[by_type[name].architecture]}"
    )
  try:
    config = by_type[name].read(reader)
    reader.finish()
  except ValueError as error:
    raise ValueError(
      str(error) if "config.json" in str(error) else f"config.json: {error}"
    ) from error
  return dataclasses.replace(config, tied=True) if with_head else config


def to_fields(
  config: TransformerConfig, token_ids: Mapping[str, Any]
) -> dict[str, Any]:
  """The config.json of a configuration, for old and new transformers.

  Raises:
    ValueError: if `token_ids` has other names than those in `TOKEN_IDS`, or
      the family has no field for something that the configuration has.
  """
  for name in token_ids:
    if name not in TOKEN_IDS:
      raise ValueError(f"token_ids has {name!r}, expected some of {TOKEN_IDS}")
  family = FAMILIES[config.family]
  fields = {
    "model_type": family.model_types[0],
    "architectures": [family.architecture],
    **base.size_fields(config),
    **family.write(config),
    **token_ids,
  }
  _check_written(config, from_fields(fields))
  return fields


def _check_written(config: TransformerConfig, read: TransformerConfig) -> None:
  """Raises ValueError where a file would describe another network."""
  for name in config.__dataclass_fields__:
    if name in ("dtype", "param_dtype", "remat"):
      continue
    ours, theirs = getattr(config, name), getattr(read, name)
    if name in ("pattern", "sliding_window", "rotary", "local_rotary"):
      name, ours, theirs = (
        "layers",
        *(
          [(x.window, x.rotary) for x in each.layers] for each in (config, read)
        ),
      )
    if ours != theirs:
      raise ValueError(
        f"{name} is {ours!r}, which files of {config.family} cannot say"
      )
