"""Which tensor of a Hugging Face checkpoint is which part of a parameter.

A file holds kernels as [outputs, inputs], with heads and what is within a head
in one axis; parameters are [inputs …, outputs …], stacked over periods of
layers but for those of a last, partial period.
"""

import functools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.models import layers, transformer
from pav_jax.models.families import FAMILIES
from pav_jax.models.transformer_config import TransformerConfig

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
# Buffers that older versions wrote, computed from config.json.
_BUFFERS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\..*")
# Before the names of a decoder under TRL's value head; and how names begin that
# a decoder without an output layer has been saved under.
_WRAPPED, _BARE = "pretrained_model.", ("embed_tokens.", "layers.", "norm.")


class Tensor(NamedTuple):
  """Where a tensor of a checkpoint lives among the parameters.

  Attributes:
    path: of the parameter.
    index: along the parameter's leading axis; None if it is not stacked.
    num_in_axes: of a kernel, its axes of inputs; 0 for other parameters.
    shape: of the tensor in the file.
  """

  path: tuple[str, ...]
  index: int | None
  num_in_axes: int
  shape: tuple[int, ...]


def get(tree: dict, path: tuple[str, ...]) -> Any:
  """The leaf or branch at a path."""
  return functools.reduce(lambda branch, name: branch[name], path, tree)


def tensors(config: TransformerConfig) -> dict[str, Tensor]:
  """All tensors of a checkpoint, by name and in the order of writing.

  Where the embedding is the output layer too, that has no tensor.
  """
  params = transformer.shapes(config)
  table = FAMILIES[config.family].tensors

  def whole(*path):
    return Tensor(path, None, 0, get(params, path).shape)

  every = {EMBEDDING: whole("embedding")}
  size = len(config.period)
  for number, spec in enumerate(config.layers):
    if number < size * config.num_periods:
      parents, index = ("layers", spec.name), number // size
    else:
      parents, index = ("layers", layers.REST, spec.name), None
    there = flatten_dict(get(params, parents))
    for name, path in table.items():
      if path not in there:
        continue
      shape = there[path].shape[index is not None :]
      split = {"scale": 0, "out": 2}.get(path[-1], 1)
      split = 0 if path[-1].endswith("_bias") else split
      merged = (math.prod(x) for x in (shape[split:], shape[:split]) if x)
      every[f"model.layers.{number}.{name}"] = Tensor(
        (*parents, *path), index, split, tuple(merged)
      )
  every["model.norm.weight"] = whole("final_norm", "scale")
  if not config.tied:
    every[OUTPUT] = whole("output")
  return every


def names_in_file(
  config: TransformerConfig, names: Iterable[str]
) -> dict[str, str]:
  """The names of a decoder's tensors, each with its name in some files.

  Left out are buffers of rotary positions and the parts of a multimodal
  checkpoint that are no part of its language model.

  Args:
    config: of the decoder.
    names: of all tensors in the files.
  """
  family = FAMILIES[config.family]
  ours = {}
  for name in names:
    if name.startswith(family.ignored):
      continue
    short = name.removeprefix(_WRAPPED)
    for prefix in family.prefixes:
      if prefix and name.startswith(prefix):
        short = name.removeprefix(prefix)
        if not short.startswith(("model.", "lm_head.")):
          short = f"model.{short}"
    if short.startswith(_BARE):
      short = f"model.{short}"
    if not _BUFFERS.fullmatch(short):
      ours[short] = name
  return ours


def file_sharding(
  sharding: NamedSharding | None, tensor: Tensor
) -> NamedSharding | None:
  """How to split a tensor of a file, for a parameter split by `sharding`."""
  if sharding is None or tensor.path[0] != "layers":
    return sharding
  over = [
    (axes,) if isinstance(axes, str) else axes or ()
    for axes in sharding.spec[tensor.index is not None :]
  ]
  split = tensor.num_in_axes
  over = [sum(x, ()) for x in (over[split:], over[:split]) if x]
  return NamedSharding(sharding.mesh, PartitionSpec(*over))


@functools.partial(jax.jit, static_argnames=("shape", "num_in_axes", "dtype"))
def arrange(x, *, shape, num_in_axes, dtype):
  """A tensor of a file as the part of a parameter that it is."""
  if num_in_axes:
    x = x.reshape(shape[num_in_axes:] + shape[:num_in_axes])
    num_out_axes = len(shape) - num_in_axes
    x = x.transpose(*range(num_out_axes, x.ndim), *range(num_out_axes))
  return x.reshape(shape).astype(dtype)


@functools.partial(
  jax.jit, donate_argnums=0, static_argnames=("num_in_axes", "sharding")
)
def put(stacked, x, index, *, num_in_axes, sharding):
  """Writes a tensor as a file has it to its place in a stack."""
  x = arrange(
    x, shape=stacked.shape[1:], num_in_axes=num_in_axes, dtype=stacked.dtype
  )
  stacked = stacked.at[index].set(x)
  if sharding is None:
    return stacked
  return jax.lax.with_sharding_constraint(stacked, sharding)


@functools.partial(jax.jit, static_argnames=("num_in_axes", "shape"))
def take(x, index, *, num_in_axes, shape):
  """The inverse of `put`, or of `arrange` where the index is None."""
  x = x if index is None else x[index]
  if num_in_axes:
    x = x.transpose(*range(num_in_axes, x.ndim), *range(num_in_axes))
  return x.reshape(shape)
