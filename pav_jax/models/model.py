"""A decoder and its parameters, as one thing to load, call and save."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models import families, hf, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["config", "layout", "token_ids"],
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
  """

  params: PyTree
  config: TransformerConfig
  layout: Layout | None = None
  token_ids: tuple[tuple[str, Any], ...] = ()

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
  layout: Layout | None = None,
  param_dtype: str | None = None,
  dtype: str | None = None,
  remat: str = "none",
) -> Model:
  """Reads a model.

  Args:
    source: a directory in Hugging Face's format, see `hf.load`.
    layout: how to split the parameters over devices; None for one device.
    param_dtype: of the parameters; None for what the files hold.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.

  Raises:
    ValueError: naming the field, tensor or file that is not as expected.
  """
  config, params = hf.load(
    source, layout=layout, param_dtype=param_dtype, dtype=dtype, remat=remat
  )
  return Model(params, config, layout, _token_ids(hf.read_config(source)))


def save(path: str | os.PathLike, model: Model, **options: Any) -> None:
  """Writes a model that `load` and Hugging Face's transformers read.

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
  hf.save(path, model.config, model.params, token_ids=ids, **options)


def _token_ids(fields: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  """Special tokens of a config.json, or of the text part of it."""
  fields = {**fields.get("text_config", {}), **fields}
  return tuple(
    (name, tuple(ids) if isinstance(ids, list) else ids)
    for name in families.TOKEN_IDS
    if (ids := fields.get(name)) is not None
  )
