"""Embeddings restricted to the tokens that a network may say.

Of many thousand tokens a problem's answers use few, and on CPUs the products
with the output layer cost more than the layers. A network whose configuration
has `KeptTokens` has logits of these alone: their softmax is exactly that of the
whole network given that the token is one of them. It may be told any token:
rows of the others are kept aside, in the base that `adapters.split` leaves out
of training, and `restore` puts the trained rows back among them.
"""

import dataclasses

import jax
import numpy as np

from pav_jax.models import transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer import WHOLE
from pav_jax.models.transformer_config import KeptTokens, TransformerConfig


def trim(
  config: TransformerConfig,
  params: dict,
  kept: KeptTokens,
  *,
  layout: Layout | None = None,
) -> tuple[TransformerConfig, dict]:
  """The network with logits of some tokens alone.

  Args:
    config: of the network, without kept tokens or adapters.
    params: its parameters, which the result shares.
    kept: the tokens.
    layout: where the parameters lie; None for one device.

  Raises:
    ValueError: if a token is not one of the network's, or the number of tokens
      does not divide over the layout.
  """
  config = dataclasses.replace(config, kept=kept)
  where = layout and transformer.shardings(config, layout)
  params = dict(params)
  for name in _names(config):
    whole = params[name]
    take = jax.jit(
      lambda x: x[np.asarray(kept.ids)], out_shardings=where and where[name]
    )
    params |= {name: take(whole), name + WHOLE: whole}
  return config, params


def restore(
  config: TransformerConfig, params: dict
) -> tuple[TransformerConfig, dict]:
  """The inverse of `trim`: rows of kept tokens as trained, others as before."""
  if config.kept is None:
    return config, params
  ids, params = np.asarray(config.kept.ids), dict(params)
  for name in _names(config):
    whole = params.pop(name + WHOLE)
    put = jax.jit(
      lambda whole, rows: whole.at[ids].set(rows),
      out_shardings=whole.sharding,
    )
    params[name] = put(whole, params[name])
  return dataclasses.replace(config, kept=None), params


def _names(config: TransformerConfig) -> tuple[str, ...]:
  return ("embedding",) if config.tied else ("embedding", "output")
