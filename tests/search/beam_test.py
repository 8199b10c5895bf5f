"""Search on small processes whose values are known."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import randomness, values
from pav_jax.search import beam as beam_lib
from pav_jax.search.beam import Settings, beam_search
from pav_jax.testing import tabular

A, H, B = 3, 4, 5
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def processes():
  """Five trees with two right leaves among 81 each, and random policies."""
  keys = jax.random.split(jax.random.key(1), B)
  rewards, tables, exact = [], [], []
  for key in keys:
    process = tabular.random_process(
      key, num_actions=A, num_steps=H, num_correct=2
    )
    logits = jax.random.normal(key, (process.num_states, A))
    rewards.append(process.rewards)
    tables.append(jax.nn.log_softmax(logits))
    exact.append(tabular.prefix_values(process, jax.nn.softmax(logits)))
  return tuple(map(jnp.stack, (rewards, tables, exact)))


def actions_covered(keys, state):
  """Candidate c takes action c."""
  del keys
  which, prefix, depth = state
  child = A * prefix[..., None] + 1 + jnp.arange(A)
  which, depth = (
    jnp.broadcast_to(x[..., None], child.shape) for x in state[::2]
  )
  return (which, child, depth + 1), depth + 1 == H


def actions_drawn(tables, keys, state):
  which, prefix, depth = state
  logits = tables[which, prefix]
  token_keys = randomness.keys_at(keys, jnp.zeros(keys.shape, int))
  logits = jnp.broadcast_to(logits[..., None, :], (*keys.shape, A))
  action, _ = randomness.categorical(token_keys, logits)
  child = A * prefix[..., None] + 1 + action
  which, depth = (
    jnp.broadcast_to(x[..., None], child.shape) for x in state[::2]
  )
  return (which, child, depth + 1), depth + 1 == H


def roots(which):
  which = jnp.asarray(which)
  return which, jnp.zeros_like(which), jnp.zeros_like(which)


def value(tables, state):
  return tuple(table[state[0], state[1]] for table in tables)


@functools.partial(jax.jit, static_argnames=("covered", "settings"))
def compiled(which, policy, tables, alpha, *, covered, settings):
  return beam_search(
    actions_covered if covered else functools.partial(actions_drawn, policy),
    functools.partial(value, tables),
    roots(which),
    KEY,
    settings=settings,
    alpha=alpha,
    problem_id=which + 10,
    identity_fn=lambda candidates: candidates[1][..., None],
  )


def run(q, q_prover, policy=None, which=range(B), *, alpha=0.0, **settings):
  """With a policy to draw from, or else all actions of every state."""
  settings = {"num_beams": 3, "num_steps": H, "num_candidates": A} | settings
  return compiled(
    jnp.asarray(list(which)),
    policy,
    (q, q_prover),
    jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), len(which)),
    covered=policy is None,
    settings=Settings(**settings),
  )


def outcomes(processes, beam):
  first_leaf = (A**H - 1) // (A - 1)
  which, prefix, _ = beam.answer
  return processes[0][which, prefix - first_leaf]


def test_docstring():
  failed, tried = doctest.testmod(beam_lib)
  assert tried > 5 and not failed


def best_of(q, k):
  return values.best_of_k(q, jnp.float32(k))


def test_exact_values_and_all_actions_find_what_brute_force_finds(processes):
  rewards, _, exact = processes
  beam = run(exact, exact, num_beams=1)
  # An exact value above 0 says that a right leaf is below; so even one beam
  # ends at one, that of the greedy path by values in plain Python.
  np.testing.assert_array_equal(outcomes(processes, beam), 1.0)
  for b in range(B):
    prefix = 0
    for _ in range(H):
      children = A * prefix + 1 + np.arange(A)
      prefix = children[np.argmax(np.asarray(exact)[b, children])]
    assert beam.answer[1][b] == prefix
  np.testing.assert_array_equal(np.max(rewards, 1), 1.0)


@pytest.mark.parametrize("alpha, k", [(0.0, 1), (0.7, 1), (0.7, 4.0)])
def test_beams_are_those_of_exhaustive_enumeration(processes, alpha, k):
  # Noisy values, so that the order matters; an independent search in numpy.
  noise = jax.random.uniform(KEY, processes[2].shape)
  table = 0.5 * processes[2] + 0.5 * noise
  width = 4
  beam = run(table, best_of(table, k), alpha=alpha, num_beams=width, merge=True)
  q = np.asarray(table, np.float64)
  q_prover = 1 - (1 - q) ** k
  for b in range(B):
    beams = [0]
    for _ in range(H):
      scored = []
      for prefix in beams:
        for child in A * prefix + 1 + np.arange(A):
          gain = q_prover[b, child] - q_prover[b, prefix]
          scored.append((q[b, child] + alpha * gain, child))
      beams = [child for _, child in sorted(scored, reverse=True)[:width]]
    assert sorted(beams) == sorted(np.asarray(beam.state[1][b]))
    assert beam.answer[1][b] == max(beams, key=lambda leaf: q[b, leaf])


def test_values_of_the_path_are_kept(processes):
  exact = processes[2]
  beam = run(exact, best_of(exact, 3), num_beams=4, merge=True)
  for b in range(B):
    path = [int(beam.answer[1][b])]
    while path[0]:
      path.insert(0, (path[0] - 1) // A)
    kept = beam.q_policy[b, beam.chosen[b]]
    np.testing.assert_array_equal(kept, exact[b, np.array(path)])
    np.testing.assert_allclose(
      beam.q_prover[b, beam.chosen[b]], 1 - (1 - kept) ** 3, atol=1e-6
    )


def test_one_beam_and_one_candidate_sample_the_policy(processes):
  _, tables, exact = processes
  num = 4000
  beam = jax.jit(
    lambda: beam_search(
      functools.partial(actions_drawn, tables),
      functools.partial(value, (exact, exact)),
      roots(jnp.zeros(num, int)),
      KEY,
      settings=Settings(num_beams=1, num_steps=H, num_candidates=1),
      alpha=0.5,
    )
  )()
  # The value of the bare problem is the policy's rate of success.
  rate = float(jnp.mean(outcomes(processes, beam)))
  success = float(exact[0, 0])
  assert abs(rate - success) < 4 * (success * (1 - success) / num) ** 0.5
  # And each first action has its probability.
  first = np.asarray(beam.answer[1])
  for _ in range(H - 1):
    first = (first - 1) // A
  share = np.bincount(first - 1, minlength=A) / num
  want = np.exp(np.asarray(tables[0, 0]))
  assert (abs(share - want) < 4 * (want * (1 - want) / num) ** 0.5).all()


def test_alpha_0_does_not_look_at_the_prover(processes):
  _, policy, exact = processes
  noise = jax.random.uniform(KEY, exact.shape)
  ours = run(exact, noise, policy)
  q_only = run(exact, exact, policy)
  np.testing.assert_array_equal(ours.state[1], q_only.state[1])
  with_prover = run(exact, noise, policy, alpha=2.0)
  assert (with_prover.state[1] != q_only.state[1]).any()


def test_the_same_prover_changes_the_penalty_of_the_parent_alone(processes):
  # q + α (q − q_parent): a factor 1 + α within siblings, so one beam, which has
  # siblings only, decides the same at every α. Best-of-K keeps the order too.
  _, policy, exact = processes
  first = run(exact, exact, policy, num_beams=1)
  for alpha, k in (0.5, 1), (3.0, 1), (3.0, 8):
    other = run(exact, best_of(exact, k), policy, alpha=alpha, num_beams=1)
    np.testing.assert_array_equal(first.state[1], other.state[1])


def test_results_do_not_depend_on_what_shares_the_batch(processes):
  _, policy, exact = processes
  settings = {"temperature": 0.1, "lookahead": 1, "alpha": 0.5}
  every = run(exact, exact, policy, **settings)
  alone = run(exact, exact, policy, [3], **settings)
  np.testing.assert_array_equal(every.state[1][3], alone.state[1][0])
  np.testing.assert_array_equal(every.q_policy[3], alone.q_policy[0])


def test_alpha_may_differ_between_problems(processes):
  _, policy, exact = processes
  noise = jax.random.uniform(KEY, exact.shape)
  mixed = run(exact, noise, policy, alpha=[0.0, 2.0, 0.0, 2.0, 0.0])
  both = [run(exact, noise, policy, alpha=alpha) for alpha in (0.0, 2.0)]
  for b in range(B):
    np.testing.assert_array_equal(mixed.state[1][b], both[b % 2].state[1][b])


def test_lookahead_values_what_follows(processes):
  # Nothing but leaves has a value, and a policy that takes action 1 for sure
  # after the first step leads to one of them. With H - 1 further steps, the
  # first step is known to be right or wrong; without, the first of equal ones
  # is taken.
  first_leaf = (A**H - 1) // (A - 1)
  middle = np.array([13, 40, 67])  # 0111, 1111, 2111 in base 3
  rewards = np.zeros((B, A**H), np.float32)
  rewards[np.arange(B), middle[np.arange(B) % A]] = 1
  table = jnp.pad(rewards, ((0, 0), (first_leaf, 0)))

  def sample(keys, state):
    """All actions at first, then action 1."""
    (which, child, depth), ended = actions_covered(keys, state)
    first = depth == 1
    child = jnp.where(first, child, A * state[1][..., None] + 2)
    if keys.shape[-1] == 1:  # a further step
      which, depth, child = (x[..., :1] for x in (which, depth, child))
      ended = ended[..., :1]
    return (which, child, depth), ended

  for lookahead, want in (
    (H - 1, middle[np.arange(B) % A]),
    (0, middle[[0] * B]),
  ):
    beam = beam_search(
      sample,
      functools.partial(value, (table, table)),
      roots(range(B)),
      KEY,
      settings=Settings(num_beams=1, num_steps=H, lookahead=lookahead),
      alpha=0.0,
    )
    np.testing.assert_array_equal(beam.answer[1] - first_leaf, want)


def test_finished_traces_keep_their_place():
  # Candidate 0 ends at once and is worth 0.3; others go on, are worth more, and
  # at the end of the third step turn out to be worth 0.1.
  def sample(keys, state):
    depth = jnp.broadcast_to(state[0][..., None] + 1, keys.shape)
    ends = (jnp.arange(keys.shape[-1]) == 0) & (depth == 1) | (depth == 3)
    return (depth, ends), ends

  def value(state):
    depth, ended = state
    q = jnp.where(depth == 3, 0.1, jnp.where(ended, 0.3, 0.5))
    return q, q

  root = (jnp.zeros(1, int), jnp.zeros(1, bool))
  beam = beam_search(
    sample,
    value,
    root,
    KEY,
    settings=Settings(num_beams=3, num_candidates=2, num_steps=3),
    alpha=0.0,
  )
  # Round 1: 3 × (0.3 ended, 0.5 going): the three that go on win all places.
  assert beam.state[0][0].tolist() == [3, 3, 3]
  beam = beam_search(
    sample,
    value,
    root,
    KEY,
    settings=Settings(
      num_beams=4, num_candidates=2, num_steps=3, num_trees=2, merge=True
    ),
    alpha=0.0,
    identity_fn=lambda state: jnp.stack([state[0], state[1]], -1),
  )
  # Of equal candidates one is left: in each tree both kinds have places in the
  # first round; the one that ended keeps it though the others' are worth more,
  # and is the answer.
  assert sorted(beam.state[0][0].tolist()) == [1, 1, 3, 3]
  assert beam.answer[0].tolist() == [1]
  np.testing.assert_allclose(
    beam.q_policy[0, beam.chosen[0]], [0.5, 0.3, 0.3, 0.3]
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_beams": 0}, "num_beams is 0"),
    ({"num_trees": 2}, "multiple of num_trees"),
    ({"temperature": 0.0}, "temperature is 0.0"),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError, match=message):
    Settings(**({"num_beams": 1, "num_steps": 3} | change))


def test_bad_arguments(no_shape_checks):
  settings = Settings(num_beams=1, num_steps=1)
  search = functools.partial(beam_search, min, max, key=KEY, alpha=0.0)
  with pytest.raises(ValueError, match="root has no problems"):
    search((), settings=settings)
  with pytest.raises(ValueError, match="expected an identity_fn"):
    search(
      jnp.zeros(2),
      settings=Settings(num_beams=1, num_steps=1, merge=True),
    )
