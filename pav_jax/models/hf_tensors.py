"""Which tensor of a Hugging Face checkpoint is which part of a parameter.

A file holds kernels as [outputs, inputs], with heads and what is within a head
in one axis; parameters are [pair of layers, inputs …, outputs …].
"""

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig

_PER_LAYER = {
  "input_layernorm": ("pre_attention_norm", "scale"),
  "self_attn.q_proj": ("attention", "query"),
  "self_attn.k_proj": ("attention", "key"),
  "self_attn.v_proj": ("attention", "value"),
  "self_attn.o_proj": ("attention", "out"),
  "post_attention_layernorm": ("post_attention_norm", "scale"),
  "pre_feedforward_layernorm": ("pre_mlp_norm", "scale"),
  "mlp.gate_proj": ("mlp", "gate"),
  "mlp.up_proj": ("mlp", "up"),
  "mlp.down_proj": ("mlp", "down"),
  "post_feedforward_layernorm": ("post_mlp_norm", "scale"),
}


class Tensor(NamedTuple):
  """Where a tensor of a checkpoint lives among the parameters.

  Attributes:
    path: of the parameter.
    pair: index along the parameter's leading axis; None if it has none.
    num_in_axes: of a kernel, its axes of inputs; 0 for other parameters.
    shape: of the tensor in the file.
  """

  path: tuple[str, ...]
  pair: int | None
  num_in_axes: int
  shape: tuple[int, ...]


def get(tree: dict, path: tuple[str, ...]) -> Any:
  """The leaf or branch at a path."""
  return functools.reduce(lambda branch, name: branch[name], path, tree)


def tensors(config: TransformerConfig) -> dict[str, Tensor]:
  """All tensors of a checkpoint, by name and in the order of writing.

  The embedding is the output layer too, which therefore has no tensor.
  """
  params = transformer.shapes(config)
  found = {}

  def add(name, path, pair=None, num_in_axes=0):
    shape = get(params, path).shape[0 if pair is None else 1 :]
    if num_in_axes:
      parts = shape[num_in_axes:], shape[:num_in_axes]
      shape = tuple(math.prod(part) for part in parts)
    found[f"model.{name}.weight"] = Tensor(path, pair, num_in_axes, shape)

  add("embed_tokens", ("embedding",))
  for layer in range(config.num_layers):
    kind = ("local", "global")[layer % 2]
    for name, path in _PER_LAYER.items():
      num_in_axes = {"scale": 0, "out": 2}.get(path[-1], 1)
      add(
        f"layers.{layer}.{name}",
        ("layers", kind, *path),
        layer // 2,
        num_in_axes,
      )
  add("norm", ("final_norm", "scale"))
  return found


def file_sharding(
  sharding: NamedSharding | None, tensor: Tensor
) -> NamedSharding | None:
  """How to split a tensor of a file, for a parameter split by `sharding`."""
  if sharding is None or tensor.pair is None:
    return sharding
  over = [
    (axes,) if isinstance(axes, str) else axes or ()
    for axes in sharding.spec[1:]
  ]
  if tensor.num_in_axes:
    split = tensor.num_in_axes
    over = [sum(part, ()) for part in (over[split:], over[:split])]
  return NamedSharding(sharding.mesh, PartitionSpec(*over))


@functools.partial(
  jax.jit, donate_argnums=0, static_argnames=("num_in_axes", "sharding")
)
def put(stacked, x, pair, *, num_in_axes, sharding):
  """Writes a tensor as a file has it to its place in a stack."""
  shape = stacked.shape[1:]
  num_out_axes = len(shape) - num_in_axes
  if num_in_axes:
    x = x.reshape(shape[num_in_axes:] + shape[:num_in_axes])
    x = x.transpose(*range(num_out_axes, x.ndim), *range(num_out_axes))
  stacked = stacked.at[pair].set(x.astype(stacked.dtype))
  if sharding is None:
    return stacked
  return jax.lax.with_sharding_constraint(stacked, sharding)


@functools.partial(jax.jit, static_argnames=("num_in_axes", "shape"))
def take(stacked, pair, *, num_in_axes, shape):
  """The inverse of `put`."""
  x = stacked[pair]
  if num_in_axes:
    x = x.transpose(*range(num_in_axes, x.ndim), *range(num_in_axes))
  return x.reshape(shape)
