"""The fields of a GGUF file as those of a config.json."""

from typing import Any

import numpy as np

ROTARY_FACTORS = "rope_freqs.weight"

# architecture -> model_type
_MODEL_TYPES = {
  "llama": "llama",
  "qwen2": "qwen2",
  "qwen3": "qwen3",
  "gemma2": "gemma2",
  "gemma3": "gemma3_text",
}
_NAMES = {
  "block_count": "num_hidden_layers",
  "context_length": "max_position_embeddings",
  "embedding_length": "hidden_size",
  "feed_forward_length": "intermediate_size",
  "attention.head_count": "num_attention_heads",
  "attention.head_count_kv": "num_key_value_heads",
  "attention.key_length": "head_dim",
  "attention.layer_norm_rms_epsilon": "rms_norm_eps",
  "rope.freq_base": "rope_theta",
  "rope.freq_base_swa": "rope_local_base_freq",
  "attention.sliding_window": "sliding_window",
  "attention.sliding_window_pattern": "sliding_window_pattern",
  "attn_logit_softcapping": "attn_logit_softcapping",
  "final_logit_softcapping": "final_logit_softcapping",
}
# What says nothing new, or is read below.
_OTHERS = (
  "vocab_size",
  "attention.value_length",
  "rope.dimension_count",
  "rope.scaling.type",
  "rope.scaling.factor",
)
# llama.cpp scales attention by width / num_heads in the largest of a family.
_LARGEST = {"gemma2": 46, "gemma3": 62}
# Of Llama 3: factors of low and high frequencies, and the original length.
_LLAMA3 = {
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}


def value(reader: Any, name: str, default: Any = None) -> Any:
  """A field of a file; of numbers in 32 bits, the shortest that they are."""
  field = reader.fields.get(name)
  if field is None:
    return default
  content = field.contents()
  return float(f"{content:.7g}") if isinstance(content, float) else content


def config_fields(reader: Any) -> dict[str, Any]:
  """What config.json says of the same decoder, special tokens too.

  Raises:
    ValueError: naming a field that is missing or not supported.
  """
  name = value(reader, "general.architecture")
  if name not in _MODEL_TYPES:
    raise ValueError(
      f"general.architecture is {name!r}, expected one of "
      f"{', '.join(_MODEL_TYPES)}"
    )
  prefix = f"{name}."
  given = {
    field.removeprefix(prefix): value(reader, field)
    for field in reader.fields
    if field.startswith(prefix)
  }
  for field, content in given.items():
    if field not in _NAMES and field not in _OTHERS and content:
      raise ValueError(
        f"{prefix}{field} is {content!r:.80}, which is not supported"
      )
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  if "token_embd.weight" not in tensors:
    raise ValueError("tensor token_embd.weight is missing")
  fields = {
    "model_type": _MODEL_TYPES[name],
    "vocab_size": int(tensors["token_embd.weight"].shape[1]),
    "tie_word_embeddings": "output.weight" not in tensors,
    **{_NAMES[x]: _single(x, y) for x, y in given.items() if x in _NAMES},
    **_rotary(given, tensors),
    **_token_ids(reader),
  }
  _check_heads(given, fields)
  if name in ("llama", "qwen3"):
    fields["attention_bias"] = "blk.0.attn_q.bias" in tensors
  if name == "llama":
    fields["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
  if name in _LARGEST:
    is_largest = fields["num_hidden_layers"] == _LARGEST[name]
    fields["query_pre_attn_scalar"] = (
      fields["hidden_size"] // fields["num_attention_heads"]
      if is_largest
      else fields.get("head_dim", 256)
    )
  return fields


def _single(name: str, content: Any) -> Any:
  """A number, which may be given for each layer."""
  if not isinstance(content, list):
    return content
  if len(set(content)) != 1:
    raise ValueError(f"{name} is {content!r:.80}, expected the same throughout")
  return content[0]


def _check_heads(given: dict[str, Any], fields: dict[str, Any]) -> None:
  width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
  if not width or not heads:
    return  # what is missing is named by the family
  size = fields.get("head_dim", width // heads)
  for name in ("attention.value_length", "rope.dimension_count"):
    if given.get(name, size) != size:
      raise ValueError(
        f"{name} is {given[name]}, expected {size}, the numbers of a head"
      )


def _rotary(given: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
  kind = given.get("rope.scaling.type", "none")
  if kind not in ("none", "linear"):
    raise ValueError(
      f"rope.scaling.type is {kind!r}, expected 'none' or 'linear'"
    )
  if kind == "linear":
    factor = given.get("rope.scaling.factor", 1.0)
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
  if ROTARY_FACTORS not in tensors:
    return {}
  factors = np.asarray(tensors[ROTARY_FACTORS].data, np.float32)
  scaling = {
    "rope_type": "llama3",
    "factor": float(f"{factors.max():.7g}"),
    **_LLAMA3,
  }
  expected = _llama3_factors(
    given.get("rope.freq_base", 10_000.0), 2 * len(factors), scaling
  )
  if not np.allclose(factors, expected, rtol=1e-4):
    raise ValueError(
      f"{ROTARY_FACTORS} are not those of Llama 3 with the factor "
      f"{scaling['factor']}; others are not supported"
    )
  return {"rope_scaling": scaling}


def _llama3_factors(
  theta: float, size: int, scaling: dict[str, Any]
) -> np.ndarray:
  """By how much rotary frequencies are divided, float64[size / 2]."""
  period = 2 * np.pi * theta ** (np.arange(0, size, 2) / size)
  low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
  ratio = scaling["original_max_position_embeddings"] / period
  smooth = np.clip((ratio - low) / (high - low), 0, 1)
  return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _token_ids(reader: Any) -> dict[str, int]:
  ids = {
    "bos_token_id": value(reader, "tokenizer.ggml.bos_token_id"),
    "eos_token_id": value(reader, "tokenizer.ggml.eos_token_id"),
    "pad_token_id": value(reader, "tokenizer.ggml.padding_token_id"),
  }
  return {name: i for name, i in ids.items() if i is not None}
