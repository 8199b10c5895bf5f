"""What the room says of any prover, whoever it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.provers import base
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.provers.rollout_values import ClosedForm, WellFormed, WithinLimit
from pav_jax.provers.verifier import Verifier

PROBLEM = Chain(horizon=2, rho=0.0)
EXACT = ClosedForm(PROBLEM.teacher_values)
VERIFIER = Verifier({"w": jnp.ones(3)}, VerifierConfig(preset("tiny")))


def wrapped(prover):
  """In every wrapper there is."""
  return AdaptiveK(
    BestOfK(WithinLimit(WellFormed(prover, PROBLEM), PROBLEM), 3), (1, 2)
  )


def test_splitting_takes_apart_what_wrapping_put_together():
  ids = PROBLEM.problem_ids("test", 0, 3)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  inner, wrappers = base.split(wrapped(EXACT))
  assert inner is EXACT
  assert [type(x) for x in wrappers] == [
    WellFormed,
    WithinLimit,
    BestOfK,
    AdaptiveK,
  ]
  q = inner(None, rollout)
  for wrapper in wrappers:
    q = wrapper.of_values(q, rollout)
  np.testing.assert_array_equal(q, wrapped(EXACT)(None, rollout))
  np.testing.assert_array_equal(q, base.values(wrapped(EXACT), None, rollout))


def test_only_monte_carlo_without_a_policy_follows_the_policy():
  follows = MonteCarlo(PROBLEM)
  fixed = MonteCarlo(PROBLEM, policy="a policy", params=(1,))
  for prover in (follows, wrapped(follows)):
    assert base.follows_policy(prover)
  for prover in (EXACT, VERIFIER, fixed):
    assert not base.follows_policy(prover)
    around = wrapped(prover)
    assert around.with_policy("another", ()) is around
  inner, _ = base.split(wrapped(follows).with_policy("a policy", (1,)))
  assert inner == fixed


def test_the_policys_values_are_put_where_they_are_stood_for():
  prover = base.of_policy(BestOfK(BestOfK(PolicyValues(), 2), 3), VERIFIER)
  assert base.split(prover)[0] is VERIFIER
  assert [x.k for x in base.split(prover)[1]] == [2, 3]
  assert base.of_policy(prover, EXACT) is prover


def test_networks_and_prefix_caches_are_the_verifiers():
  assert base.networks(wrapped(VERIFIER)) == (VERIFIER.config,)
  assert base.networks(wrapped(EXACT)) == ()
  assert base.prefix_cache(VERIFIER) is VERIFIER
  assert base.prefix_cache(EXACT) is None


def test_copies_lie_on_all_devices_and_are_shared():
  layout = Layout(partitioning.make_mesh())
  copies = {}
  alone = base.placed(VERIFIER, layout, copies)
  within = base.placed(wrapped(VERIFIER), layout, copies)
  assert base.split(within)[0] is alone
  assert base.layout_of(within) == layout
  (x,) = jax.tree.leaves(alone.params)
  assert x.is_fully_replicated and len(x.sharding.device_set) == 8
  split = Layout(partitioning.make_mesh(4, 2))
  for prover, where in (
    (VERIFIER, None),
    (VERIFIER, split),
    (alone, layout),
    (EXACT, layout),
  ):
    assert base.placed(prover, where) is prover


def test_descriptions_tell_provers_apart_and_not_where_they_lie():
  def digest(params):
    return f"of {len(jax.tree.leaves(params))}"

  layout = Layout(partitioning.make_mesh())
  text = base.described(wrapped(VERIFIER), digest)
  assert "of 1" in text and "k=3" in text and "ks=(1.0, 2.0)" in text
  placed = base.placed(wrapped(VERIFIER), layout)
  assert base.described(placed, digest) == text
  other = dataclasses.replace(VERIFIER, params={})
  assert base.described(wrapped(other), digest) != text


@pytest.mark.parametrize("k", [3.0, 5.0])
def test_best_of_k_reports_k_and_the_theorems_terms(k):
  ids = PROBLEM.problem_ids("test", 0, 3)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  metrics = base.metrics(BestOfK(EXACT, k), EXACT(None, rollout), rollout)
  assert metrics["k"] == k
  assert {"distinguishability", "alignment", "bound"} <= metrics.keys()
  assert base.metrics(EXACT, EXACT(None, rollout), rollout) == {}
