"""Step-level beam search against the effective reward (Sec. 2, 4.1, App. C).

Pure functions of arrays, for any policy and any values, inside `jit`. B
problems are searched at once, each with N beams of which C next steps are
sampled. Flips of a coin that must all be heads, with the exact values:

>>> import jax, jax.numpy as jnp
>>> from pav_jax.search.beam import Settings, beam_search
>>> def sample_step(keys, state):  # keys [B, N, C], leaves of a state [B, N, …]
...   flips = jnp.vectorize(jax.random.bernoulli, signature="()->()")(keys)
...   heads, tosses = (x[..., None] + y for x, y in zip(state, (flips, 1)))
...   tosses = jnp.broadcast_to(tosses, flips.shape)
...   return (heads, tosses), tosses == 6  # candidates, and who has ended
>>> def value(state):
...   q = jnp.where(state[0] == state[1], 0.5 ** (6 - state[1]), 0.0)
...   return q, q  # under the policy, and under the prover
>>> root = (jnp.zeros(3, int), jnp.zeros(3, int))  # of 3 problems
>>> settings = Settings(num_beams=4, num_candidates=3, num_steps=6)
>>> beam = beam_search(
...   sample_step, value, root, jax.random.key(0), settings=settings, alpha=0.5
... )
>>> beam.answer[0].tolist()  # heads
[6, 6, 6]
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Real

from pav_jax import advantages, randomness
from pav_jax.search import selection
from pav_jax.search.selection import Chosen, Settings

__all__ = ["Beam", "Settings", "beam_search"]

# Of random numbers other than those of candidates.
_SURVIVORS, _LOOKAHEAD = 0x5EED, 0xA4EAD

# Keys [B, N, C] and a state [B, N, …] to candidates [B, N, C, …], and which of
# them have ended, bool[B, N, C].
SampleStep = Callable[[Key[Array, "B N C"], PyTree], tuple[PyTree, Array]]
# A state or candidates to values under the policy and under the prover.
Value = Callable[[PyTree], tuple[Array, Array]]
# A state, its candidates and who survives to the next state [B, N', …].
Keep = Callable[[PyTree, PyTree, Chosen], PyTree]


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Beam:
  """Traces of a search: a frozen pytree. P = H + 1.

  Attributes:
    state: leaves [B, N, …], what `sample_step_fn` continues.
    valid: whether a beam holds a trace at all.
    finished: whether it has ended.
    q_policy: values of its prefixes under the policy, the problem's first; the
      last one is repeated once it has ended.
    q_prover: the same under the prover.
    chosen: the beam of each problem that is the answer, see `best`.
  """

  state: PyTree
  valid: Bool[Array, "B N"]
  finished: Bool[Array, "B N"]
  q_policy: Float[Array, "B N P"]
  q_prover: Float[Array, "B N P"]
  chosen: Int[Array, "B"]

  @property
  def answer(self) -> PyTree:
    """The state of the trace that was chosen, leaves [B, …]."""
    return jax.tree.map(
      lambda x: x[jnp.arange(len(self.chosen)), self.chosen], self.state
    )


def keep(state: PyTree, candidates: PyTree, chosen: Chosen) -> PyTree:
  """The survivors' states, of traces that ended before their old one."""

  def leaf(old, new):
    old, new = _take(old, chosen.parent), _take_candidate(new, chosen)
    extra = (1,) * (new.ndim - 2)
    return jnp.where(chosen.stays.reshape(chosen.stays.shape + extra), old, new)

  return jax.tree.map(leaf, state, candidates)


class Functions(NamedTuple):
  """What a search is made of, besides numbers.

  Attributes:
    sample_step: see `beam_search`.
    value: see `beam_search`.
    keep: makes the state of survivors, of old states and candidates; also for
      as many survivors as there are candidates, to look ahead. A pytree.
    identity: see `beam_search`.
    record: what to record of the candidates of each round.
  """

  sample_step: SampleStep
  value: Value
  keep: Keep = jax.tree_util.Partial(keep)
  identity: Callable[[PyTree], Int[Array, "B N C D"]] | None = None
  record: Callable[[PyTree], PyTree] = lambda candidates: ()


def _take(x: Array, parent: Int[Array, "B M"]) -> Array:
  """Entries [B, M, …] of beams, of [B, N, …]."""
  return x[jnp.arange(len(x))[:, None], parent]


def _take_candidate(x: Array, chosen: Chosen) -> Array:
  """Entries [B, M, …] of candidates, of [B, N, C, …]."""
  rows = jnp.arange(len(x))[:, None]
  return x[rows, chosen.parent, chosen.candidate]


def beam_search(
  sample_step_fn: SampleStep,
  value_fn: Value,
  root: PyTree,
  key: jax.Array,
  *,
  settings: Settings,
  alpha: Real[Array, "*#B"] | float,
  problem_id: Int[Array, "B"] | None = None,
  identity_fn: Callable[[PyTree], Int[Array, "B N C D"]] | None = None,
) -> Beam:
  """Keeps the N best prefixes by `Q^π + α A^μ`, step by step.

  The reward of a candidate is its value under the policy and α times its
  advantage under the prover, the difference of values to the prefix that it
  continues. A trace that has ended keeps its place. The answer is the trace
  with the highest value under the policy of those that have ended.

  Args:
    sample_step_fn: `(keys, state) -> (candidates, ended)`: a next step for each
      key. Keys differ by problem, beam, round and candidate, and depend on
      nothing else, so nor do results on what shares the batch.
    value_fn: `(state) -> (q_policy, q_prover)`, of states and of candidates,
      each in [0, 1] and of the shape that leaves begin with.
    root: leaves [B, …], the states of the bare problems.
    key: of the search.
    settings: sizes and variants, static under `jit`.
    alpha: weight of progress, one number or one for each problem; may be
      traced. 0 is search by Q alone.
    problem_id: addresses of the problems' randomness; None for 0 … B - 1.
    identity_fn: what tells candidates apart, int[B, N, C, D]; for `merge`.

  Returns:
    The last beam, and which of its traces are the answers.

  Raises:
    ValueError: if there are no problems, or nothing to merge by.
  """
  leaves = jax.tree.leaves(root)
  if not leaves or not jnp.ndim(leaves[0]) or not len(leaves[0]):
    raise ValueError("root has no problems, expected leaves [B, …] with B >= 1")
  if settings.merge and identity_fn is None:
    raise ValueError("settings merge equal prefixes, expected an identity_fn")
  if problem_id is None:
    problem_id = jnp.arange(len(leaves[0]))
  q_policy, q_prover = value_fn(jax.tree.map(lambda x: x[:, None], root))
  state = jax.tree.map(
    lambda x: jnp.repeat(x[:, None], settings.num_beams, axis=1), root
  )
  beam, _ = search_from(
    start(settings, state, q_policy[:, 0], q_prover[:, 0]),
    Functions(sample_step_fn, value_fn, identity=identity_fn),
    key,
    settings=settings,
    alpha=alpha,
    problem_id=problem_id,
  )
  return beam


def search_from(
  beam: Beam,
  functions: Functions,
  key: jax.Array,
  *,
  settings: Settings,
  alpha: Real[Array, "*#B"] | float,
  problem_id: Int[Array, "B"],
  on_device: bool = True,
) -> tuple[Beam, PyTree]:
  """`beam_search` of states that are not kept as they are.

  Args:
    beam: from `start`.
    functions: of states and candidates.
    key: of the search.
    settings: sizes and variants.
    alpha: weight of progress, one number or one for each problem.
    problem_id: addresses of the problems' randomness.
    on_device: whether rounds are a loop on the device; else they are one of
      Python's, in which values may come from anywhere.

  Returns:
    The last beam, and records [H, 1 + lookahead, …]; those of rounds that were
    not needed are 0.
  """
  search_round = functools.partial(
    _round, settings, functions, key, problem_id, alpha
  )

  def going(carry):
    at, beam, _ = carry
    active = jnp.any(beam.valid & ~beam.finished)
    return (at < settings.num_steps) & active

  def body(carry):
    at, beam, records = carry
    beam, now = search_round(at, beam)
    records = jax.tree.map(lambda x, new: x.at[at].set(new), records, now)
    return at + 1, beam, records

  if on_device:
    shapes = jax.eval_shape(search_round, jnp.int32(0), beam)[1]
    records = jax.tree.map(
      lambda x: jnp.zeros((settings.num_steps, *x.shape), x.dtype), shapes
    )
    _, beam, records = jax.lax.while_loop(
      going, body, (jnp.int32(0), beam, records)
    )
    return beam, records
  at, records = 0, []
  while going((at, beam, None)):
    beam, now = search_round(jnp.int32(at), beam)
    records.append(now)
    at += 1
  missing = jax.tree.map(jnp.zeros_like, records[0])
  records += [missing] * (settings.num_steps - len(records))
  return beam, jax.tree.map(lambda *x: jnp.stack(x), *records)


def start(
  settings: Settings,
  state: PyTree,
  q_policy: Float[Array, "B"],
  q_prover: Float[Array, "B"],
) -> Beam:
  """All beams of a problem at its beginning.

  Args:
    settings: of the search.
    state: leaves [B, N, …].
    q_policy: values of the bare problems under the policy.
    q_prover: the same under the prover.
  """
  shape = (len(q_policy), settings.num_beams)

  def path(q):
    q = q.astype(jnp.float32)[:, None, None]
    return jnp.broadcast_to(q, (*shape, settings.num_steps + 1))

  return Beam(
    state=state,
    valid=jnp.ones(shape, bool),
    finished=jnp.zeros(shape, bool),
    q_policy=path(q_policy),
    q_prover=path(q_prover),
    chosen=jnp.zeros(shape[0], jnp.int32),
  )


@functools.partial(jax.jit, static_argnames=("num_beams", "num_candidates"))
def candidate_keys(
  key: jax.Array,
  problem_id: Int[Array, "B"],
  num_beams: int,
  round_index: Int[Array, ""] | int,
  num_candidates: int,
) -> Key[Array, "B N C"]:
  """A key for each candidate: of problem, beam, round and candidate.

  The address is that of `LanguageModel.complete`, whose sample is the beam and
  whose prefix the round.
  """
  parts = jnp.broadcast_arrays(
    problem_id[:, None, None],
    jnp.arange(num_beams)[:, None],
    jnp.asarray(round_index, jnp.int32),
    jnp.arange(num_candidates),
  )
  return randomness.row_keys(key, parts)


def best(beam: Beam) -> Int[Array, "B"]:
  """The answer: the highest `q_policy` of traces that have ended.

  The first of equal ones; if none has ended, of those that have not.
  """
  order = jnp.lexsort(
    (-beam.q_policy[..., -1], ~beam.finished, ~beam.valid), axis=-1
  )
  return order[:, 0].astype(jnp.int32)


def _round(
  settings: Settings,
  functions: Functions,
  key: jax.Array,
  problem_id: Array,
  alpha: Any,
  round_index: Array,
  beam: Beam,
) -> tuple[Beam, PyTree]:
  """The beam after the round h that its traces have come to, and records."""
  keys = candidate_keys(
    key, problem_id, settings.num_beams, round_index, settings.num_candidates
  )
  candidates, ended = functions.sample_step(keys, beam.state)
  values = tuple(map(jnp.asarray, functions.value(candidates)))
  deciding, records = values, [functions.record(candidates)]
  if settings.lookahead:
    deciding, further = _look_ahead(
      settings, functions, key, problem_id, round_index, beam, candidates, ended
    )
    records += further
  beam = _advance(
    settings,
    functions.keep,
    key,
    problem_id,
    alpha,
    round_index,
    beam,
    candidates,
    ended,
    values,
    deciding,
    functions.identity(candidates) if settings.merge else None,
  )
  return beam, jax.tree.map(lambda *x: jnp.stack(x), *records)


@functools.partial(jax.jit, static_argnames="settings")
def _advance(
  settings: Settings,
  keep_fn: Keep,
  key: jax.Array,
  problem_id: Int[Array, "B"],
  alpha: Real[Array, "*#B"] | float,
  round_index: Int[Array, ""],
  beam: Beam,
  candidates: PyTree,
  ended: Bool[Array, "B N C"],
  values: tuple[Float[Array, "B N C"], Float[Array, "B N C"]],
  deciding: tuple[Float[Array, "B N C"], Float[Array, "B N C"]],
  identity: Int[Array, "B N C D"] | None,
) -> Beam:
  """The beam after a round; of `deciding` values rewards are made."""
  q_policy, q_prover = (x.astype(jnp.float32) for x in values)
  before = beam.q_prover[:, :, round_index, None]
  alpha = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), len(q_policy))
  reward = jax.vmap(
    lambda q, adv, alpha: advantages.effective_reward(q, adv, alpha=alpha)
  )(deciding[0], deciding[1] - before, alpha)
  survivor_key = jax.random.fold_in(key, _SURVIVORS)
  address = problem_id, jnp.broadcast_to(round_index, problem_id.shape)
  chosen = selection.choose(
    settings,
    randomness.row_keys(survivor_key, address),
    reward,
    beam.valid,
    beam.finished,
    beam.q_policy[..., -1],
    identity,
  )
  after = jnp.arange(settings.num_steps + 1) > round_index

  def path(old, new):
    old = _take(old, chosen.parent)
    new = _take_candidate(new, chosen)
    return jnp.where(after & ~chosen.stays[..., None], new[..., None], old)

  out = Beam(
    state=keep_fn(beam.state, candidates, chosen),
    valid=chosen.valid,
    finished=chosen.stays | _take_candidate(ended, chosen),
    q_policy=path(beam.q_policy, q_policy),
    q_prover=path(beam.q_prover, q_prover),
    chosen=beam.chosen,
  )
  return dataclasses.replace(out, chosen=best(out))


def _look_ahead(
  settings: Settings,
  functions: Functions,
  key: jax.Array,
  problem_id: Int[Array, "B"],
  round_index: Int[Array, ""],
  beam: Beam,
  candidates: PyTree,
  ended: Bool[Array, "B N C"],
) -> tuple[tuple[Array, Array], list[PyTree]]:
  """Values of candidates after `settings.lookahead` further sampled steps.

  A trace that ends before has the value of its end. Also gives the records of
  these steps, in the shape of the candidates'.
  """
  every, stay = _everybody(beam, ended)
  state = _keep(functions.keep, beam.state, candidates, every)
  finished = stay.stays
  records = []
  for ahead in range(settings.lookahead):
    ahead_key = jax.random.fold_in(jax.random.fold_in(key, _LOOKAHEAD), ahead)
    keys = candidate_keys(
      ahead_key, problem_id, finished.shape[1], round_index, 1
    )
    further, now = functions.sample_step(keys, state)
    records.append(
      jax.tree.map(
        lambda x: x.reshape(*ended.shape, *x.shape[3:]),
        functions.record(further),
      )
    )
    stay = stay._replace(stays=finished)
    state = _keep(functions.keep, state, further, stay)
    finished |= now[..., 0]
  values = functions.value(state)
  return tuple(jnp.asarray(q).reshape(ended.shape) for q in values), records


@jax.jit
def _everybody(
  beam: Beam, ended: Bool[Array, "B N C"]
) -> tuple[Chosen, Chosen]:
  """All candidates as survivors; then as beams that go on from themselves."""
  batch, num_beams, num = ended.shape
  rows = jnp.broadcast_to(jnp.arange(num_beams * num), (batch, num_beams * num))
  valid = (beam.valid & ~beam.finished)[..., None] & jnp.ones_like(ended)
  valid = valid.reshape(rows.shape)
  every = Chosen(rows // num, rows % num, valid, ~valid)
  alone = Chosen(rows, jnp.zeros_like(rows), valid, ended.reshape(rows.shape))
  return every, alone


@jax.jit
def _keep(keep_fn: Keep, *survivors: PyTree) -> PyTree:
  """`keep_fn` as one program, where rounds are a loop of Python's."""
  return keep_fn(*survivors)
