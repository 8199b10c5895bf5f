import itertools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.policies.made_policy import MadePolicy, rollout_from_tokens
from pav_jax.problems.planted import Planted
from pav_jax.provers.importance import ImportanceSampling
from pav_jax.provers.procedural import Procedural

PROBLEM = Planted(planted=(1, 2), length=3, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(6, 5))
NUM_SAMPLES = 2000


def test_estimates_lie_within_their_own_error_of_exact_values():
  # All 4^3 sequences, as if sampling went on past the end, under π and under μ:
  # the exact value Σ π R, and the exact second moment Σ π² / μ R of the ratio
  # R π / μ, hence the estimate's exact standard deviation.
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (0.6 * rng.normal(size=x.shape)).astype(np.float32),
    jax.eval_shape(POLICY.init, jax.random.key(0)),
  )
  proposal = Procedural(PROBLEM, 4.0)
  grid = np.array(list(itertools.product(range(4), repeat=3)), np.int32)
  pi = np.exp(np.asarray(jax.jit(POLICY.logits)(params, grid), np.float64))
  pi /= pi.sum(-1, keepdims=True)
  pi = np.take_along_axis(pi, grid[..., None], -1)[..., 0]
  mu = np.full(grid.shape, 0.25)  # uniform once decided, in effect
  for row, tokens in enumerate(grid.tolist()):
    for t, token in enumerate(tokens):
      seen = tokens[:t]
      decided = 3 in seen or bytes((1, 2)) in bytes(seen)
      if not decided:
        wanted = 2 if seen[-1:] == [1] else 1
        mu[row, t] = (4 if token == wanted else 1) / 7
  correct = np.array(
    [bytes((1, 2)) in bytes(row).split(b"\x03")[0] for row in grid.tolist()]
  )
  # The ratio ends where the response does.
  ended = np.cumsum(grid == 3, axis=-1) - (grid == 3) > 0
  mu[ended] = pi[ended]

  tokens = np.array([[1, 0, 1], [0, 1, 2], [1, 2, 3]], np.int32)
  rollout = rollout_from_tokens(
    PROBLEM,
    jnp.asarray(tokens),
    jnp.zeros((3, 3)),
    jnp.zeros(3, jnp.int32),
    jnp.arange(3),
  )
  prover = ImportanceSampling(PROBLEM, proposal, NUM_SAMPLES)
  prover = prover.with_policy(POLICY, params)
  assert prover.with_policy(None, ()) is prover
  got = jax.jit(
    lambda prover, rollout: (
      prover.action_values(jax.random.key(1), rollout),
      prover(jax.random.key(2), rollout),
    )
  )(prover, rollout)
  got, q = map(np.asarray, got)
  assert got.shape == (3, 3, 4)
  uncertain = 0
  for b, h, a in np.ndindex(3, 3, 4):
    begins = (grid[:, :h] == tokens[b, :h]).all(-1) & (grid[:, h] == a)
    p = pi[begins, h + 1 :].prod(-1)
    m = mu[begins, h + 1 :].prod(-1)
    value = (p * correct[begins]).sum()
    variance = (p**2 / m * correct[begins]).sum() - value**2
    sigma = np.sqrt(max(variance, 0) / NUM_SAMPLES)
    assert abs(got[b, h, a] - value) <= 4 * sigma + 1e-5
    uncertain += sigma > 1e-3
  assert uncertain >= 8
  # And of prefixes, whose lengths are those of the rollouts.
  for b, h in np.ndindex(3, 4):
    length = int(rollout.prefix_len[b, h])
    begins = (grid[:, :length] == tokens[b, :length]).all(-1)
    p, m = pi[begins, length:].prod(-1), mu[begins, length:].prod(-1)
    value = (p * correct[begins]).sum()
    variance = (p**2 / m * correct[begins]).sum() - value**2
    sigma = np.sqrt(max(variance, 0) / NUM_SAMPLES)
    assert abs(q[b, h] - value) <= 4 * sigma + 1e-5
