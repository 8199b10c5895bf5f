"""What a family of decoders says of its files, and how fields are read."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pav_jax.models.transformer_config import (
  MAX_LAYERS,
  Rotary,
  TransformerConfig,
  shortest_period,
)

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# What a config.json may hold that changes no number of a forward pass.
_HARMLESS = {
  *TOKEN_IDS,
  *("model_type", "architectures", "dtype", "torch_dtype", "use_cache"),
  *("initializer_range", "transformers_version", "pretraining_tp"),
  *("cache_implementation", "auto_map", "name_or_path", "is_llama_config"),
  *("transformers.js_config", "sliding_window_size", "model_name"),
  *("id2label", "label2id", "problem_type", "finetuning_task", "prefix"),
  *("tokenizer_class", "task_specific_params", "return_dict"),
  *("output_attentions", "output_hidden_states", "torchscript"),
  *("use_bfloat16", "chunk_size_feed_forward", "sep_token_id"),
  *("decoder_start_token_id", "max_length", "min_length", "do_sample"),
  *("early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
  *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
  *("length_penalty", "no_repeat_ngram_size", "num_return_sequences"),
  *("encoder_no_repeat_ngram_size", "bad_words_ids", "forced_bos_token_id"),
  *("forced_eos_token_id", "remove_invalid_values", "begin_suppress_tokens"),
  *("exponential_decay_length_penalty", "suppress_tokens"),
  *("return_dict_in_generate", "output_scores", "architecture"),
  *("num_labels", "classifier_dropout", "summary_dropout_prob"),
}
_HARMLESS_PREFIXES = ("_", "unsloth", "tf_")

# Values that agree with every family here.
_NEUTRAL = {
  "attention_dropout": (0.0,),
  "partial_rotary_factor": (1.0,),
  "is_decoder": (False, True),
  "is_encoder_decoder": (False,),
  "rope_interleaved": (False,),
}


class Fields:
  """Fields of a config.json, each of which must be read or change nothing.

  Attributes:
    content: by name.
    names: those that have been read.
  """

  def __init__(self, content: Mapping[str, Any]):
    self.content, self.names = content, set()

  def get(self, name: str, default: Any = None) -> Any:
    """A field, or a default where it is absent; marks it as read."""
    self.names.add(name)
    return self.content.get(name, default)

  def check(self, name: str, *expected: Any, default: Any = ...) -> None:
    """Refuses a field unless it has one of some values.

    Args:
      name: of the field.
      *expected: values; the first one is that of an absent field.
      default: of an absent field, if it is not the first.

    Raises:
      ValueError: naming the field, its value and those expected.
    """
    value = self.get(name, expected[0] if default is ... else default)
    # To Python 0 is False and 1 is True; in a file they are different answers.
    if not any(
      value == e and isinstance(value, bool) == isinstance(e, bool)
      for e in expected
    ):
      raise ValueError(
        f"config.json: {name} is {value!r}, expected "
        + " or ".join(repr(e) for e in expected)
      )

  def integer(self, name: str, default: int | None = None) -> int:
    """A whole number; refuses others, and an absent one without default."""
    return self._number(name, default, int)

  def number(self, name: str, default: float | None = None) -> float:
    """Any number; refuses others, and an absent one without default."""
    value = self._number(name, default, int, float)
    try:
      return float(value)
    except OverflowError as error:
      raise ValueError(
        f"config.json: {name} is too large for a float"
      ) from error

  def flag(self, name: str, default: bool) -> bool:
    """True or False; refuses others."""
    value = self.get(name, default)
    if not isinstance(value, bool):
      raise ValueError(f"config.json: {name} is {value!r}, expected a boolean")
    return value

  def optional(self, name: str, default: float | None) -> float | None:
    """A number, or None for what is not done."""
    if self.get(name, default) is None:
      return None
    return self.number(name, default)

  def _number(self, name, default, *kinds):
    value = self.get(name, default)
    if name not in self.content and default is None:
      raise ValueError(f"config.json: {name} is missing")
    if isinstance(value, bool) or not isinstance(value, kinds):
      raise ValueError(f"config.json: {name} is {value!r}, expected a number")
    return value

  def finish(self) -> None:
    """Refuses what has not been read and might change a number.

    Raises:
      ValueError: naming the field.
    """
    for name, value in self.content.items():
      if name in self.names or name in _HARMLESS or not value:
        continue
      if name.startswith(_HARMLESS_PREFIXES):
        continue
      if name in _NEUTRAL:
        self.check(name, *_NEUTRAL[name])
        continue
      raise ValueError(
        f"config.json: {name} is {value!r}, which is not supported: "
        f"{self.content.get('model_type')} has no such field; remove it if it "
        "changes nothing that the network computes"
      )


@dataclasses.dataclass(frozen=True)
class Family:
  """How decoders of a family are kept in files.

  Attributes:
    model_types: of its config.json; the first is written.
    architecture: its name among transformers' classes, which is written.
    read: from the fields of a config.json to a configuration.
    write: the fields that this family alone has.
    tensors: the parameter of a layer that each of its tensors is.
    presets: published sizes by name.
    prefixes: what names of tensors may begin with; the first is written.
    ignored: beginnings of names of tensors that are no part of the decoder.
  """

  model_types: tuple[str, ...]
  architecture: str
  read: Callable[[Fields], TransformerConfig]
  write: Callable[[TransformerConfig], dict[str, Any]]
  tensors: Mapping[str, tuple[str, ...]]
  presets: Mapping[str, TransformerConfig]
  prefixes: tuple[str, ...] = ("",)
  ignored: tuple[str, ...] = ()


_ATTENTION = {
  f"self_attn.{theirs}.{part}": ("attention", f"{ours}{suffix}")
  for theirs, ours in (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("o_proj", "out"),
  )
  for part, suffix in (("weight", ""), ("bias", "_bias"))
}
_MLP = {
  f"mlp.{name}_proj.{part}": ("mlp", f"{name}{suffix}")
  for name in ("gate", "up", "down")
  for part, suffix in (("weight", ""), ("bias", "_bias"))
}
_QK_NORMS = {
  f"self_attn.{letter}_norm.weight": ("attention", f"{name}_norm", "scale")
  for letter, name in (("q", "query"), ("k", "key"))
}

# Tensors of layers, of networks with norms before attention and MLP alone, and
# with norms after them too. Those that a network does not have are left out.
PRE_NORM_TENSORS = {
  "input_layernorm.weight": ("pre_attention_norm", "scale"),
  **_ATTENTION,
  **_QK_NORMS,
  "post_attention_layernorm.weight": ("pre_mlp_norm", "scale"),
  **_MLP,
}
POST_NORM_TENSORS = {
  "input_layernorm.weight": ("pre_attention_norm", "scale"),
  **_ATTENTION,
  **_QK_NORMS,
  "post_attention_layernorm.weight": ("post_attention_norm", "scale"),
  "pre_feedforward_layernorm.weight": ("pre_mlp_norm", "scale"),
  **_MLP,
  "post_feedforward_layernorm.weight": ("post_mlp_norm", "scale"),
}

# What families without Gemma's peculiarities have in common.
PLAIN = {
  "attn_softcap": None,
  "final_softcap": None,
  "norm_offset": False,
  "post_norms": False,
  "activation": "silu",
  "scaled_embedding": False,
}


def sizes(fields: Fields, **defaults: int | None) -> dict[str, Any]:
  """The sizes that every config.json has.

  Args:
    fields: to read.
    **defaults: of fields that this family may leave out.
  """
  num_layers = fields.integer("num_hidden_layers")
  if num_layers > MAX_LAYERS:  # before anything is made for each of them
    raise ValueError(
      f"num_hidden_layers is {num_layers}, expected at most {MAX_LAYERS}"
    )
  width = fields.integer("hidden_size")
  heads = fields.integer(
    "num_attention_heads", defaults.get("num_attention_heads")
  )
  head_dim = defaults.get("head_dim") or width // max(heads, 1)
  if fields.get("head_dim", ...) is not None:
    head_dim = fields.integer("head_dim", head_dim)
  kv_heads = defaults.get("num_key_value_heads") or heads
  if fields.get("num_key_value_heads", ...) is not None:
    kv_heads = fields.integer("num_key_value_heads", kv_heads)
  return {
    "vocab_size": fields.integer("vocab_size", defaults.get("vocab_size")),
    "width": width,
    "num_layers": num_layers,
    "num_heads": heads,
    "num_kv_heads": kv_heads,
    "head_dim": head_dim,
    "mlp_width": fields.integer("intermediate_size"),
    "max_length": fields.integer(
      "max_position_embeddings", defaults.get("max_position_embeddings")
    ),
    "norm_eps": fields.number("rms_norm_eps", 1e-6),
  }


def size_fields(config: TransformerConfig) -> dict[str, Any]:
  """The fields that `sizes` reads, and the types of numbers."""
  return {
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.mlp_width,
    "max_position_embeddings": config.max_length,
    "rms_norm_eps": config.norm_eps,
    "attention_dropout": 0.0,
    "dtype": config.param_dtype,
    "torch_dtype": config.param_dtype,
  }


_KIND = {"sliding_attention": "local", "full_attention": "global"}
_LAYER_TYPE = {kind: name for name, kind in _KIND.items()}


def pattern(
  fields: Fields, num_layers: int, default: Iterable[str]
) -> tuple[str, ...]:
  """Kinds of layers from `layer_types`, as a `TransformerConfig` has them.

  Args:
    fields: to read.
    num_layers: as many kinds there must be.
    default: a period, for files that do not say.
  """
  default = tuple(default)
  types = fields.get("layer_types")
  if types is None:
    return default
  if (
    not isinstance(types, list)
    or len(types) != num_layers
    or not all(isinstance(x, str) and x in _KIND for x in types)
  ):
    raise ValueError(
      f"config.json: layer_types is {types!r}, expected a list of num_hidden_"
      f"layers = {num_layers} names out of {tuple(_KIND)}"
    )
  kinds = tuple(_KIND[x] for x in types)
  if all(kind == default[i % len(default)] for i, kind in enumerate(kinds)):
    return default
  return shortest_period(kinds)


def layer_types(config: TransformerConfig) -> list[str]:
  """The field `layer_types`."""
  size = len(config.pattern)
  return [
    _LAYER_TYPE[config.pattern[i % size]] for i in range(config.num_layers)
  ]


def rotary(fields: Fields, theta: float = 10_000.0) -> Rotary:
  """Rotary positions, as any version of transformers writes them.

  transformers 5 writes rope_parameters; earlier versions rope_theta and
  rope_scaling.

  Args:
    fields: to read.
    theta: where the file does not say.
  """
  old = rope_dict(fields.get("rope_scaling"), "rope_scaling")
  if "rope_theta" in fields.content:
    old = {"rope_theta": fields.number("rope_theta")} | old
  fields.names.add("rope_theta")
  new = rope_dict(fields.get("rope_parameters"), "rope_parameters")
  return merged_rotary(new, old, theta)


def rope_dict(value: Any, name: str) -> dict[str, Any]:
  """A field of rotary positions; {} for an absent one."""
  if value is None:
    return {}
  if not isinstance(value, dict):
    raise ValueError(f"config.json: {name} is {value!r}, expected named fields")
  return value


def merged_rotary(
  new: Mapping[str, Any], old: Mapping[str, Any], theta: float
) -> Rotary:
  """Rotary positions from fields of newer and older versions.

  Args:
    new: of transformers 5.
    old: of earlier versions; where both say something they must agree.
    theta: where neither says.

  Raises:
    ValueError: naming a field that is not supported, or said twice.
  """
  a, b = Fields(_one_name(new)), Fields(_one_name(old))
  for name in a.content.keys() & b.content.keys():
    if a.content[name] != b.content[name]:
      raise ValueError(
        f"config.json: {name} is {a.content[name]!r} in rope_parameters and "
        f"{b.content[name]!r} elsewhere, expected the same"
      )
  rope = Fields({**b.content, **a.content})
  rope.check("rope_type", "default", "linear", "llama3")
  rope.check("partial_rotary_factor", 1.0)
  kind = rope.get("rope_type", "default")
  changes = {}
  if kind != "default":
    changes = {"scaling": kind, "factor": rope.number("factor")}
  if kind == "llama3":
    changes |= {
      "low_freq_factor": rope.number("low_freq_factor"),
      "high_freq_factor": rope.number("high_freq_factor"),
      "original_max_length": rope.integer("original_max_position_embeddings"),
    }
  changes["theta"] = rope.number("rope_theta", theta)
  for name, value in rope.content.items():
    if name not in rope.names and value is not None:
      raise ValueError(
        f"config.json: {name} of rotary positions is {value!r}, which is not "
        f"supported where rope_type is {kind!r}"
      )
  return Rotary(**changes)


def _one_name(rope: Mapping[str, Any]) -> dict[str, Any]:
  """Fields with rope_type, which was once called type."""
  rope = dict(rope)
  if "type" in rope:
    rope.setdefault("rope_type", rope.pop("type"))
    rope.pop("type", None)
  return rope


def rope_fields(rotary: Rotary) -> dict[str, Any]:
  """The content of rope_parameters."""
  fields = {"rope_theta": rotary.theta, "rope_type": "default"}
  if rotary.scaling != "none":
    fields |= {"rope_type": rotary.scaling, "factor": rotary.factor}
  if rotary.scaling == "llama3":
    fields |= {
      "low_freq_factor": rotary.low_freq_factor,
      "high_freq_factor": rotary.high_freq_factor,
      "original_max_position_embeddings": rotary.original_max_length,
    }
  return fields


def rotary_fields(rotary: Rotary) -> dict[str, Any]:
  """What `rotary` reads, for new and old versions of transformers."""
  new = rope_fields(rotary)
  old = {name: x for name, x in new.items() if name != "rope_theta"}
  scaling = {} if rotary.scaling == "none" else {"rope_scaling": old}
  return {"rope_theta": rotary.theta, "rope_parameters": new, **scaling}


def whole(x: float) -> float | int:
  """A number as transformers 5 wants it: an int where it is one."""
  return int(x) if float(x).is_integer() else x
