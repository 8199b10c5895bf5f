"""Tensors of any kind of file into parameters, one in host memory at a time."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from pav_jax.models import hf_tensors, partitioning, transformer
from pav_jax.models.hf_tensors import Tensor
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@runtime_checkable
class Source(Protocol):
  """A tensor in an open file, laid out as Hugging Face has it.

  Attributes:
    name: that the file has for it.
    shape: of the tensor.
    dtype: of what `read` gives: F32, BF16 or F16, or one that is refused.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str

  def read(self) -> np.ndarray:
    """The tensor."""
    ...


def checked(
  config: TransformerConfig, every: Mapping[str, Source]
) -> dict[str, Source]:
  """The tensors of a decoder by Hugging Face's names; only headers are read.

  An output layer beside a tied embedding may be there too, if it is equal.

  Args:
    config: of the decoder.
    every: all tensors in the files that are part of a decoder.

  Raises:
    ValueError: naming a tensor that is missing, of another shape or type, or no
      part of this architecture.
  """
  every, expected = dict(every), hf_tensors.tensors(config)
  for name in expected:
    if name not in every:
      raise ValueError(f"tensor {name} is missing")
  for name, source in every.items():
    tensor = expected.get(name)
    if tensor is None and name == hf_tensors.OUTPUT:
      tensor = expected[hf_tensors.EMBEDDING]
    if tensor is None:
      raise ValueError(
        f"tensor {source.name} is not one of this architecture's"
      )
    if source.shape != tensor.shape:
      raise ValueError(
        f"tensor {source.name} has shape {source.shape}, expected "
        f"{tensor.shape}"
      )
    if source.dtype not in _DTYPES:
      raise ValueError(
        f"tensor {source.name} has type {source.dtype}, expected one of "
        f"{tuple(_DTYPES)}"
      )
  if hf_tensors.OUTPUT not in expected and hf_tensors.OUTPUT in every:
    output = every.pop(hf_tensors.OUTPUT)
    if not np.array_equal(output.read(), every[hf_tensors.EMBEDDING].read()):
      raise ValueError(
        f"tensor {output.name} differs from the embedding, expected the same "
        "where tie_word_embeddings is True in config.json"
      )
  return every


def fill(
  config: TransformerConfig,
  sources: Mapping[str, Source],
  *,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
) -> tuple[TransformerConfig, dict]:
  """Reads one tensor after another to the devices.

  Args:
    config: of the decoder.
    sources: from `checked`.
    layout: how to split the parameters over devices; None for one device.
    param_dtype: of the parameters; None for that of the tensors.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.

  Returns:
    The configuration with these types, and parameters like those of
    `transformer.init`.

  Raises:
    ValueError: if tensors have several types or hold numbers that are not
      finite.
  """
  param_dtype = param_dtype or _common_dtype(sources)
  config = dataclasses.replace(
    config, param_dtype=param_dtype, dtype=dtype or param_dtype, remat=remat
  )
  params = transformer.shapes(config)
  shardings = layout and transformer.shardings(config, layout)
  for name, tensor in hf_tensors.tensors(config).items():
    sharding = layout and hf_tensors.get(shardings, tensor.path)
    _move(sources[name], tensor, params, sharding)
  return config, params


def check_finite(name: str, x: np.ndarray) -> None:
  """Raises ValueError, naming the tensor, unless all numbers are finite."""
  # In parts, so that the host does not hold as many truth values.
  for part in np.array_split(x.reshape(-1), -(-x.size // 2**24)):
    if not np.isfinite(part).all():
      raise ValueError(
        f"tensor {name} holds numbers that are not finite, expected none"
      )


def _common_dtype(sources: Mapping[str, Source]) -> str:
  types = {source.name: source.dtype for source in sources.values()}
  first = next(iter(types.values()))
  for name, dtype in types.items():
    if dtype != first or dtype == "F16":
      raise ValueError(
        f"tensor {name} has type {dtype}, expected all to be F32 or all BF16; "
        "param_dtype says what to convert them to"
      )
  return _DTYPES[first]


def _move(
  source: Source,
  tensor: Tensor,
  params: dict,
  sharding: NamedSharding | None,
) -> None:
  """Moves a tensor into `params`, whose leaves are shapes until they are read.

  Waits until the devices have it, so that the host holds no second one.
  """
  *parents, leaf = tensor.path
  branch = hf_tensors.get(params, tuple(parents))
  shape, dtype = branch[leaf].shape, branch[leaf].dtype
  x, where = source.read(), hf_tensors.file_sharding(sharding, tensor)
  check_finite(source.name, x)
  x = jax.device_put(x) if where is None else partitioning.put(x, where)
  if tensor.path[0] != "layers":
    branch[leaf] = x.astype(dtype)
  elif tensor.index is None:
    arrange = functools.partial(
      hf_tensors.arrange,
      shape=shape,
      num_in_axes=tensor.num_in_axes,
      dtype=dtype,
    )
    branch[leaf] = jax.jit(arrange, out_shardings=sharding)(x)
  else:
    if tensor.index == 0:
      branch[leaf] = jnp.zeros(shape, dtype, device=sharding)
    branch[leaf] = hf_tensors.put(
      branch[leaf],
      x,
      tensor.index,
      num_in_axes=tensor.num_in_axes,
      sharding=sharding,
    )
  jax.block_until_ready(branch[leaf])
