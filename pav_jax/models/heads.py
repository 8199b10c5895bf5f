"""A number for each prefix, read from a transformer's hidden states.

A token's hidden state has seen the prefix that ends with it and nothing more.
So one pass over a text scores all its prefixes: a verifier or a value function
is a trunk and one weight per feature.
"""

import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from pav_jax.models import transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig


def init(config: TransformerConfig) -> dict:
  """A head that reads 0 everywhere: a probability of one half."""
  return {"kernel": jnp.zeros(config.width), "bias": jnp.zeros(())}


def logical_axes() -> dict:
  """Names of the axes of the head's parameters."""
  return {"kernel": PartitionSpec("norm"), "bias": PartitionSpec()}


def read(
  head: dict, hidden: Float[Array, "B T D"], at: Int[Array, "B N"]
) -> Float[Array, "B N"]:
  """The head's output at some tokens.

  Args:
    head: from `init`.
    hidden: from `transformer.hidden_states`.
    at: indices of tokens, each in 0 … T - 1, in any order; the last of each
      prefix that is to be scored.

  Returns:
    float32, unbounded: the logit, where a probability is meant.
  """
  # Of every token first: so indices that repeat give the same bits, and what
  # lies past the end of a response has an advantage of exactly 0.
  kernel = head["kernel"].astype(jnp.float32)
  every = hidden.astype(jnp.float32) @ kernel + head["bias"]
  return jnp.take_along_axis(every, at, axis=1)


def values(
  config: TransformerConfig,
  params: dict,
  head: dict,
  tokens: Int[Array, "B T"],
  at: Int[Array, "B N"],
  *,
  positions: Int[Array, "B T"] | None = None,
  segments: Int[Array, "B T"] | None = None,
  layout: Layout | None = None,
) -> Float[Array, "B N"]:
  """`read` after one pass of the trunk.

  Args:
    config: the trunk's shape.
    params: the trunk's parameters.
    head: from `init`.
    tokens: in 0 … V - 1.
    at: indices of the tokens to read at.
    positions: as in `transformer.hidden_states`, like `segments` and `layout`.
    segments: equal for tokens that belong together.
    layout: where activations lie.
  """
  hidden = transformer.hidden_states(
    config,
    params,
    tokens,
    positions=positions,
    segments=segments,
    layout=layout,
  )
  return read(head, hidden, at)
