"""Decoders in GGUF files, as llama.cpp keeps them; weights are dequantised.

Architecture, tokenizer and chat template are in the file. The library `gguf`
reads it (the extra `hf`).
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from pav_jax import packages
from pav_jax.models import families, gguf_fields, hf_tensors, loading
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

_TOP = {
  "token_embd.weight": hf_tensors.EMBEDDING,
  "output_norm.weight": "model.norm.weight",
  "output.weight": hf_tensors.OUTPUT,
}
_LAYER = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_PRE_NORM = {"ffn_norm": "post_attention_layernorm"}
_POST_NORM = {
  "post_attention_norm": "post_attention_layernorm",
  "ffn_norm": "pre_feedforward_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}
_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclasses.dataclass(frozen=True)
class _Source:
  """A tensor, which is read as Hugging Face has it; see `loading.Source`."""

  tensor: Any
  change: Callable[[np.ndarray], np.ndarray] | None = None
  dtype = "F32"

  @property
  def name(self) -> str:
    return self.tensor.name

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(map(int, reversed(self.tensor.shape)))

  def read(self) -> np.ndarray:
    x = _library("gguf.quants").dequantize(
      self.tensor.data, self.tensor.tensor_type
    )
    x = np.asarray(x, np.float32).reshape(self.shape)
    return x if self.change is None else self.change(x)


def _library(module: str = "gguf") -> Any:
  return packages.require(module, package="gguf", purpose="a GGUF file")


def open_file(path: pathlib.Path) -> Any:
  """A file's fields and tensors, as `gguf.GGUFReader` has them.

  Raises:
    ValueError: if it is none.
  """
  reader = _library().GGUFReader
  try:
    return reader(path)
  except (ValueError, KeyError, IndexError, OSError, OverflowError) as error:
    raise ValueError(
      f"{path} cannot be read as a GGUF file: {error}"
    ) from error


def load(
  reader: Any,
  *,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
) -> tuple[TransformerConfig, dict]:
  """Reads a decoder, one tensor in host memory at a time.

  Args:
    reader: of the file, from `open_file`.
    layout: how to split the parameters over devices; None for one device.
    param_dtype: of the parameters; None for float32, which they are
      dequantised to.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.

  Returns:
    The configuration, and parameters like those of `transformer.init`.

  Raises:
    ValueError: naming the field or tensor that is not as expected.
  """
  config = families.from_fields(gguf_fields.config_fields(reader))
  return loading.fill(
    config,
    loading.checked(config, _sources(config, reader)),
    layout=layout,
    param_dtype=param_dtype,
    dtype=dtype,
    remat=remat,
  )


def _sources(config: TransformerConfig, reader: Any) -> dict[str, _Source]:
  """The tensors by Hugging Face's names, and what undoes llama.cpp's changes.

  Those without such a name keep their own, by which they are refused.
  """
  norms = _POST_NORM if config.post_norms else _PRE_NORM
  every = {}
  for tensor in reader.tensors:
    if tensor.name == gguf_fields.ROTARY_FACTORS:
      continue  # which `gguf_fields` has read
    name = _TOP.get(tensor.name, tensor.name)
    match, change = _NAME.fullmatch(tensor.name), None
    if match:
      layer, part, kind = match.groups()
      part = (_LAYER | norms).get(part, part)
      name = f"model.layers.{layer}.{part}.{kind}"
    if config.norm_offset and tensor.name.endswith("norm.weight"):
      change = _without_one
    elif config.family == "llama" and ".attn_q." in tensor.name:
      change = functools.partial(_halves, num_heads=config.num_heads)
    elif config.family == "llama" and ".attn_k." in tensor.name:
      change = functools.partial(_halves, num_heads=config.num_kv_heads)
    every[name] = _Source(tensor, change)
  return every


def _without_one(x: np.ndarray) -> np.ndarray:
  """A norm's scale as Gemma's files have it, from 0."""
  return x - 1


def _halves(x: np.ndarray, num_heads: int) -> np.ndarray:
  """Rows of a head in two halves that are rotated with each other.

  llama.cpp puts each row beside the one that it is rotated with.
  """
  split = x.reshape(num_heads, -1, 2, *x.shape[1:])
  return split.swapaxes(1, 2).reshape(x.shape)
