"""Arms and seeds, one by one and in one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.credit import EffectiveReward
from pav_jax.models import partitioning
from pav_jax.policies.made_policy import MadePolicy, MadeValue
from pav_jax.problems.planted import Planted
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.provers.procedural import Procedural
from pav_jax.training import rl_replicas
from pav_jax.training.baselines import (
  BatchMean,
  LearnedBaseline,
  less_baseline,
)
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted, Traced
from pav_jax.training.rl_replicas import Alone, Stream, Together
from pav_jax.training.updates import Gradient, NaturalGradient

PROBLEM = Planted((1, 0), length=4, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(12,))
PROVER = Procedural(PROBLEM, 6.0)
KEYS = jax.vmap(jax.random.key)(jnp.arange(2))
ONE_DEVICE = partitioning.make_mesh(devices=jax.devices()[:1])
PARAMS = jax.vmap(lambda key: POLICY.init(Stream.PARAMS.of(key)))(KEYS)


def arm(name="arm", *, alpha=1.0, of="advantage", prover=PROVER, **settings):
  reward = EffectiveReward(alpha, of=of)
  baseline = settings.pop("baseline", BatchMean())
  update = settings.pop("update", Gradient("sgd", 1.0))
  estimator = less_baseline(reward=reward, baseline=baseline)
  return Arm(name, estimator, update, prover, **settings)


def together(arms, *, stride=10, mesh=ONE_DEVICE, batch_size=16):
  trainer = Trainer(arms[0], POLICY, PROBLEM, Traced(mesh), 1, batch_size)
  return Together(trainer, arms, KEYS, PARAMS, stride)


def run(replicas, num_iterations, *, ends=()):
  """Trains; gives the final state and the metrics of every iteration."""
  state, done, history = replicas.init(), 0, []
  for end in [*ends, num_iterations]:
    while done < end:
      stop = min(done + replicas.stride - done % replicas.stride, end)
      state, finish = replicas.advance(state, done, [1.0] * (stop - done))
      history.append(finish())
      done = stop
  return state, [
    {name: np.concatenate([rows[i][name] for rows in history]) for name in of}
    for i, of in enumerate(history[0])
  ]


def test_chunks_and_their_boundaries_change_nothing_bit_for_bit():
  # One program of up to 4 iterations, stopped at 3, 7 and 10, or never.
  arms = [arm(update=Gradient("adam", 1e-2))]
  replicas = together(arms, stride=4)
  whole, metrics = run(replicas, 10)
  parts, same = run(replicas, 10, ends=[3, 7])
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  jax.tree.map(np.testing.assert_array_equal, metrics, same)
  assert metrics[0]["accuracy"].shape == (10, 2)


def test_one_by_one_is_the_same_training_as_in_one_program():
  # Also what is made of the policy, with Monte-Carlo values of it.
  prover = BestOfK(MonteCarlo(PROBLEM, num_completions=2), 2.0)
  arms = [
    arm("a", alpha=0.5, prover=prover, refresh_every=2),
    arm("b", alpha=2.0, prover=prover, refresh_every=2),
  ]
  state, metrics = run(together(arms, stride=5), 5)
  policies = together(arms).params_of(state)
  trainer = Trainer(arms[1], POLICY, PROBLEM, Hosted(), 1, 16)
  params = jax.tree.map(lambda x: x[1], PARAMS)
  alone = Alone(trainer, params, KEYS[1])
  state, ((of_alone),) = run(alone, 5)
  for name in ("accuracy", "reward", "loss", "kl", "k"):
    np.testing.assert_allclose(
      of_alone[name][:, 0], metrics[1][name][:, 1], atol=1e-5, err_msg=name
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    state.params,
    policies[1][1],
  )


def test_an_arm_does_not_depend_on_its_neighbours():
  both, _ = run(together([arm("a"), arm("b", alpha=0.0)]), 5)
  alone, _ = run(together([arm("b", alpha=0.0)]), 5)
  for a, b in zip(
    jax.tree.leaves(both.params), jax.tree.leaves(alone.params), strict=True
  ):
    np.testing.assert_allclose(a[1], b[0], atol=1e-6)


def test_alpha_zero_does_not_depend_on_the_prover():
  a, _ = run(together([arm(alpha=0.0)]), 2)
  other = arm(alpha=0.0, prover=Procedural(PROBLEM, 50.0))
  b, _ = run(together([other]), 2)
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


@pytest.mark.parametrize(
  "update", [Gradient("sgd", 1.0), NaturalGradient()], ids=["sgd", "natural"]
)
def test_eight_devices_give_the_accuracies_of_one(update):
  # Sums over the batch are taken in another order, so parameters may differ by
  # rounding; a sampled token differs only where its uniform number lies within
  # that of a boundary, about once in 1e5 tokens.
  arms = [arm(update=update)]
  _, (one,) = run(together(arms), 10)
  state, (eight,) = run(together(arms, mesh=partitioning.make_mesh()), 10)
  np.testing.assert_array_equal(one["accuracy"], eight["accuracy"])
  assert len(state.params["kernel_0"].sharding.device_set) == 8


def test_the_batch_is_split_over_the_devices():
  replicas = together(
    [arm()], stride=2, mesh=partitioning.make_mesh(), batch_size=40
  )
  turns = [replicas.trainer.turn(i) for i in range(2)]
  compiled = (
    replicas._chunk.lower(
      replicas._algorithms,
      KEYS,
      replicas.init(),
      PARAMS,
      jax.tree.map(lambda *x: np.stack(x), *turns),
      np.ones(2, bool),
    )
    .compile()
    .as_text()
  )
  # Logits of 40 rows: 5 on a device, for 2 seeds, nowhere all of them.
  assert "f32[1,2,5,16]" in compiled or "f32[2,5,16]" in compiled
  assert "f32[1,2,40,16]" not in compiled and "f32[2,40,16]" not in compiled


def test_progress_teaches_and_outcome_alone_is_slower():
  # Means over 2 seeds of 60 iterations; the planted pair is found by chance one
  # time in six, so both learn, and the prover's advantage is a head start.
  _, metrics = run(together([arm("pav"), arm("outcome", alpha=0.0)]), 60)
  pav, outcome = (of_arm["accuracy"] for of_arm in metrics)
  assert pav.mean() > outcome.mean() + 0.02
  assert pav[-10:].mean() > 0.95


def test_learned_baseline_is_part_of_the_state():
  baseline = LearnedBaseline(MadeValue(PROBLEM, hidden=(12,)), 1e-2)
  state, (metrics,) = run(together([arm(baseline=baseline)]), 40)
  accuracy = metrics["accuracy"]
  assert accuracy[-10:].mean() > accuracy[:10].mean()
  value_params, _ = state.credit
  assert value_params["kernel_0"].shape == (1, 2, 16, 12)


def test_arms_are_grouped_by_what_must_be_compiled():
  arms = [
    arm("a", alpha=0.5),
    arm("b", update=NaturalGradient()),
    arm("c", update=Gradient("sgd", 0.1)),
    arm("d", update=NaturalGradient(step_size=1.0)),
    arm("e", of="value"),
    arm("f", num_updates=2),
  ]
  groups = rl_replicas.group_arms(arms)
  assert [[a.name for a in group] for group in groups] == [
    ["a", "c"],
    ["b", "d"],
    ["e"],
    ["f"],
  ]
  with pytest.raises(ValueError, match="differ in structure"):
    together(arms)


def test_batch_that_does_not_divide_over_the_mesh_is_refused():
  with pytest.raises(ValueError, match="batch_size is 12, expected a positive"):
    together([arm()], mesh=partitioning.make_mesh(), batch_size=12)


def test_count_correct_counts_each_sample_once():
  # 100 samples in batches of 64 are the first 100 of 128, addressed alike.
  params = jax.tree.map(lambda x: x[None], PARAMS)
  counted = rl_replicas.count_correct(POLICY, PROBLEM, params, KEYS, 100, 64)
  for seed in range(2):
    ids = jnp.arange(100)
    rollout = POLICY.sample(
      jax.tree.map(lambda x, s=seed: x[s], PARAMS),
      Stream.VALIDATE.of(KEYS[seed]),
      jnp.zeros_like(ids),
      ids,
    )
    assert counted[0, seed] == int(PROBLEM.grade(rollout).sum())


def test_an_estimator_may_be_a_plain_function():
  """Of the same form as one that is a pytree, and as good in one program."""
  reward = EffectiveReward(0.5)

  def estimator(rollout, q, groups=None):
    return reward(rollout, q, groups)

  same = [
    Arm("a", x, Gradient("sgd", 1.0), PROVER) for x in (estimator, reward)
  ]
  states = [run(together([arm]), 2)[0] for arm in same]
  jax.tree.map(np.testing.assert_array_equal, *(x.params for x in states))
  # Arms that differ in their prover alone share a program.
  stronger = dataclasses.replace(same[0], prover=Procedural(PROBLEM, 8.0))
  run(together([same[0], stronger]), 2)
