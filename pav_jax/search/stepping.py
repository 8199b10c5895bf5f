"""Next steps of many prefixes, sampled behind their caches."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from pav_jax import randomness, steps
from pav_jax.models import decoding, extending, transformer
from pav_jax.models.decoding import Caches
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies import sampling
from pav_jax.policies.language_model import LanguageModel
from pav_jax.search import caches, judging
from pav_jax.search.judging import Judge, Memory
from pav_jax.search.selection import Chosen


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
    texts: the policy's keys and values, of G = B · N beams.
    num_read: how many tokens those are of.
    step: keys and values of what follows them, up to but for the last token.
    memory: of the judge; () without.
    values: under policy and prover, where the judge keeps what it reads.
  """

  tokens: Int[Array, "B N T"]
  logp: Float[Array, "B N T"]
  prefix_len: Int[Array, "B N P"]
  going: Bool[Array, "B N"]
  texts: Caches
  num_read: Int[Array, "B N"]
  step: Caches
  memory: tuple[Memory, ...]
  values: tuple[Float[Array, "B N"], Float[Array, "B N"]]


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Candidates:
  """Traces with one step more; leaves of caches are of beams.

  Attributes:
    tokens: as of `State`, like `logp` and `prefix_len`.
    logp: likewise.
    prefix_len: likewise.
    ended: the response has.
    start: tokens before the step.
    count: tokens of the step; 0 of beams that do not go on.
    texts: of the beams, all their tokens.
    step: keys and values of the steps, but for their last tokens.
    memory: of the judge, of beams.
    read: what it has read of the steps.
    values: as of `State`.
  """

  tokens: Int[Array, "B N C T"]
  logp: Float[Array, "B N C T"]
  prefix_len: Int[Array, "B N C P"]
  ended: Bool[Array, "B N C"]
  start: Int[Array, "B N C"]
  count: Int[Array, "B N C"]
  texts: Caches
  step: Caches
  memory: tuple[Memory, ...]
  read: tuple[judging.Read, ...]
  values: tuple[Float[Array, "B N C"], Float[Array, "B N C"]]


def start(
  policy: LanguageModel,
  params: dict,
  judge: Judge | None,
  prompts: Int[Array, "B S"],
  prompt_len: Int[Array, "B"],
  going: Bool[Array, "B N"],
  *,
  width: int,
  max_step_tokens: int,
) -> State:
  """Reads the problems once, for all their beams.

  Args:
    policy: that is to go on.
    params: of its network.
    judge: that keeps what it reads; None if another judges.
    prompts: problems' tokens.
    prompt_len: how many.
    going: which beams are used.
    width: T, room for tokens.
    max_step_tokens: room in a step.
  """
  batch, num_beams = going.shape
  _, cache = decoding.prefill_hidden(
    policy.config,
    params,
    prompts,
    prompt_len[:, None] - 1,
    layout=policy.layout,
  )
  memory, values = (), (jnp.zeros(batch), jnp.zeros(batch))
  if judge is not None:
    memory, values = judging.start(judge, prompts, prompt_len, num_beams, width)

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
    going=going,
    texts=caches.of_beams(policy.config, cache, num_beams, width),
    num_read=of_beams(prompt_len - 1),
    step=decoding.empty_suffixes(
      policy.config,
      batch * num_beams,
      1,
      max_step_tokens,
      layout=policy.layout,
    ),
    memory=memory,
    values=tuple(map(of_beams, values)),
  )


def sample_step(
  policy: LanguageModel,
  params: dict,
  judge: Judge | None,
  keys: Key[Array, "B N C"],
  state: State,
) -> tuple[Candidates, Bool[Array, "B N C"]]:
  """A next step for each key; see `LanguageModel` for where steps end.

  A step that fills its room ends the response, as `max_new_tokens` does.
  """
  config = policy.config
  batch, num_beams, num = keys.shape
  groups = batch * num_beams
  width = state.tokens.shape[-1]
  room = jax.tree.leaves(state.step)[0].shape[-1]
  params = params | {"layers": decoding.unstack(config, params["layers"])}

  def flat(x):
    return x.reshape(groups, *x.shape[2:])

  length, num_read = flat(state.prefix_len[..., -1]), flat(state.num_read)
  prompt_len = flat(state.prefix_len[..., 0])
  done = flat(jnp.sum(steps.step_mask(state.prefix_len), axis=-1))
  going = jnp.broadcast_to(flat(state.going)[:, None], (groups, num))
  last = jnp.take_along_axis(flat(state.tokens), length[:, None] - 1, axis=1)
  hidden, step = extending.extend(
    config,
    params,
    last[:, :, None],
    (length - 1 - num_read)[:, None],
    num_read[:, None],
    state.texts,
    state.step,
    layout=policy.layout,
  )
  logits = transformer.logits(config, params, hidden[:, :, 0])
  texts = caches.append(state.texts, step, num_read, length - num_read)

  table = jnp.asarray(np.frombuffer(policy.is_delimiter, bool))
  limit = jnp.minimum(prompt_len + policy.max_new_tokens, width)
  in_last = (done >= policy.max_steps - 1)[:, None]
  row_keys = keys.reshape(groups, num)

  def draw(index, logits):
    """Tokens, log-probabilities, who closes a step and who a response."""
    token_keys = randomness.keys_at(
      row_keys,
      jnp.broadcast_to(length[:, None] + index, row_keys.shape),
    )
    token, logp = sampling.draw(
      token_keys,
      logits,
      temperature=policy.temperature,
      top_k=policy.top_k,
      top_p=policy.top_p,
    )
    ends = (token == policy.end_token) | (index + 1 >= room)
    ends |= (length[:, None] + index + 1) >= limit[:, None]
    return token, logp, table[token] & ~in_last, ends

  logits = jnp.broadcast_to(logits, (groups, num, logits.shape[-1]))
  token, logp, closes, ends = draw(0, logits)
  empty = jnp.zeros((groups, num, room))
  carry = (
    jnp.int32(0),
    token,
    going & ~closes & ~ends,
    going.astype(jnp.int32),
    going & ends,
    empty.astype(jnp.int32).at[..., 0].set(token),
    empty.at[..., 0].set(logp),
    decoding.empty_suffixes(config, groups, num, room, layout=policy.layout),
  )

  def body(carry):
    place, token, going, count, ended, tokens, logps, own = carry
    logits, own = decoding.decode(
      config,
      params,
      token,
      jnp.full((groups, num), place),
      place,
      jnp.broadcast_to(length[:, None], (groups, num)),
      jnp.zeros((groups, num), jnp.int32),
      texts,
      own,
      layout=policy.layout,
    )
    token, logp, closes, ends = draw(place + 1, logits)
    return (
      place + 1,
      token,
      going & ~closes & ~ends,
      count + going,
      ended | (going & ends),
      tokens.at[..., place + 1].set(token),
      logps.at[..., place + 1].set(logp),
      own,
    )

  _, _, _, count, ended, tokens, logps, own = jax.lax.while_loop(
    lambda carry: jnp.any(carry[2]), body, carry
  )
  read, values = (), tuple(jnp.zeros(keys.shape) for _ in range(2))
  if judge is not None:
    read, values = judging.read(judge, state.memory, tokens, count, length)

  def unflat(x):
    return x.reshape(batch, num_beams, *x.shape[1:])

  total = length[:, None] + count
  position = jnp.arange(width)
  at = jnp.clip(position - length[:, None, None], 0, room - 1)
  is_new = (position >= length[:, None, None]) & (position < total[..., None])

  def lay_out(old, new):
    new = jnp.take_along_axis(
      new, jnp.broadcast_to(at, (groups, num, width)), axis=-1
    )
    return unflat(jnp.where(is_new, new, flat(old)[:, None]))

  # An end token right after a delimiter belongs to the step before.
  joins = (count == 1) & (tokens[..., 0] == policy.end_token)
  first = done[:, None] + 1 - (joins & (done > 0)[:, None])
  which = jnp.arange(state.prefix_len.shape[-1])
  prefix_len = jnp.where(
    which >= first[..., None],
    total[..., None],
    flat(state.prefix_len)[:, None],
  )
  candidates = Candidates(
    tokens=lay_out(state.tokens, tokens),
    logp=lay_out(state.logp, logps),
    prefix_len=unflat(prefix_len),
    ended=unflat(ended),
    start=unflat(jnp.broadcast_to(length[:, None], count.shape)),
    count=unflat(count),
    texts=texts,
    step=own,
    memory=state.memory,
    read=read,
    values=tuple(q.reshape(keys.shape) for q in values),
  )
  return candidates, candidates.ended


@dataclasses.dataclass(frozen=True)
class Keep:
  """Makes the state of survivors: `(state, candidates, chosen) -> state`.

  Attributes:
    policy: the network's shape.
    verifiers: the judge's networks' shapes; empty if another judges.
  """

  policy: TransformerConfig
  verifiers: tuple[VerifierConfig, ...] = ()

  def __call__(
    self, state: State, candidates: Candidates, chosen: Chosen
  ) -> State:
    """The survivors [B, M]; traces that had ended before are as they were."""
    rows = jnp.arange(len(chosen.parent))[:, None]

    def take(x):
      return x[rows, chosen.parent, chosen.candidate]

    num_read, count = take(candidates.start), take(candidates.count)
    texts, step = caches.select(
      self.policy,
      candidates.texts,
      candidates.step,
      chosen.parent,
      chosen.candidate,
    )
    memory = candidates.memory
    if self.verifiers:
      memory = judging.keep(
        self.verifiers,
        memory,
        candidates.read,
        chosen.parent,
        chosen.candidate,
        num_read.reshape(-1),
        count.reshape(-1),
      )
    values = tuple(
      jnp.where(chosen.stays, old[rows, chosen.parent], take(new))
      for old, new in zip(state.values, candidates.values, strict=True)
    )
    # A beam that does not go on has candidates of no tokens: itself.
    return State(
      tokens=take(candidates.tokens),
      logp=take(candidates.logp),
      prefix_len=take(candidates.prefix_len),
      going=chosen.valid & ~chosen.stays & ~take(candidates.ended),
      texts=texts,
      num_read=num_read,
      step=step,
      memory=memory,
      values=values,
    )
