"""The network of a verifier: a language model, and a reader of its surprise.

The *trunk* is a language model, such as the policy. A *reader*, a few layers
more, sees the trunk's hidden states and how surprising each token was under the
trunk's own prediction of it; a scalar head reads the value of a prefix at its
last token. Without reader layers the head reads the trunk itself (Sec. 4.2).

Why surprise is handed over: whether a step is right can be told from how the
prediction of its result compares with the result. A trunk computes the
prediction in its last layers, at the token before, where nothing later attends
to it; to find the comparison from labels of values alone, layers that are added
would have to learn both to look there and to match. On arithmetic they did not:
the area under the ROC curve within a kind of operation stayed at .5. With
surprise it is .97 and more after few hundred steps (docs/verifiers.md).

What is read at a token depends on the tokens up to there alone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from pav_jax.models import adapters, heads, next_token, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig

_FEATURES, _HIDDEN = 4, 32


@dataclasses.dataclass(frozen=True)
class VerifierConfig:
  """The network's static shape.

  Attributes:
    trunk: the language model's.
    reader_layers: 0 for a head on the trunk. Otherwise the reader's layers are
      as the last ones of the trunk's pattern in width, heads and windows.

  Raises:
    ValueError: if the number of layers is negative.
  """

  trunk: TransformerConfig
  reader_layers: int = 0

  def __post_init__(self):
    if self.reader_layers < 0:
      raise ValueError(f"reader_layers is {self.reader_layers}, expected >= 0")

  @property
  def reader(self) -> TransformerConfig:
    """The shape of the reader's layers.

    Raises:
      ValueError: if there is none.
    """
    if not self.reader_layers:
      raise ValueError("reader_layers is 0: there is no reader")
    # Its embedding is never used; 1 token keeps it out of the way.
    config = self.trunk.with_layers(
      self.reader_layers, first=-self.reader_layers
    )
    return dataclasses.replace(config, vocab_size=1, lora=None, kept=None)


def init(config: VerifierConfig, trunk: dict, key: jax.Array) -> dict:
  """A verifier that gives every prefix one half.

  Args:
    config: the network's shape.
    trunk: parameters of the language model.
    key: of the reader.

  Returns:
    `{"trunk", "head"}` and, with a reader, `"reader"`.
  """
  params = {"trunk": trunk, "head": heads.init(config.trunk)}
  if config.reader_layers:
    params["reader"] = init_reader(config, key)
  return params


def split(params: dict, *, frozen: bool = False) -> tuple[dict, dict]:
  """What is trained and what is not, as `adapters.split` has it.

  Args:
    params: from `init`.
    frozen: whether nothing of the trunk is trained. If it is, its adapters are
      where it has any, and else all of it.
  """
  if frozen:
    rest = {name: part for name, part in params.items() if name != "trunk"}
    return rest, {"trunk": params["trunk"]}
  trunk, base = adapters.split(params["trunk"])
  return params | {"trunk": trunk}, {"trunk": base} if base else {}


@functools.lru_cache
def _reader_shapes(config: VerifierConfig) -> dict:
  """A trace of the reader, which takes a while."""
  return jax.eval_shape(
    functools.partial(init_reader, config), jax.random.key(0)
  )


def shapes(config: VerifierConfig) -> dict:
  """A `jax.ShapeDtypeStruct` for each parameter, the trunk's too."""
  found = {
    "trunk": transformer.shapes(config.trunk),
    "head": jax.eval_shape(functools.partial(heads.init, config.trunk)),
  }
  if config.reader_layers:
    found["reader"] = jax.tree.map(lambda x: x, _reader_shapes(config))
  return found


def init_reader(config: VerifierConfig, key: jax.Array) -> dict:
  """The reader's parameters, in the trunk's `param_dtype`."""
  layer_key, into_key, back_key = jax.random.split(key, 3)
  params = transformer.init(config.reader, layer_key)
  dtype = jnp.dtype(config.trunk.param_dtype)
  into = jax.random.normal(into_key, (_FEATURES, _HIDDEN)) / _FEATURES**0.5
  back = jax.random.normal(back_key, (_HIDDEN, config.trunk.width))
  return {
    "layers": params["layers"],
    "final_norm": params["final_norm"],
    "surprise": {
      "into": into.astype(dtype),
      "bias": jnp.zeros(_HIDDEN, dtype),
      "back": (back / _HIDDEN**0.5).astype(dtype),
    },
  }


def logical_axes(config: VerifierConfig) -> dict:
  """A `PartitionSpec` of logical axis names for each parameter."""
  axes = {
    "trunk": transformer.logical_axes(config.trunk),
    "head": heads.logical_axes(),
  }
  if config.reader_layers:
    reader = transformer.logical_axes(config.reader)
    axes["reader"] = {
      "layers": reader["layers"],
      "final_norm": reader["final_norm"],
      "surprise": {
        "into": PartitionSpec("norm", "norm"),
        "bias": PartitionSpec("norm"),
        "back": PartitionSpec("norm", "embed"),
      },
    }
  return axes


def shardings(config: VerifierConfig, layout: Layout) -> dict:
  """How `layout` splits each parameter.

  Raises:
    ValueError: naming a parameter that does not divide evenly.
  """
  return layout.shardings(logical_axes(config), shapes(config))


def surprise(
  logits: Float[Array, "*B V"], tokens: Int[Array, "*B"]
) -> Float[Array, "*B 4"]:
  """How a token compares with what was expected in its place.

  Its log-probability in nats, divided by 4, its probability,
  the entropy of the prediction in nats, and by how much its log-probability
  falls short of the likeliest token's, divided by 4. No gradient passes.
  """
  logp = jax.nn.log_softmax(jax.lax.stop_gradient(logits).astype(jnp.float32))
  of_token = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
  prob = jnp.exp(logp)
  entropy = -jnp.sum(prob * logp, axis=-1)
  short = of_token - jnp.max(logp, axis=-1)
  return jnp.stack(
    [of_token / 4, jnp.exp(of_token), entropy, short / 4], axis=-1
  )


def surprise_of_next(
  config: VerifierConfig,
  trunk: dict,
  hidden: Float[Array, "B T D"],
  tokens: Int[Array, "B T"],
  *,
  layout: Layout | None = None,
) -> Float[Array, "B T 4"]:
  """`surprise` of the tokens that follow the trunk's hidden states."""
  return next_token.read(
    config.trunk,
    jax.lax.stop_gradient(trunk),
    jax.lax.stop_gradient(hidden),
    tokens,
    surprise,
    layout=layout,
  )


def reader_input(
  reader: dict,
  hidden: Float[Array, "*B D"],
  features: Float[Array, "*B 4"],
) -> Float[Array, "*B D"]:
  """The residual stream before the reader's first layer.

  Args:
    reader: its parameters.
    hidden: of the trunk, at a token.
    features: `surprise` of the same token, zeros for the first of a text.
  """
  weights = jax.tree.map(lambda x: x.astype(jnp.float32), reader["surprise"])
  inside = jax.nn.gelu(features @ weights["into"] + weights["bias"])
  return hidden + (inside @ weights["back"]).astype(hidden.dtype)


def hidden_states(
  config: VerifierConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  layout: Layout | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"]]:
  """The trunk's output, and what the head reads: the reader's.

  Args:
    config: the network's shape.
    params: from `init`.
    tokens: in 0 … V - 1, a text a row from its first token on.
    layout: where activations lie; None to leave that to the compiler.

  Raises:
    ValueError: if T exceeds the trunk's `max_length`.
  """
  trunk = transformer.hidden_states(
    config.trunk, params["trunk"], tokens, layout=layout
  )
  if not config.reader_layers:
    return trunk, trunk
  features = surprise_of_next(
    config, params["trunk"], trunk[:, :-1], tokens[:, 1:], layout=layout
  )
  features = jnp.pad(features, ((0, 0), (1, 0), (0, 0)))
  read = transformer.run_layers(
    config.reader,
    params["reader"],
    reader_input(params["reader"], trunk, features),
    layout=layout,
  )
  return trunk, read


def values(
  config: VerifierConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  at: Int[Array, "B N"],
  *,
  layout: Layout | None = None,
) -> Float[Array, "B N"]:
  """Logits of values, float32, read at some tokens after one pass.

  Args:
    config: the network's shape.
    params: from `init`.
    tokens: in 0 … V - 1.
    at: indices of tokens, each in 0 … T - 1: the last of each prefix.
    layout: where activations lie.
  """
  _, read = hidden_states(config, params, tokens, layout=layout)
  return heads.read(params["head"], read, at)
