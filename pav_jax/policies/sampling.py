"""Drawing tokens from logits, and the loop that decodes many suffixes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pav_jax import randomness
from pav_jax.models import decoding
from pav_jax.models.transformer_config import TransformerConfig


def bucket(length: int) -> int:
  """The least length >= `length` that programs are compiled for.

  Multiples of 16 up to 128, and four sizes between powers of two beyond, so
  that less than a quarter is wasted.
  """
  size = max(16, 1 << max((length - 1).bit_length() - 3, 0))
  return -(-length // size) * size


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
  uniform: Float[Array, "*B"],
  logits: Float[Array, "*B V"],
  *,
  temperature: float,
  top_k: int | None,
  top_p: float,
) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
  """A token for each row and its log-probability before truncation.

  Args:
    uniform: in [0, 1); decides the token. Not used at temperature 0.
    logits: of tokens.
    temperature: 0 for the most probable token, the first of equal ones.
    top_k: see `truncate`.
    top_p: see `truncate`.
  """
  scaled = scale_logits(logits, temperature)
  if temperature:
    allowed = truncate(scaled, top_k, top_p)
    token = randomness.categorical_from_uniform(uniform, allowed)
  else:
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  return token, logp_of(scaled, token)


def logp_of(
  logits: Float[Array, "*B V"], token: Int[Array, "*B"]
) -> Float[Array, "*B"]:
  """`log softmax(logits)[token]`, in nats."""
  picked = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)


def decode_suffixes(
  config: TransformerConfig,
  params: dict,
  keys: Key[Array, "G R"],
  tokens: Int[Array, "G S"],
  start: Int[Array, "G Q"],
  limit: Int[Array, "G Q"],
  *,
  max_new_tokens: int,
  end_token: int,
  temperature: float,
  top_k: int | None,
  top_p: float,
) -> tuple[Int[Array, "G R U"], Float[Array, "G R U"], Int[Array, "G R"]]:
  """What R / Q rows sample after each of Q prefixes of each of G texts.

  One loop for all rows, which stops when all have ended.

  Args:
    config: the network's shape.
    params: its parameters.
    keys: of rows, ordered by prefix; the token at position t of a text is drawn
      with entry t of the row's uniform numbers.
    tokens: the texts; a text's cache is computed once.
    start: lengths of prefixes, in 1 … S.
    limit: how many tokens of the prefix's text there may be at most; a prefix
      that is no shorter is not continued.
    max_new_tokens: U, how many tokens a row may add.
    end_token: ends a row, and belongs to it.
    temperature: see `draw`.
    top_k: see `draw`.
    top_p: see `draw`.

  Returns:
    Tokens, their log-probabilities and their number in each row. Entries past
    that number are arbitrary.
  """
  num_groups, num_rows = keys.shape
  over_rows = functools.partial(
    jnp.repeat, repeats=num_rows // start.shape[1], axis=1
  )
  logits, shared = decoding.prefill(config, params, tokens, start - 1)
  start, limit = over_rows(start), over_rows(limit)

  def draw_at(index, logits):
    return draw(
      randomness.uniforms_at(keys, start + index),
      logits,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
    )

  def record(state, index, token, logp):
    """Takes the token of index `index` into the rows that have not ended."""
    out, out_logp, count, going, suffixes = state
    at = (0, 0, index)
    out = jax.lax.dynamic_update_slice(out, token[..., None], at)
    out_logp = jax.lax.dynamic_update_slice(out_logp, logp[..., None], at)
    count = count + going
    going = going & (token != end_token) & (start + count < limit)
    return out, out_logp, count, going, suffixes

  def body(carry):
    index, token, state = carry
    logits, suffixes = decoding.decode(
      config, params, token, index, start, shared, state[-1]
    )
    token, logp = draw_at(index + 1, logits)
    state = record((*state[:-1], suffixes), index + 1, token, logp)
    return index + 1, token, state

  def unfinished(carry):
    index, _, state = carry
    return (index + 1 < max_new_tokens) & jnp.any(state[3])

  # The last token is never read, so it needs no room in the cache.
  room = max(max_new_tokens - 1, 1)
  shape = (num_groups, num_rows)
  state = (
    jnp.zeros((*shape, max_new_tokens), jnp.int32),
    jnp.zeros((*shape, max_new_tokens), jnp.float32),
    jnp.zeros(shape, jnp.int32),
    start < limit,
    decoding.empty_suffixes(config, *shape, room),
  )
  token, logp = draw_at(0, over_rows(logits))
  state = record(state, 0, token, logp)
  _, _, state = jax.lax.while_loop(
    unfinished, body, (jnp.int32(0), token, state)
  )
  return state[:3]
