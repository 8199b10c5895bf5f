"""Two routes: the enumeration against brute force, sampling and a table."""

import dataclasses
import fractions
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import values
from pav_jax.problems import two_routes
from pav_jax.problems.two_routes import TwoRoutes
from pav_jax.search.beam import Settings, beam_search

SMALL = TwoRoutes(num_steps=4, p=0.5, f=0.3, x=0.4)


def success(n, c=3, h=8, x=0.1, k=1, **settings):
  return two_routes.search_success(n, c, h, x=x, k=k, **settings)


# p, f, H, alpha, K; rates of an independent prototype for N = 2, 4, 8, 16.
TABLE = [
  (0.4, 0.005, 8, 0.0, 1, [0.300, 0.470, 0.551, 0.648]),
  (0.4, 0.005, 8, 0.0, 16, [0.300, 0.470, 0.551, 0.648]),
  (0.4, 0.005, 8, 0.5, 1, [0.435, 0.782, 0.965, 0.999]),
  (0.35, 0.003, 8, 0.0, 1, [0.201, 0.352, 0.461, 0.562]),
  (0.35, 0.003, 8, 0.5, 1, [0.201, 0.352, 0.461, 0.562]),
  (0.35, 0.003, 8, 0.5, 4, [0.286, 0.603, 0.873, 0.986]),
  (0.35, 0.003, 8, 0.5, 16, [0.286, 0.603, 0.873, 0.986]),
  (0.5, 0.01, 12, 0.0, 1, [0.414, 0.359, 0.277]),
]


@pytest.mark.parametrize("p, f, h, alpha, k, want", TABLE)
def test_rates_of_the_prototype(p, f, h, alpha, k, want):
  got = [
    success(n, h=h, p=p, f=f, alpha=alpha, k=k)
    for n in (2, 4, 8, 16)[: len(want)]
  ]
  np.testing.assert_allclose(got, want, atol=5e-4)


def test_a_strong_prover_over_twelve_steps():
  got = success(8, h=12, p=0.5, f=0.01, alpha=0.5, k=128)
  np.testing.assert_allclose(got, 0.996, atol=5e-4)


def brute_force(n, c, h, p, f, x, alpha, k):
  """Every outcome of every candidate, sorted stably, in exact arithmetic."""
  p, f, x = map(fractions.Fraction, (p, f, x))
  # From this round on survivors are the best ones, whatever their rewards.
  best_from = {"best": 0, "best later": 1}.get(alpha, h)
  alpha = fractions.Fraction(0 if best_from < h else alpha)

  def value(path):
    if not path:
      return x * f + (1 - x) * p ** (h - 1)
    if path[0] == "X":
      guessed = {"r": 1, "w": 0}
      return guessed[path[-1]] if len(path) == h else f
    return 0 if "w" in path else p ** (h - len(path))

  def steps(path):
    if not path:
      return [("X", x), ("Y", 1 - x)]
    if path[0] == "X":
      return [("r", f), ("w", 1 - f)] if len(path) == h - 1 else [("x", 1)]
    return [("w", 1)] if "w" in path else [("r", p), ("w", 1 - p)]

  def best_of(q):
    return 1 - (1 - q) ** k

  @functools.cache
  def rate(beams):
    if len(beams[0]) == h:
      return fractions.Fraction(max(map(value, beams)))
    total = fractions.Fraction(0)
    parents = [beam for beam in beams for _ in range(c)]
    for drawn in itertools.product(*map(steps, parents)):
      chance, scored = fractions.Fraction(1), []
      for parent, (step, probability) in zip(parents, drawn, strict=True):
        chance *= probability
        q, before = value(parent + step), value(parent)
        reward = q + alpha * (best_of(q) - best_of(before))
        scored.append((reward, parent + step))
      if not chance:
        continue
      if len(beams[0]) >= best_from:
        paths = sorted(path for _, path in scored)
        total += chance * max(map(rate, set(itertools.combinations(paths, n))))
        continue
      order = sorted(scored, key=lambda entry: -entry[0])
      total += chance * rate(tuple(path for _, path in order[:n]))
    return total

  return float(rate(("",) * n))


@pytest.mark.parametrize(
  "n, c, h, p, f, x, alpha, k",
  [
    (2, 2, 4, "1/2", "1/5", "3/10", 0, 1),
    (2, 2, 4, "1/2", "1/5", "3/10", "1/2", 3),
    (2, 2, 4, "1/4", "1/10", "3/10", 4, 1),
    (2, 2, 4, "1/2", "1/8", "1/4", 0, 1),  # a tie in the first round
    (2, 2, 4, "1/2", "1/4", "1/4", 0, 1),  # and in a later one, X ahead
    (2, 2, 5, "1/2", "3/16", "1/4", "1/2", 1),  # the same of rewards
    (2, 2, 5, "1/4", "1/5", "1/4", 2, 60),  # Y ahead, then behind, then ahead
    (1, 3, 3, "1/2", "1/3", "1/2", 0, 1),
    (3, 1, 4, "2/3", "1/2", "1/3", "1/3", 2),
    (2, 2, 2, "1/2", "3/5", "1/3", 1, 1),
    (2, 2, 3, 0, "1/3", "1/3", 1, 1),
    (2, 2, 3, "1/3", 0, "1/3", 1, 2),
    (2, 2, 3, 1, 1, "1/3", 1, 2),
    (2, 2, 3, "1/3", "1/3", 1, 1, 2),
    (2, 2, 3, "1/3", "1/3", 0, 1, 2),
  ],
)
def test_counts_stand_for_beams(n, c, h, p, f, x, alpha, k):
  rates = {
    name: float(fractions.Fraction(rate))
    for name, rate in {"p": p, "f": f, "x": x}.items()
  }
  got = two_routes.search_success(
    n, c, h, **rates, alpha=float(fractions.Fraction(alpha)), k=k
  )
  want = brute_force(n, c, h, p, f, x, alpha, k)
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_one_beam_and_one_candidate_sample_the_policy():
  # x f + (1 - x) p³, by hand.
  got = two_routes.search_success(1, 1, 4, p=0.5, f=0.3, x=0.4, alpha=7, k=3)
  np.testing.assert_allclose(got, 0.4 * 0.3 + 0.6 / 8, rtol=1e-14)


def test_many_beams_are_enumerated_without_overflow():
  # 768 candidates; with f = 0 and x = 1 nothing is ever right, and with p = 1
  # and no X everything is.
  assert success(256, p=0.5, f=0, x=1, alpha=0) == 0
  np.testing.assert_allclose(success(256, p=1, f=0, x=0, alpha=0), 1)
  assert 0.999 < success(256, p=0.5, f=0.01, alpha=0.5, k=16) <= 1 + 1e-9


@pytest.mark.parametrize("p, f", [(0.4, 0.005), (0.2, 0.05), (0.6, 0.1)])
def test_no_order_exceeds_the_optimum(p, f):
  best = two_routes.optimal_success(4, 3, 6, p=p, f=f, x=0.1)
  rates = [
    success(4, h=6, p=p, f=f, alpha=alpha, k=k)
    for alpha, k in itertools.product((0, 0.5, 5), (1, 16))
  ]
  later = two_routes.optimal_success(
    4, 3, 6, p=p, f=f, x=0.1, first_by_value=True
  )
  assert max(rates) <= later + 1e-12 and later <= best + 1e-12


@pytest.mark.parametrize(
  "p, f", [("1/2", "1/5"), ("1/4", "1/10"), ("1/2", "1/8"), (0, 1)]
)
def test_the_optimum_is_that_of_all_choices(p, f):
  rates = {"p": p, "f": f}
  rates = {name: float(fractions.Fraction(r)) for name, r in rates.items()}
  for freedom, first_by_value in (("best", False), ("best later", True)):
    want = brute_force(2, 2, 4, p, f, "3/10", freedom, 1)
    got = two_routes.optimal_success(
      2, 2, 4, **rates, x=0.3, first_by_value=first_by_value
    )
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_optimum_of_one_round_by_hand():
  # H = 2, N = 1, C = 2: keep Y, right with 1 - (1 - p)², if one was drawn.
  got = two_routes.optimal_success(1, 2, 2, p=0.5, f=0.2, x=0.6)
  want = 0.36 * (1 - 0.8**2) + 0.64 * (1 - 0.5**2)
  np.testing.assert_allclose(got, want, rtol=1e-14)


@functools.partial(jax.jit, static_argnames=("settings", "num_searches"))
def searched(problem, alpha, k, *, settings, num_searches):
  """Whether each of many searches finds a right response."""

  def value(tokens):
    flat = tokens.reshape(-1, problem.num_steps)
    q = problem.q_exact(None, problem.rollout(flat))[:, -1]
    q = q.reshape(tokens.shape[:-1])
    return q, values.best_of_k(q, k)

  found = beam_search(
    problem.sample_step,
    value,
    jnp.zeros((num_searches, problem.num_steps), jnp.int32),
    jax.random.key(0),
    settings=settings,
    alpha=alpha,
  )
  return problem.rollout(found.answer).outcome


@pytest.mark.parametrize(
  "p, f, alpha, k",
  [
    (0.4, 0.04, 0.0, 1.0),
    (0.4, 0.04, 0.5, 1.0),
    (0.4, 0.04, 2.0, 64.0),
    (0.5, 0.125, 0.0, 1.0),  # a tie in the second round, X ahead
    (0.5, 0.0625, 0.0, 1.0),  # a tie in the first
    (0.2, 0.1, 0.5, 16.0),
  ],
)
def test_beam_search_attains_what_was_enumerated(p, f, alpha, k):
  num = 6000
  problem = TwoRoutes(5, *map(jnp.float32, (p, f, 0.2)))
  settings = Settings(num_beams=4, num_steps=5)
  right = searched(
    problem,
    jnp.float32(alpha),
    jnp.float32(k),
    settings=settings,
    num_searches=num,
  )
  want = success(4, h=5, x=0.2, p=p, f=f, alpha=alpha, k=k)
  error = (want * (1 - want) / num) ** 0.5
  assert abs(float(jnp.mean(right)) - want) < 3 * error


def every_response(problem):
  """All that the policy may write, and how likely each is."""
  h = problem.num_steps
  guesses = [
    [two_routes.X] * (h - 1) + [end]
    for end in (two_routes.RIGHT, two_routes.WRONG)
  ]
  worked = [
    [two_routes.Y] + [two_routes.RIGHT] * n + [two_routes.WRONG] * (h - 1 - n)
    for n in range(h)
  ]
  probs = [problem.x * problem.f, problem.x * (1 - problem.f)]
  probs += [(1 - problem.x) * problem.p**n * (1 - problem.p) for n in range(h)]
  probs[-1] /= 1 - problem.p
  return jnp.array(guesses + worked, jnp.int32), np.array(probs)


def test_values_are_the_policys_expected_outcomes():
  tokens, probs = every_response(SMALL)
  np.testing.assert_allclose(probs.sum(), 1)
  rollout = SMALL.rollout(tokens)
  # log-probabilities multiply to those of the responses ...
  np.testing.assert_allclose(np.exp(np.sum(rollout.logp, -1)), probs, rtol=1e-5)
  # ... and the value of a prefix is the mean outcome of those that share it.
  q = SMALL.q_exact(None, rollout)
  for b, h in itertools.product(range(len(tokens)), range(5)):
    same = np.all(tokens[:, :h] == tokens[b, :h], -1)
    want = np.average(rollout.outcome, weights=probs * same)
    np.testing.assert_allclose(q[b, h], want, rtol=1e-5)
  np.testing.assert_array_equal(q[:, -1], rollout.outcome)


def test_samples_follow_the_policy():
  tokens, probs = every_response(SMALL)
  num = 20000
  rollout = jax.jit(SMALL.sample)(
    jax.random.key(3), jnp.zeros(num, int), jnp.arange(num)
  )
  same = np.all(np.asarray(rollout.tokens)[:, None] == tokens, -1)
  assert same.any(-1).all()
  error = np.sqrt(probs * (1 - probs) / num)
  assert (abs(same.mean(0) - probs) < 4 * error).all()
  alone = SMALL.sample(jax.random.key(3), jnp.zeros(1, int), jnp.array([77]))
  np.testing.assert_array_equal(alone.tokens[0], rollout.tokens[77])


def test_beginnings_of_responses_repeat_their_value():
  tokens = jnp.array(
    [
      [two_routes.Y, two_routes.RIGHT, 0, 0],
      [two_routes.Y, two_routes.WRONG, 0, 0],
      [two_routes.X, 0, 0, 0],
      [two_routes.X, two_routes.RIGHT, 0, 0],  # never written
    ],
    jnp.int32,
  )
  rollout = SMALL.rollout(tokens)
  start = 0.4 * 0.3 + 0.6 / 8
  np.testing.assert_allclose(
    SMALL.q_exact(None, rollout),
    [
      [start, 1 / 8, 1 / 4, 1 / 4, 1 / 4],
      [start, 1 / 8, 0, 0, 0],
      [start, 0.3, 0.3, 0.3, 0.3],
      [start, 0.3, 0, 0, 0],
    ],
    rtol=1e-6,
  )
  assert rollout.outcome.tolist() == [0, 0, 0, 0]
  assert rollout.logp[3, 1] == -jnp.inf


@pytest.mark.parametrize(
  "change, message",
  [
    ({"p": 1.5}, "p is 1.5, expected a probability"),
    ({"f": -0.1}, "f is -0.1, expected a probability"),
    ({"x": float("nan")}, "x is nan, expected a probability"),
    ({"alpha": -1.0}, "alpha is -1.0, expected a finite number >= 0"),
    ({"alpha": float("inf")}, "alpha is inf"),
    ({"k": 0.5}, "k is 0.5, expected a number of samples"),
    ({"n": 0}, "num_beams is 0, expected at least 1"),
    ({"c": 0}, "num_candidates is 0, expected at least 1"),
    ({"h": 1}, "num_steps is 1, expected at least 2"),
  ],
)
def test_bad_arguments(change, message):
  good = {"n": 2, "p": 0.5, "f": 0.1, "alpha": 0.5}
  with pytest.raises(ValueError, match=message):
    success(**(good | change))
  if set(change) & {"p", "f", "x"}:
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(SMALL, **change)
