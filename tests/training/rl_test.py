import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import steps
from pav_jax.models import partitioning
from pav_jax.policies.made_policy import MadePolicy, MadeValue
from pav_jax.problems.planted import Planted
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.procedural import Procedural
from pav_jax.training import rl
from pav_jax.training.baselines import BatchMean, LearnedBaseline, NoBaseline
from pav_jax.training.rewards import Reward
from pav_jax.training.state import TrainState
from pav_jax.training.updates import Gradient, NaturalGradient

PROBLEM = Planted((1, 0), length=4, vocab_size=4)
POLICY = MadePolicy(PROBLEM, hidden=(12,))
PROVER = Procedural(PROBLEM, 6.0)
KEYS = jax.vmap(jax.random.key)(jnp.arange(2))
ONE_DEVICE = partitioning.make_mesh(devices=jax.devices()[:1])


def arm(name="arm", *, alpha=1.0, update=None, baseline=None, **reward):
  return rl.Arm(
    name,
    Reward(PROVER, alpha, **reward),
    update or Gradient("sgd", 1.0),
    baseline or BatchMean(),
  )


def random_params(policy, key):
  return policy.init(key)


def run(
  arms, num_iterations, *, batch_size=16, chunk=None, mesh=ONE_DEVICE, ends=None
):
  """Trains; gives the final state and the metrics of every iteration."""
  chunk = chunk or num_iterations
  algorithms = rl.stack_arms(arms)
  params = rl.initial_params(POLICY, KEYS, random_params)
  state = rl.init_state(algorithms, KEYS, params)
  state = jax.device_put(state, partitioning.replicated(mesh))
  train_chunk = rl.make_train_chunk(
    POLICY, PROBLEM, batch_size=batch_size, chunk=chunk, mesh=mesh
  )
  done, history = 0, []
  for end in ends or [num_iterations]:
    while done < end:
      stop = min(done + chunk, end)
      state, metrics = train_chunk(
        algorithms, KEYS, state, np.int32(done), np.int32(stop)
      )
      history.append(jax.tree.map(lambda x, n=stop - done: x[:n], metrics))
      done = stop
  return state, jax.tree.map(lambda *x: np.concatenate(x), *history)


train_step = jax.jit(rl.train_step, static_argnums=(0, 1))


def one_step(algorithm_arm, *, sample_id=None, eager=False):
  params = POLICY.init(jax.random.key(7))
  reward, update, baseline = algorithm_arm.algorithm
  state = TrainState(
    params, update.init(params), baseline.init(jax.random.key(8))
  )
  ids = jnp.arange(16) if sample_id is None else sample_id
  step = rl.train_step if eager else train_step
  return params, *step(
    POLICY,
    PROBLEM,
    (reward, update, baseline),
    jax.random.key(0),
    state,
    jnp.zeros_like(ids),
    ids,
  )


def test_one_step_is_equation_5_by_hand():
  # With SGD at rate 1 and no baseline, the change of the parameters is
  # 1/B Σ_b Σ_h ∇log π(a_h|s_h) · (outcome + α A^μ_h), token by token here.
  params, state, metrics = one_step(arm(alpha=2.0, baseline=NoBaseline()))
  ids = jnp.arange(16)
  rollout = POLICY.sample(
    params, jax.random.fold_in(jax.random.key(0), 0), jnp.zeros_like(ids), ids
  )
  outcome = PROBLEM.grade(rollout)
  q = PROVER(None, rollout)
  length = np.asarray(rollout.prefix_len[:, -1])

  def objective(params):
    logp = jax.nn.log_softmax(POLICY.logits(params, rollout.tokens))
    total = 0.0
    for b in range(16):
      for t in range(int(length[b])):
        weight = outcome[b] + 2.0 * (q[b, t + 1] - q[b, t])
        total += logp[b, t, rollout.tokens[b, t]] * weight
    return total / 16

  gradient = jax.jit(jax.grad(objective))(params)
  for name, g in gradient.items():
    np.testing.assert_allclose(state.params[name] - params[name], g, atol=1e-6)
  assert metrics["accuracy"] == jnp.mean(outcome)


def test_alpha_zero_does_not_depend_on_the_prover():
  algorithm = arm(alpha=0.0)
  other = dataclasses.replace(
    algorithm, reward=Reward(Procedural(PROBLEM, 50.0), 0.0)
  )
  jax.tree.map(
    np.testing.assert_array_equal, one_step(algorithm)[1], one_step(other)[1]
  )


def test_best_of_one_is_the_prover_itself():
  algorithm = arm()
  other = dataclasses.replace(
    algorithm, reward=Reward(BestOfK(PROVER, 1.0), 1.0)
  )
  for a, b in zip(
    jax.tree.leaves(one_step(algorithm)[1]),
    jax.tree.leaves(one_step(other)[1]),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_monte_carlo_q_is_the_outcome_at_the_last_step():
  # Whatever the number of rollouts, the whole response's value is its outcome,
  # so rewards differ before the last step only.
  captured = {}

  @dataclasses.dataclass(frozen=True)
  class Spy:
    num_rollouts: int

    def __call__(self, key, rollout, q_policy):
      captured[self.num_rollouts] = rollout, q_policy
      return q_policy

  for num_rollouts in (0, 8):
    algorithm = dataclasses.replace(arm(), reward=Spy(num_rollouts))
    one_step(algorithm, eager=True)
  rollout, outcome = captured[0]
  _, q_mc = captured[8]
  last = jnp.sum(steps.step_mask(rollout.prefix_len), axis=-1) - 1
  rows = jnp.arange(16)
  np.testing.assert_array_equal(q_mc[rows, last], rollout.outcome)
  np.testing.assert_array_equal(outcome, rollout.outcome[:, None] + 0 * outcome)
  np.testing.assert_array_equal(q_mc * 8, jnp.round(q_mc * 8))
  assert jnp.any((q_mc > 0) & (q_mc < 1))


def test_chunks_and_their_boundaries_change_nothing_bit_for_bit():
  # One program of up to 4 iterations, stopped at 3, 7 and 10, or never.
  arms = [arm(update=Gradient("adam", 1e-2))]
  whole, metrics = run(arms, 10, chunk=4)
  parts, same = run(arms, 10, chunk=4, ends=[3, 7, 10])
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  jax.tree.map(np.testing.assert_array_equal, metrics, same)
  assert metrics["accuracy"].shape == (10, 1, 2)


def test_an_arm_does_not_depend_on_its_neighbours():
  together, _ = run([arm("a"), arm("b", alpha=0.0)], 5)
  alone, _ = run([arm("b", alpha=0.0)], 5)
  for a, b in zip(
    jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True
  ):
    np.testing.assert_allclose(a[1], b[0], atol=1e-6)


@pytest.mark.parametrize(
  "update", [Gradient("sgd", 1.0), NaturalGradient()], ids=["sgd", "natural"]
)
def test_eight_devices_give_the_accuracies_of_one(update):
  # Sums over the batch are taken in another order, so parameters may differ by
  # rounding; a sampled token differs only where its uniform number lies within
  # that of a boundary, about once in 1e5 tokens.
  arms = [arm(update=update)]
  _, one = run(arms, 10)
  state, eight = run(arms, 10, mesh=partitioning.make_mesh())
  np.testing.assert_array_equal(one["accuracy"], eight["accuracy"])
  assert len(state.params["kernel_0"].sharding.device_set) == 8


def test_the_batch_is_split_over_the_devices():
  arms = [arm()]
  mesh = partitioning.make_mesh()
  algorithms = rl.stack_arms(arms)
  params = rl.initial_params(POLICY, KEYS, random_params)
  state = rl.init_state(algorithms, KEYS, params)
  compiled = (
    rl.make_train_chunk(POLICY, PROBLEM, batch_size=40, chunk=2, mesh=mesh)
    .lower(algorithms, KEYS, state, np.int32(0), np.int32(2))
    .compile()
    .as_text()
  )
  # Logits of 40 rows: 5 on a device, for 2 seeds, nowhere all of them.
  assert "f32[1,2,5,16]" in compiled or "f32[2,5,16]" in compiled
  assert "f32[1,2,40,16]" not in compiled and "f32[2,40,16]" not in compiled


def test_progress_teaches_and_outcome_alone_is_slower():
  # Means over 2 seeds of 60 iterations; the planted pair is found by chance one
  # time in six, so both learn, and the prover's advantage is a head start.
  _, metrics = run([arm("pav"), arm("outcome", alpha=0.0)], 60)
  pav, outcome = metrics["accuracy"].mean(axis=(0, 2))
  assert pav > outcome + 0.02
  assert metrics["accuracy"][-10:, 0].mean() > 0.95


def test_learned_baseline_is_part_of_the_state():
  value = MadeValue(PROBLEM, hidden=(12,))
  state, metrics = run([arm(baseline=LearnedBaseline(value, 1e-2))], 40)
  assert metrics["accuracy"][-10:].mean() > metrics["accuracy"][:10].mean()
  value_params, _ = state.baseline
  assert value_params["kernel_0"].shape == (1, 2, 16, 12)


def test_arms_are_grouped_by_what_must_be_compiled():
  arms = [
    arm("a", alpha=0.5),
    arm("b", update=NaturalGradient()),
    arm("c", update=Gradient("sgd", 0.1)),
    arm("d", update=NaturalGradient(step_size=1.0)),
    arm("e", kind="value"),
  ]
  groups = rl.group_arms(arms).values()
  assert [[a.name for a in group] for group in groups] == [
    ["a", "c"],
    ["b", "d"],
    ["e"],
  ]
  with pytest.raises(ValueError, match="differ in structure"):
    rl.stack_arms(arms)
  with pytest.raises(ValueError, match="expected one or more, all unlike"):
    rl.group_arms([arm("a"), arm("a")])
  with pytest.raises(ValueError, match="expected one or more"):
    rl.group_arms([])


def test_batch_that_does_not_divide_over_the_mesh_is_refused():
  with pytest.raises(ValueError, match="batch_size is 12, expected a positive"):
    rl.make_train_chunk(
      POLICY, PROBLEM, batch_size=12, chunk=1, mesh=partitioning.make_mesh()
    )


def test_count_correct_counts_each_sample_once():
  # 100 samples in batches of 64 are the first 100 of 128, addressed alike.
  params = jax.tree.map(
    lambda x: x[None], rl.initial_params(POLICY, KEYS, random_params)
  )
  counted = rl.count_correct(POLICY, PROBLEM, params, KEYS, 100, 64)
  for seed in range(2):
    ids = jnp.arange(100)
    rollout = POLICY.sample(
      jax.tree.map(lambda x, s=seed: x[0, s], params),
      jax.random.fold_in(KEYS[seed], 3),
      jnp.zeros_like(ids),
      ids,
    )
    assert counted[0, seed] == int(PROBLEM.grade(rollout).sum())


def test_trailing_mean_and_first_reaching_by_arithmetic():
  accuracy = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
  means = rl.trailing_mean(accuracy, window=2)
  np.testing.assert_allclose(means, [np.nan, 0.5, 1.0, 0.5, 0.5, 1.0])
  assert rl.first_reaching(means, 0.5) == 2
  assert rl.first_reaching(means, 0.9) == 3
  assert rl.first_reaching(rl.trailing_mean(accuracy), 0.1) is None
  assert rl.first_reaching(means, 1.1) is None
