"""Three problems as tables, whose values and policy gradients are exact.

A process has H steps of one token each, S states and A actions; a step leads
from state s by action a to `next_state[h, s, a]`, without chance. Policies are
tables of logits [H, S, A]. Values follow by dynamic programming, and so do the
gradient of the success rate and the tokens that a completion costs.

- planted: the states of `problems.planted.Planted`'s automaton; the end token
  ends a response.
- chain: operations that have been done, up to D, rightly or not, as of
  `problems.chain`; an action does the next one right, restates the present
  value, or is one of several mistakes, which nothing mends. A response ends
  with its last operation.
- two routes: `problems.two_routes`; X's fillers are no choices, nor are steps
  after a mistake, and a response has all H steps.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax.problems.planted import Planted
from pav_jax.rollout import Rollout

NUM_STEPS = 10
NEVER = -1e9  # the logit of what is no action of a state


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Process:
  """A process, and a family of policies for it; all of one shape.

  Attributes:
    next_state: of every step, state and action.
    reward: 1 for states in which a response is right, after all steps.
    ended: states in which a response has no further steps.
    base: logits of the weakest policy, `NEVER` for what is no action.
    skill: what is added to them, times a number, for a better one.
    solution: actions of a right response, whose beginnings help exploration.
  """

  next_state: Int[Array, "H S A"]
  reward: Float[Array, "S"]
  ended: Bool[Array, "S"]
  base: Float[Array, "H S A"]
  skill: Float[Array, "H S A"]
  solution: Int[Array, "H"]

  def policy(self, strength: float) -> Float[Array, "H S A"]:
    """Logits of a policy of the family."""
    return self.base + strength * self.skill


def planted(planted: tuple[int, ...] = (3, 6, 0, 3, 5)) -> Process:
  """The paper's: 10 tokens out of 15. Skill is the planted sequence's weight.

  Args:
    planted: the tokens that must occur.
  """
  problem = Planted(planted, NUM_STEPS)
  states, m = problem.num_states, len(planted)
  skill = np.zeros((states, problem.vocab_size))
  skill[np.arange(m), planted] = 1
  rest = [0] * (NUM_STEPS - m)
  return _process(
    np.tile(problem.transitions, (NUM_STEPS, 1, 1)),
    reward=np.arange(states) == m,
    ended=np.arange(states) == m + 1,
    base=np.zeros((NUM_STEPS, states, problem.vocab_size)),
    skill=np.tile(skill, (NUM_STEPS, 1, 1)),
    solution=np.array([*planted, *rest]),
  )


def chain(num_operations: int = 6, num_mistakes: int = 6) -> Process:
  """Operations in order. Skill is the weight of the right action.

  Args:
    num_operations: D, at most the number of steps.
    num_mistakes: actions that are wrong.
  """
  d = num_operations
  states, actions = 2 * (d + 1), 2 + num_mistakes
  done, wrong = np.arange(states) % (d + 1), np.arange(states) > d
  further = np.minimum(done + 1, d)
  table = np.repeat((further + (d + 1))[:, None], actions, axis=1)
  table[:, 0] = further + (d + 1) * wrong
  table[:, 1] = np.arange(states)
  base = np.zeros((NUM_STEPS, states, actions))
  base[:, :, 1] = -1.0
  skill = np.zeros((NUM_STEPS, states, actions))
  skill[:, :, 0] = 1
  return _process(
    np.tile(table, (NUM_STEPS, 1, 1)),
    reward=(done == d) & ~wrong,
    ended=done == d,
    base=base,
    skill=skill,
    solution=np.zeros(NUM_STEPS, int),
  )


def two_routes() -> Process:
  """A choice at first. Skill is what a step of Y, and X's guess, gain alike.

  With equal logits X's guess, one right action of 40, is worth more than Y,
  whose nine further steps are right one time in two: so outcomes teach X first.
  """
  start, x, y, dead, right = range(5)
  states, actions = 5, 2
  last = NUM_STEPS - 1
  table = np.tile(np.arange(states)[None, :, None], (NUM_STEPS, 1, actions))
  table[0, start] = [y, x]
  table[:, y] = [y, dead]
  table[last, y] = [right, dead]
  table[last, x] = [right, dead]
  base = np.zeros((NUM_STEPS, states, actions))
  base[:, [x, dead, right], 1] = NEVER
  base[last, x] = [-np.log(39.0), 0]
  skill = np.zeros((NUM_STEPS, states, actions))
  skill[1:, y, 0] = 1
  skill[last, x, 0] = 1
  return _process(
    table,
    reward=np.arange(states) == right,
    ended=np.zeros(states, bool),
    base=base,
    skill=skill,
    solution=np.zeros(NUM_STEPS, int),
  )


PROCESSES = {"planted": planted, "chain": chain, "two routes": two_routes}
_STATES, _ACTIONS = 14, 15  # the most of any


def _process(next_state, *, reward, ended, base, skill, solution):
  """With room for the most states and actions: all share compiled programs."""
  _, states, actions = next_state.shape
  itself = np.arange(states)[:, None]
  next_state = np.where(ended[:, None], itself, next_state)  # values stay there
  more = (0, 0), (0, _STATES - states), (0, _ACTIONS - actions)
  return Process(
    next_state=jnp.asarray(np.pad(next_state, more), jnp.int32),
    reward=jnp.asarray(np.pad(reward, more[1]), jnp.float32),
    ended=jnp.asarray(np.pad(ended, more[1])),
    base=jnp.asarray(np.pad(base, more, constant_values=NEVER), jnp.float32),
    skill=jnp.asarray(np.pad(skill, more), jnp.float32),
    solution=jnp.asarray(solution, jnp.int32),
  )


def values(
  process: Process, logits: Float[Array, "H S A"]
) -> Float[Array, "P S"]:
  """The chance of success after h steps, in a state; P = H + 1 (Eq. 1).

  Args:
    process: which.
    logits: of the policy.
  """
  return _back_up(process, logits, process.reward, lambda now, value: value)


def success(process: Process, logits: Float[Array, "H S A"]) -> Array:
  """The success rate, float32[]; its gradient is the exact policy gradient."""
  return values(process, logits)[0, 0]


exact_gradient = jax.jit(jax.grad(success, argnums=1))


@jax.jit
def _success_at(process, strength):
  return success(process, process.policy(strength))


@jax.jit
def tokens_left(
  process: Process, logits: Float[Array, "H S A"]
) -> Float[Array, "P S"]:
  """The tokens that a completion of a prefix takes, expected.

  Args:
    process: which.
    logits: of the policy that completes.
  """
  nothing = jnp.zeros_like(process.reward)
  return _back_up(
    process,
    logits,
    nothing,
    lambda now, left: jnp.where(process.ended, 0.0, 1.0 + left),
  )


def soft_optimal(
  process: Process, logits: Float[Array, "H S A"], beta: float
) -> Float[Array, "H S A"]:
  """Logits of the best policy under a penalty `β KL(π‖π_ref)`, in closed form.

  Args:
    process: which.
    logits: of the reference.
    beta: β > 0, in units of reward a nat.
  """
  logp = jax.nn.log_softmax(logits)

  def step(after, now):
    logp, next_state = now
    improved = logp + after[next_state] / beta
    return beta * jax.nn.logsumexp(improved, axis=-1), improved

  _, improved = jax.lax.scan(
    step, process.reward, (logp, process.next_state), reverse=True
  )
  return improved


def _back_up(process, logits, last, of):
  def step(after, now):
    probs, next_state = now
    value = of(now, jnp.sum(probs * after[next_state], axis=-1))
    return value, value

  probs = jax.nn.softmax(logits)
  _, before = jax.lax.scan(
    step, last, (probs, process.next_state), reverse=True
  )
  return jnp.concatenate([before, last[None]])


def strength_for(process: Process, rate: float) -> float:
  """Which policy of the family has this success rate, by bisection.

  Args:
    process: which.
    rate: in (0, 1).

  Raises:
    ValueError: if none has.
  """
  low, high = -20.0, 30.0
  ends = _success_at(process, low), _success_at(process, high)
  if not ends[0] < rate < ends[1]:
    raise ValueError(
      f"rate is {rate}, expected one in ({ends[0]:.3g}, {ends[1]:.3g})"
    )
  for _ in range(40):
    middle = (low + high) / 2
    if _success_at(process, middle) < rate:
      low = middle
    else:
      high = middle
  return (low + high) / 2


class Walk(typing.NamedTuple):
  """Rollouts, and where they have been.

  Attributes:
    rollout: graded, one problem; its problem is one token.
    states: at every prefix; where a response has ended, the state it ended in.
    num_tokens: that were sampled, those of shared beginnings once.
  """

  rollout: Rollout
  states: Int[Array, "B P"]
  num_tokens: Float[Array, ""]


def sample(
  uniforms: Float[Array, "H B"],
  process: Process,
  logits: Float[Array, "H S A"],
  *,
  forks: tuple[int, ...] = (),
  num_given: Int[Array, "B"] | None = None,
) -> Walk:
  """Responses of a policy, independent or a tree of them.

  Args:
    uniforms: random numbers in [0, 1), one for each action of B responses.
    process: which.
    logits: of the policy.
    forks: steps before which each branch of a tree becomes two, in order; B is
      a multiple of 2 to their number, and there are as many trees as its
      quotient. () for independent responses.
    num_given: of each response, steps that are the solution's and not sampled;
      0 where it is None.

  Raises:
    ValueError: if B is no such multiple.
  """
  num_steps, num_rollouts = uniforms.shape
  leaves = 2 ** len(forks)
  if num_rollouts % leaves:
    raise ValueError(
      f"num_rollouts is {num_rollouts}, expected a multiple of {leaves} for "
      f"the {len(forks)} forks"
    )
  rows = jnp.arange(num_rollouts)
  # Rollouts of one branch take their random numbers from the first of them.
  passed = jnp.sum(
    jnp.arange(num_steps)[:, None] >= jnp.array(forks, jnp.int32), axis=-1
  )
  width = leaves // 2**passed
  branch = rows // width[:, None] * width[:, None]
  logp = jax.nn.log_softmax(logits)
  given = jnp.zeros(num_rollouts, jnp.int32) if num_given is None else num_given

  def step(state, now):
    index, uniform, logp, next_state, branch, solution = now
    below = jnp.cumsum(jnp.exp(logp), axis=-1)[state]
    below = below / below[:, -1:]
    action = jnp.sum(below <= uniform[branch, None], axis=-1, dtype=jnp.int32)
    action = jnp.where(index < given, solution, action)
    exists = ~process.ended[state]
    after = jnp.where(exists, next_state[state, action], state)
    taken = jnp.where(exists, logp[state, action], 0.0)
    fresh = exists & (branch == rows) & (index >= given)
    return after, (action, taken, exists, after, fresh)

  start = jnp.zeros(num_rollouts, jnp.int32)
  inputs = (
    jnp.arange(num_steps),
    uniforms,
    logp,
    process.next_state,
    branch,
    process.solution,
  )
  last, (actions, taken, exists, states, fresh) = jax.lax.scan(
    step, start, inputs
  )
  zeros = jnp.zeros((num_rollouts, 1), jnp.int32)
  length = jnp.cumsum(exists.T.astype(jnp.int32), axis=-1)
  rollout = Rollout(
    tokens=jnp.concatenate([zeros, jnp.where(exists, actions, 0).T], axis=-1),
    logp=jnp.pad(taken.T, ((0, 0), (1, 0))),
    prefix_len=1 + jnp.concatenate([zeros, length], axis=-1),
    outcome=process.reward[last],
    problem_id=jnp.zeros(num_rollouts, jnp.int32),
    sample_id=rows.astype(jnp.int32),
  )
  states = jnp.concatenate([zeros, states.T], axis=-1)
  return Walk(rollout, states, jnp.sum(fresh).astype(jnp.float32))


def log_probability(
  logits: Float[Array, "H S A"], walk: Walk
) -> Float[Array, "B H"]:
  """log π of the actions that were taken, of steps that exist or not.

  Args:
    logits: of any policy.
    walk: whose actions.
  """
  logp = jax.nn.log_softmax(logits)
  steps = jnp.arange(len(logits))
  return logp[steps, walk.states[:, :-1], walk.rollout.tokens[:, 1:]]
