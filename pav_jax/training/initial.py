"""Parameters that training starts from."""

import dataclasses
import functools

import jax

from pav_jax.models import hf, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.policies.language_model import LanguageModel

# Fields that say how to compute with a network, not which network it is.
_FREE = ("dtype", "param_dtype", "remat", "max_length")


def random_params(
  policy: LanguageModel, key: jax.Array, layout: Layout
) -> dict:
  """Random parameters, made where they lie."""
  shardings = transformer.shardings(policy.config, layout)
  init = functools.partial(transformer.init, policy.config)
  return jax.jit(init, out_shardings=shardings)(key)


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """Parameters of a checkpoint in Hugging Face's format.

  Attributes:
    path: of its directory, see `models.hf.load`.
    fingerprint: of vocabulary and delimiter, which a checkpoint that says its
      own must share; None not to compare.
  """

  path: str
  fingerprint: str | None = None

  def __call__(
    self, policy: LanguageModel, key: jax.Array, layout: Layout
  ) -> dict:
    """The parameters; `key` has no part in them.

    Raises:
      ValueError: if the checkpoint is of another network or vocabulary.
    """
    del key
    if self.fingerprint is not None:
      hf.check_fingerprint(self.path, self.fingerprint)
    want = policy.config
    config, params = hf.load(
      self.path,
      layout=layout,
      param_dtype=want.param_dtype,
      dtype=want.dtype,
      remat=want.remat,
    )
    different = [
      f"{field.name} {getattr(config, field.name)} (policy: "
      f"{getattr(want, field.name)})"
      for field in dataclasses.fields(config)
      if field.name not in _FREE
      and getattr(config, field.name) != getattr(want, field.name)
    ]
    if different:
      raise ValueError(
        f"checkpoint {self.path} is of another network than the policy: "
        f"{', '.join(different)}"
      )
    return params
