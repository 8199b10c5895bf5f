"""Rollouts that continue prefixes of others."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from pav_jax import randomness, steps
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies import sampling, slots, suffixes
from pav_jax.rollout import Rollout


def continue_rollouts(
  policy: Any,
  params: dict,
  key: jax.Array,
  rollout: Rollout,
  prefixes: Int[Array, "B Q"],
  address: Sequence[Int[Array, "..."]],
  *,
  num_read: int,
  width: int,
  max_new_tokens: int,
) -> Rollout:
  """Rows that continue prefixes; as many of each as `address` has room for.

  Args:
    policy: a `LanguageModel`, whose settings say when rows and steps end.
    params: of its network.
    key: the run's key.
    rollout: of B rows.
    prefixes: indices of the prefixes that are continued.
    address: of the rows' randomness, in parts that broadcast to [B, Q·M]; the
      first is `problem_id`, the second `sample_id`.
    num_read: no prefix is longer.
    width: T of the result, where rows end at the latest.
    max_new_tokens: of a row.
  """
  length = sampling.bucket(num_read)

  def fit(x):
    x = x[:, :length]
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1])))

  rollout = dataclasses.replace(
    rollout, tokens=fit(rollout.tokens), logp=fit(rollout.logp)
  )
  rows = (rollout, prefixes, tuple(address))
  if policy.layout is not None and policy.layout.spans_processes:
    # One program of all processes: each has all that goes in and comes out.
    whole = partitioning.replicated(policy.layout.mesh)
    rows = partitioning.put(rows, whole)
    key = jax.random.wrap_key_data(
      partitioning.put(jax.random.key_data(key), whole)
    )
  return _continue(
    policy, params, key, *rows, width=width, max_new_tokens=max_new_tokens
  )


def useful_slots(
  completed: Rollout,
  num_given: Int[ArrayLike, "B"],
  rows_per_text: int,
  *,
  num_slots: int,
  layout: Layout | None = None,
) -> float:
  """The fraction of decode slots that gave a token of a response.

  A row's first token comes with its prefix, and needs no slot.

  Args:
    completed: the rows of one call of `sample` or `complete`.
    num_given: tokens that each row began with.
    rows_per_text: how many rows continue each problem or rollout.
    num_slots: of the policy.
    layout: of the policy.
  """
  new = np.asarray(completed.prefix_len)[:, -1] - np.asarray(num_given)
  counts = new.reshape(-1, rows_per_text)
  shards = layout.num_shards("sequences") if layout else 1
  plan = slots.plan(*counts.shape, num_slots=num_slots, shards=shards)
  given = slots.num_decodes(plan, counts) * plan.lanes * plan.slots
  return float(np.maximum(counts - 1, 0).sum() / max(given, 1))


@functools.partial(
  jax.jit, static_argnames=("policy", "width", "max_new_tokens")
)
def _continue(
  policy, params, key, rollout, prefixes, address, *, width, max_new_tokens
) -> Rollout:
  """`continue_rollouts` for rollouts of a bucket's length."""
  address = jnp.broadcast_arrays(*address)
  batch, num_rows = address[0].shape
  each = num_rows // prefixes.shape[1]
  start = jnp.take_along_axis(rollout.prefix_len, prefixes, axis=1)
  prompt_len = rollout.prefix_len[:, :1]
  last = jnp.take_along_axis(rollout.tokens, start - 1, axis=1)
  ended = (start > prompt_len) & (last == policy.end_token)
  limit = jnp.minimum(prompt_len + policy.max_new_tokens, width)
  limit = jnp.where(ended, 0, limit)
  new_tokens, new_logp, count, _ = suffixes.decode_suffixes(
    policy.config,
    params,
    randomness.row_keys(key, address),
    rollout.tokens,
    start,
    limit,
    max_new_tokens=max_new_tokens,
    end_token=policy.end_token,
    temperature=policy.temperature,
    top_k=policy.top_k,
    top_p=policy.top_p,
    num_slots=policy.num_slots,
    layout=policy.layout,
  )

  start = jnp.repeat(start, each, axis=1)[:, :, None]
  total = start + count[:, :, None]
  position = jnp.arange(width)
  at = jnp.clip(position - start, 0, max_new_tokens - 1)

  def lay_out(old, new, fill):
    missing = max(width - old.shape[1], 0)
    old = jnp.pad(old[:, :width], ((0, 0), (0, missing)))[:, None]
    new = jnp.take_along_axis(new, at, axis=-1)
    return jnp.where(
      position < start, old, jnp.where(position < total, new, fill)
    ).reshape(batch * num_rows, width)

  prefix_len = _prefix_len(
    policy,
    rollout.prefix_len,
    jnp.repeat(prefixes, each, axis=1),
    start,
    total,
    new_tokens,
  )
  continued = Rollout(
    tokens=lay_out(rollout.tokens, new_tokens, policy.pad_token),
    logp=lay_out(rollout.logp, new_logp, 0.0),
    prefix_len=prefix_len.reshape(batch * num_rows, -1),
    outcome=jnp.full(batch * num_rows, jnp.nan),
    problem_id=address[0].reshape(-1),
    sample_id=address[1].reshape(-1),
  )
  if policy.layout is not None:
    continued = jax.tree.map(policy.layout.constrain, continued)
  return continued


def _prefix_len(policy, given, prefix, start, total, new_tokens):
  """Prefix lengths of rows: those given, then one for each new delimiter.

  Args:
    policy: a `LanguageModel`.
    given: int32[B, P], of the rollouts.
    prefix: int32[B, R], which of them rows continue.
    start: int32[B, R, 1], their lengths.
    total: int32[B, R, 1], lengths of the rows.
    new_tokens: int32[B, R, U].
  """
  table = jnp.asarray(np.frombuffer(policy.is_delimiter, bool))
  index = jnp.arange(new_tokens.shape[-1])
  is_new = start + index < total
  ends = is_new & (new_tokens == policy.end_token)
  closed = jnp.cumsum(is_new & table[new_tokens] & ~ends, axis=-1)
  # Prefix p >= 1 of a rollout exists if it is longer than the one before.
  which = jnp.arange(given.shape[-1])
  grew = jnp.pad(steps.step_mask(given), ((0, 0), (1, 0)))
  have = jnp.take_along_axis(jnp.cumsum(grew, axis=-1), prefix, axis=1)
  nth = which - have[:, :, None]
  # The delimiter that is the n-th new one has fewer than n up to before itself.
  before = jnp.sum(closed[..., None, :] < nth[..., None], axis=-1)
  found = (nth <= closed[..., -1:]) & (which < policy.max_steps)
  out = jnp.where(
    nth <= 0, given[:, None], jnp.where(found, start + before + 1, total)
  )
  ended = jnp.any(ends, axis=-1, keepdims=True)
  joins = (which > 0) & (
    ended & (out == total - 1) | (which == given.shape[-1] - 1)
  )
  return jnp.where(joins, total, out).astype(jnp.int32)
