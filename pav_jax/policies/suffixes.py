"""The loop that decodes many suffixes."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pav_jax import randomness
from pav_jax.models import decoding, layers
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies import sampling, slots


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
  num_slots: int,
  layout: Layout | None = None,
) -> tuple[
  Int[Array, "G R U"], Float[Array, "G R U"], Int[Array, "G R"], Int[Array, ""]
]:
  """What R / Q rows sample after each of Q prefixes of each of G texts.

  Rows wait in queues for slots (see `slots`); a loop on the device adds a token
  to every slot's row until all have ended.

  Args:
    config: the network's shape.
    params: its parameters.
    keys: of rows, ordered by prefix; the token at position t of a text is drawn
      with the row's key at position t.
    tokens: the texts; a text's cache is computed once.
    start: lengths of prefixes, in 1 … S.
    limit: how many tokens of the prefix's text there may be at most; a prefix
      that is no shorter is not continued.
    max_new_tokens: U, how many tokens a row may add.
    end_token: ends a row, and belongs to it.
    temperature: see `sampling.draw`.
    top_k: see `sampling.draw`.
    top_p: see `sampling.draw`.
    num_slots: how many rows may be decoded at once.
    layout: where arrays lie; None to leave that to the compiler.

  Returns:
    Tokens, their log-probabilities and their number in each row; and how many
    times the loop added a token to every slot. Entries of a row past its number
    are arbitrary.
  """
  num_texts, num_rows = keys.shape
  shards = layout.num_shards("sequences") if layout else 1
  plan = slots.plan(num_texts, num_rows, num_slots=num_slots, shards=shards)
  missing = plan.chunks * plan.lanes * plan.texts - num_texts

  def by_lane(x):
    """[G, …] to [chunks, lanes, texts, …]; more texts, which do not go on."""
    x = jnp.concatenate([x, jnp.zeros_like(x, shape=(missing, *x.shape[1:]))])
    return x.reshape(plan.chunks, plan.lanes, plan.texts, *x.shape[1:])

  sizes = (plan.chunks, plan.lanes, plan.texts)
  key_data = by_lane(jax.random.key_data(keys))
  start = by_lane(start - 1) + 1
  args = (key_data, by_lane(tokens), start, by_lane(limit))
  run = functools.partial(
    _decode_chunk,
    config,
    params,
    key_impl=jax.random.key_impl(keys),
    num_slots=plan.slots,
    max_new_tokens=max_new_tokens,
    end_token=end_token,
    draw=functools.partial(
      sampling.draw,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      kept=config.kept,
    ),
    layout=layout,
  )
  *out, decodes = jax.lax.map(lambda chunk: run(*chunk), args)
  out = [
    x.reshape(math.prod(sizes), num_rows, *x.shape[3:])[:num_texts] for x in out
  ]
  return *out, jnp.sum(decodes)


class _State(NamedTuple):
  """Of the loop; N rows in each of L lanes.

  Attributes:
    place: int32[], see `decoding.decode`.
    row: int32[L, W], which row each of W slots has; N for none.
    index: int32[L, W], of the row's newest token.
    token: int32[L, W], that token.
    taken: int32[L], how many rows of the queue have had a slot.
    decodes: int32[], how often the loop ran.
    out: int32[L, N, U] and float32[L, N, U], tokens and log-probabilities.
    count: int32[L, N], tokens of rows.
    suffixes: caches of the slots.
  """

  place: jax.Array
  row: jax.Array
  index: jax.Array
  token: jax.Array
  taken: jax.Array
  decodes: jax.Array
  out: tuple[jax.Array, jax.Array]
  count: jax.Array
  suffixes: decoding.Caches


def _decode_chunk(
  config,
  params,
  key_data,
  tokens,
  start,
  limit,
  *,
  key_impl,
  num_slots,
  max_new_tokens,
  end_token,
  draw,
  layout,
):
  """`decode_suffixes` for arrays [lanes, texts, …]."""
  lanes, texts, num_rows = key_data.shape[:3]
  num_prefixes, length = start.shape[2], tokens.shape[2]
  each = num_rows // num_prefixes
  logits, shared = decoding.prefill(
    config,
    params,
    tokens.reshape(lanes * texts, length),
    start.reshape(lanes * texts, num_prefixes) - 1,
    layout=layout,
  )
  shared = layers.unstack(config, decoding.join(shared, texts))
  unstacked = layers.unstack(config, params["layers"])
  params = {**params, "layers": unstacked}
  keys = jax.random.wrap_key_data(
    key_data.reshape(lanes, texts * num_rows, -1), impl=key_impl
  )

  def of_rows(x):
    """[lanes, texts, Q] to [lanes, N]."""
    return jnp.repeat(x, each, axis=2).reshape(lanes, -1)

  offset = length * jnp.arange(texts)[:, None]
  offset = of_rows(jnp.broadcast_to(offset, start.shape))
  # First tokens, one row of each prefix at a time.
  first = jax.lax.map(
    lambda keys: draw(keys, logits),
    randomness.keys_at(keys, of_rows(start))
    .reshape(lanes * texts, num_prefixes, each)
    .transpose(2, 0, 1),
  )
  first, first_logp = (
    x.transpose(1, 2, 0).reshape(lanes, texts * num_rows) for x in first
  )
  start, limit = of_rows(start), of_rows(limit)
  count = (start < limit).astype(jnp.int32)
  going = (first != end_token) & (start + 1 < limit)
  if max_new_tokens == 1:
    going = jnp.zeros_like(going)
  queue = jnp.argsort(~going, axis=1, stable=True)
  waiting = jnp.sum(going, axis=1)

  def of_slots(x, row):
    """Entries of the slots' rows; of any row for slots without one."""
    return jnp.take_along_axis(x, row, axis=1, mode="clip")

  def write(x, at, value):
    """Sets one entry in the rows that have a slot."""
    at_once = jax.vmap(lambda x, at, value: x.at[at].set(value, mode="drop"))
    return at_once(x, at, value)

  def refill(state, free):
    """Gives free slots to the rows that wait."""
    turn = state.taken[:, None] + jnp.cumsum(free, axis=1) - 1
    some = free & (turn < waiting[:, None])
    row = jnp.where(some, of_slots(queue, turn), start.shape[1])
    row = jnp.where(free, row, state.row)
    return state._replace(
      row=row,
      index=jnp.where(free, 0, state.index),
      token=jnp.where(free, of_slots(first, row), state.token),
      taken=state.taken + jnp.sum(some, axis=1),
    )

  def body(ring, state):
    row = state.row
    logits, suffixes = decoding.decode(
      config,
      params,
      state.token,
      state.index,
      state.place,
      of_slots(start, row),
      of_slots(offset, row),
      shared,
      state.suffixes,
      layout=layout,
    )
    index = state.index + 1
    total = of_slots(start, row) + index + 1
    row_keys = jax.vmap(lambda keys, row: keys[row])(
      keys, jnp.minimum(row, keys.shape[1] - 1)
    )
    token, logp = draw(randomness.keys_at(row_keys, total - 1), logits)
    out = tuple(
      write(x, (row, index), value)
      for x, value in zip(state.out, (token, logp), strict=True)
    )
    count = write(state.count, (row,), index + 1)
    ended = (
      (token == end_token)
      | (total >= of_slots(limit, row))
      | (index + 1 >= max_new_tokens)
    )
    state = state._replace(
      place=(state.place + 1) % ring,
      index=index,
      token=token,
      decodes=state.decodes + 1,
      out=out,
      count=count,
      suffixes=suffixes,
    )
    return refill(state, ended | (row == start.shape[1]))

  # A row's last token is never read, so it needs no room in the cache.
  rings = [sampling.bucket(max(max_new_tokens - 1, 1))]
  if num_slots >= start.shape[1] and layers.is_shallow(config):
    rings = _growing(rings[0])
  shape = (lanes, num_slots)
  zeros = jnp.zeros(shape, jnp.int32)
  room = (*first.shape, max_new_tokens)
  state = _State(
    place=jnp.int32(0),
    row=zeros,
    index=zeros,
    token=zeros,
    taken=jnp.zeros(lanes, jnp.int32),
    decodes=jnp.int32(0),
    out=(
      jnp.zeros(room, jnp.int32).at[:, :, 0].set(first),
      jnp.zeros(room, jnp.float32).at[:, :, 0].set(first_logp),
    ),
    count=count,
    suffixes=decoding.empty_suffixes(config, *shape, rings[0], layout=layout),
  )
  state = refill(state, jnp.ones(shape, bool))

  def goes_on(ring, state):
    some = jnp.any(state.row < start.shape[1])
    return some & (state.decodes < ring) if ring < rings[-1] else some

  for ring in rings:
    state = state._replace(
      place=state.decodes,
      suffixes=decoding.longer_suffixes(state.suffixes, ring),
    )
    state = jax.lax.while_loop(
      functools.partial(goes_on, ring), functools.partial(body, ring), state
    )
  return *state.out, state.count, state.decodes


def _growing(length: int) -> list[int]:
  """Lengths of rings for rows that begin together, the last one `length`.

  None of them has added more tokens than the loop has run. So rings begin with
  a quarter of the room, for what a token costs is in good part to read them.
  """
  return sorted({sampling.bucket(-(-length * i // 4)) for i in range(1, 5)})
