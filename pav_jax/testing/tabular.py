"""A small decision process whose values are known exactly.

A tree of A actions and H steps: a state is the sequence of actions taken, and
each full sequence is correct or wrong. Prefixes are numbered level by level,
the bare problem first, so that the child of prefix n by action a is prefix
`A n + 1 + a`. With `S = (A^H − 1) / (A − 1)` prefixes that have a next step and
`N = S + A^H` in all, policies are tables `probs[S, A]`, and a prover is, as
everywhere, the values of prefixes: an array `[N]`. From those,

    Q(s, a) = values[child(s, a)]                     q_table
    A(s, a) = values[child(s, a)] − values[s]         advantage_table  (Eq. 2)

and Best-of-K of a policy is `values.best_of_k(prefix_values(…), k)` (Eq. 30).
All functions are differentiable in the policy and work in jit and vmap.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from pav_jax.rollout import Rollout


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class TabularProcess:
  """The process.

  Attributes:
    rewards: 1 for each correct full sequence and 0 for each wrong one, in
      lexicographic order.
    num_actions: A >= 2.
    num_steps: H >= 1.
  """

  rewards: Float[Array, "A**H"]
  num_actions: int = dataclasses.field(metadata={"static": True})
  num_steps: int = dataclasses.field(metadata={"static": True})

  @property
  def num_states(self) -> int:
    """S, the number of prefixes that have a next step."""
    return (self.num_actions**self.num_steps - 1) // (self.num_actions - 1)


def random_process(
  key: Key[Array, ""], *, num_actions: int, num_steps: int, num_correct: int
) -> TabularProcess:
  """A process with `num_correct` correct sequences, drawn without replacement.

  Raises:
    ValueError: there is nothing to choose, or not that many sequences.
  """
  if num_actions < 2 or num_steps < 1:
    raise ValueError(
      f"num_actions is {num_actions} and num_steps {num_steps}; expected at "
      "least 2 and 1"
    )
  num_sequences = num_actions**num_steps
  if not 0 <= num_correct <= num_sequences:
    raise ValueError(
      f"num_correct is {num_correct}; expected 0 … {num_sequences}"
    )
  rewards = (jnp.arange(num_sequences) < num_correct).astype(jnp.float32)
  return TabularProcess(
    jax.random.permutation(key, rewards), num_actions, num_steps
  )


def prefix_values(
  process: TabularProcess, probs: Float[Array, "S A"]
) -> Float[Array, "N"]:
  """`V^π` of every prefix, by backward induction (Eq. 1); entry 0 is the start.

  The last A^H entries are the rewards.
  """
  levels = [process.rewards]
  for policy in reversed(_by_level(process, probs)):
    q = levels[0].reshape(-1, process.num_actions)
    levels.insert(0, jnp.sum(policy * q, axis=-1))
  return jnp.concatenate(levels)


def q_table(
  process: TabularProcess, values: Float[Array, "N"]
) -> Float[Array, "S A"]:
  """Q(s, a): the value of the prefix that the step leads to."""
  return values[1:].reshape(process.num_states, process.num_actions)


def advantage_table(
  process: TabularProcess, values: Float[Array, "N"]
) -> Float[Array, "S A"]:
  """A(s, a) = Q(s, a) − V(s) under the prover with these values (Eq. 2)."""
  return q_table(process, values) - values[: process.num_states, None]


def state_visits(
  process: TabularProcess, probs: Float[Array, "S A"]
) -> Float[Array, "S"]:
  """d^π(s): the probability that a response passes s. They sum to H."""
  reached = jnp.ones(1, probs.dtype)
  visits = []
  for policy in _by_level(process, probs):
    visits.append(reached)
    reached = (reached[:, None] * policy).ravel()
  return jnp.concatenate(visits)


def sample(
  key: Key[Array, ""],
  process: TabularProcess,
  probs: Float[Array, "S A"],
  num_samples: int,
) -> Rollout:
  """Draws responses from a policy; each depends on its `sample_id` alone."""
  logits = jnp.log(probs)

  def one(sample_id: Array) -> Array:
    sample_key = jax.random.fold_in(key, sample_id)

    def act(state: Array, step: Array) -> tuple[Array, Array]:
      step_key = jax.random.fold_in(sample_key, step)
      action = jax.random.categorical(step_key, logits[state])
      return process.num_actions * state + 1 + action.astype(jnp.int32), action

    return jax.lax.scan(act, jnp.int32(0), jnp.arange(process.num_steps))[1]

  return _rollouts(process, probs, jax.vmap(one)(jnp.arange(num_samples)))


def all_rollouts(
  process: TabularProcess, probs: Float[Array, "S A"]
) -> tuple[Rollout, Float[Array, "B"]]:
  """Every response once, B = A^H, and its probability: exact expectations."""
  powers = process.num_actions ** jnp.arange(process.num_steps)[::-1]
  sequence = jnp.arange(process.num_actions**process.num_steps)
  actions = sequence[:, None] // powers % process.num_actions
  rollout = _rollouts(process, probs, actions)
  return rollout, jnp.exp(jnp.sum(rollout.logp, axis=-1))


def visited_prefixes(
  process: TabularProcess, rollout: Rollout
) -> Int[Array, "B P"]:
  """The numbers of a rollout's prefixes; `values[…]` of them is q[B, H + 1]."""
  prefix = jnp.zeros(rollout.tokens.shape[:1], jnp.int32)
  visited = [prefix]
  for step in range(process.num_steps):
    prefix = process.num_actions * prefix + 1 + rollout.tokens[:, step + 1]
    visited.append(prefix)
  return jnp.stack(visited, axis=-1)


def _by_level(process: TabularProcess, probs: Array) -> list[Array]:
  sizes = [process.num_actions**h for h in range(process.num_steps)]
  starts = [sum(sizes[:h]) for h in range(process.num_steps)]
  return [probs[n : n + size] for n, size in zip(starts, sizes, strict=True)]


def _rollouts(process: TabularProcess, probs: Array, actions: Array) -> Rollout:
  """Rollouts of one problem token (id A), then one token for each action."""
  num, num_steps = actions.shape
  tokens = jnp.pad(
    actions.astype(jnp.int32),
    [(0, 0), (1, 0)],
    constant_values=process.num_actions,
  )
  rollout = Rollout(
    tokens=tokens,
    logp=jnp.zeros(tokens.shape),
    prefix_len=jnp.tile(
      jnp.arange(1, num_steps + 2, dtype=jnp.int32), (num, 1)
    ),
    outcome=jnp.zeros(num),
    problem_id=jnp.zeros(num, jnp.int32),
    sample_id=jnp.arange(num, dtype=jnp.int32),
  )
  visited = visited_prefixes(process, rollout)
  logp = jnp.log(probs)[visited[:, :-1], actions]
  return dataclasses.replace(
    rollout,
    logp=jnp.pad(logp, [(0, 0), (1, 0)]),
    outcome=process.rewards[visited[:, -1] - process.num_states],
  )
