"""A decoder and its parameters, as one thing to load, call and save."""

import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models import (
  families,
  gguf_fields,
  gguf_files,
  hf,
  sources,
  tokenizer_files,
  transformer,
  trimming,
)
from pav_jax.models.partitioning import Layout
from pav_jax.models.tokenizer import Tokenizer, read
from pav_jax.models.transformer_config import (
  KeptTokens,
  Lora,
  TransformerConfig,
)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["config", "layout", "token_ids", "source"],
)
@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder; `transformer` has the functions that it is made of.

  Attributes:
    params: from `transformer.init` or a checkpoint.
    config: their shape.
    layout: where arrays lie on a mesh; None to leave that to the compiler.
    token_ids: pairs of a name in `families.TOKEN_IDS` and an id, or a tuple of
      ids, as the checkpoint has them.
    source: the path of the checkpoint; None if it is of none.
  """

  params: PyTree
  config: TransformerConfig
  layout: Layout | None = None
  token_ids: tuple[tuple[str, Any], ...] = ()
  source: str | None = None

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The tokenizer that came with the model.

    Raises:
      ValueError: if there is none, or texts of steps do not come back from it
        as they were; `Tokenizer(source, exact=True)` may repair that.
    """
    if self.source is None:
      raise ValueError("the model is of no checkpoint that has a tokenizer")
    return Tokenizer(self.source)

  @jax.jit
  def logits(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    """Logits of the token after each token, float32.

    Args:
      tokens: in 0 … V - 1, a text a row; what comes after a token does not
        change its logits, so rows may be filled up with anything.

    Raises:
      ValueError: if T exceeds `config.max_length`.
    """
    return transformer.apply(
      self.config, self.params, tokens, layout=self.layout
    )

  @jax.jit
  def hidden_states(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The backbone's output at each token, after its last norm.

    Args:
      tokens: as of `logits`.

    Raises:
      ValueError: if T exceeds `config.max_length`.
    """
    return transformer.hidden_states(
      self.config, self.params, tokens, layout=self.layout
    )


def load(
  source: str | os.PathLike,
  *,
  fingerprint: str | None = None,
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
  attention: str = "plain",
  kept: KeptTokens | None = None,
) -> Model:
  """Reads a model.

  Args:
    source: a directory in Hugging Face's format, see `hf.load`; a GGUF file,
      see `gguf_files.load`; or another that `sources.resolve` knows.
    fingerprint: of tokenizer and delimiter, see `problems.vocabulary`, which a
      checkpoint that says its own must share; None not to compare.
    layout: how to split the parameters over devices; None for one device.
    param_dtype: of the parameters; None for what the files hold.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.
    attention: as in `TransformerConfig`.
    kept: tokens that have logits, see `trimming`; None for all.

  Raises:
    ValueError: naming the field, tensor or file that is not as expected.
    packages.MissingPackageError: if a package that it needs is not installed.
  """
  path = sources.resolve(source)
  if fingerprint is not None:
    hf.check_fingerprint(path, fingerprint)
  settings = {
    "layout": layout,
    "param_dtype": param_dtype,
    "dtype": dtype,
    "remat": remat,
  }
  if path.is_file():
    reader = gguf_files.open_file(path)
    config, params = gguf_files.load(reader, **settings)
    fields = gguf_fields.config_fields(reader)
  else:
    config, params = hf.load(path, **settings)
    fields = hf.read_config(path)
  config = dataclasses.replace(config, attention=attention)
  if kept is not None:
    config, params = trimming.trim(config, params, kept, layout=layout)
  return Model(params, config, layout, _token_ids(fields), str(path))


def read_config(
  source: str | os.PathLike,
  *,
  param_dtype: str = "float32",
  dtype: str | None = None,
  remat: str = "none",
  attention: str = "plain",
  lora: Lora | None = None,
  kept: KeptTokens | None = None,
) -> TransformerConfig:
  """The configuration of a model whose parameters are not read.

  Args:
    source: as of `load`.
    param_dtype: that its parameters will have.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.
    attention: as in `TransformerConfig`.
    lora: adapters that it will have; None for none.
    kept: tokens that will have logits, see `trimming`; None for all.

  Raises:
    ValueError: naming the field that is not as expected.
  """
  path = sources.resolve(source)
  if path.is_file():
    fields = gguf_fields.config_fields(gguf_files.open_file(path))
  else:
    fields = hf.read_config(path)
  return dataclasses.replace(
    families.from_fields(fields),
    param_dtype=param_dtype,
    dtype=dtype or param_dtype,
    remat=remat,
    attention=attention,
    lora=lora,
    kept=kept,
  )


def save(path: str | os.PathLike, model: Model, **options: Any) -> None:
  """Writes a model that `load` and Hugging Face's transformers read.

  The tokenizer goes with it if the checkpoint that it came from has one.

  Args:
    path: a directory, new or empty.
    model: to write.
    **options: of `hf.save`: `max_shard_bytes`, `identity`.

  Raises:
    ValueError: if the directory is not empty, or the parameters are not those
      of the configuration.
  """
  ids = {
    name: list(x) if isinstance(x, tuple) else x for name, x in model.token_ids
  }
  also = None if model.source is None else _write_tokenizer
  hf.save(
    path,
    model.config,
    model.params,
    token_ids=ids,
    also=also and functools.partial(also, pathlib.Path(model.source)),
    **options,
  )


def _write_tokenizer(source: pathlib.Path, folder: pathlib.Path) -> None:
  """The tokenizer of a checkpoint, if it has one, to another's folder."""
  if source.is_file() or (source / tokenizer_files.TOKENIZER).exists():
    tokenizer_files.write(folder, read(source))
  if (source / tokenizer_files.PIECES).exists():
    shutil.copy(source / tokenizer_files.PIECES, folder)


def _token_ids(fields: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  """Special tokens of a config.json, or of the text part of it."""
  fields = {**fields.get("text_config", {}), **fields}
  return tuple(
    (name, tuple(ids) if isinstance(ids, list) else ids)
    for name in families.TOKEN_IDS
    if (ids := fields.get(name)) is not None
  )
