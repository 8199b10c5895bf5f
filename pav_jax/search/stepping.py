"""Next steps of many prefixes, sampled behind their prefix caches."""

import dataclasses
import typing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from pav_jax import randomness, steps
from pav_jax.models import beam_caches, decoding, extending, layers, transformer
from pav_jax.models.decoding import Caches
from pav_jax.policies import sampling
from pav_jax.policies.language_model import LanguageModel
from pav_jax.search.selection import Chosen
from pav_jax.search.value_function import ValueFunction


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class State:
  """Traces of B problems' N beams, and what has been read of them.

  Attributes:
    tokens: problem, response, padding.
    logp: of sampled tokens, in nats.
    prefix_len: as in `Rollout`.
    going: whether there is a trace that has not ended.
    cut: whether the length limit has ended it, so that it is worth nothing.
    policy_cache: the policy's keys and values, of G = B · N beams.
    num_read: how many tokens those are of.
    step_cache: keys and values of what follows them, up to but for the last
      token.
    value_caches: of the value function; () where that reads whole traces.
    values: under policy and prover, where the value function has caches.
  """

  tokens: Int[Array, "B N T"]
  logp: Float[Array, "B N T"]
  prefix_len: Int[Array, "B N P"]
  going: Bool[Array, "B N"]
  cut: Bool[Array, "B N"]
  policy_cache: Caches
  num_read: Int[Array, "B N"]
  step_cache: Caches
  value_caches: tuple[PyTree, ...]
  values: tuple[Float[Array, "B N"], Float[Array, "B N"]]


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Candidates:
  """Traces with one step more.

  Attributes:
    tokens: problem, response, padding.
    logp: of sampled tokens, in nats.
    prefix_len: as in `Rollout`.
    ended: the response has.
    cut: the length limit has ended it.
    start: tokens before the step.
    count: tokens of the step; 0 of beams that do not go on.
    policy_cache: of the beams, all their tokens.
    step_cache: keys and values of the steps, but for their last tokens.
    value_caches: of the beams.
    value_steps: what the value function has read of the steps.
    values: under policy and prover, where the value function has caches.
  """

  tokens: Int[Array, "B N C T"]
  logp: Float[Array, "B N C T"]
  prefix_len: Int[Array, "B N C P"]
  ended: Bool[Array, "B N C"]
  cut: Bool[Array, "B N C"]
  start: Int[Array, "B N C"]
  count: Int[Array, "B N C"]
  policy_cache: Caches
  step_cache: Caches
  value_caches: tuple[PyTree, ...]
  value_steps: tuple[PyTree, ...]
  values: tuple[Float[Array, "B N C"], Float[Array, "B N C"]]


def start(
  policy: LanguageModel,
  params: dict,
  value_function: ValueFunction | None,
  prompts: Int[Array, "B S"],
  prompt_len: Int[Array, "B"],
  *,
  num_beams: int,
  width: int,
  max_step_tokens: int,
) -> State:
  """Reads the problems once, for all their beams.

  Args:
    policy: that is to go on.
    params: of its network.
    value_function: with caches; None if values come from whole traces.
    prompts: problems' tokens.
    prompt_len: how many.
    num_beams: N.
    width: T, room for tokens.
    max_step_tokens: room in a step.
  """
  batch = len(prompts)
  _, cache = decoding.prefill_hidden(
    policy.config,
    params,
    prompts,
    prompt_len[:, None] - 1,
    layout=policy.layout,
  )
  value_caches, values = (), (jnp.zeros(batch), jnp.zeros(batch))
  if value_function is not None:
    value_caches, values = value_function.start_caches(
      prompts, prompt_len, num_beams=num_beams, length=width
    )

  def of_beams(x):
    return jnp.repeat(x[:, None], num_beams, axis=1)

  position = jnp.arange(width)
  at = jnp.minimum(position, prompts.shape[1] - 1)
  tokens = jnp.where(
    position < prompt_len[:, None], prompts[:, at], policy.pad_token
  )
  return State(
    tokens=of_beams(tokens),
    logp=jnp.zeros((batch, num_beams, width)),
    prefix_len=jnp.broadcast_to(
      prompt_len[:, None, None], (batch, num_beams, policy.max_steps + 1)
    ),
    going=jnp.ones((batch, num_beams), bool),
    cut=jnp.zeros((batch, num_beams), bool),
    policy_cache=beam_caches.of_beams(policy.config, cache, num_beams, width),
    num_read=of_beams(prompt_len - 1),
    step_cache=decoding.empty_suffixes(
      policy.config,
      batch * num_beams,
      1,
      max_step_tokens,
      layout=policy.layout,
    ),
    value_caches=value_caches,
    values=tuple(map(of_beams, values)),
  )


def sample_step(
  policy: LanguageModel,
  params: dict,
  value_function: ValueFunction | None,
  keys: Key[Array, "B N C"],
  state: State,
) -> tuple[Candidates, Bool[Array, "B N C"]]:
  """A next step for each key; see `LanguageModel` for where steps end.

  A step that fills its room cuts the response off, as `max_new_tokens` does.
  """
  batch, num_beams, num = keys.shape
  groups = batch * num_beams
  params = params | {"layers": layers.unstack(policy.config, params["layers"])}

  def flat(x):
    return x.reshape(groups, *x.shape[2:])

  traces = _Traces(*map(flat, (state.tokens, state.logp, state.prefix_len)))
  logits, policy_cache = _read(policy, params, state, traces, flat)
  step = _draw(
    policy,
    params,
    keys.reshape(groups, num),
    traces,
    jnp.broadcast_to(flat(state.going)[:, None], (groups, num)),
    jnp.broadcast_to(logits, (groups, num, logits.shape[-1])),
    policy_cache,
    room=jax.tree.leaves(state.step_cache)[0].shape[-1],
  )
  at = jnp.maximum(step.count - 1, 0)[..., None]
  last = jnp.take_along_axis(step.tokens, at, axis=-1)[..., 0]
  # A beam that does not go on has candidates of no tokens: itself.
  cut = jnp.where(
    step.count > 0,
    step.ended & (last != policy.end_token),
    flat(state.cut)[:, None],
  )
  value_steps, values = (), (jnp.zeros(cut.shape),) * 2
  if value_function is not None:
    value_steps, values = value_function.read_steps(
      state.value_caches, step.tokens, step.count, traces.length
    )

  def unflat(x):
    return x.reshape(batch, num_beams, *x.shape[1:])

  tokens, logp, prefix_len = map(unflat, _with_step(policy, traces, step))
  candidates = Candidates(
    tokens=tokens,
    logp=logp,
    prefix_len=prefix_len,
    ended=unflat(step.ended),
    cut=unflat(cut),
    start=unflat(jnp.broadcast_to(traces.length[:, None], cut.shape)),
    count=unflat(step.count),
    policy_cache=policy_cache,
    step_cache=step.cache,
    value_caches=state.value_caches,
    value_steps=value_steps,
    values=tuple(unflat(jnp.where(cut, 0.0, q)) for q in values),
  )
  return candidates, candidates.ended


class _Traces(NamedTuple):
  """Those of G beams: tokens [G, T], their logp, and prefix_len [G, P]."""

  tokens: Array
  logp: Array
  prefix_len: Array

  @property
  def length(self) -> Array:
    """Tokens of each, int[G]."""
    return self.prefix_len[:, -1]

  @property
  def num_steps(self) -> Array:
    """Steps of each, int[G]."""
    return jnp.sum(steps.step_mask(self.prefix_len), axis=-1)


class _Step(NamedTuple):
  """Steps of G beams' C candidates.

  Attributes:
    tokens: [G, C, U], the first `count` of each.
    logp: of the tokens, in nats.
    count: [G, C].
    ended: [G, C], whether the response has.
    cache: keys and values of the tokens, but for their last ones.
  """

  tokens: Array
  logp: Array
  count: Array
  ended: Array
  cache: Caches


def _read(policy, params, state, traces, flat):
  """Logits [G, 1, V] after all of a trace, and a cache with all its tokens."""
  num_read = flat(state.num_read)
  last = jnp.take_along_axis(traces.tokens, traces.length[:, None] - 1, axis=1)
  hidden, step = extending.extend(
    policy.config,
    params,
    last[:, :, None],
    (traces.length - 1 - num_read)[:, None],
    num_read[:, None],
    state.policy_cache,
    state.step_cache,
    layout=policy.layout,
  )
  cache = beam_caches.append(
    state.policy_cache, step, num_read, traces.length - num_read
  )
  return transformer.logits(policy.config, params, hidden[:, :, 0]), cache


def _draw(
  policy: LanguageModel,
  params: dict,
  keys: Key[Array, "G C"],
  traces: _Traces,
  going: Bool[Array, "G C"],
  logits: Float[Array, "G C V"],
  cache: Caches,
  *,
  room: int,
) -> _Step:
  """Draws the tokens of steps, one after another.

  Args:
    policy: that goes on.
    params: of its network, unstacked.
    keys: of the candidates.
    traces: that go on.
    going: whether they do.
    logits: of the first token.
    cache: of all the traces' tokens.
    room: U, most tokens of a step.
  """
  groups, num = keys.shape
  length = jnp.broadcast_to(traces.length[:, None], keys.shape)
  table = jnp.asarray(np.frombuffer(policy.is_delimiter, bool))
  limit = jnp.minimum(
    traces.prefix_len[:, :1] + policy.max_new_tokens, traces.tokens.shape[-1]
  )
  in_last = (traces.num_steps >= policy.max_steps - 1)[:, None]

  def draw(index, logits):
    """Tokens, log-probabilities, who closes a step and who a response."""
    token, logp = sampling.draw(
      randomness.keys_at(keys, length + index),
      logits,
      temperature=policy.temperature,
      top_k=policy.top_k,
      top_p=policy.top_p,
      kept=policy.config.kept,
    )
    ends = (token == policy.end_token) | (index + 1 >= room)
    ends |= length + index + 1 >= limit
    return token, logp, table[token] & ~in_last, ends

  def body(carry):
    index, token, going, step = carry
    logits, suffix = decoding.decode(
      policy.config,
      params,
      token,
      jnp.full((groups, num), index),
      index,
      length,
      jnp.zeros((groups, num), jnp.int32),
      cache,
      step.cache,
      layout=policy.layout,
    )
    token, logp, closes, ends = draw(index + 1, logits)
    step = _Step(
      step.tokens.at[..., index + 1].set(token),
      step.logp.at[..., index + 1].set(logp),
      step.count + going,
      step.ended | (going & ends),
      suffix,
    )
    return index + 1, token, going & ~closes & ~ends, step

  token, logp, closes, ends = draw(0, logits)
  empty = jnp.zeros((groups, num, room))
  step = _Step(
    empty.astype(jnp.int32).at[..., 0].set(token),
    empty.at[..., 0].set(logp),
    going.astype(jnp.int32),
    going & ends,
    decoding.empty_suffixes(
      policy.config, groups, num, room, layout=policy.layout
    ),
  )
  *_, step = jax.lax.while_loop(
    lambda carry: jnp.any(carry[2]),
    body,
    (jnp.int32(0), token, going & ~closes & ~ends, step),
  )
  return step


def _with_step(
  policy: LanguageModel, traces: _Traces, step: _Step
) -> tuple[Array, Array, Array]:
  """Tokens, logp [G, C, T] and prefix_len [G, C, P] of traces and a step."""
  length = traces.length[:, None]
  total = length + step.count
  position = jnp.arange(traces.tokens.shape[-1])
  at = jnp.clip(position - length, 0, step.tokens.shape[-1] - 1)[:, None]
  is_new = (position >= length[..., None]) & (position < total[..., None])

  def lay_out(old, new):
    at_all = jnp.broadcast_to(at, is_new.shape)
    new = jnp.take_along_axis(new, at_all, axis=-1)
    return jnp.where(is_new, new, old[:, None])

  # An end token right after a delimiter belongs to the step before.
  joins = (step.count == 1) & (step.tokens[..., 0] == policy.end_token)
  done = traces.num_steps[:, None]
  first = done + 1 - (joins & (done > 0))
  which = jnp.arange(traces.prefix_len.shape[-1])
  prefix_len = jnp.where(
    which >= first[..., None], total[..., None], traces.prefix_len[:, None]
  )
  return (
    lay_out(traces.tokens, step.tokens),
    lay_out(traces.logp, step.logp),
    prefix_len,
  )


def keep(
  value_function: ValueFunction | None,
  state: State,
  candidates: Candidates,
  chosen: Chosen,
) -> State:
  """The survivors [B, M]; traces that had ended before are as they were.

  Args:
    value_function: as of `sample_step`.
    state: of the beams before.
    candidates: of theirs.
    chosen: who survives.
  """
  rows = jnp.arange(len(chosen.parent))[:, None]

  def take(x):
    return x[rows, chosen.parent, chosen.candidate]

  num_read, count = take(candidates.start), take(candidates.count)
  policy_cache, step_cache = beam_caches.select(
    candidates.policy_cache,
    candidates.step_cache,
    chosen.parent,
    chosen.candidate,
  )
  value_caches = candidates.value_caches
  if value_function is not None:
    value_caches = value_function.keep_steps(
      value_caches,
      candidates.value_steps,
      chosen.parent,
      chosen.candidate,
      num_read.reshape(-1),
      count.reshape(-1),
    )
  values = tuple(
    jnp.where(chosen.stays, old[rows, chosen.parent], take(new))
    for old, new in zip(state.values, candidates.values, strict=True)
  )
  return State(
    tokens=take(candidates.tokens),
    logp=take(candidates.logp),
    prefix_len=take(candidates.prefix_len),
    going=chosen.valid & ~chosen.stays & ~take(candidates.ended),
    cut=take(candidates.cut),
    policy_cache=policy_cache,
    num_read=num_read,
    step_cache=step_cache,
    value_caches=value_caches,
    values=values,
  )
