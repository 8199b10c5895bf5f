"""Layers of a decoder, and the one loop that runs through all of them.

Parameters and caches of layers have one form: for each layer of a period, by
its name, arrays stacked over periods; and under "remainder", unstacked, those
of the layers after the last whole period. Where layers are unrolled it is a
tuple over layers instead, see `unstack`.
"""

import functools
import math
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

# The parameters of a kernel's adapter: its name, and one of these.
LORA_A, LORA_B = "_lora_a", "_lora_b"

# Layers are unrolled where there are so few, or so few of so small a width.
MAX_UNROLLED, MAX_UNROLLED_NARROW, NARROW = 8, 32, 1024


def kernel_init(inputs: int, *axes: str):
  """Normal with variance 1 / inputs, and the logical names of the axes."""
  return nn.with_logical_partitioning(
    nn.initializers.normal(inputs**-0.5), axes
  )


def _zeros(*axes: str):
  """Zeros, and the logical names of the axes."""
  return nn.with_logical_partitioning(nn.initializers.zeros, axes)


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


def _project(
  module: nn.Module,
  name: str,
  x: Float[Array, "..."],
  axes: tuple[str, ...],
  outputs: tuple[int, ...],
  *,
  has_bias: bool = False,
) -> jax.Array:
  """Products with a kernel, and what its adapter and its bias add to them.

  Args:
    module: whose parameters these are.
    name: of the kernel.
    x: [*B, *I].
    axes: logical names of the kernel's axes, those of I before those of O.
    outputs: O.
    has_bias: whether there is a bias, 0 at first.

  Returns:
    [*B, *O].
  """
  num, lora = len(axes) - len(outputs), module.config.lora
  inputs, dtype = x.shape[-num:], jnp.dtype(module.config.param_dtype)
  size = math.prod(inputs)
  kernel = module.param(
    name, kernel_init(size, *axes), (*inputs, *outputs), dtype
  )
  y = dense(x, kernel, axes=num)
  if lora is not None and name in lora.targets:
    into = module.param(
      name + LORA_A,
      kernel_init(size, *axes[:num], "rank"),
      (*inputs, lora.rank),
      jnp.float32,
    )
    back = module.param(
      name + LORA_B,
      _zeros("rank", *axes[num:]),
      (lora.rank, *outputs),
      jnp.float32,
    )
    y += lora.scale * dense(dense(x, into, axes=num), back)
  if has_bias:
    bias = module.param(f"{name}_bias", _zeros(*axes[num:]), outputs, dtype)
    y += bias.astype(y.dtype)
  return y


class MLP(nn.Module):
  """`(f(x · gate) * (x · up)) · down`, see `activations.gated`."""

  config: TransformerConfig
  layout: Layout | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The layer's output."""
    config = self.config
    project = functools.partial(_project, self, has_bias=config.mlp_bias)
    gate, up = (
      project(name, x, ("embed", "mlp"), (config.mlp_width,))
      for name in ("gate", "up")
    )
    y = gated(config.activation, gate, up)
    y = constrain(self.layout, y, "batch", "length", "mlp")
    return project("down", y, ("mlp", "embed"), (config.width,))


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

    def project(name: str, heads: int, axis: str) -> jax.Array:
      y = _project(
        self,
        name,
        x,
        ("embed", axis, "head_dim"),
        (heads, config.head_dim),
        has_bias=config.qkv_bias,
      )
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
    y = _project(
      self,
      "out",
      gathered,
      ("heads", "head_dim", "embed"),
      (config.width,),
      has_bias=config.out_bias,
    )
    return y, kept


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
  """Whether a network has so few layers that compiling each costs little."""
  return config.num_layers <= MAX_UNROLLED


def is_unrolled(config: TransformerConfig) -> bool:
  """Whether decoding's layers are unrolled.

  Slices of stacked caches and parameters would be copied for each token. Deep
  networks are scanned, so that programs stay small; and so are wide ones, as
  the unstacked parameters are a second copy.
  """
  is_narrow = config.width <= NARROW
  return is_shallow(config) or (
    is_narrow and config.num_layers <= MAX_UNROLLED_NARROW
  )


def unstack(config: TransformerConfig, tree: PyTree) -> PyTree:
  """Parameters or caches of layers, as decoding wants them.

  Returns:
    A tuple over layers if `is_unrolled`, and else `tree`.
  """
  return layers_of(config, tree) if is_unrolled(config) else tree


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
