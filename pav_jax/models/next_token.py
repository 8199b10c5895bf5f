"""What a network expects next, read without all logits at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import transformer
from pav_jax.models.partitioning import Layout, constrain
from pav_jax.models.transformer_config import TransformerConfig

# Logits that exist on a device at a time: 64 MiB of float32.
MAX_LOGITS = 2**24


def read(
  config: TransformerConfig,
  params: dict,
  hidden: Float[Array, "B T D"],
  tokens: Int[Array, "B T"],
  reader: Callable[
    [Float[Array, "B S V"], Int[Array, "B S"]], Float[Array, "B S *F"]
  ],
  *,
  layout: Layout | None = None,
) -> Float[Array, "B T *F"]:
  """Applies a function to the logits after hidden states.

  On each device logits exist for at most `MAX_LOGITS` tokens and positions at a
  time (or those of one position); where those are not all, they are computed
  again for the gradient. The parts share the output layer, which devices fetch
  from each other once.

  Args:
    config: the network's shape.
    params: its parameters.
    hidden: from `transformer.hidden_states`.
    tokens: that follow.
    reader: of logits of the next token and the place of the token that follows
      among them; position by position.
    layout: where arrays lie; None to leave that to the compiler.
  """
  batch, length, width = hidden.shape
  name = transformer.output_layer(config)
  output = constrain(layout, params[name], "vocab", "residual")
  params = {**params, name: output}
  tokens = transformer.places(config, tokens)

  def part(args):
    hidden, tokens = args
    hidden = constrain(layout, hidden, "batch", "length", "residual")
    logits = transformer.logits(config, params, hidden)
    logits = constrain(layout, logits, "batch", "length", "vocab")
    return reader(logits, tokens)

  shards = 1 if layout is None else layout.num_shards("batch", "vocab")
  size = max(MAX_LOGITS * shards // (batch * config.num_outputs), 1)
  if size >= length:
    return part((hidden, tokens))
  num = -(-length // size)
  room = (0, num * size - length)
  hidden = jnp.pad(hidden, ((0, 0), room, (0, 0)))
  tokens = jnp.pad(tokens, ((0, 0), room))
  found = jax.lax.map(
    jax.checkpoint(part),
    (
      hidden.reshape(batch, num, size, width).swapaxes(0, 1),
      tokens.reshape(batch, num, size).swapaxes(0, 1),
    ),
  )
  found = found.swapaxes(0, 1)
  return found.reshape(batch, -1, *found.shape[3:])[:, :length]
