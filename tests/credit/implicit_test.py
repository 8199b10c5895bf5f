import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
from pav_jax.testing import tabular

BETA = 0.5
# Log-ratios of tokens: two steps of 2 and 1, and one of 1. What stands outside
# of responses is no part of anything.
RATIO = jnp.array([[9.0, 1.0, -3.0, 2.0], [9.0, -1.0, 9.0, 9.0]])
PREFIX_LEN = jnp.array([[1, 3, 4], [1, 2, 2]])


@pytest.fixture
def rollout(make_rollout):
  return make_rollout([2, 1], [1, 0], room=2)


def sigmoid(x):
  return 1 / (1 + np.exp(-np.array(x)))


def test_values_are_log_odds_that_tokens_add_up_to():
  # β times −2 and then 0 in row 0, −1 in row 1; the problems are at even odds.
  logp_ref = jnp.full((2, 4), -0.7)
  got = credit.implicit_values(
    RATIO + logp_ref, logp_ref, PREFIX_LEN, beta=BETA
  )
  want = sigmoid([[0.0, -1.0, 0.0], [0.0, -0.5, -0.5]])
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_progress_advantage_is_the_log_ratio_of_the_step(rollout):
  q = credit.implicit_values(
    RATIO, jnp.zeros_like(RATIO), PREFIX_LEN, beta=BETA
  )
  want = [[-1.0, 1.0], [-0.5, 0.0]]
  got = credit.progress_advantage(rollout, q)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_certain_values_are_finite(rollout):
  q = jnp.array([[0.5, 1.0, 0.0], [0.5, 0.0, 0.0]])
  got = credit.progress_advantage(rollout, q)
  most = np.log(1e6)  # the log-odds of what counts as nearest to certain
  np.testing.assert_allclose(got, [[most, -2 * most], [-most, 0]], rtol=1e-2)


def test_prime_by_hand(rollout):
  # Rewards −1, 1 and −.5. Row 0: the other's mean −.5, so −.5 + 1.5 to come and
  # 1.5; row 1: the other's mean 0. Outcomes 1 and 0 less each other's.
  q = jnp.array(sigmoid([[0.0, -1.0, 0.0], [0.0, -0.5, -0.5]]), jnp.float32)
  got = credit.prime(rollout, q)
  np.testing.assert_allclose(got, [[1 + 1, 1.5 + 1], [-0.5 - 1, 0]], atol=1e-5)
  got = credit.prime(rollout, q, process_weight=2.0)
  np.testing.assert_allclose(got, [[2 + 1, 3 + 1], [-1 - 1, 0]], atol=1e-5)


def test_prime_without_its_rewards_is_leave_one_out(rollout):
  q = jnp.array([[0.5, 0.1, 0.9], [0.5, 0.4, 0.4]])
  for got in (
    credit.prime(rollout, q, process_weight=0.0),
    credit.prime(rollout, jnp.full((2, 3), 0.5)),
  ):
    np.testing.assert_allclose(got, credit.rloo(rollout), atol=1e-6)


def test_the_best_policy_under_a_penalty_shows_its_advantages():
  # Soft values of a process, from the end: V = β log Σ π_ref exp(Q / β). Then
  # π* = π_ref exp((Q − V) / β), and β log π*/π_ref is Q − V (Proposition 1).
  beta, size = 0.3, 2
  process = tabular.random_process(
    jax.random.key(1), num_actions=size, num_steps=3, num_correct=3
  )
  reference = jax.nn.softmax(jax.random.normal(jax.random.key(2), (7, size)))
  soft = process.rewards
  levels = []
  for start, stop in ((3, 7), (1, 3), (0, 1)):
    q = soft.reshape(-1, size)
    soft = beta * jnp.log(
      jnp.sum(reference[start:stop] * jnp.exp(q / beta), axis=-1)
    )
    levels.insert(0, q - soft[:, None])
  advantage = jnp.concatenate(levels)
  best = reference * jnp.exp(advantage / beta)
  np.testing.assert_allclose(best.sum(-1), 1, rtol=1e-5)
  rollout, _ = tabular.all_rollouts(process, reference)
  after, _ = tabular.all_rollouts(process, best)
  q = credit.implicit_values(
    after.logp, rollout.logp, rollout.prefix_len, beta=beta
  )
  states = tabular.visited_prefixes(process, rollout)[:, :-1]
  np.testing.assert_allclose(
    credit.progress_advantage(rollout, q),
    advantage[states, rollout.tokens[:, 1:]],
    atol=1e-5,
  )
