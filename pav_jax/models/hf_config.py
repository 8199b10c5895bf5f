"""The fields of a Hugging Face config.json for Gemma 2, both ways."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.transformer_config import TransformerConfig

# Field of config.json -> field of TransformerConfig.
_INTS = {
  "vocab_size": "vocab_size",
  "hidden_size": "width",
  "num_hidden_layers": "num_layers",
  "num_attention_heads": "num_heads",
  "num_key_value_heads": "num_kv_heads",
  "head_dim": "head_dim",
  "intermediate_size": "mlp_width",
  "sliding_window": "sliding_window",
  "max_position_embeddings": "max_length",
}
_FLOATS = {
  "query_pre_attn_scalar": "query_pre_attn_scalar",
  "attn_logit_softcapping": "attn_softcap",
  "final_logit_softcapping": "final_softcap",
  "rms_norm_eps": "norm_eps",
}
# What a file may say and this implementation cannot do otherwise: the values
# that agree with it, the first of which is written. An absent field agrees.
_FIXED = {
  "architectures": (["Gemma2ForCausalLM"],),
  "hidden_activation": ("gelu_pytorch_tanh",),
  "attention_bias": (False,),
  "attention_dropout": (0.0,),
  "tie_word_embeddings": (True,),
  "use_bidirectional_attention": (None, False),
  "rope_scaling": (None,),
  "quantization_config": (None,),
}
_ROPE_THETA = 10_000.0  # where a file does not say
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _layer_types(num_layers: int) -> list[str]:
  kinds = ("sliding_attention", "full_attention")
  return [kinds[layer % 2] for layer in range(num_layers)]


def _check(name: str, value: Any, *expected: Any) -> None:
  # To Python 0 is False and 1 is True; in a file they are different answers.
  if not any(
    value == e and isinstance(value, bool) == isinstance(e, bool)
    for e in expected
  ):
    raise ValueError(
      f"config.json: {name} is {value!r}, expected "
      + " or ".join(repr(e) for e in expected)
    )


def _number(fields: Mapping[str, Any], name: str, *kinds: type) -> Any:
  if name not in fields:
    raise ValueError(f"config.json: {name} is missing")
  value = fields[name]
  if isinstance(value, bool) or not isinstance(value, kinds):
    raise ValueError(f"config.json: {name} is {value!r}, expected a number")
  return value


def from_fields(fields: Mapping[str, Any]) -> TransformerConfig:
  """The configuration that a config.json describes.

  Fields that the reference implementation of Gemma 2 would not read are passed
  over, and so are those of its that do not change what it computes.

  Raises:
    ValueError: naming a field that is missing or asks for something else.
  """
  _check("model_type", fields.get("model_type"), "gemma2")
  for name, values in _FIXED.items():
    if name in fields:
      _check(name, fields[name], *values)
  found = {ours: _number(fields, name, int) for name, ours in _INTS.items()}
  for name, ours in _FLOATS.items():
    found[ours] = float(_number(fields, name, int, float))
  if fields.get("layer_types") is not None:
    _check(
      "layer_types", fields["layer_types"], _layer_types(found["num_layers"])
    )
  # transformers 5 writes rope_parameters, earlier versions rope_theta.
  rope = fields.get("rope_parameters")
  if rope is None:
    rope = {}
  if not isinstance(rope, dict):
    raise ValueError(f"config.json: rope_parameters is {rope!r}")
  _check("rope_type", rope.get("rope_type", "default"), "default")
  rope = {"rope_theta": fields.get("rope_theta", _ROPE_THETA)} | rope
  found["rope_theta"] = float(_number(rope, "rope_theta", int, float))
  try:
    return TransformerConfig(**found)
  except ValueError as error:
    raise ValueError(f"config.json: {error}") from error


def to_fields(
  config: TransformerConfig, token_ids: Mapping[str, int]
) -> dict[str, Any]:
  """The config.json of a configuration, for old and new transformers.

  Raises:
    ValueError: if `token_ids` has other names than those in `TOKEN_IDS`.
  """
  for name in token_ids:
    if name not in TOKEN_IDS:
      raise ValueError(f"token_ids has {name!r}, expected some of {TOKEN_IDS}")
  fields = {"model_type": "gemma2"}
  fields |= {name: values[0] for name, values in _FIXED.items() if values[0]}
  fields |= {name: getattr(config, ours) for name, ours in _INTS.items()}
  fields |= {name: getattr(config, ours) for name, ours in _FLOATS.items()}
  # transformers 5 accepts no float here.
  if config.query_pre_attn_scalar.is_integer():
    fields["query_pre_attn_scalar"] = int(config.query_pre_attn_scalar)
  fields |= {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "layer_types": _layer_types(config.num_layers),
    "rope_theta": config.rope_theta,
    "rope_parameters": {
      "rope_theta": config.rope_theta,
      "rope_type": "default",
    },
    "dtype": config.param_dtype,
    "torch_dtype": config.param_dtype,
  }
  return fields | dict(token_ids)
