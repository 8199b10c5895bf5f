"""Drawing tokens from logits, and their log-probabilities."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from pav_jax import randomness
from pav_jax.models import next_token
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import KeptTokens, TransformerConfig


def bucket(length: int) -> int:
  """The least length >= `length` that programs are compiled for.

  Multiples of 16 up to 128, and four sizes between powers of two beyond, so
  that less than a quarter is wasted.
  """
  size = max(16, 1 << max((length - 1).bit_length() - 3, 0))
  return -(-length // size) * size


def call_size(number: int, most: int) -> int:
  """The size of equal calls that make `number` rows, in few shapes.

  What a call has beyond its rows costs as much as they do: so calls are as few
  as `most` allows, and no larger than a `bucket` of an equal share.

  Args:
    number: of rows in all.
    most: rows of a call.
  """
  number = max(number, 1)
  calls = -(-number // most)
  return min(bucket(-(-number // calls)), most)


def scale_logits(
  logits: Float[Array, "*B V"], temperature: float
) -> Float[Array, "*B V"]:
  """Logits at a temperature; those at temperature 1 for greedy decoding, 0."""
  return logits / temperature if temperature else logits


def truncate(
  logits: Float[Array, "*B V"], top_k: int | None, top_p: float
) -> Float[Array, "*B V"]:
  """Minus infinity for tokens that may not be drawn.

  Args:
    logits: of tokens, at the sampling temperature.
    top_k: keep the k most probable tokens, and what ties with the last of them;
      None for all.
    top_p: of those, renormalised, keep the fewest most probable ones whose
      probabilities reach `top_p` in sum, and what ties with the last of them.
  """
  size = logits.shape[-1]
  top_k = size if top_k is None else min(top_k, size)
  if top_k == size and top_p == 1:
    return logits
  highest = jax.lax.top_k(logits, top_k)[0]
  last = highest[..., -1:]
  if top_p < 1:
    probs = jax.nn.softmax(highest, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = (before < top_p).at[..., 0].set(True)
    last = jnp.min(jnp.where(kept, highest, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits >= last, logits, -jnp.inf)


def draw(
  keys: Key[Array, "*B"],
  logits: Float[Array, "*B V"],
  *,
  temperature: float,
  top_k: int | None,
  top_p: float,
  kept: KeptTokens | None = None,
) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
  """A token for each row and its log-probability before truncation.

  Args:
    keys: `randomness.keys_at`, each decides a token. Not used at temperature 0.
    logits: of tokens.
    temperature: 0 for the most probable token, the first of equal ones.
    top_k: see `truncate`.
    top_p: see `truncate`.
    kept: tokens that the logits are of; None for all.
  """
  scaled = scale_logits(logits, temperature)
  if temperature:
    allowed = truncate(scaled, top_k, top_p)
    token, logp = randomness.categorical(keys, allowed)
    if allowed is not scaled:
      logp = logp_of(scaled, token)
  else:
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logp = logp_of(scaled, token)
  if kept is not None:
    token = jnp.asarray(kept.ids, jnp.int32)[token]
  return token, logp


def logp_of(
  logits: Float[Array, "*B V"], token: Int[Array, "*B"]
) -> Float[Array, "*B"]:
  """`log softmax(logits)[token]`, in nats; -inf for a token without logit."""
  picked = jnp.take_along_axis(
    logits, token[..., None], axis=-1, mode="fill", fill_value=-jnp.inf
  )[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)


def logp_of_next(
  config: TransformerConfig,
  params: dict,
  hidden: Float[Array, "B T D"],
  tokens: Int[Array, "B T"],
  *,
  temperature: float,
  layout: Layout | None = None,
) -> Float[Array, "B T"]:
  """Log-probabilities, in nats, of the tokens that follow hidden states.

  Args:
    config: the network's shape.
    params: its parameters.
    hidden: from `transformer.hidden_states`.
    tokens: that follow.
    temperature: see `scale_logits`.
    layout: where arrays lie; None to leave that to the compiler.
  """
  return next_token.read(
    config,
    params,
    hidden,
    tokens,
    lambda logits, tokens: logp_of(scale_logits(logits, temperature), tokens),
    layout=layout,
  )


def sample_ids(
  problem_id: Int[ArrayLike, "D"],
  first_sample: Int[ArrayLike, "D"] | int,
  num_samples: int,
) -> Int[Array, "D N"]:
  """The numbers of N samples of each problem, from its first one on."""
  first = jnp.broadcast_to(
    jnp.asarray(first_sample, jnp.int32), jnp.shape(problem_id)
  )
  return first[:, None] + jnp.arange(num_samples, dtype=jnp.int32)
