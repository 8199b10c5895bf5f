"""Layers of a decoder, and the one loop that runs through all of them.

Parameters and caches of layers have one form: for each layer of a period, by
its name, arrays stacked over periods; and under "remainder", unstacked, those
of the layers after the last whole period. Where few layers are unrolled it is a
tuple over layers instead, see `unstack`.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models.activations import gated
from pav_jax.models.attention import Mix, rotate
from pav_jax.models.dense import dense
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import LayerSpec, TransformerConfig

REST = "remainder"

# Layers of networks with so few may be unrolled.
MAX_UNROLLED = 8


def kernel_init(inputs: int, *axes: str):
  """Normal with variance 1 / inputs, and the logical names of the axes."""
  return nn.with_logical_partitioning(
    nn.initializers.normal(inputs**-0.5), axes
  )


class RMSNorm(nn.Module):
  """`x / rms(x)` times a scale, or 1 + scale, in float32; 1 in all at first."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The normalised input, in its own type."""
    offset = self.config.norm_offset
    start = nn.initializers.zeros if offset else nn.initializers.ones
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(start, ("norm",)),
      (x.shape[-1],),
      jnp.dtype(self.config.param_dtype),
    ).astype(jnp.float32)
    y = x.astype(jnp.float32)
    mean_square = jnp.mean(y * y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(mean_square + self.config.norm_eps)
    return (y * (1 + scale if offset else scale)).astype(x.dtype)


class MLP(nn.Module):
  """`(f(x · gate) * (x · up)) · down`, see `activations.gated`."""

  config: TransformerConfig
  layout: Layout | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The layer's output."""
    config = self.config

    def project(name, x, inputs, outputs, axes):
      kernel = self.param(
        name,
        kernel_init(inputs, *axes),
        (inputs, outputs),
        jnp.dtype(config.param_dtype),
      )
      y = dense(x, kernel)
      return y + _bias(self, name, y, axes[1:]) if config.mlp_bias else y

    into = (config.width, config.mlp_width, ("embed", "mlp"))
    back = (config.mlp_width, config.width, ("mlp", "embed"))
    gate, up = project("gate", x, *into), project("up", x, *into)
    y = gated(config.activation, gate, up)
    y = constrain(self.layout, y, "batch", "length", "mlp")
    return project("down", y, *back)


class Attention(nn.Module):
  """Attention of a layer; its parameters and projections."""

  config: TransformerConfig
  spec: LayerSpec
  layout: Layout | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    mix: Mix,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """What each token gathers through `mix`, and what that keeps."""
    config = self.config
    dtype = jnp.dtype(config.param_dtype)

    def project(name: str, heads: int, axis: str) -> jax.Array:
      kernel = self.param(
        name,
        kernel_init(config.width, "embed", axis, "head_dim"),
        (config.width, heads, config.head_dim),
        dtype,
      )
      y = dense(x, kernel)
      if config.qkv_bias:
        y += _bias(self, name, y, (axis, "head_dim"))
      return constrain(self.layout, y, "sequences", "length", axis, "head_dim")

    query = project("query", config.num_heads, "heads")
    key = project("key", config.num_kv_heads, "kv_heads")
    value = project("value", config.num_kv_heads, "kv_heads")
    if config.qk_norm:
      query = RMSNorm(config, name="query_norm")(query)
      key = RMSNorm(config, name="key_norm")(key)
    gathered, kept = mix(
      rotate(query, positions, self.spec.rotary),
      rotate(key, positions, self.spec.rotary),
      value,
    )
    gathered = constrain(
      self.layout, gathered, "batch", "length", "heads", "head_dim"
    )
    out = self.param(
      "out",
      kernel_init(
        config.num_heads * config.head_dim, "heads", "head_dim", "embed"
      ),
      (config.num_heads, config.head_dim, config.width),
      dtype,
    )
    y = dense(gathered, out, axes=2)
    if config.out_bias:
      y += _bias(self, "out", y, ("embed",))
    return y, kept


def _bias(
  module: nn.Module, name: str, y: jax.Array, axes: tuple[str, ...]
) -> jax.Array:
  """The bias of a projection with the output `y`; 0 at first."""
  bias = module.param(
    f"{name}_bias",
    nn.with_logical_partitioning(nn.initializers.zeros, axes),
    y.shape[y.ndim - len(axes) :],
    jnp.dtype(module.config.param_dtype),
  )
  return bias.astype(y.dtype)


class Layer(nn.Module):
  """Attention and MLP, each behind a norm and beside the residual."""

  config: TransformerConfig
  spec: LayerSpec
  layout: Layout | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    mix: Mix,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """The residual stream after this layer, and what `mix` keeps."""
    config, layout = self.config, self.layout

    def norm(name, x):
      return RMSNorm(config, name=name)(x)

    def after(name, x):
      return norm(name, x) if config.post_norms else x

    y = norm("pre_attention_norm", x)
    attention = Attention(config, self.spec, layout, name="attention")
    y, kept = attention(y, positions, mix)
    x = x + after("post_attention_norm", y)
    x = constrain(layout, x, "batch", "length", "residual")
    y = MLP(config, layout, name="mlp")(norm("pre_mlp_norm", x))
    x = x + after("post_mlp_norm", y)
    return constrain(layout, x, "batch", "length", "residual"), kept


def final_norm(
  config: TransformerConfig, params: dict, x: Float[Array, "*B D"]
) -> Float[Array, "*B D"]:
  """The backbone's output from the residual stream after its last layer."""
  return RMSNorm(config).apply({"params": params["final_norm"]}, x)


# A layer of the loop: its specification, the residual stream, its parameters
# and its part of each cache, to the stream after it and what is kept.
Body = Callable[..., tuple[jax.Array, PyTree]]


def run(
  config: TransformerConfig,
  x: Float[Array, "B T D"],
  body: Body,
  params: PyTree,
  *caches: PyTree,
  remat: str = "none",
) -> tuple[Float[Array, "B T D"], PyTree]:
  """Goes through all layers.

  Args:
    config: the network's shape.
    x: the residual stream before the first layer.
    body: of a layer.
    params: of layers, stacked or unrolled.
    *caches: of the same form.
    remat: as of `TransformerConfig`, for each period.

  Returns:
    The stream after the last layer, and what layers keep, in the form that
    parameters have.
  """
  if isinstance(params, tuple):
    kept = []
    for spec, *parts in zip(config.layers, params, *caches, strict=True):
      x, new = body(spec, x, *parts)
      kept.append(new)
    return x, tuple(kept)

  def block(specs, x, parts):
    kept = {}
    for spec in specs:
      x, kept[spec.name] = body(spec, x, *(part[spec.name] for part in parts))
    return x, kept

  if remat != "none":
    keep = {
      "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
      "full": jax.checkpoint_policies.nothing_saveable,
    }[remat]
    block = jax.checkpoint(
      block, policy=keep, prevent_cse=False, static_argnums=0
    )
  kept, parts = {}, (params, *caches)
  if config.num_periods:
    stacked = tuple(_without_rest(part) for part in parts)
    step = functools.partial(block, config.period)
    x, kept = jax.lax.scan(step, x, stacked)
  if config.remainder:
    rest = tuple(part[REST] for part in parts)
    x, kept[REST] = block(config.remainder, x, rest)
  return x, kept


def _without_rest(tree: dict) -> dict:
  return {name: branch for name, branch in tree.items() if name != REST}


def is_shallow(config: TransformerConfig) -> bool:
  """Whether decoding's layers are unrolled.

  Slices of stacked caches and parameters would be copied for each token. Deeper
  networks are scanned, so that programs stay small.
  """
  return config.num_layers <= MAX_UNROLLED


def unstack(config: TransformerConfig, tree: PyTree) -> PyTree:
  """Parameters or caches of layers, as decoding wants them.

  Returns:
    A tuple over layers if there are few, and else `tree`.
  """
  return layers_of(config, tree) if is_shallow(config) else tree


def layers_of(config: TransformerConfig, tree: PyTree) -> tuple[PyTree, ...]:
  """Parameters or caches, stacked over periods, of each layer."""
  layers = [
    jax.tree.map(operator.itemgetter(i), tree[spec.name])
    for i in range(config.num_periods)
    for spec in config.period
  ]
  return (*layers, *(tree[REST][spec.name] for spec in config.remainder))


def stack(config: TransformerConfig, layers: Sequence[PyTree]) -> PyTree:
  """The inverse of `layers_of`."""
  size, whole = len(config.period), config.num_periods * len(config.period)
  tree = {}
  if whole:
    for i, spec in enumerate(config.period):
      alike = layers[i:whole:size]
      tree[spec.name] = jax.tree.map(lambda *x: jnp.stack(x), *alike)
  if config.remainder:
    names = [spec.name for spec in config.remainder]
    tree[REST] = dict(zip(names, layers[whole:], strict=True))
  return tree


def repeated(config: TransformerConfig, part: PyTree) -> PyTree:
  """The same for each layer, stacked.

  Args:
    config: the network's shape.
    part: of one layer.
  """
  tree, number = {}, config.num_periods
  if number:
    stacked = jax.tree.map(lambda x: jnp.repeat(x[None], number, 0), part)
    tree = {spec.name: stacked for spec in config.period}
  if config.remainder:
    tree[REST] = {spec.name: part for spec in config.remainder}
  return tree


def map_layers(fn: Callable[..., PyTree], *trees: PyTree) -> PyTree:
  """Applies a function to what each layer has, whatever the form.

  Args:
    fn: of a layer's part of each tree.
    *trees: parameters or caches; stacked layers are mapped over at once.
  """
  if isinstance(trees[0], tuple):
    return tuple(fn(*parts) for parts in zip(*trees, strict=True))
  out = {
    name: jax.vmap(fn)(*(tree[name] for tree in trees))
    for name in _without_rest(trees[0])
  }
  if REST in trees[0]:
    rest = [tree[REST] for tree in trees]
    out[REST] = {name: fn(*(part[name] for part in rest)) for name in rest[0]}
  return out
