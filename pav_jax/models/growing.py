"""More layers for a trained transformer, which at first change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pav_jax.models import transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

_POST_NORMS = ("post_attention_norm", "post_mlp_norm")


def grow(
  config: TransformerConfig,
  params: dict,
  num_layers: int,
  key: jax.Array,
  *,
  layout: Layout | None = None,
) -> tuple[TransformerConfig, dict]:
  """Appends pairs of layers that are exactly the identity.

  The norms after attention and MLP multiply by 1 + scale. With a scale of −1
  the new layers add zeros to the residual stream. Their kernels are random, so
  the scales have a gradient from the first step on and the kernels from the
  second.

  Args:
    config: of the network.
    params: of the network.
    num_layers: of the result; even, and no fewer than there are.
    key: of the new kernels.
    layout: where the result lies; None for one device.

  Returns:
    Configuration and parameters of the deeper network.

  Raises:
    ValueError: if `num_layers` is odd, or less than there are.
  """
  added = num_layers - config.num_layers
  if added < 0 or added % 2:
    raise ValueError(
      f"num_layers is {num_layers}, expected an even number, at least "
      f"{config.num_layers}, the layers there are"
    )
  if not added:
    return config, params
  grown = dataclasses.replace(config, num_layers=num_layers)
  shardings = layout and transformer.shardings(grown, layout)
  join = functools.partial(_join, dataclasses.replace(config, num_layers=added))
  return grown, jax.jit(join, out_shardings=shardings)(params, key)


def _join(config: TransformerConfig, params: dict, key: jax.Array) -> dict:
  """Parameters with those of `config`'s layers, made idle, at the end."""
  added = transformer.init(config, key)["layers"]
  for layer in added.values():
    for norm in _POST_NORMS:
      layer[norm]["scale"] = -jnp.ones_like(layer[norm]["scale"])
  layers = jax.tree.map(
    lambda x, y: jnp.concatenate([x, y.astype(x.dtype)]),
    params["layers"],
    added,
  )
  return params | {"layers": layers}
