import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import advantages, values
from pav_jax.testing import tabular

A, H = 3, 3
prefix_values = jax.jit(tabular.prefix_values)
state_visits = jax.jit(tabular.state_visits)
advantage_table = jax.jit(tabular.advantage_table)
all_rollouts = jax.jit(tabular.all_rollouts)
visited_prefixes = jax.jit(tabular.visited_prefixes)


@pytest.fixture(scope="module")
def process():
  return tabular.random_process(
    jax.random.key(0), num_actions=A, num_steps=H, num_correct=6
  )


@pytest.fixture(scope="module")
def probs(process):
  logits = jax.random.normal(jax.random.key(1), (process.num_states, A))
  return jax.nn.softmax(logits)


def number(prefix):
  """A prefix's number, from the count of prefixes before it."""
  shorter = sum(A**length for length in range(len(prefix)))
  return shorter + int("0" + "".join(map(str, prefix)), A)


def prefixes(length):
  return itertools.product(range(A), repeat=length)


def path_prob(probs, prefix, start=0):
  """Probability of taking `prefix[start:]`, given `prefix[:start]`."""
  steps = range(start, len(prefix))
  return np.prod([probs[number(prefix[:h]), prefix[h]] for h in steps])


def test_values_equal_a_sum_over_all_completions(process, probs):
  # V(s) = Σ over full sequences that continue s of reward × probability.
  got, p = prefix_values(process, probs), np.float64(probs)
  rewards = dict(zip(prefixes(H), np.array(process.rewards), strict=True))
  assert len(got) == sum(A**h for h in range(H + 1))
  for h in range(H + 1):
    for s in prefixes(h):
      want = sum(
        reward * path_prob(p, full, start=h)
        for full, reward in rewards.items()
        if full[:h] == s
      )
      np.testing.assert_allclose(got[number(s)], want, rtol=1e-5, atol=1e-7)


def test_visits_equal_path_probabilities_and_sum_to_the_steps(process, probs):
  got, p = state_visits(process, probs), np.float64(probs)
  for h in range(H):
    for s in prefixes(h):
      np.testing.assert_allclose(got[number(s)], path_prob(p, s), rtol=1e-5)
  np.testing.assert_allclose(got.sum(), H, rtol=1e-6)


def test_q_of_a_step_is_the_value_of_where_it_leads(process, probs):
  v = prefix_values(process, probs)
  q = tabular.q_table(process, v)
  adv = advantage_table(process, v)
  for s in itertools.chain(prefixes(0), prefixes(1), prefixes(2)):
    for a in range(A):
      assert q[number(s), a] == v[number((*s, a))]
      assert adv[number(s), a] == v[number((*s, a))] - v[number(s)]
  np.testing.assert_allclose((probs * adv).sum(-1), 0, atol=1e-6)


def test_gradient_is_the_policy_gradient_theorem(process, probs):
  # dV/dlogit(s, a) = d(s) π(a|s) A(s, a), for V differentiated through time.
  def start_value(logits):
    return prefix_values(process, jax.nn.softmax(logits))[0]

  adv = advantage_table(process, prefix_values(process, probs))
  want = state_visits(process, probs)[:, None] * probs * adv
  got = jax.grad(start_value)(jnp.log(probs))
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_best_of_k_is_what_k_completions_reach(process, probs):
  # P(at least one of 2 independent completions is correct), by enumeration.
  v = prefix_values(process, probs)
  prover = values.best_of_k(v, 2)
  rollout, prob = all_rollouts(process, probs)
  pair = jnp.maximum(rollout.outcome[:, None], rollout.outcome)
  np.testing.assert_allclose(prover[0], prob @ pair @ prob, rtol=1e-5)
  np.testing.assert_array_equal(prover[process.num_states :], process.rewards)


def test_all_rollouts_are_all_sequences_with_their_probabilities(
  process, probs
):
  rollout, prob = all_rollouts(process, probs)
  want = list(prefixes(H))
  np.testing.assert_array_equal(rollout.tokens[:, 1:], want)
  np.testing.assert_array_equal(rollout.tokens[:, 0], A)
  np.testing.assert_array_equal(rollout.prefix_len, [[1, 2, 3, 4]] * A**H)
  np.testing.assert_array_equal(rollout.outcome, process.rewards)
  p = np.float64(probs)
  np.testing.assert_allclose(prob, [path_prob(p, s) for s in want], rtol=1e-5)
  np.testing.assert_array_equal(rollout.logp[:, 0], 0)


def test_rollouts_meet_provers_in_the_numbers_of_their_prefixes(process, probs):
  rollout, prob = all_rollouts(process, probs)
  visited = visited_prefixes(process, rollout)
  for b, sequence in enumerate(prefixes(H)):
    want = [number(sequence[:h]) for h in range(H + 1)]
    np.testing.assert_array_equal(visited[b], want)
  q = prefix_values(process, probs)[visited]
  np.testing.assert_array_equal(q[:, -1], rollout.outcome)
  # Under the policy itself no step is expected to make progress.
  mean = prob @ advantages.step_advantages(q)
  np.testing.assert_allclose(mean, 0, atol=1e-6)


def test_samples_follow_the_policy_and_their_own_address(process, probs):
  sample = jax.jit(tabular.sample, static_argnums=3)
  rollout = sample(jax.random.key(2), process, probs, 4096)
  every, prob = all_rollouts(process, probs)
  index = visited_prefixes(process, rollout)[:, -1] - process.num_states
  np.testing.assert_array_equal(rollout.outcome, every.outcome[index])
  np.testing.assert_allclose(rollout.logp, every.logp[index], rtol=1e-6)
  # Frequencies within 5 binomial standard deviations of probabilities.
  share = np.bincount(index, minlength=A**H) / 4096
  assert (abs(share - prob) < 5 * np.sqrt(prob * (1 - prob) / 4096)).all()
  # A sample does not depend on how many are drawn with it.
  few = sample(jax.random.key(2), process, probs, 3)
  np.testing.assert_array_equal(few.tokens, rollout.tokens[:3])


def test_num_correct_is_kept_and_the_key_decides_which():
  make = lambda seed: tabular.random_process(  # noqa: E731
    jax.random.key(seed), num_actions=2, num_steps=5, num_correct=7
  )
  assert make(0).rewards.sum() == 7
  assert (make(0).rewards != make(1).rewards).any()


@pytest.mark.parametrize("sizes", [(1, 3, 1), (2, 0, 1), (2, 2, 5), (2, 2, -1)])
def test_processes_that_cannot_be_are_refused(sizes):
  names = ("num_actions", "num_steps", "num_correct")
  with pytest.raises(ValueError, match="expected"):
    tabular.random_process(
      jax.random.key(0), **dict(zip(names, sizes, strict=True))
    )
