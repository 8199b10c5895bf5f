"""Two routes to an answer: where a beam on progress and one on Q part.

A response has H steps. The first one chooses route X, with probability x, or
route Y. The further steps of X are filler; at its last step it guesses, and is
right with probability f. Every further step of Y is right with probability p,
and a wrong one cannot be mended. So the policy's exact values are

    after h < H steps of X    f
    after h steps of Y        p^(H−h), or 0 after a wrong one

and Y may be worth less than X at first although selection of steps improves Y
alone: from Y a search keeps the steps that were right, and X has none. A beam
on Q^π fills up with copies of X, one on effective rewards need not.

Every token is a step and the problem itself is empty, as of `planted`:
`TwoRoutes` samples responses, knows their values, and takes steps for
`search.beam.beam_search`. `search_success` is what such a search attains, by
enumeration; `optimal_success` is what no choice of survivors can exceed.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from pav_jax import randomness
from pav_jax.checks import Leaf
from pav_jax.rollout import Rollout

# Tokens: none yet; the two first steps, X also being its filler; and how a
# step of Y, or the guess that ends X, turned out.
PAD, X, Y, RIGHT, WRONG = range(5)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["p", "f", "x"],
  meta_fields=["num_steps"],
)
@dataclasses.dataclass(frozen=True)
class TwoRoutes:
  """The process, its policy and the policy's exact values.

  Probabilities are floats or float32[] and may be traced.

  Attributes:
    num_steps: H >= 2, static.
    p: probability in [0, 1] that a step of Y is right.
    f: probability in [0, 1] that X's guess is right.
    x: probability in [0, 1] that the policy chooses X.

  Raises:
    ValueError: if a number is out of its range.
  """

  num_steps: int = 8
  p: Leaf = 0.4
  f: Leaf = 0.005
  x: Leaf = 0.1

  def __post_init__(self):
    _check_process(self.num_steps, p=self.p, f=self.f, x=self.x)

  def sample(
    self,
    key: jax.Array,
    problem_id: Int[Array, "B"],
    sample_id: Int[Array, "B"],
  ) -> Rollout:
    """Responses of the policy; each depends on key and ids alone."""
    keys = randomness.token_keys(key, (problem_id, sample_id), self.num_steps)
    uniforms = randomness.uniforms(keys)
    tokens = jnp.full(uniforms.shape, PAD, jnp.int32)
    for position in range(self.num_steps):
      tokens = self._append(uniforms[:, position], tokens)
    return self.rollout(tokens, problem_id, sample_id)

  def sample_step(
    self, keys: Key[Array, "B N C"], tokens: Int[Array, "B N H"]
  ) -> tuple[Int[Array, "B N C H"], Bool[Array, "B N C"]]:
    """A next step for each key, as `beam_search` asks for.

    Args:
      keys: of the candidates.
      tokens: of the beams, with room for all H.

    Returns:
      The candidates' tokens, and which of them have ended.
    """
    keys = randomness.keys_at(keys, jnp.zeros(keys.shape, jnp.int32))
    shape = (*keys.shape, self.num_steps)
    tokens = jnp.broadcast_to(tokens[..., None, :], shape)
    tokens = self._append(randomness.uniforms(keys), tokens)
    return tokens, tokens[..., -1] != PAD

  def rollout(
    self,
    tokens: Int[Array, "B H"],
    problem_id: Int[Array, "B"] | None = None,
    sample_id: Int[Array, "B"] | None = None,
  ) -> Rollout:
    """A rollout of responses, whole ones or beginnings of them.

    Args:
      tokens: any of this module's, then padding.
      problem_id: None for 0.
      sample_id: None for 0 … B - 1.

    Returns:
      A graded `Rollout`, whose `logp` is the policy's: minus infinity of a
      token that it never writes.
    """
    length = jnp.sum(tokens != PAD, -1, dtype=jnp.int32)
    prefixes = jnp.arange(self.num_steps + 1, dtype=jnp.int32)
    if problem_id is None:
      problem_id = jnp.zeros(len(tokens), jnp.int32)
    if sample_id is None:
      sample_id = jnp.arange(len(tokens), dtype=jnp.int32)
    on_x, on_y = self._right(tokens)
    return Rollout(
      tokens=tokens,
      logp=self._logp(tokens),
      prefix_len=jnp.minimum(prefixes, length[:, None]),
      outcome=(on_x[:, -1] | on_y[:, -1]).astype(jnp.float32),
      problem_id=problem_id,
      sample_id=sample_id,
    )

  def q_exact(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[Array, "B P"]:
    """A prover: exact values under the policy; the key is not used.

    Of a response that the policy never writes, prefixes are worth 0.
    """
    del key
    on_x, on_y = self._right(rollout.tokens)
    # By products: 0⁰ is 1, and powers of ½ are exact.
    powers = jnp.cumprod(
      jnp.concatenate([jnp.ones(1), jnp.full(self.num_steps - 1, self.p)])
    )
    of_x = jnp.full(self.num_steps, self.f, jnp.float32).at[-1].set(1.0)
    after = jnp.where(on_x, of_x, jnp.where(on_y, powers[::-1], 0.0))
    start = self.x * self.f + (1 - self.x) * powers[-1]
    start = jnp.broadcast_to(jnp.asarray(start, jnp.float32), (len(after), 1))
    q = jnp.concatenate([start, after], -1)
    return jnp.take_along_axis(q, rollout.prefix_len, -1)

  def _right(self, tokens):
    """Whether the first 1 … H tokens are X, or Y, without a mistake."""
    at = jnp.arange(self.num_steps)
    last = at == self.num_steps - 1
    on_x = jnp.where(last, tokens == RIGHT, tokens == X)
    on_y = jnp.where(at == 0, tokens == Y, tokens == RIGHT)
    return tuple(jnp.cumprod(on, -1).astype(bool) for on in (on_x, on_y))

  def _append(self, uniform, tokens):
    """Adds the policy's next token, by a number in [0, 1) for each response."""
    at = jnp.sum(tokens != PAD, -1)
    guess = jnp.where(uniform < self.f, RIGHT, WRONG)
    from_x = jnp.where(at == self.num_steps - 1, guess, X)
    dead = jnp.any(tokens == WRONG, -1)
    from_y = jnp.where((uniform < self.p) & ~dead, RIGHT, WRONG)
    token = jnp.where(tokens[..., 0] == X, from_x, from_y)
    token = jnp.where(at == 0, jnp.where(uniform < self.x, X, Y), token)
    here = jnp.arange(self.num_steps) == at[..., None]
    return jnp.where(here, token[..., None], tokens)

  def _logp(self, tokens):
    """The policy's log-probability of each token; 0 of padding."""
    at = jnp.arange(self.num_steps)
    first = tokens[:, :1]
    dead = jnp.cumsum(tokens == WRONG, -1) - (tokens == WRONG) > 0
    last = at == self.num_steps - 1
    by_x = jnp.where(last, self._of(self.f, tokens), 1.0 * (tokens == X))
    by_y = jnp.where(dead, 1.0 * (tokens == WRONG), self._of(self.p, tokens))
    by_y = jnp.where(first == Y, by_y, 0.0)
    prob = jnp.where(first == X, by_x, by_y)
    chosen = self.x * (tokens == X) + (1 - self.x) * (tokens == Y)
    prob = jnp.where(at == 0, chosen, prob)
    return jnp.where(tokens == PAD, 0.0, jnp.log(prob)).astype(jnp.float32)

  @staticmethod
  def _of(rate, tokens):
    return rate * (tokens == RIGHT) + (1 - rate) * (tokens == WRONG)


def search_success(
  num_beams: int,
  num_candidates: int,
  num_steps: int,
  *,
  p: float | int,
  f: float | int,
  x: float | int,
  alpha: float | int,
  k: float | int = 1,
) -> float:
  """The probability that a beam search with exact values is right.

  By enumeration of what `search.beam.beam_search` does with `TwoRoutes`, values
  `Q^π` and the prover Best-of-K of π:

  - In every round each of the N beams has C candidates; N are kept by
    `Q^π + α (Q^{BoK} − Q^{BoK} of the parent)`. In the first round all N beams
    are the bare problem: N C candidates in all.
  - Equal rewards (to one part in 10⁹) keep their order. In the first round
    this is the order of sampling, so the first N candidates are kept; later,
    whichever route was ahead in the beam stays ahead.
  - The answer is the response with the highest value after the last round,
    which is 1 of a right one and 0 of a wrong one: the search succeeds iff any
    of the last round's candidates is right.

  A beam's state is a pair of counts, of X and of Y without a mistake: with
  α >= 0 what is dead has a reward of at most 0 and never takes the place of
  what may still succeed. So one round is a product with a matrix of binomials,
  and the whole costs O(H C N³).

  Args:
    num_beams: N >= 1.
    num_candidates: C >= 1, steps sampled from each prefix.
    num_steps: H >= 2.
    p: probability in [0, 1] that a step of Y is right.
    f: probability in [0, 1] that X's guess is right.
    x: probability in [0, 1] that the policy chooses X.
    alpha: weight of progress, finite and at least 0; 0 is search by Q alone.
      That is also search by Q of Best-of-K, which orders prefixes alike.
    k: K >= 1 of the prover.

  Returns:
    In [0, 1].

  Raises:
    ValueError: if an argument is out of its range.
  """
  _check_search(num_beams, num_candidates, num_steps, p=p, f=f, x=x)
  if not 0 <= alpha < math.inf:
    raise ValueError(f"alpha is {alpha}, expected a finite number >= 0")
  if not 1 <= k < math.inf:
    raise ValueError(f"k is {k}, expected a number of samples K >= 1")
  order = _order(num_steps, p, f, x, alpha, k)
  return _success_of_order(num_beams, num_candidates, order, p, f, x)


def optimal_success(
  num_beams: int,
  num_candidates: int,
  num_steps: int,
  *,
  p: float | int,
  f: float | int,
  x: float | int,
  first_by_value: bool = False,
) -> float:
  """The highest probability of success that any choice of survivors has.

  By dynamic programming over the beam's counts: in each round the choice may
  depend on what all candidates are, on the round, and on p, f and x.

  Args:
    num_beams: N >= 1.
    num_candidates: C >= 1, steps sampled from each prefix.
    num_steps: H >= 2.
    p: probability in [0, 1] that a step of Y is right.
    f: probability in [0, 1] that X's guess is right.
    x: probability in [0, 1] that the policy chooses X.
    first_by_value: whether the first round keeps by `Q^π` and only later ones
      are free. All candidates of the first round have one parent, so effective
      rewards with any α and K order them as `Q^π` does.

  Returns:
    In [0, 1], at least `search_success` with any α and K.

  Raises:
    ValueError: if an argument is out of its range.
  """
  _check_search(num_beams, num_candidates, num_steps, p=p, f=f, x=x)
  drawn = num_beams * num_candidates
  steps_right = _steps_right(num_beams, num_candidates, p)
  value = _last_round(num_beams, num_candidates, p, f)
  num_x, num_y = np.ogrid[: drawn + 1, : drawn + 1]

  def best(value):
    """Of so many candidates of X and Y, with the best split of N places."""
    out = np.zeros((drawn + 1, drawn + 1))
    for kept_x in range(num_beams + 1):
      kept_y = np.minimum(num_y, num_beams - kept_x)
      out = np.maximum(out, np.where(num_x >= kept_x, value[kept_x, kept_y], 0))
    return out

  for _ in range(num_steps - 2):
    value = best(value)[::num_candidates] @ steps_right.T
  if first_by_value:
    order = _order(num_steps, p, f, x, alpha=0, k=1)
    chance = _first_round(num_beams, num_candidates, order[0], x)
    return float(np.sum(chance * value))
  at = np.arange(drawn + 1)
  return float(np.sum(_binomial(drawn, x) * best(value)[at, drawn - at]))


def _order(num_steps, p, f, x, alpha, k):
  """Whether Y is ahead of X in rounds 1 … H - 1; None for an unordered one."""

  def prover(q):
    return -math.expm1(k * math.log1p(-q)) if q < 1 else 1.0

  def reward(q, parent):
    return q + alpha * (prover(q) - prover(parent))

  of_y = [p ** (num_steps - h) for h in range(1, num_steps)]
  start = x * f + (1 - x) * of_y[0]
  rewards = [(reward(f, start), reward(of_y[0], start))]
  rewards += [(f, reward(q, before)) for before, q in itertools.pairwise(of_y)]
  order = []
  for of_x, of_y in rewards:
    if math.isclose(of_x, of_y):
      order.append(order[-1] if order else None)
    else:
      order.append(of_y > of_x)
  return tuple(order)


@functools.lru_cache(maxsize=128)  # many α and K have one order
def _success_of_order(num_beams, num_candidates, order, p, f, x):
  """`search_success` with the route that is kept first in each round."""
  first, *later = order
  chance = _first_round(num_beams, num_candidates, first, x)
  steps_right = _steps_right(num_beams, num_candidates, p)
  num_x = np.arange(num_beams + 1)[:, None] * num_candidates
  num_y = np.arange(num_beams * num_candidates + 1)
  for y_first in later:
    chance = _kept(num_x, num_y, chance @ steps_right, num_beams, y_first)
  return float(np.sum(chance * _last_round(num_beams, num_candidates, p, f)))


def _first_round(num_beams, num_candidates, y_first, x):
  """How likely beams are after the first round: float[N + 1, N + 1]."""
  drawn = num_beams * (1 if y_first is None else num_candidates)
  num_x = np.arange(drawn + 1)
  chance = _binomial(drawn, x)
  return _kept(num_x, drawn - num_x, chance, num_beams, y_first)


def _kept(num_x, num_y, chance, num_beams, y_first):
  """How likely beams are after a round, of how likely its candidates are.

  Args:
    num_x: candidates of X; broadcasts.
    num_y: candidates of Y that are right; broadcasts.
    chance: float[…], how likely these are.
    num_beams: N, places.
    y_first: whether Y is kept before X.

  Returns:
    float[N + 1, N + 1], by numbers of X and of Y.
  """
  if y_first:
    kept_y = np.minimum(num_y, num_beams)
    kept_x = np.minimum(num_x, num_beams - kept_y)
  else:
    kept_x = np.minimum(num_x, num_beams)
    kept_y = np.minimum(num_y, num_beams - kept_x)
  size = num_beams + 1
  index = np.broadcast_to(kept_x * size + kept_y, chance.shape)
  total = np.bincount(index.ravel(), chance.ravel(), minlength=size * size)
  return total.reshape(size, size)


def _steps_right(num_beams, num_candidates, p):
  """How many candidates of 0 … N beams on Y are right: [N + 1, C N + 1]."""
  most = num_beams * num_candidates
  rows = [_binomial(b * num_candidates, p) for b in range(num_beams + 1)]
  return np.stack([np.pad(row, (0, most + 1 - len(row))) for row in rows])


def _last_round(num_beams, num_candidates, p, f):
  """The chance that a candidate of so many beams on X and on Y is right."""
  num_x, num_y = np.ogrid[: num_beams + 1, : num_beams + 1]
  failure = (1 - f) ** (num_candidates * num_x)
  return 1 - failure * (1 - p) ** (num_candidates * num_y)


def _binomial(n, p):
  """Probabilities of 0 … n successes in n trials: float64[n + 1]."""
  if p in (0, 1):
    return (np.arange(n + 1) == n * p).astype(np.float64)
  log_factorial = np.concatenate(
    [[0.0], np.cumsum(np.log(np.arange(1, n + 1)))]
  )
  successes = np.arange(n + 1)
  log_choices = log_factorial[-1] - log_factorial - log_factorial[::-1]
  log_chance = successes * math.log(p) + successes[::-1] * math.log1p(-p)
  return np.exp(log_choices + log_chance)


def _check_process(num_steps: int, **probabilities: Any) -> None:
  if num_steps < 2:
    raise ValueError(f"num_steps is {num_steps}, expected at least 2")
  for name, value in probabilities.items():
    if isinstance(value, int | float) and not 0 <= value <= 1:
      raise ValueError(f"{name} is {value}, expected a probability in [0, 1]")


def _check_search(num_beams, num_candidates, num_steps, **probabilities):
  for name, number in (
    ("num_beams", num_beams),
    ("num_candidates", num_candidates),
  ):
    if number < 1:
      raise ValueError(f"{name} is {number}, expected at least 1")
  _check_process(num_steps, **probabilities)
