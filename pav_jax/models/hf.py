"""Checkpoints as Hugging Face keeps them: config.json and safetensors.

Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from pav_jax import files
from pav_jax.checks import check_finite
from pav_jax.models import (
  families,
  hf_tensors,
  hf_vocabulary,
  loading,
  partitioning,
  transformer,
)
from pav_jax.models.hf_tensors import Tensor
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """The fields of a directory's config.json.

  Raises:
    ValueError: naming the file, if it cannot be read.
  """
  return _read_json(pathlib.Path(path) / CONFIG)


def _read_json(file: pathlib.Path) -> dict:
  try:
    text = file.read_text()
    _refuse_pointer(file, text[:64].encode())
    content = json.loads(text)
  except RecursionError as error:
    raise ValueError(f"{file} is nested too deeply to be read") from error
  except (OSError, UnicodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{file} cannot be read as JSON: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(f"{file} holds {content!r}, expected named fields")
  return content


def _refuse_pointer(file: pathlib.Path, start: bytes) -> None:
  """Raises ValueError if a file begins as what Git LFS leaves in its place."""
  if start.startswith(b"version https://git-lfs"):
    raise ValueError(
      f"{file} is a Git LFS pointer and not the file itself; `git lfs pull` "
      "fetches it"
    )


def _open_file(file: pathlib.Path) -> safetensors.safe_open:
  try:
    with file.open("rb") as opened:
      _refuse_pointer(file, opened.read(64))
    return safetensors.safe_open(file, framework="numpy")
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{file} cannot be read: {error}") from error


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
    pickled = sorted(file.name for file in path.glob("*.bin"))
    if pickled:
      raise ValueError(
        f"{path} holds neither {SINGLE} nor {INDEX}; {pickled[0]} is a pickle, "
        "which may run any code and is not read. If you trust it, in Python: "
        f"transformers.AutoModelForCausalLM.from_pretrained({str(path)!r})"
        ".save_pretrained(NEW_PATH)"
      )
    raise ValueError(
      f"{path} holds neither {SINGLE} nor {INDEX}; other formats are not read"
    )
  opened, names = {}, {}
  for name in files:
    file = stack.enter_context(_open_file(path / name))
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


class _Source(NamedTuple):
  """A tensor in an open file, under the name that it has there."""

  file: safetensors.safe_open
  name: str

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.file.get_slice(self.name).get_shape())

  @property
  def dtype(self) -> str:
    return self.file.get_slice(self.name).get_dtype()

  def read(self) -> np.ndarray:
    return self.file.get_tensor(self.name)


def load(
  path: str | os.PathLike,
  *,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
) -> tuple[TransformerConfig, dict]:
  """Reads a checkpoint of one of `models.families`.

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
    ValueError: naming the field, tensor or file that is not as expected, or
      was changed since `save` wrote it.
  """
  config, params, _ = _load(path, (), layout, param_dtype, dtype, remat)
  return config, params


def load_with_head(
  path: str | os.PathLike,
  head: str | tuple[str, ...],
  *,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
) -> tuple[TransformerConfig, dict, dict[str, np.ndarray]]:
  """Reads a checkpoint in which a head reads something else than a next token.

  Args:
    path: as of `load`.
    head: what the names of the head's tensors begin with, such as "score.".
    layout: as of `load`, like those that follow; of the decoder.
    param_dtype: of the parameters.
    dtype: of computation.

  Returns:
    The configuration, which is `tied`; parameters without an output layer,
    whether the files have one or not; and the head's tensors in float32, by
    their names.

  Raises:
    ValueError: as of `load`, or if no tensor's name begins so.
  """
  return _load(path, head, layout, param_dtype, dtype, "none")


def tensor_names(path: str | os.PathLike) -> tuple[str, ...]:
  """The names of all tensors of a checkpoint.

  Raises:
    ValueError: naming the file that is missing or not as expected.
  """
  with contextlib.ExitStack() as stack:
    return tuple(_open(pathlib.Path(path), stack))


def _load(
  path: str | os.PathLike,
  head: str | tuple[str, ...],
  layout: Layout | None,
  param_dtype: str | None,
  dtype: str | None,
  remat: str,
) -> tuple[TransformerConfig, dict, dict[str, np.ndarray]]:
  """A decoder, and the tensors whose names begin with one of `head`."""
  path = pathlib.Path(path)
  files.check_folder(path)
  config = families.from_fields(read_config(path), with_head=bool(head))
  with contextlib.ExitStack() as stack:
    opened = _open(path, stack)
    read = _take_head(opened, head, path) if head else {}
    names = hf_tensors.names_in_file(config, opened)
    every = {ours: _Source(opened[name], name) for ours, name in names.items()}
    config, params = loading.fill(
      config,
      loading.checked(config, every),
      layout=layout,
      param_dtype=param_dtype,
      dtype=dtype,
      remat=remat,
    )
  return config, params, read


def _take_head(
  opened: dict[str, safetensors.safe_open],
  head: str | tuple[str, ...],
  path: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Reads a head's tensors, and leaves the decoder's in `opened`."""
  read = {}
  for name in [x for x in opened if x.startswith(head)]:
    x = _Source(opened.pop(name), name).read()
    loading.check_finite(name, x)
    read[name] = x.astype(np.float32)
  if not read:
    raise ValueError(
      f"{path} has no tensor whose name begins with {head!r}, expected a head"
    )
  for name in [x for x in opened if x.endswith(hf_tensors.OUTPUT)]:
    del opened[name]
  return read


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


class Head(NamedTuple):
  """What reads a decoder in its output layer's place.

  Attributes:
    architecture: transformers' name of both together.
    fields: of config.json, besides those of the decoder.
    tensors: by their names.
  """

  architecture: str
  fields: Mapping[str, Any]
  tensors: Mapping[str, np.ndarray]


def save(
  path: str | os.PathLike,
  config: TransformerConfig,
  params: dict,
  *,
  max_shard_bytes: int = 5 * 10**9,
  token_ids: Mapping[str, Any] | None = None,
  identity: Mapping[str, Any] | None = None,
  head: Head | None = None,
  replace: bool = False,
  also: Callable[[pathlib.Path], None] | None = None,
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
      which others generate; those absent mean what transformers takes for this
      family's, of Gemma 2, 1 and 0.
    identity: of vocabulary and delimiter, from `problems.vocabulary.identity`;
      written to pav_jax.json, where `check_fingerprint` looks.
    head: that reads the decoder in its output layer's place, which is not
      written.
    replace: a directory that is there is replaced.
    also: writes further files into the directory that it is given.

  Raises:
    ValueError: if the parameters are not those of `config`, the identity has no
      fingerprint or another number of tokens, or the directory is not empty.
    FloatingPointError: if a parameter is not finite.
  """
  path = pathlib.Path(path).absolute()
  if max_shard_bytes < 1:
    raise ValueError(f"max_shard_bytes is {max_shard_bytes}, expected >= 1")
  if config.lora is not None or config.kept is not None:
    raise ValueError(
      f"the configuration has lora {config.lora} and kept {config.kept}, "
      "expected neither: `adapters.merge` and `trimming.restore` undo them"
    )
  if head:
    config = dataclasses.replace(config, tied=True)
    params = {name: x for name, x in params.items() if name != "output"}
  fields = families.to_fields(config, token_ids or {})
  if head:
    fields |= {"architectures": [head.architecture], **head.fields}
  side = identity and hf_vocabulary.checked_side(identity, config)
  _check_params(config, params)
  check_finite("parameters", params)
  tensors = hf_tensors.tensors(config)
  item_size = jnp.dtype(config.param_dtype).itemsize
  shards = _split(tensors, item_size, max_shard_bytes)
  if jax.process_index() and partitioning.is_split(params):
    for name in itertools.chain(*shards):
      to_host(params, tensors[name])
    return
  with files.whole_folder(path, replace=replace, checked=True) as partial:
    write_json(partial / CONFIG, fields)
    weight_map = {}
    for number, names in enumerate(shards, 1):
      file = f"model-{number:05}-of-{len(shards):05}.safetensors"
      file = file if len(shards) > 1 else SINGLE
      content = {name: to_host(params, tensors[name]) for name in names}
      if head and number == len(shards):
        content |= head.tensors
      weight_map |= dict.fromkeys(content, file)
      safetensors.numpy.save_file(
        content,
        partial / file,
        metadata={"format": "pt"},  # transformers refuses files without
      )
    if len(shards) > 1:
      total = sum(x.size * item_size for x in jax.tree.leaves(params))
      total += sum(x.nbytes for x in head.tensors.values()) if head else 0
      write_json(
        partial / INDEX,
        {"metadata": {"total_size": total}, "weight_map": weight_map},
      )
    if side:
      write_json(partial / hf_vocabulary.SIDE_FILE, side)
    if also:
      also(partial)


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
  return hf_vocabulary.check_fingerprint(read_side(path), expected, str(path))


def read_side(path: str | os.PathLike) -> dict[str, Any] | None:
  """What `save` wrote beside a model; None with others' checkpoints.

  Raises:
    ValueError: if pav_jax.json is damaged.
  """
  file = pathlib.Path(path) / hf_vocabulary.SIDE_FILE
  return _read_json(file) if file.exists() else None


def to_host(params: dict, tensor: Tensor) -> np.ndarray:
  """A tensor as files have it; if it is split over processes, all take part."""
  x = hf_tensors.get(params, tensor.path)
  if tensor.path[0] == "layers":
    x = hf_tensors.take(
      x, tensor.index, num_in_axes=tensor.num_in_axes, shape=tensor.shape
    )
  return np.ascontiguousarray(partitioning.to_host(x))


def write_json(file: pathlib.Path, content: dict) -> None:
  """Writes a file as Hugging Face's libraries do."""
  file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
