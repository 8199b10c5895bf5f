"""What training starts from."""

import dataclasses
import functools

import jax

from pav_jax import models
from pav_jax.models import adapters, growing, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig
from pav_jax.policies.language_model import LanguageModel

# Fields that say how to compute with a network, not which network it is.
_FREE = (
  *("dtype", "param_dtype", "remat", "attention", "max_length"),
  *("lora", "kept"),
)


def random_params(
  policy: LanguageModel, key: jax.Array, layout: Layout
) -> dict:
  """Random parameters, made where they lie."""
  shardings = transformer.shardings(policy.config, layout)
  init = functools.partial(transformer.init, policy.config)
  return jax.jit(init, out_shardings=shardings)(key)


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """Parameters of a checkpoint.

  Attributes:
    path: of its directory, or another source of `models.load`.
    fingerprint: of vocabulary and delimiter, which a checkpoint that says its
      own must share; None not to compare.
  """

  path: str
  fingerprint: str | None = None

  def __call__(
    self, policy: LanguageModel, key: jax.Array, layout: Layout
  ) -> dict:
    """The parameters; `key` is of adapters, if the policy has such.

    Raises:
      ValueError: if the checkpoint is of another network or vocabulary.
    """
    want = policy.config
    model = models.load(
      self.path,
      fingerprint=self.fingerprint,
      layout=layout,
      param_dtype=want.param_dtype,
      dtype=want.dtype,
      remat=want.remat,
      kept=want.kept,
    )
    different = [
      f"{field.name} {getattr(model.config, field.name)} (policy: "
      f"{getattr(want, field.name)})"
      for field in dataclasses.fields(want)
      if field.name not in _FREE
      and getattr(model.config, field.name) != getattr(want, field.name)
    ]
    if different:
      raise ValueError(
        f"checkpoint {self.path} is of another network than the policy: "
        f"{', '.join(different)}"
      )
    config, params = model.config, model.params
    if want.lora is not None:
      _, params = adapters.add(config, params, want.lora, key, layout=layout)
    return params


@dataclasses.dataclass(frozen=True)
class PretrainedBackbone:
  """What a verifier starts from: a checkpoint such as the policy's, or deeper.

  Attributes:
    path: of its directory, or another source of `models.load`.
    num_layers: more than the checkpoint has, see `models.growing`; None for as
      many.
    param_dtype: of parameters; None for that of the checkpoint.
    dtype: of computation; None for that of the parameters.
    remat: what gradients compute again, see `TransformerConfig`.
    attention: by which way, see `TransformerConfig`.
    lora: adapters that are trained in place of the backbone; None to train all.

  Raises:
    ValueError: for adapters of a backbone that is made deeper: layers that do
      nothing at first would never learn anything.
  """

  path: str
  num_layers: int | None = None
  param_dtype: str | None = None
  dtype: str | None = None
  remat: str = "none"
  attention: str = "plain"
  lora: Lora | None = None

  def __post_init__(self):
    if self.lora is not None and self.num_layers is not None:
      raise ValueError(
        f"num_layers is {self.num_layers} and lora is {self.lora}, expected one"
        " of them to be None: new layers have to be trained as a whole"
      )

  def __call__(
    self, key: jax.Array, layout: Layout, fingerprint: str
  ) -> tuple[TransformerConfig, dict]:
    """Configuration and parameters.

    Args:
      key: of adapters, or of layers that are added.
      layout: where the parameters lie.
      fingerprint: of vocabulary and delimiter, which a checkpoint that says its
        own must share.

    Raises:
      ValueError: if the checkpoint cannot be read, is of another vocabulary, or
        has more layers.
    """
    model = models.load(
      self.path,
      fingerprint=fingerprint,
      layout=layout,
      param_dtype=self.param_dtype,
      dtype=self.dtype,
      remat=self.remat,
      attention=self.attention,
    )
    config, params = model.config, model.params
    if self.lora is not None:
      return adapters.add(config, params, self.lora, key, layout=layout)
    num_layers = self.num_layers or config.num_layers
    return growing.grow(config, params, num_layers, key, layout=layout)
