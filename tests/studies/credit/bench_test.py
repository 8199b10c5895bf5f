"""The bench on a process so small that all its random numbers are tried."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import credit
from studies.credit import arms, bench, figure, measure, processes
from studies.credit.arms import Arm
from tests.reporting import looking

# Two steps of two actions. From the start, action 0 leads to state 1 and action
# 1 to state 2; right are action 0 in state 1, and no action in state 2.
START, GOOD, BAD, RIGHT = range(4)


@pytest.fixture(scope="module")
def context():
  table = np.full((2, 4, 2), BAD)
  table[0, START] = [GOOD, BAD]
  table[1, GOOD] = [RIGHT, BAD]
  process = processes.Process(
    next_state=jnp.array(table),
    reward=jnp.array([0.0, 0.0, 0.0, 1.0]),
    ended=jnp.zeros(4, bool),
    base=jnp.zeros((2, 4, 2)),
    skill=jnp.zeros((2, 4, 2)).at[:, :, 0].set(1.0),
    solution=jnp.zeros(2, jnp.int32),
  )
  # Action 0 has probability 3/4 at first and 1/4 then: success is 3/16.
  logits = jnp.log(jnp.array([[[3.0, 1.0]] * 4, [[1.0, 3.0]] * 4]))
  return arms.Context(process, logits, logits, logits, ())


def every_pair():
  """Numbers that take each quarter of [0, 1), of two rollouts' two actions."""
  quarters = (np.arange(4) + 0.5) / 4
  every = np.array(list(itertools.product(quarters, repeat=4)), np.float32)
  return every.reshape(-1, 2, 2)


def moments(arm, context):
  """E ĝ and the trace of its covariance, with all numbers equally likely."""
  steps = jnp.array(every_pair())
  noise = arms.Noise(steps[None], jnp.zeros((1, len(steps), 2, 3)))
  one = context._replace(logits=context.logits[None])
  gradient = np.asarray(arms.draw(arm, noise, one).gradient[0], np.float64)
  mean = gradient.mean(0)
  return mean, np.square(gradient - mean).sum((1, 2, 3)).mean()


def exact(context):
  """dV/dlogits by hand: π (1 − π) of action 0 times what it is worth more.

  At first 3/4 · 1/4 · (1/4 − 0); then, in a state that is reached with chance
  3/4, 1/4 · 3/4 · 1 of that.
  """
  gradient = np.zeros((2, 4, 2))
  gradient[0, START] = np.array([1, -1]) * 3 / 16 / 4
  gradient[1, GOOD] = np.array([1, -1]) * 3 / 4 * 3 / 16
  return gradient


def pair(estimate, **settings):
  return Arm("", estimate, num_rollouts=2, **settings)


def test_values_gradients_and_costs_by_hand(context):
  process, logits = context.process, context.logits
  values = processes.values(process, logits)
  np.testing.assert_allclose(values[0, START], 3 / 16)
  np.testing.assert_allclose(values[1, :3], [1 / 4 * 0, 1 / 4, 0])
  got = processes.exact_gradient(process, logits)
  np.testing.assert_allclose(got, exact(context), atol=1e-7)
  left = processes.tokens_left(process, logits)
  np.testing.assert_allclose(left[:, START], [2, 1, 0])


def test_leave_one_out_is_unbiased_and_the_groups_mean_halves(context):
  want = exact(context)
  for estimate in (credit.outcome, credit.rloo):
    mean, _ = moments(pair(estimate), context)
    np.testing.assert_allclose(mean, want, atol=1e-7)
  mean, _ = moments(pair(credit.dr_grpo), context)
  np.testing.assert_allclose(mean, want / 2, atol=1e-7)


def test_the_groups_deviation_changes_the_length(context):
  # Of two outcomes the deviation is √½ where they differ, and weights are 0
  # where they do not: √2 times those of the mean, which are half.
  mean, _ = moments(pair(credit.grpo), context)
  want = exact(context) / 2**0.5
  np.testing.assert_allclose(mean, want, rtol=1e-4, atol=1e-7)


def test_exact_advantages_are_unbiased_with_less_variance(context):
  mean, variance = moments(pair(credit.vine, values=arms.exact), context)
  np.testing.assert_allclose(mean, exact(context), atol=1e-7)
  _, of_outcomes = moments(pair(credit.outcome), context)
  assert variance < of_outcomes


@pytest.mark.parametrize("name", processes.PROCESSES)
def test_outcomes_point_along_every_process_gradient(name):
  """Values and sampling agree about what happens after a response's end.

  Of 4,096 rollouts at one success in two, the standard error of the length is
  .02 or less.
  """
  process = processes.PROCESSES[name]()
  strength = processes.strength_for(process, 0.5)
  got = measure.moments(
    Arm("", credit.outcome, num_rollouts=1),
    measure.context_of(process, strength, strength),
    num_units=4096,
    seeds=(0,),
  )
  np.testing.assert_allclose(got.scale, 1, atol=0.1)
  np.testing.assert_allclose(got.direction, 1, atol=0.02)


def test_a_prover_weighs_steps_by_what_its_own_values_differ(context):
  # Q^π + α A^μ: action 0 is worth more than action 1 by the policy's 1/4 and 1,
  # and α times the prover's.
  alpha, k = 2.0, 4.0
  arm = pair(
    credit.EffectiveReward(alpha),
    values=lambda *rest: arms.exact(*rest, k=k),
  )
  mean, _ = moments(arm, context)
  better = 1 - (3 / 4) ** k  # of state GOOD; BAD has 0
  want = exact(context)
  want[0, START] *= 1 + alpha * better / (1 / 4)
  want[1, GOOD] *= 1 + alpha
  np.testing.assert_allclose(mean, want, rtol=1e-4, atol=1e-6)


def test_completions_are_binomial_and_paid_for(context):
  walk = processes.sample(
    jnp.array([[0.1], [0.9]]), context.process, context.logits
  )
  np.testing.assert_array_equal(walk.states[0], [START, GOOD, BAD])
  uniforms = jnp.broadcast_to(
    ((jnp.arange(256) + 0.5) / 256)[:, None, None], (256, 1, 3)
  )
  q, cost = jax.vmap(
    lambda x: arms.monte_carlo(x, context, walk, num_completions=2)
  )(uniforms)
  # Two completions of state GOOD: 0, 1/2, 1 in 9, 6 and 1 of 16 cases.
  share, number = np.unique(np.asarray(q[:, 0, 1]), return_counts=True)
  np.testing.assert_array_equal(share, [0, 0.5, 1])
  np.testing.assert_array_equal(number, [144, 96, 16])
  np.testing.assert_array_equal(q[:, 0, 2], 0)  # the outcome
  np.testing.assert_allclose(cost, 2 * (2 + 1))  # of prefixes 0 and 1


def test_branches_share_their_beginnings_which_are_sampled_once(context):
  uniforms = jnp.array([[0.1, 0.9, 0.9, 0.9], [0.1, 0.9, 0.1, 0.9]])
  walk = processes.sample(
    uniforms, context.process, context.logits, forks=(0, 1)
  )
  # Rollouts 0 and 1 have the first number, 2 and 3 the third; then their own.
  np.testing.assert_array_equal(walk.states[:, 1], [GOOD, GOOD, BAD, BAD])
  np.testing.assert_array_equal(walk.states[:, 2], [RIGHT, BAD, BAD, BAD])
  assert walk.num_tokens == 2 + 4
  with pytest.raises(ValueError, match="expected a multiple of 4"):
    processes.sample(
      uniforms[:, :2], context.process, context.logits, forks=(0, 1)
    )


def test_steps_that_are_given_are_neither_paid_for_nor_learnt(context):
  arm = pair(credit.outcome, given=arms.guided(0.5, 1, shrinks=False))
  noise = arms.Noise(jnp.full((1, 1, 2, 2), 0.1), jnp.zeros((1, 1, 2, 3)))
  one = context._replace(logits=context.logits[None])
  units = arms.draw(arm, noise, one)
  assert units.num_tokens == 1 + 2
  # Both are right. One of two learns the first step, both the second.
  want = np.zeros((2, 4, 2))
  want[0, START] = np.array([1, -1]) / 4 / 2
  want[1, GOOD] = np.array([1, -1]) * 3 / 4
  np.testing.assert_allclose(units.gradient[0, 0], want, atol=1e-6)


def test_a_curriculum_ends_without_help():
  given = arms.guided(0.5, 4, shrinks=True)
  got = [given(4, x).tolist() for x in (0.0, 0.5, 0.8)]
  assert got == [[4, 4, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]


def test_alignment_by_hand():
  # ‖E ĝ‖² 4, along g of norm 1 by 2: the same direction, twice as long. With 8
  # units, the variance 32 is as large as the square of the mean.
  m = measure.Moments(*(np.array([x]) for x in (4.0, 32.0, 2.0, 1.0, 10.0)))
  np.testing.assert_allclose(m.direction, 1)
  np.testing.assert_allclose(m.scale, 2)
  np.testing.assert_allclose(m.bias, 1)
  np.testing.assert_allclose(m.noise, 80)
  np.testing.assert_allclose(m.cosine(80), 0.5**0.5)


@pytest.fixture(scope="module")
def bench_run(tmp_path_factory):
  settings = bench.Settings(
    arms=arms.ARMS[1:2],
    trained=arms.ARMS[1:2],
    hard_arms=(),
    problems=("chain",),
    rates=(0.1, 0.5),
    num_rollouts=512,
    seeds=(0, 1),
    start=0.1,
    batch=32,
    num_updates=30,
    learning_rates=(1e-4, 0.3),
    tuning_seeds=(9,),
    curve_seeds=(0, 1),
  )
  out = tmp_path_factory.mktemp("bench")
  return settings, out, bench.run(settings, out)


def test_policy_and_prover_begin_at_their_own_success_rates(bench_run):
  settings, _, _ = bench_run
  got = bench.start("chain", 0.1, settings)
  for logits, rate in ((got.logits, 0.1), (got.prover, settings.prover_rate)):
    success = processes.success(got.process, logits)
    np.testing.assert_allclose(success, rate, rtol=1e-3)


def test_a_bench_learns_with_the_rate_that_learns(bench_run):
  _, _, cells = bench_run
  cell = cells["learning/chain/0.1/RLOO"]
  success = np.array(cell["success"])
  assert cell["learning_rate"] == 0.3 and cell["area"][1] > cell["area"][0]
  assert success.shape == (2, 31)
  np.testing.assert_allclose(success[:, 0], 0.1, rtol=1e-3)
  assert (success[:, -1] > 0.3).all()
  # 32 responses' worth of tokens are 4 units of 8, at first.
  assert 25 < cell["tokens"] < 40


def test_a_bench_goes_on_with_what_is_missing(bench_run, capsys):
  settings, out, cells = bench_run
  assert bench.run(settings, out) == cells
  assert not capsys.readouterr().out
  text = figure.tables(settings, cells)
  assert "| RLOO | 0.3 |" in text
  other = bench.Settings(rates=(0.2,))
  with pytest.raises(ValueError, match="measured with other settings"):
    bench.run(other, out)


def test_arms_are_named_at_their_lines_and_kinds_in_words(bench_run, drawn):
  settings, out, cells = bench_run
  figure.draw(out / "credit.png", settings, cells)
  by_tokens, by_rate, learning = drawn[0].axes
  for panel in by_tokens, by_rate, learning:
    assert list(looking.names(panel)) == ["RLOO"]
    assert panel.get_ylabel() and panel.get_xlabel()
  said = looking.words(drawn[0])
  assert "dashed: from completions too" in said and "means of 2 seeds" in said
  assert not drawn[0].legends
