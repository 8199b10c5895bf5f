"""Decoders of the families in `models.families`, as functions of parameters.

Parameters are a nested dictionary of plain arrays: the embedding, the output
layer where it is not the embedding, the last norm, and those of layers, in the
form that `layers` describes. Linen makes them; `layers.run` goes through them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.models import layers
from pav_jax.models.attention import mix_causal
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import LayerSpec, TransformerConfig

# Of a network with `KeptTokens`, the rows of all tokens, which are not trained.
WHOLE = "_of_all"


class _Layers(nn.Module):
  """Some layers in a row, for their parameters."""

  config: TransformerConfig
  specs: tuple[LayerSpec, ...]

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array) -> tuple[Any, None]:
    for spec in self.specs:
      layer = layers.Layer(self.config, spec, name=spec.name)
      x, _ = layer(x, positions, lambda query, key, value: (query, None))
    return x, None


class _Transformer(nn.Module):
  """The network, for its parameters."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: jax.Array, positions: jax.Array) -> None:
    config = self.config
    names = ("embedding",) if config.tied else ("embedding", "output")
    sizes = dict.fromkeys(names, config.num_outputs)
    if config.kept is not None:
      sizes |= {name + WHOLE: config.vocab_size for name in names}
    for name, size in sizes.items():
      self.param(
        name,
        layers.kernel_init(config.width, "vocab", "embed"),
        (size, config.width),
        jnp.dtype(config.param_dtype),
      )
    if config.num_periods:
      x, _ = nn.scan(
        _Layers,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=config.num_periods,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )(config, config.period, name="layers")(x, positions)
    if config.remainder:
      x, _ = _Layers(config, config.remainder, name=layers.REST)(x, positions)
    layers.RMSNorm(config, name="final_norm")(x)


def _init(config: TransformerConfig, key: jax.Array) -> PyTree:
  """Parameters in flax's boxes, which carry the names of their axes."""
  x = jnp.zeros((1, 1, config.width), config.dtype)
  params = dict(_Transformer(config).init(key, x, jnp.zeros((1, 1), int)))
  params = dict(params["params"])
  if config.remainder:
    rest = {layers.REST: params.pop(layers.REST)}
    params["layers"] = params.get("layers", {}) | rest
  return params


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


def embed(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  layout: Layout | None = None,
) -> Float[Array, "B T D"]:
  """The residual stream before the first layer."""
  if config.kept is None:
    x = params["embedding"][tokens]
  else:
    place = places(config, tokens)
    x = jnp.where(
      (place < config.num_outputs)[..., None],
      params["embedding"].at[place].get(mode="clip"),
      params["embedding" + WHOLE][tokens],
    )
  x = x.astype(config.dtype)
  if config.scaled_embedding:
    x *= jnp.asarray(config.width**0.5, x.dtype)
  return constrain(layout, x, "batch", "length", "residual")


def hidden_states(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  positions: Int[Array, "B T"] | None = None,
  segments: Int[Array, "B T"] | None = None,
  layout: Layout | None = None,
) -> Float[Array, "B T D"]:
  """The backbone's output after its last norm, in `config.dtype`.

  A token sees the tokens of its own segment whose position is not above its
  own. Only differences of positions matter. So padding at the end needs
  nothing, padding at the beginning needs a segment of its own, and sequences
  packed into one row need a segment each. Memory is linear in T.

  Args:
    config: the network's shape.
    params: from `init`.
    tokens: in 0 … V - 1.
    positions: of tokens in their text, rising along each segment; None for
      0 … T - 1 in every row.
    segments: equal for tokens that belong together, which lie side by side;
      None for one per row.
    layout: where activations lie; None to leave that to the compiler.

  Raises:
    ValueError: if T exceeds `config.max_length`.
  """
  if tokens.shape[1] > config.max_length:
    raise ValueError(
      f"tokens have length {tokens.shape[1]}, expected at most max_length = "
      f"{config.max_length}"
    )
  x = embed(config, params, tokens, layout=layout)
  return run_layers(
    config, params, x, positions=positions, segments=segments, layout=layout
  )


def run_layers(
  config: TransformerConfig,
  params: dict,
  x: Float[Array, "B T D"],
  *,
  positions: Int[Array, "B T"] | None = None,
  segments: Int[Array, "B T"] | None = None,
  layout: Layout | None = None,
) -> Float[Array, "B T D"]:
  """The layers and the last norm alone, over a residual stream.

  Args:
    config: the network's shape.
    params: from `init`; the embedding may be absent.
    x: the stream before the first layer.
    positions: as of `hidden_states`.
    segments: as of `hidden_states`.
    layout: where activations lie; None to leave that to the compiler.
  """
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])

  def body(spec, x, params):
    mix = mix_causal(config, spec, positions, segments, layout)
    layer = layers.Layer(config, spec, layout)
    return layer.apply({"params": params}, x, positions, mix)[0], None

  x = constrain(layout, x, "batch", "length", "residual")
  x, _ = layers.run(config, x, body, params["layers"], remat=config.remat)
  return layers.final_norm(config, params, x)


def places(
  config: TransformerConfig, tokens: Int[Array, "*B"]
) -> Int[Array, "*B"]:
  """Which logit is a token's; `num_outputs` where it has none."""
  if config.kept is None:
    return tokens
  return jnp.asarray(config.kept.places(config.vocab_size))[tokens]


def output_layer(config: TransformerConfig) -> str:
  """The name of the parameter [V, D] that gives logits."""
  return "embedding" if config.tied else "output"


def logits(
  config: TransformerConfig,
  params: dict,
  hidden: Float[Array, "*B D"],
) -> Float[Array, "*B V"]:
  """Logits of the next token in float32, capped or not, from hidden states.

  Of all tokens, or in their order of those that `config.kept` has.
  """
  x = jnp.einsum(
    "...d,vd->...v",
    hidden,
    params[output_layer(config)].astype(hidden.dtype),
    preferred_element_type=jnp.float32,
  )
  cap = config.final_softcap
  return x if cap is None else cap * jnp.tanh(x / cap)


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
