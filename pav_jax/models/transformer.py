"""A decoder of Gemma 2's architecture (arXiv 2408.00118).

Layers come in pairs, one that attends within a sliding window and one that
attends to everything before, and the pairs are scanned: the program's size does
not depend on their number. Parameters are a nested dictionary of plain arrays,
those of layers stacked along a leading axis of pairs.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pav_jax.models.activations import gated_gelu
from pav_jax.models.attention import (
  Attention,
  Mix,
  kernel_init,
  mix_masked,
  visible,
)
from pav_jax.models.dense import dense
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import TransformerConfig


class RMSNorm(nn.Module):
  """`x / rms(x) · (1 + scale)` in float32; scale is 0 at first."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The normalised input, in its own type."""
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)),
      (x.shape[-1],),
      jnp.dtype(self.config.param_dtype),
    )
    y = x.astype(jnp.float32)
    mean_square = jnp.mean(y * y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(mean_square + self.config.norm_eps)
    return (y * (1 + scale.astype(jnp.float32))).astype(x.dtype)


class MLP(nn.Module):
  """`(gelu(x · gate) * (x · up)) · down`, with the tanh form of GELU."""

  config: TransformerConfig
  layout: Layout | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The layer's output."""
    config = self.config
    dtype = jnp.dtype(config.param_dtype)
    into = kernel_init(config.width, "embed", "mlp")
    back = kernel_init(config.mlp_width, "mlp", "embed")
    shape = (config.width, config.mlp_width)
    gate = self.param("gate", into, shape, dtype)
    up = self.param("up", into, shape, dtype)
    down = self.param("down", back, shape[::-1], dtype)
    y = gated_gelu(dense(x, gate), dense(x, up))
    y = constrain(self.layout, y, "batch", "length", "mlp")
    return dense(y, down)


class Layer(nn.Module):
  """Attention and MLP, each between two norms and beside the residual."""

  config: TransformerConfig
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
    norm = functools.partial(RMSNorm, config)
    hold = functools.partial(constrain, layout)
    y = norm(name="pre_attention_norm")(x)
    y, kept = Attention(config, layout, name="attention")(y, positions, mix)
    x = x + norm(name="post_attention_norm")(y)
    x = hold(x, "batch", "length", "residual")
    y = MLP(config, layout, name="mlp")(norm(name="pre_mlp_norm")(x))
    x = x + norm(name="post_mlp_norm")(y)
    return hold(x, "batch", "length", "residual"), kept


class Pair(nn.Module):
  """A local layer, then a global one: what is scanned."""

  config: TransformerConfig
  layout: Layout | None = None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    local_mask: Bool[Array, "B T T"],
    global_mask: Bool[Array, "B T T"],
  ) -> tuple[Float[Array, "B T D"], None]:
    """The residual stream after the pair."""
    for name, mask in (("local", local_mask), ("global", global_mask)):
      layer = Layer(self.config, self.layout, name=name)
      x, _ = layer(x, positions, mix_masked(self.config, mask))
    return x, None


class Transformer(nn.Module):
  """The network; use it through the functions below."""

  config: TransformerConfig
  layout: Layout | None = None

  def setup(self):
    """Makes the parts."""
    config = self.config
    self.embedding = self.param(
      "embedding",
      kernel_init(config.width, "vocab", "embed"),
      (config.vocab_size, config.width),
      jnp.dtype(config.param_dtype),
    )
    pair = Pair
    if config.remat != "none":
      keep = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
      }[config.remat]
      pair = nn.remat(Pair, policy=keep, prevent_cse=False)
    self.layers = nn.scan(
      pair,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=config.num_layers // 2,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(config, self.layout)
    self.final_norm = RMSNorm(config)

  def embed(self, tokens: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """The residual stream before the first layer."""
    x = self.embedding[tokens].astype(self.config.dtype)
    return x * jnp.asarray(self.config.width**0.5, x.dtype)

  def hidden_states(
    self,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
  ) -> Float[Array, "B T D"]:
    """See the function below."""
    return self.run_layers(self.embed(tokens), positions, segments)

  def run_layers(
    self,
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
  ) -> Float[Array, "B T D"]:
    """See the function below."""
    x = constrain(self.layout, x, "batch", "length", "residual")
    sees = functools.partial(visible, positions, positions, segments, segments)
    x, _ = self.layers(x, positions, sees(self.config.sliding_window), sees())
    return self.final_norm(x)

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """See the function below."""
    x = jnp.einsum(
      "...d,vd->...v",
      hidden,
      self.embedding.astype(hidden.dtype),
      preferred_element_type=jnp.float32,
    )
    cap = self.config.final_softcap
    return cap * jnp.tanh(x / cap)


def _init(config: TransformerConfig, key: jax.Array) -> PyTree:
  """Parameters in flax's boxes, which carry the names of their axes."""
  token = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config).init(
    key, token, token, token, method="hidden_states"
  )["params"]


def init(config: TransformerConfig, key: jax.Array) -> dict:
  """Random parameters of type `config.param_dtype`.

  Kernels and embeddings have variance 1 / inputs, so a model of any width
  starts from scaled embeddings and logits of about unit variance.
  """
  return nn.meta.unbox(_init(config, key))


@functools.lru_cache
def _boxed_shapes(config: TransformerConfig) -> PyTree:
  """Shapes in flax's boxes: a trace of the network, which takes a while."""
  return jax.eval_shape(functools.partial(_init, config), jax.random.key(0))


def shapes(config: TransformerConfig) -> dict:
  """A `jax.ShapeDtypeStruct` for each parameter."""
  return nn.meta.unbox(_boxed_shapes(config))


def logical_axes(config: TransformerConfig) -> dict:
  """A `PartitionSpec` of logical axis names for each parameter."""
  return nn.get_partition_spec(_boxed_shapes(config))


def shardings(config: TransformerConfig, layout: Layout) -> dict:
  """How `layout` splits each parameter.

  Raises:
    ValueError: naming a parameter that does not divide evenly.
  """
  return layout.shardings(logical_axes(config), shapes(config))


def hidden_states(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  positions: Int[Array, "B T"] | None = None,
  segments: Int[Array, "B T"] | None = None,
  layout: Layout | None = None,
) -> Float[Array, "B T D"]:
  """The trunk's output after its last norm, in `config.dtype`.

  A token sees the tokens of its own segment whose position is not above its
  own. Only differences of positions matter. So padding at the end needs
  nothing, padding at the beginning needs a segment of its own, and sequences
  packed into one row need a segment each.

  Args:
    config: the network's shape.
    params: from `init`.
    tokens: in 0 … V - 1.
    positions: of tokens in their text; None for 0 … T - 1 in every row.
    segments: equal for tokens that belong together; None for one per row.
    layout: where activations lie; None to leave that to the compiler.

  Raises:
    ValueError: if T exceeds `config.max_length`.
  """
  if tokens.shape[1] > config.max_length:
    raise ValueError(
      f"tokens have length {tokens.shape[1]}, expected at most max_length = "
      f"{config.max_length}"
    )
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  if segments is None:
    segments = jnp.zeros_like(tokens)
  return Transformer(config, layout).apply(
    {"params": params}, tokens, positions, segments, method="hidden_states"
  )


def run_layers(
  config: TransformerConfig,
  params: dict,
  x: Float[Array, "B T D"],
  *,
  layout: Layout | None = None,
) -> Float[Array, "B T D"]:
  """The layers and the last norm alone, over a residual stream.

  Args:
    config: the network's shape.
    params: from `init`; the embedding may be absent.
    x: the stream before the first layer, a text a row from position 0 on.
    layout: where activations lie; None to leave that to the compiler.
  """
  positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
  # The embedding is a parameter of the module, and not used.
  params = {"embedding": jnp.zeros((config.vocab_size, config.width)), **params}
  return Transformer(config, layout).apply(
    {"params": params},
    x,
    positions,
    jnp.zeros_like(positions),
    method="run_layers",
  )


def logits(
  config: TransformerConfig,
  params: dict,
  hidden: Float[Array, "*B D"],
) -> Float[Array, "*B V"]:
  """Soft-capped logits of the next token in float32, from hidden states."""
  return Transformer(config).apply({"params": params}, hidden, method="logits")


def apply(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  positions: Int[Array, "B T"] | None = None,
  segments: Int[Array, "B T"] | None = None,
  layout: Layout | None = None,
) -> Float[Array, "B T V"]:
  """Logits of each next token in float32; arguments as in `hidden_states`."""
  hidden = hidden_states(
    config,
    params,
    tokens,
    positions=positions,
    segments=segments,
    layout=layout,
  )
  out = logits(config, params, hidden)
  return constrain(layout, out, "batch", "length", "vocab")
