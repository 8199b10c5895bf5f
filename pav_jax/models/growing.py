"""More layers for a trained transformer, which at first change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pav_jax.models import layers, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig


def grow(
  config: TransformerConfig,
  params: dict,
  num_layers: int,
  key: jax.Array,
  *,
  layout: Layout | None = None,
) -> tuple[TransformerConfig, dict]:
  """Appends layers that are exactly the identity.

  The norms after attention and MLP, where there are such, multiply by zero, and
  otherwise the last kernels of attention and MLP are zero: the new layers add
  zeros to the residual stream. Their other kernels are random, so what is zero
  has a gradient from the first step on and the rest from the second.

  Args:
    config: of the network.
    params: of the network.
    num_layers: of the result, no fewer than there are.
    key: of the new kernels.
    layout: where the result lies; None for one device.

  Returns:
    Configuration and parameters of the deeper network.

  Raises:
    ValueError: if `num_layers` is less than there are.
  """
  added = num_layers - config.num_layers
  if added < 0:
    raise ValueError(
      f"num_layers is {num_layers}, expected at least {config.num_layers}, the "
      "layers there are"
    )
  if not added:
    return config, params
  grown = dataclasses.replace(config, num_layers=num_layers)
  shardings = layout and transformer.shardings(grown, layout)
  join = functools.partial(_join, dataclasses.replace(config, num_layers=added))
  join = functools.partial(_join, config, grown)
  return grown, jax.jit(join, out_shardings=shardings)(params, key)


def _join(
  config: TransformerConfig,
  grown: TransformerConfig,
  params: dict,
  key: jax.Array,
) -> dict:
  """Parameters with those of more layers, which are idle, at the end."""
  added = config.with_layers(
    grown.num_layers - config.num_layers, first=config.num_layers
  )
  new = transformer.init(added, key)["layers"]
  every = [
    *layers.layers_of(config, params["layers"]),
    *(_idle(config, layer) for layer in layers.layers_of(added, new)),
  ]
  old_types = jax.tree.map(lambda x: x.dtype, every[0])
  every = [
    jax.tree.map(lambda x, dtype: x.astype(dtype), layer, old_types)
    for layer in every
  ]
  return params | {"layers": layers.stack(grown, every)}


def _idle(config: TransformerConfig, layer: dict) -> dict:
  """A new layer, whose biases are zero anyway, made to add nothing."""
  if config.post_norms:
    zero = -1.0 if config.norm_offset else 0.0
    norms = ("post_attention_norm", "post_mlp_norm")
    return layer | {
      name: {"scale": jnp.full_like(layer[name]["scale"], zero)}
      for name in norms
    }
  return layer | {
    name: layer[name] | {last: jnp.zeros_like(layer[name][last])}
    for name, last in (("attention", "out"), ("mlp", "down"))
  }
