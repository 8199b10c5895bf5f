"""Gemma 2 checkpoints as Hugging Face keeps them: config.json and safetensors.

Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import NamedSharding

from pav_jax.models import (
  hf_config,
  hf_tensors,
  hf_vocabulary,
  partitioning,
  transformer,
)
from pav_jax.models.hf_tensors import Tensor
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def _read_json(file: pathlib.Path) -> dict:
  try:
    content = json.loads(file.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f"{file} cannot be read as JSON: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(f"{file} holds {content!r}, expected named fields")
  return content


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  """The file of each tensor, from an index."""
  found = _read_json(index).get("weight_map")
  if not isinstance(found, dict) or not all(
    isinstance(name, str) and pathlib.PurePath(name).name == name
    for name in found.values()
  ):
    raise ValueError(
      f"{index}: weight_map is {found!r}, expected the names of tensors and of "
      "files beside the index"
    )
  return found


def _open(
  path: pathlib.Path, stack: contextlib.ExitStack
) -> dict[str, safetensors.safe_open]:
  """The open file of each tensor; files are closed with `stack`."""
  if (path / SINGLE).exists():
    files, wanted = [SINGLE], None
  elif (path / INDEX).exists():
    wanted = _weight_map(path / INDEX)
    files = sorted(set(wanted.values()))
  else:
    raise ValueError(
      f"{path} holds neither {SINGLE} nor {INDEX}; other formats are not read"
    )
  opened, names = {}, {}
  for name in files:
    try:
      file = stack.enter_context(
        safetensors.safe_open(path / name, framework="numpy")
      )
    except (OSError, safetensors.SafetensorError) as error:
      raise ValueError(f"{path / name} cannot be read: {error}") from error
    for tensor in file.keys():  # noqa: SIM118, it is no dictionary
      if tensor in names:
        raise ValueError(
          f"tensor {tensor} is in {names[tensor]} and {name}, expected in one"
        )
      opened[tensor], names[tensor] = file, name
  if wanted is not None:
    for tensor in sorted(wanted.keys() | names.keys()):
      if wanted.get(tensor) != names.get(tensor):
        raise ValueError(
          f"tensor {tensor} is in {names.get(tensor, 'no file')}, and by "
          f"{INDEX} in {wanted.get(tensor, 'none')}"
        )
  return opened


def _check_tensors(
  files: Mapping[str, safetensors.safe_open],
  expected: dict[str, Tensor],
) -> None:
  for name in expected:
    if name not in files:
      raise ValueError(f"tensor {name} is missing")
  for name, file in files.items():
    if name not in expected:
      raise ValueError(f"tensor {name} is not one of this architecture's")
    view = file.get_slice(name)
    if tuple(view.get_shape()) != expected[name].shape:
      raise ValueError(
        f"tensor {name} has shape {tuple(view.get_shape())}, expected "
        f"{expected[name].shape}"
      )
    if view.get_dtype() not in _DTYPES:
      raise ValueError(
        f"tensor {name} has type {view.get_dtype()}, expected one of "
        f"{tuple(_DTYPES)}"
      )


def _common_dtype(files: Mapping[str, safetensors.safe_open]) -> str:
  types = {
    name: file.get_slice(name).get_dtype() for name, file in files.items()
  }
  first = next(iter(types.values()))
  for name, dtype in types.items():
    if dtype != first or dtype == "F16":
      raise ValueError(
        f"tensor {name} has type {dtype}, expected all to be F32 or all BF16; "
        "param_dtype says what to convert them to"
      )
  return _DTYPES[first]


def _read(
  file: safetensors.safe_open,
  name: str,
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
  x, where = file.get_tensor(name), hf_tensors.file_sharding(sharding, tensor)
  x = jax.device_put(x) if where is None else partitioning.put(x, where)
  if tensor.pair is None:
    branch[leaf] = x.astype(dtype)
  else:
    if tensor.pair == 0:
      branch[leaf] = jnp.zeros(shape, dtype, device=sharding)
    branch[leaf] = hf_tensors.put(
      branch[leaf],
      x,
      tensor.pair,
      num_in_axes=tensor.num_in_axes,
      sharding=sharding,
    )
  jax.block_until_ready(branch[leaf])


def load(
  path: str | os.PathLike,
  *,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
) -> tuple[TransformerConfig, dict]:
  """Reads a checkpoint of Gemma 2.

  Names, shapes and types are checked before any tensor is read. Then one after
  another goes to the devices, so the host holds one at a time (the embedding is
  the largest: 2.4 GB for 27B in bfloat16), and a device its part of the
  parameters and of one tensor.

  Args:
    path: a directory with config.json and either model.safetensors, or
      model.safetensors.index.json and the files that it names.
    layout: how to split the parameters over devices; None for one device.
    param_dtype: of the parameters; None for what the files hold.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.

  Returns:
    The configuration, and parameters like those of `transformer.init`.

  Raises:
    ValueError: naming the field, tensor or file that is not as expected.
  """
  path = pathlib.Path(path)
  config = hf_config.from_fields(_read_json(path / CONFIG))
  tensors = hf_tensors.tensors(config)
  with contextlib.ExitStack() as stack:
    files = _open(path, stack)
    _check_tensors(files, tensors)
    param_dtype = param_dtype or _common_dtype(files)
    config = dataclasses.replace(
      config, param_dtype=param_dtype, dtype=dtype or param_dtype, remat=remat
    )
    params = transformer.shapes(config)
    shardings = layout and transformer.shardings(config, layout)
    for name, tensor in tensors.items():
      sharding = layout and hf_tensors.get(shardings, tensor.path)
      _read(files[name], name, tensor, params, sharding)
  return config, params


def _check_params(config: TransformerConfig, params: dict) -> None:
  """Raises ValueError unless these are the parameters of `config`."""

  def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
      jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
      for path, x in leaves
    }

  expected, came = named(transformer.shapes(config)), named(params)
  for name in sorted(expected.keys() | came.keys()):
    if expected.get(name) != came.get(name):
      raise ValueError(
        f"params{name} is {came.get(name, 'missing')}, expected "
        f"{expected.get(name, 'no such parameter')}"
      )


def _split(
  tensors: dict[str, Tensor], item_size: int, max_bytes: int
) -> list[list[str]]:
  """Names of tensors, in files of at most `max_bytes` or one tensor."""
  files, room = [], 0
  for name, tensor in tensors.items():
    size = math.prod(tensor.shape) * item_size
    if not files or size > room:
      files.append([])
      room = max_bytes
    files[-1].append(name)
    room -= size
  return files


def save(
  path: str | os.PathLike,
  config: TransformerConfig,
  params: dict,
  *,
  max_shard_bytes: int = 5 * 10**9,
  token_ids: Mapping[str, int] | None = None,
  identity: Mapping[str, Any] | None = None,
) -> None:
  """Writes a checkpoint that `load` and Hugging Face's transformers read.

  The directory appears when it is complete, or not at all. The host holds the
  tensors of one file at a time. If parameters are split over processes all of
  these call, to gather them, and the first one writes.

  Args:
    path: a directory, new or empty.
    config: of the parameters.
    params: like those of `transformer.init`.
    max_shard_bytes: of tensors in a file, unless one tensor has more. If all
      fit there is one file, else an index says which file holds what.
    token_ids: bos_token_id, eos_token_id and pad_token_id for config.json, by
      which others generate; those absent mean Gemma's: 2, 1 and 0.
    identity: of vocabulary and delimiter, from `problems.vocabulary.identity`;
      written to pav_jax.json, where `check_fingerprint` looks.

  Raises:
    ValueError: if the parameters are not those of `config`, the identity has no
      fingerprint or another number of tokens, or the directory is not empty.
  """
  path = pathlib.Path(path).absolute()
  if max_shard_bytes < 1:
    raise ValueError(f"max_shard_bytes is {max_shard_bytes}, expected >= 1")
  fields = hf_config.to_fields(config, token_ids or {})
  side = identity and hf_vocabulary.checked_side(identity, config)
  _check_params(config, params)
  tensors = hf_tensors.tensors(config)
  item_size = jnp.dtype(config.param_dtype).itemsize
  files = _split(tensors, item_size, max_shard_bytes)
  if jax.process_index() and partitioning.is_split(params):
    for name in itertools.chain(*files):
      _to_host(params, tensors[name])
    return
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise ValueError(f"{path} exists, expected a new or empty directory")
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(
    dir=path.parent, prefix=f".{path.name}-"
  ) as scratch:
    partial = pathlib.Path(scratch) / path.name
    partial.mkdir()
    weight_map = {}
    for number, names in enumerate(files, 1):
      file = f"model-{number:05}-of-{len(files):05}.safetensors"
      file = file if len(files) > 1 else SINGLE
      weight_map |= dict.fromkeys(names, file)
      safetensors.numpy.save_file(
        {name: _to_host(params, tensors[name]) for name in names},
        partial / file,
        metadata={"format": "pt"},  # transformers refuses files without
      )
    if len(files) > 1:
      total = sum(x.size * item_size for x in jax.tree.leaves(params))
      _write_json(
        partial / INDEX,
        {"metadata": {"total_size": total}, "weight_map": weight_map},
      )
    _write_json(partial / CONFIG, fields)
    if side:
      _write_json(partial / hf_vocabulary.SIDE_FILE, side)
    partial.rename(path)


def check_vocabulary(
  path: str | os.PathLike, vocabulary: hf_vocabulary.Ids
) -> None:
  """Refuses a vocabulary that does not fit a checkpoint, before it is loaded.

  Args:
    path: a directory with config.json.
    vocabulary: compared by its size and by the ids of padding, end and begin.

  Raises:
    ValueError: naming both sides, if they differ.
  """
  fields = _read_json(pathlib.Path(path) / CONFIG)
  hf_vocabulary.check_size(hf_config.from_fields(fields), vocabulary)
  hf_vocabulary.check_ids(fields, vocabulary)


def check_fingerprint(path: str | os.PathLike, expected: str) -> bool:
  """Refuses a checkpoint that was trained with other tokens or delimiters.

  Args:
    path: a directory that `save` wrote, or that of another's checkpoint.
    expected: the fingerprint of the problem's vocabulary and delimiter.

  Returns:
    Whether there is a fingerprint; others' checkpoints have none.

  Raises:
    ValueError: naming both, if they differ; or if pav_jax.json is damaged.
  """
  file = pathlib.Path(path) / hf_vocabulary.SIDE_FILE
  side = _read_json(file) if file.exists() else None
  return hf_vocabulary.check_fingerprint(side, expected, str(path))


def _to_host(params: dict, tensor: Tensor) -> np.ndarray:
  x = hf_tensors.get(params, tensor.path)
  if tensor.pair is not None:
    x = hf_tensors.take(
      x, tensor.pair, num_in_axes=tensor.num_in_axes, shape=tensor.shape
    )
  return np.ascontiguousarray(partitioning.to_host(x))


def _write_json(file: pathlib.Path, content: dict) -> None:
  file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
