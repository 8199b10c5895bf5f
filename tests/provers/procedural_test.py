import itertools

import jax
import numpy as np
import pytest

from pav_jax.advantages import step_advantages
from pav_jax.policies.made_policy import rollout_from_tokens
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural

TINY = [
  Planted(planted=(1, 1, 2), length=5, vocab_size=4),
  Planted(planted=(0, 1, 0), length=4, vocab_size=3),
  Planted(planted=(2,), length=4, vocab_size=3, end_token=0),
]
each_problem = pytest.mark.parametrize(
  "problem", TINY, ids=lambda p: "".join(map(str, p.planted))
)


def matched(problem, prefix):
  """Longest suffix of `prefix` that is a prefix of the planted sequence."""
  planted = list(problem.planted)
  return max(
    k
    for k in range(len(planted))
    if list(prefix[len(prefix) - k :]) == planted[:k]
  )


def contains(prefix, planted):
  return bytes(planted) in bytes(prefix)


def next_token_probs(problem, strength, prefix):
  """μ_γ(· | prefix) in float64, from the definition in Sec. 3.3, by strings."""
  weights = np.ones(problem.vocab_size)
  if not contains(prefix, problem.planted):
    weights[problem.planted[matched(problem, prefix)]] = strength
  return weights / weights.sum()


def enumerate_values(problem, strength):
  """V(prefix) of every prefix without an end token: a sum over all sequences.

  No automaton and no recursion over states: every response that can follow is
  graded as a string.
  """
  values = {}

  def value(prefix):
    if prefix and prefix[-1] == problem.end_token:
      return float(contains(prefix[:-1], problem.planted))
    if len(prefix) == problem.length:
      values[prefix] = float(contains(prefix, problem.planted))
      return values[prefix]
    probs = next_token_probs(problem, strength, prefix)
    values[prefix] = sum(
      p * value((*prefix, token)) for token, p in enumerate(probs)
    )
    return values[prefix]

  value(())
  return values


def all_rollouts(problem):
  """Every sequence of tokens once, whatever follows an end token."""
  tokens = np.array(
    list(itertools.product(range(problem.vocab_size), repeat=problem.length))
  )
  index = np.arange(len(tokens))
  return jax.device_get(
    jax.jit(rollout_from_tokens, static_argnums=0)(
      problem, tokens, np.zeros(tokens.shape, np.float32), 0 * index, index
    )
  )


@jax.jit
def evaluate(prover, rollout):
  """All that a prover says: q, Q of every action, probabilities, outcomes."""
  states = prover.problem.states(rollout.tokens, rollout.prefix_len)[:, :-1]
  return (
    prover(None, rollout),
    prover.action_values(rollout),
    jax.nn.softmax(prover.logits())[states],
    prover.problem.grade(rollout),
  )


values_of = jax.jit(lambda prover: prover.values())


@each_problem
@pytest.mark.parametrize("strength", [0.5, 1.0, 10.0])
def test_values_are_those_of_enumerating_every_sequence(problem, strength):
  rollout = all_rollouts(problem)
  q, *_ = evaluate(Procedural(problem, strength), rollout)
  by_prefix = enumerate_values(problem, strength)
  tokens = rollout.tokens.tolist()
  want = np.empty(q.shape)
  for row, lengths in enumerate(rollout.prefix_len):
    for h, length in enumerate(lengths):
      prefix = tuple(tokens[row][:length])
      if problem.end_token in prefix:
        want[row, h] = contains(prefix[:-1], problem.planted)
      else:
        want[row, h] = by_prefix[prefix]
  # A value is a sum of products of `length` roundings: a few 2^-24.
  np.testing.assert_allclose(q, want, atol=1e-6)


def test_one_planted_token_in_closed_form():
  # γ = 2, V = 4: per step, success has probability 2/5, the end 1/5 and going
  # on 2/5. In two steps: 2/5 + 2/5 · 2/5 = 14/25; in one 2/5; in none 0.
  prover = Procedural(Planted((1,), length=2, vocab_size=4), 2.0)
  np.testing.assert_allclose(
    values_of(prover), [[0.56, 1, 0], [0.4, 1, 0], [0, 1, 0]], rtol=1e-6
  )


@pytest.mark.parametrize("vocab_size", [2, 15])
def test_strength_1_is_the_uniform_policy(vocab_size):
  # P(token before the end) in n steps = Σ_{t<n} (1 − 2/V)^t / V, and all
  # log-probabilities are −log V.
  problem = Planted((0,), length=6, vocab_size=vocab_size)
  prover = Procedural(problem, 1.0)
  stay = 1 - 2 / vocab_size
  want = [sum(stay**t for t in range(6 - h)) / vocab_size for h in range(7)]
  np.testing.assert_allclose(values_of(prover)[:, 0], want, rtol=1e-6)
  rollout = sample_of(prover, jax.random.key(0), 8)
  owned = np.arange(6) < rollout.prefix_len[:, -1:]
  np.testing.assert_allclose(
    rollout.logp, np.where(owned, -np.log(vocab_size), 0.0), rtol=1e-6
  )


def test_stronger_provers_succeed_more_often_everywhere():
  strengths = np.array([0.1, 0.5, 1, 2, 5, 10, 100, 1000], np.float32)
  values = jax.device_get(
    jax.vmap(lambda g: values_of(Procedural(Planted(), g)))(strengths)
  )
  assert (np.diff(values[:, 0, 0]) > 0).all()
  # At γ = 1000 each of 5 tokens is missed with probability 14 / 1014, and there
  # is room for most mistakes.
  assert 1 - 5 * 14 / 1014 < values[-1, 0, 0] < 1
  # One planted token left, one step left: γ / (γ + 14).
  np.testing.assert_allclose(
    values[:, 9, 4], strengths / (strengths + 14), rtol=1e-5
  )


@each_problem
def test_advantages_telescope_to_outcome_less_the_first_value(problem):
  rollout = all_rollouts(problem)
  q, _, _, outcome = evaluate(Procedural(problem, 3.0), rollout)
  np.testing.assert_array_equal(q[:, -1], outcome)
  np.testing.assert_allclose(
    np.sum(step_advantages(q), axis=-1), outcome - q[:, 0], atol=1e-6
  )


@each_problem
def test_action_values_are_values_after_the_action(problem):
  rollout = all_rollouts(problem)
  prover = Procedural(problem, 3.0)
  q, action_values, probs, _ = jax.device_get(evaluate(prover, rollout))
  assert action_values.shape == (*rollout.tokens.shape, problem.vocab_size)
  exists = np.diff(rollout.prefix_len) > 0
  # Of the token taken: the value of the next prefix.
  taken = np.take_along_axis(action_values, rollout.tokens[..., None], -1)
  np.testing.assert_array_equal(taken[..., 0][exists], q[:, 1:][exists])
  # On average over μ: the value of the state (V = E_a Q, Sec. 2).
  mean = np.sum(probs * action_values, axis=-1)
  np.testing.assert_allclose(mean[exists], q[:, :-1][exists], atol=1e-6)
  # Past the end nothing depends on the action.
  past = action_values[~exists]
  np.testing.assert_array_equal(
    past, np.broadcast_to(q[:, 1:][~exists][:, None], past.shape)
  )


def sample_of(prover, key, num, problem_id=0, sample_id=None):
  """A compiled sampler's rollouts, as NumPy arrays."""
  problem_id = np.full(num, problem_id, np.int32)
  sample_id = np.arange(num) if sample_id is None else np.array(sample_id)
  return jax.device_get(_sample(prover, key, problem_id, sample_id))


_sample = jax.jit(lambda prover, *args: prover.sample(*args))


@pytest.fixture(scope="module")
def samples():
  """4,096 responses of one prover."""
  problem = TINY[0]
  prover = Procedural(problem, 4.0)
  return problem, prover, sample_of(prover, jax.random.key(0), 4096)


def test_sampled_log_probabilities_are_the_definitions(samples):
  problem, _, rollout = samples
  known = {}
  for row in range(256):
    tokens = tuple(rollout.tokens[row].tolist())
    length = int(rollout.prefix_len[row, -1])
    want = np.zeros(problem.length)
    for t in range(length):
      prefix = tokens[:t]
      if prefix not in known:
        known[prefix] = np.log(next_token_probs(problem, 4.0, prefix))
      want[t] = known[prefix][tokens[t]]
    np.testing.assert_allclose(rollout.logp[row], want, rtol=1e-6)
    assert set(tokens[length:]) <= {problem.end_token}
    assert problem.end_token not in tokens[: length - 1]


def test_sampled_responses_come_with_their_probability(samples):
  # Chi-square over all responses, those expected fewer than 5 times merged;
  # mean k, variance 2k for k degrees of freedom.
  problem, _, rollout = samples
  probability = {}

  def extend(prefix, p):
    if len(prefix) == problem.length or problem.end_token in prefix:
      padding = (problem.end_token,) * (problem.length - len(prefix))
      probability[prefix + padding] = p
      return
    for token, q in enumerate(next_token_probs(problem, 4.0, prefix)):
      extend((*prefix, token), p * q)

  extend((), 1.0)
  num = rollout.tokens.shape[0]
  index = {response: i for i, response in enumerate(probability)}
  counts = np.zeros(len(index))
  for response in map(tuple, rollout.tokens.tolist()):
    counts[index[response]] += 1
  expected = num * np.array(list(probability.values()))
  rare = expected < 5
  counts = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  assert len(counts) > 30
  chi_square = np.sum((counts - expected) ** 2 / expected)
  freedom = len(counts) - 1
  assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_success_of_samples_is_the_exact_value(samples):
  # From the bare problem, and from every state that samples pass: outcomes of a
  # state's visitors are Bernoulli trials with the state's value.
  problem, prover, rollout = samples
  outcome = np.asarray(jax.jit(problem.grade)(rollout))
  values = np.asarray(values_of(prover))
  lengths = rollout.prefix_len
  states = np.asarray(jax.jit(problem.states)(rollout.tokens, lengths))
  tested = 0
  for h in range(problem.length):
    for state in range(len(problem.planted)):
      here = (states[:, h] == state) & (lengths[:, h] == h)
      n, p = here.sum(), values[h, state]
      if n * p * (1 - p) < 10:
        continue
      sigma = np.sqrt(p * (1 - p) / n)
      assert abs(outcome[here].mean() - p) < 4 * sigma
      tested += 1
  assert tested >= 8


def test_samples_depend_on_their_address_alone(samples):
  _, prover, rollout = samples
  ids = [17, 3, 900]
  few = sample_of(prover, jax.random.key(0), 3, 0, ids)
  np.testing.assert_array_equal(few.tokens, rollout.tokens[ids])
  np.testing.assert_array_equal(few.sample_id, ids)
  assert np.isnan(few.outcome).all()
  other = sample_of(prover, jax.random.key(0), 3, 1, ids)
  assert (other.tokens != few.tokens).any()


def test_completions_keep_what_is_given_and_go_on_with_the_prover(samples):
  problem, prover, rollout = samples
  num = len(rollout.tokens)
  complete = jax.jit(prover.complete)

  def completed_from(tokens, num_given):
    address = rollout.problem_id, rollout.sample_id, np.full(num, 9, np.int32)
    return jax.device_get(
      complete(jax.random.key(1), address, tokens, num_given)
    )

  given = np.tile(np.array([1, 1, 0, 0, 0], np.int32), (num, 1))
  completed = completed_from(given, np.full(num, 2, np.int32))
  np.testing.assert_array_equal(completed.tokens[:, :2], np.ones((num, 2)))
  # Two of the planted 1 1 2 matched, three steps left: state 2 at h = 2.
  p = float(values_of(prover)[2, 2])
  mean = float(jax.jit(problem.grade)(completed).mean())
  assert abs(mean - p) < 4 * np.sqrt(p * (1 - p) / num)
  # Of tokens all given, nothing is left to draw.
  full = completed_from(rollout.tokens, rollout.prefix_len[:, -1])
  np.testing.assert_array_equal(full.tokens, rollout.tokens)
  np.testing.assert_array_equal(full.prefix_len, rollout.prefix_len)
  np.testing.assert_allclose(full.logp, rollout.logp, rtol=1e-6)


def test_strength_may_be_traced_and_batched():
  # It is data and not structure: another strength is no other compilation, and
  # a stack of them is a batch of provers.
  problem = TINY[0]
  strengths = np.array([0.5, 2.0, 30.0], np.float32)
  compiled = jax.jit(lambda prover: prover.values())
  want = [compiled(Procedural(problem, float(g))) for g in strengths]
  assert compiled._cache_size() == 1
  stacked = jax.vmap(compiled)(Procedural(problem, strengths))
  np.testing.assert_allclose(stacked, want, rtol=1e-6)


@pytest.mark.parametrize(
  "strength", [0.0, -1.0, 0, float("nan"), float("inf"), -float("inf")]
)
def test_strength_must_be_a_positive_number(strength):
  with pytest.raises(ValueError, match=f"γ is {strength}, expected a positive"):
    Procedural(TINY[0], strength)
