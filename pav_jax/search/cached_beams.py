"""Beam search with a language model, over kept caches (Sec. 4.1, App. C)."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from pav_jax.policies import sampling
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout
from pav_jax.search import beam as beam_lib
from pav_jax.search import stepping
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import ValueFunction


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class SearchResult:
  """The last beams of B problems, and what it took to get there.

  Attributes:
    rollout: leaves [B, N, …], the traces of the last beam, outcome NaN;
      `sample_id` is the beam.
    valid: which of them there are.
    finished: which have ended; none goes on after `max_steps` rounds.
    q_policy: values of their prefixes under the policy; 0 of a whole response
      that the length limit has cut off.
    q_prover: the same under the prover.
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
  value_function: ValueFunction,
  key: jax.Array,
  prompts: Int[ArrayLike, "B S"],
  prompt_len: Int[ArrayLike, "B"],
  problem_id: Int[ArrayLike, "B"],
  *,
  settings: Settings,
  alpha: Real[ArrayLike, "*#B"],
  max_step_tokens: int | None = None,
) -> SearchResult:
  """Searches many problems at once; see `beam.beam_search`.

  A problem is read once. Steps are sampled behind prefix caches, and provers
  that can read each step behind theirs; then all rounds are one loop on the
  device. Other provers get whole traces after each round. The result is the
  same.

  A response that ends without the end token was cut off, and is worth 0.

  Args:
    policy: samples the steps.
    params: of its network.
    value_function: of prefixes.
    key: of the run. A candidate's step is drawn as `policy.complete` draws
      completion c of prefix h of the problem's sample n, with candidate c,
      round h and beam n.
    prompts: problems' tokens, then anything.
    prompt_len: how many of them are the problem's.
    problem_id: addresses of their randomness.
    settings: of the search; `num_steps` is `policy.max_steps`.
    alpha: weight of progress, one number or one for each problem.
    max_step_tokens: a step that has so many cuts off its response; None for
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
  room = sampling.bucket(prompts.shape[1]) - prompts.shape[1]
  run = _on_device if value_function.is_cached else _on_host
  result = run(
    policy,
    params,
    value_function,
    key,
    jnp.pad(prompts, ((0, 0), (0, room))),
    prompt_len,
    problem_id,
    jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), len(prompts)),
    settings=settings,
    max_step_tokens=min(max_step_tokens, policy.max_new_tokens),
  )
  # Room that prompts were given to fit a bucket.
  rollout = dataclasses.replace(
    result.rollout,
    tokens=result.rollout.tokens[..., :width],
    logp=result.rollout.logp[..., :width],
  )
  return dataclasses.replace(result, rollout=rollout)


_compiled = functools.partial(
  jax.jit, static_argnames=("policy", "settings", "max_step_tokens")
)


@_compiled
def _on_device(
  policy,
  params,
  value_function,
  key,
  prompts,
  prompt_len,
  problem_id,
  alpha,
  *,
  settings,
  max_step_tokens,
) -> SearchResult:
  """Provers with prefix caches: one program."""
  state = _start(
    policy,
    params,
    value_function,
    prompts,
    prompt_len,
    settings=settings,
    max_step_tokens=max_step_tokens,
  )
  beam, records = beam_lib.search_from(
    beam_lib.start(settings, state, *(q[:, 0] for q in state.values)),
    beam_lib.Functions(
      functools.partial(stepping.sample_step, policy, params, value_function),
      value=lambda state: state.values,
      keep=Partial(stepping.keep, value_function),
      identity=lambda candidates: candidates.tokens,
      record=_record,
    ),
    key,
    settings=settings,
    alpha=alpha,
    problem_id=problem_id,
  )
  return _result(beam, records, problem_id)


def _on_host(
  policy,
  params,
  value_function,
  key,
  prompts,
  prompt_len,
  problem_id,
  alpha,
  *,
  settings,
  max_step_tokens,
) -> SearchResult:
  """Any provers, given whole traces: rounds are a loop of Python's."""
  state = _start(
    policy,
    params,
    None,
    prompts,
    prompt_len,
    settings=settings,
    max_step_tokens=max_step_tokens,
  )
  values = functools.partial(_evaluate, value_function, key, problem_id)
  beam, records = beam_lib.search_from(
    beam_lib.start(settings, state, *(q[:, 0] for q in values(state, 1))),
    beam_lib.Functions(
      lambda keys, state: _sample(policy, params, keys, state),
      value=values,
      keep=Partial(stepping.keep, None),
      identity=lambda candidates: candidates.tokens,
      record=_record,
    ),
    key,
    settings=settings,
    alpha=alpha,
    problem_id=problem_id,
    on_device=False,
  )
  return _result(beam, records, problem_id)


@_compiled
def _start(
  policy,
  params,
  value_function,
  prompts,
  prompt_len,
  *,
  settings,
  max_step_tokens,
):
  return stepping.start(
    policy,
    params,
    value_function,
    prompts,
    prompt_len,
    num_beams=settings.num_beams,
    width=sampling.bucket(prompts.shape[1] + policy.max_new_tokens),
    max_step_tokens=max_step_tokens,
  )


@functools.partial(jax.jit, static_argnames="policy")
def _sample(policy, params, keys, state):
  return stepping.sample_step(policy, params, None, keys, state)


def _evaluate(value_function, key, problem_id, state, num_beams=None):
  """Values of the last prefix of each trace of beams or candidates.

  Args:
    value_function: that reads whole traces.
    key: of the run.
    problem_id: of the problems.
    state: of beams or candidates, leaves [B, N, …].
    num_beams: the first ones that are evaluated; None for all.
  """
  cut, rollout = _traces(
    (state.cut, state.tokens, state.logp, state.prefix_len),
    problem_id,
    num_beams,
  )
  return _unless_cut(cut, value_function(key, rollout))


@functools.partial(jax.jit, static_argnames="num_beams")
def _traces(fields, problem_id, num_beams):
  """Which traces were cut off, and all of them as one rollout."""
  cut, *fields = (x[:, :num_beams] for x in fields)
  tokens, logp, prefix_len = (x.reshape(cut.size, -1) for x in fields)
  each = cut[0].size
  return cut, Rollout(
    tokens=tokens,
    logp=logp,
    prefix_len=prefix_len,
    outcome=jnp.full(cut.size, jnp.nan),
    problem_id=jnp.repeat(problem_id, each),
    sample_id=jnp.tile(jnp.arange(each, dtype=jnp.int32), len(cut)),
  )


@jax.jit
def _unless_cut(cut, values):
  return tuple(jnp.where(cut, 0.0, q[:, -1].reshape(cut.shape)) for q in values)


def _record(candidates: stepping.Candidates) -> tuple[Array, Array]:
  count = candidates.count
  return jnp.where(count > 0, candidates.start, 0), count


@jax.jit
def _result(beam, records, problem_id) -> SearchResult:
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
  return SearchResult(
    rollout=rollout,
    valid=beam.valid,
    finished=beam.finished,
    q_policy=q_policy,
    q_prover=q_prover,
    chosen=beam.chosen,
    start=start,
    count=count,
  )
