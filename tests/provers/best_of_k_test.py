import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.problems.planted import Planted
from pav_jax.provers.base import FixedProver
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.procedural import Procedural

PROBLEM = Planted(planted=(1, 2), length=4, vocab_size=4)
BASE = Procedural(PROBLEM, 2.0)


@pytest.fixture(scope="module")
def rollout():
  zeros = np.zeros(16, np.int32)
  return jax.jit(BASE.sample)(jax.random.key(0), zeros, np.arange(16))


def test_it_is_the_other_prover_in_closed_form(rollout):
  # Eq. 30 in float64.
  q = np.asarray(BASE(None, rollout), np.float64)
  for k in (1.0, 2.0, 2.5, 32.0):
    np.testing.assert_allclose(
      BestOfK(BASE, k)(None, rollout), 1 - (1 - q) ** k, rtol=1e-6
    )


def test_best_of_1_is_the_policy_and_best_of_best_multiplies(rollout):
  q = BASE(None, rollout)
  np.testing.assert_allclose(BestOfK(BASE, 1.0)(None, rollout), q, rtol=1e-6)
  nested = BestOfK(BestOfK(BASE, 3.0), 4.0)
  np.testing.assert_allclose(
    nested(None, rollout), BestOfK(BASE, 12.0)(None, rollout), rtol=1e-5
  )


def test_the_key_reaches_the_other_prover(rollout):
  @dataclasses.dataclass(frozen=True)
  class Noise(FixedProver):
    placement = "device"

    def __call__(self, key, rollout):
      return jax.random.uniform(key, rollout.prefix_len.shape)

  key, noise = jax.random.key(3), Noise()
  got = BestOfK(noise, 2.0)(key, rollout)
  np.testing.assert_allclose(got, 1 - (1 - noise(key, rollout)) ** 2, rtol=1e-5)


def test_k_and_the_other_provers_leaves_may_be_traced_and_batched(rollout):
  strengths, ks = jnp.array([1.0, 2.0, 8.0]), jnp.array([1.0, 2.5, 16.0])
  stacked = BestOfK(Procedural(PROBLEM, strengths), ks)
  got = jax.jit(jax.vmap(lambda prover: prover(None, rollout)))(stacked)
  for lane in range(3):
    base = Procedural(PROBLEM, float(strengths[lane]))
    want = BestOfK(base, float(ks[lane]))(None, rollout)
    np.testing.assert_allclose(got[lane], want, rtol=1e-6)


@pytest.mark.parametrize("k", [0.5, 0, -1.0, float("nan")])
def test_fewer_than_one_sample_is_refused(rollout, k):
  with pytest.raises(ValueError, match=f"k is {k}; expected"):
    BestOfK(BASE, k)(None, rollout)
