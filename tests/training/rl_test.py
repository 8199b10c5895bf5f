"""One iteration: what is asked of whom, and in which order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
from pav_jax.credit import Centred, EffectiveReward
from pav_jax.models import partitioning
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers import base as provers
from pav_jax.provers.procedural import Procedural
from pav_jax.training import rl
from pav_jax.training.baselines import NoBaseline, less_baseline
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted, Traced
from pav_jax.training.updates import Gradient
from tests.training.tabular_policy import Coins, Tabular, ones_and_zeros

SGD = Gradient("sgd", 0.5)
OUTCOME = less_baseline(reward=EffectiveReward(0.0), baseline=NoBaseline())
PROGRESS = less_baseline(reward=EffectiveReward(1.0), baseline=NoBaseline())
KEY = jax.random.key(0)


def trainer(arm, problem=None, policy=None, *, problems=2, samples=4):
  return Trainer(
    arm,
    policy or Tabular("host"),
    problem or Coins("host"),
    Hosted(),
    problems,
    samples,
  )


def test_one_iteration_is_equation_5_by_hand():
  # With SGD at rate 1 and no baseline, the change of the parameters is
  # 1/B Σ_b Σ_h ∇log π(a_h|s_h) · (outcome + α A^μ_h), token by token here.
  problem = Planted((1, 0), length=4, vocab_size=4)
  policy, prover = MadePolicy(problem, hidden=(12,)), Procedural(problem, 6.0)
  arm = Arm(
    "arm",
    less_baseline(reward=EffectiveReward(2.0), baseline=NoBaseline()),
    Gradient("sgd", 1.0),
    prover,
  )
  mesh = partitioning.make_mesh(devices=jax.devices()[:1])
  one = Trainer(arm, policy, problem, Traced(mesh), 1, 16)
  params = policy.init(jax.random.key(7))
  state = one.init_state(jax.random.key(8), params)
  state, metrics, _ = jax.jit(one.iterate)(state, params, KEY, one.turn(3))
  # The fourth iteration has samples 48 … 63 of the one problem.
  ids = jnp.arange(48, 64)
  rollout = policy.sample(
    params, jax.random.fold_in(KEY, 0), jnp.zeros_like(ids), ids
  )
  outcome = problem.grade(rollout)
  q = prover(None, rollout)
  length = np.asarray(rollout.prefix_len[:, -1])

  def objective(params):
    logp = jax.nn.log_softmax(policy.logits(params, rollout.tokens))
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


def test_batches_walk_through_the_split_and_never_share_an_address():
  # 12 problems a batch of a split of 10: the two that come again go on with
  # other samples, in the same batch and in the next.
  turns = [
    rl.turn(Coins(), i, num_problems=12, num_samples=3) for i in range(5)
  ]
  assert turns[0].problem_id.tolist() == [*range(10), 0, 1]
  assert turns[0].first_sample.tolist() == [0] * 10 + [3, 3]
  assert turns[1].problem_id.tolist() == [*range(2, 10), *range(4)]
  assert turns[1].first_sample.tolist() == [3] * 8 + [6] * 4
  addresses = [
    (problem, first + n)
    for turn in turns
    for problem, first in zip(turn.problem_id, turn.first_sample, strict=True)
    for n in range(3)
  ]
  assert len(set(addresses)) == len(addresses) == 5 * 36


def test_batches_are_of_the_train_split():
  asked = []

  class Spy(Coins):
    def problem_ids(self, split, start, stop):
      asked.append(split)
      return super().problem_ids(split, start, stop)

  one = trainer(Arm("a", OUTCOME, SGD), Spy("host"))
  params = {"logits": jnp.zeros((2, 2))}
  state = one.init_state(KEY, params)
  _, _, seen = one.iterate(state, params, KEY, one.turn(0))
  assert asked == ["train"]
  assert seen.rollout.problem_id.tolist() == [0] * 4 + [1] * 4
  assert seen.rollout.sample_id.tolist() == [0, 1, 2, 3] * 2


def test_the_policy_is_sampled_and_the_start_is_the_reference():
  asked = []

  class Spy(Tabular):
    def sample(self, params, *args, **options):
      asked.append(np.array(params["logits"]))
      return super().sample(params, *args, **options)

  one = trainer(Arm("a", OUTCOME, SGD), policy=Spy("host"))
  params = {"logits": jnp.array([[0.5, 0.0], [0.0, 0.25]])}
  start = {"logits": jnp.array([[0.0, 2.0], [1.0, 0.0]])}
  now = np.array(params["logits"])
  state = one.init_state(KEY, params)
  _, _, seen = one.iterate(state, start, KEY, one.turn(0))
  np.testing.assert_array_equal(asked[0], now)
  want = Tabular().logp(start, seen.rollout)
  np.testing.assert_allclose(seen.logp_ref, want, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class OfPolicy:
  """A prover made of the policy, which notes the parameters it was asked of."""

  asked: list
  params: object = None
  placement = "host"

  def with_policy(self, policy, params):
    return OfPolicy(self.asked, params)

  def __call__(self, key, rollout):
    self.asked.append(np.array(self.params["logits"]))
    return np.asarray(ones_and_zeros(rollout))


@pytest.mark.parametrize(
  "every, ages", [(1, [0, 1, 2, 3, 4]), (2, [0, 0, 2, 2, 4]), (None, [0] * 5)]
)
def test_a_prover_of_the_policy_is_renewed_when_it_is_due(every, ages):
  prover = OfPolicy([])
  one = trainer(Arm("a", PROGRESS, SGD, prover, refresh_every=every))
  state = one.init_state(KEY, {"logits": jnp.zeros((2, 2))})
  had = []
  for iteration in range(5):
    had.append(np.array(state.params["logits"]))
    state, _, _ = one.iterate(
      state, {"logits": jnp.zeros((2, 2))}, KEY, one.turn(iteration)
    )
  assert len({x.tobytes() for x in had}) == 5  # it learns at every iteration
  for asked, age in zip(prover.asked, ages, strict=True):
    np.testing.assert_array_equal(asked, had[age])


@dataclasses.dataclass(frozen=True)
class Fixed(provers.FixedProver):
  """A prover of the host that stays as it is."""

  asked: list
  q: tuple = (0.25, 0.5, 1.0)
  placement = "host"

  def __call__(self, key, rollout):
    self.asked.append(np.array(rollout.tokens))
    return np.asarray(ones_and_zeros(rollout, self.q))


# Where adapters are trained, what they are beside is the base.
@pytest.mark.parametrize("base", [(), {"kernel": jnp.ones(3)}])
def test_a_fixed_prover_is_asked_once_of_the_rollouts_and_keeps_no_params(base):
  prover = Fixed([])
  one = trainer(Arm("a", PROGRESS, SGD, prover))
  params = {"logits": jnp.zeros((2, 2))}
  state = one.init_state(KEY, params)
  assert state.prover == ()
  state, metrics, seen = one.iterate(state, params, KEY, one.turn(0), base)
  assert state.prover == ()
  assert len(prover.asked) == 1
  np.testing.assert_array_equal(prover.asked[0], seen.rollout.tokens)
  assert metrics["k"] == 1


def test_minibatches_are_of_whole_problems():
  arm = Arm("a", OUTCOME, SGD, num_minibatches=2)
  with pytest.raises(
    ValueError, match=r"num_problems is 3, .* a multiple of .* 2"
  ):
    trainer(arm, problems=3)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_updates": 0}, "num_updates is 0"),
    ({"num_minibatches": 0}, "num_minibatches is 0"),
    ({"refresh_every": 0}, "refresh_every is 0"),
    ({"num_rollouts": -1}, "num_rollouts is -1"),
    ({"oversampling": 0}, "oversampling is 0"),
  ],
)
def test_bad_arms(change, message):
  with pytest.raises(ValueError, match=message):
    Arm("a", OUTCOME, SGD, **change)


def test_progress_without_a_prover_is_refused():
  one = trainer(Arm("a", PROGRESS, SGD))
  params = {"logits": jnp.zeros((2, 2))}
  with pytest.raises(ValueError, match="needs a prover"):
    one.iterate(one.init_state(KEY, params), params, KEY, one.turn(0))


def test_any_function_of_rollouts_and_values_is_an_estimator():
  def last_value(rollout, q, groups=None):
    return jnp.broadcast_to(q[:, -1:], (len(q), 2))

  arm = Arm("a", Centred(last_value), SGD, Fixed([]))
  one = trainer(arm)
  params = {"logits": jnp.zeros((2, 2))}
  state = one.init_state(KEY, params)
  state, metrics, _ = one.iterate(state, params, KEY, one.turn(0))
  # Right responses are worth 1, each of their two steps; others nothing.
  assert metrics["reward"] == 2 * metrics["accuracy"]
  assert np.all(np.asarray(state.params["logits"])[:, 1] > 0)


def test_problems_with_spread_take_the_place_of_others():
  # Of 2 samples each, problems 1 and 3 of 4 have spread; of 3, problem 0 too.
  outcome = jnp.array([1.0, 1, 0, 1, 0, 0, 1, 0])
  rollout = Tabular().sample(
    {"logits": jnp.zeros((2, 2))}, KEY, jnp.arange(4), num_samples=2
  )
  seen = rl.Experience(
    dataclasses.replace(rollout, outcome=outcome), jnp.arange(8.0)[:, None]
  )
  kept = rl.with_spread(seen, 2, 2)
  np.testing.assert_array_equal(kept.rollout.problem_id, [1, 1, 3, 3])
  np.testing.assert_array_equal(kept.rollout.outcome, [0, 1, 1, 0])
  np.testing.assert_array_equal(kept.logp_ref[:, 0], [2, 3, 6, 7])
  kept = rl.with_spread(seen, 3, 2)
  np.testing.assert_array_equal(kept.rollout.problem_id, [1, 1, 3, 3, 0, 0])


def test_a_batch_is_filled_from_more_problems_and_accuracy_is_of_all():
  # A plain function is an arm's credit, too.
  arm = Arm("a", credit.dapo, SGD, oversampling=3)
  one = trainer(arm, problems=2, samples=2)
  assert len(one.turn(0).problem_id) == 6
  params = {"logits": jnp.zeros((2, 2))}
  state = one.init_state(KEY, params)
  _, metrics, seen = one.iterate(state, params, KEY, one.turn(0))
  assert len(seen.rollout.outcome) == 4
  every = Tabular("host").sample(
    params, jax.random.fold_in(KEY, 0), np.arange(6), num_samples=2
  )
  right = Coins("host").grade(jax.tree.map(np.asarray, every))
  assert metrics["accuracy"] == right.mean()
  spread = np.ptp(right.reshape(6, 2), axis=1) > 0
  first = np.concatenate([np.flatnonzero(spread), np.flatnonzero(~spread)])[:2]
  np.testing.assert_array_equal(np.asarray(seen.rollout.problem_id)[::2], first)


def test_trailing_mean_and_first_reaching_by_arithmetic():
  accuracy = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
  means = rl.trailing_mean(accuracy, window=2)
  np.testing.assert_allclose(means, [np.nan, 0.5, 1.0, 0.5, 0.5, 1.0])
  assert rl.first_reaching(means, 0.5) == 2
  assert rl.first_reaching(means, 0.9) == 3
  assert rl.first_reaching(rl.trailing_mean(accuracy), 0.1) is None
  assert rl.first_reaching(means, 1.1) is None
