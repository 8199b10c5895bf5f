"""The networks that verifiers start from."""

import dataclasses
import functools

import jax

from pav_jax.models import growing, hf, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class PretrainedTrunk:
  """A checkpoint in Hugging Face's format, such as the policy's, or deeper.

  Attributes:
    path: of its directory, see `models.hf.load`.
    num_layers: if it is to have more, see `models.growing`; None for as many
      as it has.
    param_dtype: of parameters; None for that of the checkpoint.
    dtype: of computation; None for that of the parameters.
    remat: as in `TransformerConfig`.
  """

  path: str
  num_layers: int | None = None
  param_dtype: str | None = None
  dtype: str | None = None
  remat: str = "none"

  def __call__(
    self, key: jax.Array, layout: Layout, fingerprint: str
  ) -> tuple[TransformerConfig, dict]:
    """Configuration and parameters.

    Args:
      key: of layers that are added.
      layout: where the parameters lie.
      fingerprint: of vocabulary and delimiter, which a checkpoint that says its
        own must share.

    Raises:
      ValueError: if the checkpoint cannot be read, is of another vocabulary, or
        has more layers.
    """
    hf.check_fingerprint(self.path, fingerprint)
    config, params = hf.load(
      self.path,
      layout=layout,
      param_dtype=self.param_dtype,
      dtype=self.dtype,
      remat=self.remat,
    )
    num_layers = self.num_layers or config.num_layers
    return growing.grow(config, params, num_layers, key, layout=layout)


@dataclasses.dataclass(frozen=True)
class RandomTrunk:
  """A network that has learnt nothing.

  Attributes:
    config: its shape.
  """

  config: TransformerConfig

  def __call__(
    self, key: jax.Array, layout: Layout, fingerprint: str
  ) -> tuple[TransformerConfig, dict]:
    """Configuration and random parameters, made where they lie."""
    del fingerprint
    shardings = transformer.shardings(self.config, layout)
    init = functools.partial(transformer.init, self.config)
    return self.config, jax.jit(init, out_shardings=shardings)(key)
