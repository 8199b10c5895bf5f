"""Beam search with a language model, over kept caches (Sec. 4.1, App. C)."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from pav_jax.policies import sampling
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout
from pav_jax.search import beam as beam_lib
from pav_jax.search import judging, stepping
from pav_jax.search.judging import Judge
from pav_jax.search.selection import Settings


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Found:
  """What a search has found for B problems.

  Attributes:
    rollout: leaves [B, N, …], the traces of the last beam, outcome NaN;
      `sample_id` is the beam.
    valid: which of them there are.
    finished: which have ended; none goes on after `max_steps` rounds.
    q_policy: of their prefixes.
    q_prover: likewise.
    chosen: the answers, indices of beams.
    start: tokens before each step that was sampled: in round h, the candidates'
      and then those that looked ahead of them; 0 where there was none.
    count: tokens of those steps.
  """

  rollout: Rollout
  valid: Bool[Array, "B N"]
  finished: Bool[Array, "B N"]
  q_policy: Float[Array, "B N P"]
  q_prover: Float[Array, "B N P"]
  chosen: Int[Array, "B"]
  start: Int[Array, "B H K N C"]
  count: Int[Array, "B H K N C"]

  @property
  def answer(self) -> Rollout:
    """The traces that were chosen, leaves [B, …]."""
    return jax.tree.map(
      lambda x: x[np.arange(len(self.chosen)), self.chosen], self.rollout
    )


def search(
  policy: LanguageModel,
  params: PyTree,
  judge: Judge,
  key: jax.Array,
  prompts: Int[ArrayLike, "B S"],
  prompt_len: Int[ArrayLike, "B"],
  problem_id: Int[ArrayLike, "B"],
  *,
  settings: Settings,
  alpha: Real[ArrayLike, "*#B"],
  max_step_tokens: int | None = None,
) -> Found:
  """Searches many problems at once; see `beam.beam_search`.

  A problem is read once. Steps are sampled behind kept caches, and verifiers
  read each step behind theirs; then all rounds are one loop on the device.
  Other judges get whole traces after each round. What is found is the same.

  Args:
    policy: samples the steps.
    params: of its network.
    judge: of prefixes.
    key: of the run. A candidate's step is drawn as `policy.complete` draws
      completion c of prefix h of the problem's sample n, with candidate c,
      round h and beam n.
    prompts: problems' tokens, then anything.
    prompt_len: how many of them are the problem's.
    problem_id: addresses of their randomness.
    settings: of the search; `num_steps` is `policy.max_steps`.
    alpha: weight of progress, one number or one for each problem.
    max_step_tokens: a step that has so many ends its response; None for
      `policy.max_new_tokens`. Bounds memory.

  Raises:
    ValueError: for settings of other steps, too few step tokens, no problems,
      or prompts that leave no room for a response.
  """
  prompts, prompt_len, problem_id = (
    jnp.asarray(x, jnp.int32) for x in (prompts, prompt_len, problem_id)
  )
  if settings.num_steps != policy.max_steps:
    raise ValueError(
      f"settings have num_steps {settings.num_steps}, expected the policy's "
      f"max_steps, {policy.max_steps}"
    )
  if not prompts.size:
    raise ValueError(
      f"prompts have shape {prompts.shape}, expected [B, S] with B, S >= 1"
    )
  if max_step_tokens is None:
    max_step_tokens = policy.max_new_tokens
  if max_step_tokens < 1:
    raise ValueError(f"max_step_tokens is {max_step_tokens}, expected >= 1")
  width = prompts.shape[1] + policy.max_new_tokens
  if width > policy.config.max_length:
    raise ValueError(
      f"prompts have {prompts.shape[1]} tokens and responses up to "
      f"{policy.max_new_tokens}, expected a sum of at most max_length = "
      f"{policy.config.max_length}"
    )
  alpha = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), len(prompts))
  max_step_tokens = min(max_step_tokens, policy.max_new_tokens)
  room = sampling.bucket(prompts.shape[1]) - prompts.shape[1]
  prompts = jnp.pad(prompts, ((0, 0), (0, room)))
  run = _on_device if judge.is_cached else _on_host
  found = run(
    policy,
    params,
    judge,
    key,
    prompts,
    prompt_len,
    problem_id,
    alpha,
    settings=settings,
    max_step_tokens=max_step_tokens,
  )
  # Room that prompts were given to fit a bucket.
  rollout = dataclasses.replace(
    found.rollout,
    tokens=found.rollout.tokens[..., :width],
    logp=found.rollout.logp[..., :width],
  )
  return dataclasses.replace(found, rollout=rollout)


@functools.partial(
  jax.jit, static_argnames=("policy", "settings", "max_step_tokens")
)
def _on_device(
  policy,
  params,
  judge,
  key,
  prompts,
  prompt_len,
  problem_id,
  alpha,
  *,
  settings,
  max_step_tokens,
) -> Found:
  """Verifiers that keep what they read: one program."""
  state = _start(
    policy,
    params,
    judge,
    prompts,
    prompt_len,
    settings=settings,
    max_step_tokens=max_step_tokens,
  )
  beam, records = beam_lib.search_from(
    beam_lib.start(settings, state, *(q[:, 0] for q in state.values)),
    functools.partial(stepping.sample_step, policy, params, judge),
    lambda state: state.values,
    key,
    settings=settings,
    alpha=alpha,
    problem_id=problem_id,
    identity_fn=lambda candidates: candidates.tokens,
    keep_fn=stepping.Keep(
      policy.config, tuple(map(judging.network, judge.verifiers))
    ),
    record_fn=_record,
  )
  return _found(beam, records, problem_id)


def _on_host(
  policy,
  params,
  judge,
  key,
  prompts,
  prompt_len,
  problem_id,
  alpha,
  *,
  settings,
  max_step_tokens,
) -> Found:
  """Any judge, given whole traces: rounds are a loop of Python's."""
  state = _start(
    policy,
    params,
    None,
    prompts,
    prompt_len,
    settings=settings,
    max_step_tokens=max_step_tokens,
  )

  def values(state):
    return _judge_traces(judge, key, state, problem_id)

  def sample(keys, state):
    return _sample(policy, params, keys, state)

  first = jax.tree.map(lambda x: x[:, :1], _traces(state))
  q_policy, q_prover = values(first)
  beam, records = beam_lib.search_from(
    beam_lib.start(settings, state, q_policy[:, 0], q_prover[:, 0]),
    sample,
    values,
    key,
    settings=settings,
    alpha=alpha,
    problem_id=problem_id,
    identity_fn=lambda candidates: candidates.tokens,
    keep_fn=stepping.Keep(policy.config),
    record_fn=_record,
    on_device=False,
  )
  return _found(beam, records, problem_id)


@functools.partial(
  jax.jit, static_argnames=("policy", "settings", "max_step_tokens")
)
def _start(
  policy, params, judge, prompts, prompt_len, *, settings, max_step_tokens
):
  shape = (len(prompts), settings.num_beams)
  return stepping.start(
    policy,
    params,
    judge,
    prompts,
    prompt_len,
    jnp.broadcast_to(settings.slots(0), shape),
    width=sampling.bucket(prompts.shape[1] + policy.max_new_tokens),
    max_step_tokens=max_step_tokens,
  )


@functools.partial(jax.jit, static_argnames="policy")
def _sample(policy, params, keys, state):
  return stepping.sample_step(policy, params, None, keys, state)


def _traces(state) -> tuple[Array, Array, Array]:
  return state.tokens, state.logp, state.prefix_len


def _judge_traces(judge, key, state, problem_id):
  """Values of the last prefix of each trace, of leaves [B, …, T]."""
  if not isinstance(state, tuple):
    state = _traces(state)
  tokens, logp, prefix_len = state
  shape = tokens.shape[:-1]
  rows = int(np.prod(shape))
  each = np.arange(rows) % (rows // shape[0])
  rollout = Rollout(
    tokens=tokens.reshape(rows, -1),
    logp=logp.reshape(rows, -1),
    prefix_len=prefix_len.reshape(rows, -1),
    outcome=jnp.full(rows, jnp.nan),
    problem_id=jnp.repeat(problem_id, rows // shape[0]),
    sample_id=jnp.asarray(each, jnp.int32),
  )
  return tuple(
    jnp.asarray(q)[:, -1].reshape(shape) for q in judge(key, rollout)
  )


def _record(candidates: stepping.Candidates) -> tuple[Array, Array]:
  count = candidates.count
  return jnp.where(count > 0, candidates.start, 0), count


def _found(beam, records, problem_id) -> Found:
  state = beam.state
  shape = beam.valid.shape
  start, count = (jnp.moveaxis(x, 2, 0) for x in records)
  rollout = Rollout(
    tokens=state.tokens,
    logp=state.logp,
    prefix_len=state.prefix_len,
    outcome=jnp.full(shape, jnp.nan),
    problem_id=jnp.broadcast_to(problem_id[:, None], shape),
    sample_id=jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape),
  )
  # An end token that joined the step before has changed that prefix.
  whole = state.prefix_len == state.prefix_len[..., -1:]
  q_policy, q_prover = (
    jnp.where(whole, q[..., -1:], q) for q in (beam.q_policy, beam.q_prover)
  )
  return Found(
    rollout=rollout,
    valid=beam.valid,
    finished=beam.finished,
    q_policy=q_policy,
    q_prover=q_prover,
    chosen=beam.chosen,
    start=start,
    count=count,
  )
