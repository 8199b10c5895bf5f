import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import values
from pav_jax.models import heads, transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.trunk_value import TrunkValue
from pav_jax.problems.chain import Chain
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.training import rl, rl_text
from pav_jax.training.baselines import GroupMean, NoBaseline
from pav_jax.training.rewards import Reward
from pav_jax.training.rl_text import LanguageArm, RateSchedule
from pav_jax.training.state import TrainState
from pav_jax.training.updates import Gradient

PROBLEM = Chain(
  horizon=2, modulus=4, operations=Chain().operations[:1], rho=0.0
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=8,
  max_length=32,
)
POLICY = language_model(CONFIG, PROBLEM)
PARAMS = transformer.init(CONFIG, jax.random.key(0))
IDS = np.repeat(PROBLEM.problem_ids("train", 0, 3), 2)
HOST = PROBLEM.demonstrations(IDS, np.arange(6, dtype=np.int32))
Q = PROBLEM.teacher_values(HOST).astype(np.float32)
SGD = Gradient("sgd", 0.1)


def learn(arm, choose=False, ks=(1.0,)):
  """One update of `arm`, whose rollouts are on-policy."""
  rollout = jax.tree.map(jnp.asarray, HOST)
  logp = rl_text.logp(POLICY, PARAMS, rollout)
  rollout = dataclasses.replace(rollout, logp=logp)
  state = rl_text.init_state(arm, POLICY, jax.random.key(1), PARAMS)
  return rl_text.learn(
    POLICY,
    (dataclasses.replace(arm.reward, prover=None), arm.update, arm.baseline),
    state,
    rollout,
    jnp.asarray(Q),
    logp,
    jnp.asarray(ks, jnp.float32),
    np.bool_(choose),
    np.float32(1.0),
    num_updates=arm.num_updates,
    num_minibatches=arm.num_minibatches,
  ), rollout


def never(key, rollout):
  raise AssertionError("values are handed over")


def test_learn_follows_the_effective_reward_of_best_of_k():
  arm = LanguageArm("a", Reward(never, 2.0), SGD, NoBaseline(), k=4)
  (state, metrics), rollout = learn(arm, ks=(4.0,))
  q4 = np.asarray(values.best_of_k(Q, 4.0))
  rewards = HOST.outcome[:, None] + 2.0 * np.diff(q4, axis=-1)
  expected, _ = rl.follow(
    POLICY,
    SGD,
    NoBaseline(),
    TrainState(PARAMS, SGD.init(PARAMS), ()),
    rollout,
    jnp.asarray(rewards),
  )
  for a, b in zip(
    *map(jax.tree.leaves, (state.params, expected.params)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert metrics["k"] == 4
  # The start is where the policy is.
  assert metrics["kl"] == pytest.approx(0, abs=1e-6)
  np.testing.assert_allclose(
    metrics["entropy"], -rollout.logp.sum(-1).mean(), rtol=1e-5
  )


def test_minibatches_are_followed_one_after_another():
  sgd = Gradient("sgd", 1e-3)
  arm = LanguageArm(
    "a", Reward(never, 2.0), sgd, NoBaseline(), num_updates=2, num_minibatches=3
  )
  (state, metrics), rollout = learn(arm)
  rewards = jnp.asarray(HOST.outcome[:, None] + 2.0 * np.diff(Q, axis=-1))
  expected = TrainState(PARAMS, sgd.init(PARAMS), ())
  losses = []
  for first in (0, 2, 4, 0, 2, 4):
    part, logp_ref = jax.tree.map(
      lambda x, first=first: x[first : first + 2], (rollout, rollout.logp)
    )
    expected, found = rl.follow(
      POLICY,
      sgd,
      NoBaseline(),
      expected,
      part,
      rewards[first : first + 2],
      logp_ref=logp_ref,
      off_policy=True,
    )
    losses.append(found["loss"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    state.params,
    expected.params,
  )
  assert metrics["accuracy"] == pytest.approx(HOST.outcome.mean())
  assert metrics["loss"] == pytest.approx(np.mean(losses[:3]), rel=1e-6)


def test_minibatches_are_of_whole_problems():
  arm = LanguageArm("a", Reward(None, 0.0), SGD, num_minibatches=2)
  with pytest.raises(
    ValueError, match=r"num_problems is 3, .* a multiple of .* 2"
  ):
    rl_text.Trainer(
      arm,
      POLICY,
      PROBLEM,
      PARAMS,
      jax.random.key(0),
      num_problems=3,
      num_samples=2,
    )


def test_k_is_chosen_where_it_is_to_be():
  arm = LanguageArm("a", Reward(never, 1.0), SGD, k=AdaptiveK((1, 2, 8)))
  ks = (1.0, 2.0, 8.0)
  (state, metrics), rollout = learn(arm, choose=True, ks=ks)
  terms = rl_text.adaptive.sampled_terms(
    jnp.asarray(Q), rollout.outcome, rollout.prefix_len, jnp.array(ks)
  )
  assert state.k == ks[int(np.argmax(terms.progress))] == metrics["k"]
  assert metrics["alignment"] == terms.alignment[int(np.argmax(terms.progress))]


def test_value_function_starts_from_the_policy_and_reads_states():
  value = TrunkValue(CONFIG)
  params = value.init(jax.random.key(0), PARAMS)
  rollout = jax.tree.map(jnp.asarray, HOST)
  np.testing.assert_array_equal(value.values(params, rollout), 0.0)
  params["head"]["kernel"] = jnp.ones(CONFIG.width)
  found = value.values(params, rollout)
  hidden = transformer.hidden_states(CONFIG, PARAMS, rollout.tokens)
  at = HOST.prefix_len[:, :-1] - 1
  want = heads.read(params["head"], hidden, jnp.asarray(at))
  np.testing.assert_allclose(found, want, rtol=1e-6)
  # The step itself is not seen: changing what follows a state changes nothing.
  later = rollout.tokens.at[:, HOST.prefix_len[0, 1] :].set(3)
  changed = value.values(params, dataclasses.replace(rollout, tokens=later))
  np.testing.assert_allclose(found[:, :2], changed[:, :2], rtol=1e-5)


def test_batches_walk_through_the_split_and_then_number_on(monkeypatch):
  class Small(Chain):
    def split_size(self, split):
      del split
      return 3

  small = Small(horizon=2, modulus=4, operations=PROBLEM.operations, rho=0.0)
  calls = []

  def spy(self, params, key, prompts, lengths, ids, **options):
    calls.append((ids.tolist(), options["first_sample"]))
    return HOST

  monkeypatch.setattr(type(POLICY), "sample", spy)
  arm = LanguageArm("a", Reward(None, 0.0), SGD)
  trainer = rl_text.Trainer(
    arm, POLICY, small, PARAMS, jax.random.key(0), num_problems=3, num_samples=2
  )
  for iteration in range(2):
    trainer.sample(PARAMS, iteration)
  assert [samples for _, samples in calls] == [0, 2]
  assert calls[0][0] == calls[1][0] == small.problem_ids("train", 0, 3).tolist()


def test_rates_warm_up_and_fall_along_a_cosine():
  # 2 of 10 iterations warm up, from ½ to 1; half-way down the cosine is ½.
  schedule = RateSchedule(warmup=0.2)
  found = [schedule(i, 10) for i in range(10)]
  np.testing.assert_allclose(found[:2], [0.5, 1.0])
  np.testing.assert_allclose(found[5], 0.5, atol=1e-6)
  assert found[9] == pytest.approx(0, abs=1e-6)
  assert RateSchedule(0.0, 1.0)(7, 10) == 1.0


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_updates": 0}, "num_updates is 0"),
    ({"num_minibatches": 0}, "num_minibatches is 0"),
    ({"refresh_every": 0}, "refresh_every is 0"),
    ({"reward": Reward(None, 1.0)}, "alpha is 1.0 and there is no prover"),
    ({"reward": Reward(never, 1.0, num_rollouts=2)}, "num_rollouts is 2"),
    ({"baseline": "learnt"}, "baseline is 'learnt'"),
    ({"k": 0.5}, "k is 0.5"),
  ],
)
def test_bad_arms(change, message):
  settings = {"name": "a", "reward": Reward(never, 1.0), "update": SGD}
  with pytest.raises(ValueError, match=message):
    LanguageArm(**(settings | {"baseline": GroupMean()} | change))


def test_bad_schedules():
  with pytest.raises(ValueError, match="warmup and final are 1"):
    RateSchedule(warmup=1.0)
