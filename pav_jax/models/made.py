"""A masked autoregressive multi-layer perceptron (MADE, arXiv 1502.03509).

Every hidden unit has a degree m in 1 … L - 1 and sees tokens 0 … m - 1 only;
the outputs for position t see units of degree at most t, hence tokens before t.
Units are ordered by degree. So decoding computes each unit once, when the last
token that it sees is there: sampling a whole response costs one forward pass.
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.checks import check_least


@dataclasses.dataclass(frozen=True)
class MadeConfig:
  """The network's static shape.

  Attributes:
    length: L, the number of positions.
    vocab_size: V, tokens are 0 … V - 1.
    num_outputs: numbers per position: V logits for a policy, 1 for a value.
    hidden: units per hidden layer; three layers of 128 in the paper's App. B.
  """

  length: int
  vocab_size: int
  num_outputs: int
  hidden: tuple[int, ...] = (128, 128, 128)

  def __post_init__(self):
    object.__setattr__(self, "hidden", tuple(self.hidden))
    check_least(
      1,
      length=self.length,
      vocab_size=self.vocab_size,
      num_outputs=self.num_outputs,
    )
    if not self.hidden or min(self.hidden) < self.length - 1:
      raise ValueError(
        f"hidden is {self.hidden}, expected layers of at least "
        f"length - 1 = {self.length - 1} units, one for every degree"
      )


def _degrees(config: MadeConfig, units: int) -> np.ndarray:
  """Degree of each unit, ascending from 1 to L - 1 as evenly as possible."""
  return 1 + np.arange(units) * max(config.length - 1, 1) // units


def _first_unit(config: MadeConfig, layer: int, degree: int) -> int:
  """Index of the first unit of `layer` whose degree is at least `degree`."""
  return int(np.searchsorted(_degrees(config, config.hidden[layer]), degree))


def _masks(config: MadeConfig) -> list[np.ndarray]:
  """One connectivity mask per kernel, bool[inputs, outputs]."""
  token_degrees = np.repeat(1 + np.arange(config.length), config.vocab_size)
  degrees = [token_degrees] + [_degrees(config, n) for n in config.hidden]
  masks = [
    low[:, None] <= high[None, :] for low, high in itertools.pairwise(degrees)
  ]
  positions = np.repeat(np.arange(config.length), config.num_outputs)
  return [*masks, degrees[-1][:, None] <= positions[None, :]]


class Made(nn.Module):
  """The network; use it through `init`, `apply` and the decoding functions."""

  config: MadeConfig

  @nn.compact
  def __call__(self, tokens: Int[Array, "*B L"]) -> Float[Array, "*B L O"]:
    """Outputs at every position, from the tokens before it."""
    config = self.config
    x = jax.nn.one_hot(tokens, config.vocab_size)
    x = x.reshape(*tokens.shape[:-1], config.length * config.vocab_size)
    masks = _masks(config)
    for layer, mask in enumerate(masks):
      kernel = self.param(
        f"kernel_{layer}", nn.initializers.lecun_normal(), mask.shape
      )
      bias = self.param(f"bias_{layer}", nn.initializers.zeros, mask.shape[1:])
      x = x @ (kernel * mask) + bias
      if layer < len(masks) - 1:
        x = nn.relu(x)
    return x.reshape(*tokens.shape, config.num_outputs)


def init(config: MadeConfig, key: jax.Array) -> dict:
  """Parameters, a flat dictionary of float32 arrays."""
  tokens = jnp.zeros((1, config.length), jnp.int32)
  return Made(config).init(key, tokens)["params"]


def apply(
  config: MadeConfig, params: dict, tokens: Int[Array, "*B L"]
) -> Float[Array, "*B L O"]:
  """Outputs at every position; those at t depend on tokens before t alone."""
  return Made(config).apply({"params": params}, tokens)


def decode(
  config: MadeConfig,
  params: dict,
  next_token_fn: Callable[[int, Float[Array, "B O"]], Int[Array, "B"]],
  batch: int,
) -> tuple[Int[Array, "B L"], Float[Array, "B L O"]]:
  """Runs the network position by position, each hidden unit computed once.

  Args:
    config: the network's shape.
    params: from `init`.
    next_token_fn: `(position, outputs float32[batch, O]) -> int32[batch]`, the
      token at `position` from the outputs there. Called L times, in order.
    batch: rows.

  Returns:
    `(tokens int32[batch, L], outputs float32[batch, L, O])`, where `outputs`
    are those of `apply` on `tokens`, to rounding.
  """
  num_layers = len(config.hidden)
  masked = [
    params[f"kernel_{layer}"] * mask
    for layer, mask in enumerate(_masks(config))
  ]
  biases = [params[f"bias_{layer}"] for layer in range(num_layers + 1)]
  embedding = masked[0].reshape(config.length, config.vocab_size, -1)
  active = [jnp.zeros((batch, 0))] * num_layers
  seen = jnp.broadcast_to(biases[0], (batch, config.hidden[0]))
  tokens, outputs = [], []
  for position in range(config.length):
    for layer in range(num_layers):
      low = _first_unit(config, layer, position)
      high = _first_unit(config, layer, position + 1)
      if high == low:
        continue
      if layer == 0:
        units = seen[:, low:high]
      else:
        below = active[layer - 1]
        units = (
          below @ masked[layer][: below.shape[1], low:high]
          + biases[layer][low:high]
        )
      active[layer] = jnp.concatenate([active[layer], nn.relu(units)], axis=1)
    columns = slice(
      position * config.num_outputs, (position + 1) * config.num_outputs
    )
    below = active[-1]
    output = below @ masked[-1][: below.shape[1], columns] + biases[-1][columns]
    token = next_token_fn(position, output)
    seen = seen + embedding[position][token]
    tokens.append(token)
    outputs.append(output)
  return jnp.stack(tokens, axis=1), jnp.stack(outputs, axis=1)
