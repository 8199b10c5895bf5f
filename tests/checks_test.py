import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pav_jax import checks, steps, values
from pav_jax.rollout import Rollout, StepTargets


def rollout(num=2):
  return Rollout(
    tokens=jnp.zeros((num, 7), jnp.int32),
    logp=jnp.zeros((num, 7)),
    prefix_len=jnp.tile(jnp.array([2, 4, 6], jnp.int32), (num, 1)),
    outcome=jnp.ones(num),
    problem_id=jnp.arange(num),
    sample_id=jnp.zeros(num, jnp.int32),
  )


def test_sizes_come_from_the_trailing_axes_at_any_rank():
  one = rollout()
  stacked = jax.tree.map(lambda x: jnp.stack([x, x, x]), one)
  for r in (one, stacked, jax.tree.map(lambda x: x[0], one)):
    assert (r.num_tokens, r.num_steps) == (7, 2)


def test_rollout_is_a_frozen_pytree_of_six_leaves_in_the_designs_order():
  r = rollout()
  assert len(jax.tree.leaves(r)) == 6
  names = [path[0].name for path, _ in jax.tree.leaves_with_path(r)]
  assert names == [
    "tokens",
    "logp",
    "prefix_len",
    "outcome",
    "problem_id",
    "sample_id",
  ]
  with pytest.raises(dataclasses.FrozenInstanceError):
    r.outcome = r.outcome


def test_rollout_takes_leaves_of_any_kind_as_transformations_need():
  # With shape checks on (see conftest), a checked constructor would refuse all
  # of these: names, None, shapes, and axes that vmap adds or takes away.
  names = jax.tree.map_with_path(lambda path, _: path[0].name, rollout())
  assert names.tokens == "tokens"
  assert jax.tree.map(lambda _: None, rollout()).logp is None
  out = jax.eval_shape(lambda r: r, rollout())
  assert out.logp.shape == (2, 7)
  total = jax.jit(jax.vmap(lambda r: r.outcome + r.num_steps))(rollout())
  np.testing.assert_array_equal(total, [3, 3])


def test_shape_checks_are_on_in_tests():
  # Leading axes 2 and 3 differ: the annotation of x and prefix_len forbids it.
  with pytest.raises(jaxtyping.TypeCheckError):
    steps.sum_over_steps(jnp.zeros((2, 7)), jnp.zeros((3, 3), jnp.int32))


def test_concrete_value_is_none_exactly_where_tracing_hides_it():
  seen = []

  @jax.jit
  def f(x):
    seen.append((checks.concrete_value(x), checks.concrete_value(2.5)))
    return x

  f(1.0)
  assert seen[0][0] is None
  assert seen[0][1] == 2.5
  assert checks.concrete_value(jnp.float32(3)) == 3


def test_check_shape_names_what_came_and_what_was_expected():
  checks.check_shape("x", jnp.zeros((2, 5)), (2, None), "[B, T]")
  for bad in ((3, 5), (2,), (2, 5, 1)):
    with pytest.raises(ValueError, match=r"x has shape .*\(2, any\).*\[B, T\]"):
      checks.check_shape("x", jnp.zeros(bad), (2, None), "[B, T]")


@pytest.mark.parametrize(
  ("given", "arithmetic", "result"),
  [
    (jnp.bfloat16, jnp.float32, jnp.bfloat16),
    (jnp.float32, jnp.float32, jnp.float32),
    (jnp.int32, jnp.float32, jnp.float32),
  ],
)
def test_arithmetic_is_wide_and_results_keep_the_callers_dtype(
  given, arithmetic, result
):
  x = jnp.zeros(3, given)
  assert checks.widen(x).dtype == arithmetic
  assert checks.float_dtype(x) == result


def step_targets():
  return StepTargets(
    tokens=jnp.zeros((1, 7), jnp.int32),
    prefix_len=jnp.array([[2, 4, 6, 6]], jnp.int32),
    num_completions=jnp.array([[8, 1, 0, 0]], jnp.int32),
    num_correct=jnp.array([[2, 0.75, 0, 0]]),
    outcome=jnp.ones(1),
    problem_id=jnp.zeros(1, jnp.int32),
    sample_id=jnp.zeros(1, jnp.int32),
  )


def test_step_targets_are_a_pytree_whose_means_are_nan_without_completions():
  targets = step_targets()
  assert len(jax.tree.leaves(targets)) == 7
  for q in (targets.q_mc, jax.jit(lambda t: t.q_mc)(targets)):
    # 2 of 8, and a soft label that counts as one completion.
    np.testing.assert_array_equal(q, [[0.25, 0.75, np.nan, np.nan]])
  np.testing.assert_array_equal(targets.is_labelled, [[1, 1, 0, 0]])
  with pytest.raises(dataclasses.FrozenInstanceError):
    targets.outcome = targets.outcome


def test_any_estimator_of_best_of_k_can_be_computed_from_step_targets():
  targets = step_targets()
  # 1 − (3/4)² of the mean; 1 − C(6, 2) / C(8, 2) = 13/28 of the counts.
  plug_in = values.best_of_k(targets.q_mc[0, :2], 2)
  np.testing.assert_allclose(plug_in, [7 / 16, 15 / 16], rtol=1e-6)
  unbiased = values.pass_at_k(
    targets.num_correct[:, 0].astype(int), targets.num_completions[:, 0], 2
  )
  np.testing.assert_allclose(unbiased, [13 / 28], rtol=1e-6)


def test_the_leaf_that_is_not_finite_is_named():
  tree = {
    "ids": jnp.arange(3),
    "w": [jnp.ones((2, 2), jnp.bfloat16), np.zeros(2)],
    "key": jax.random.key(0),
  }
  checks.check_finite("parameters after 3", tree)
  tree["w"][0] = tree["w"][0].at[1, 0].set(jnp.nan)
  message = (
    r"parameters after 3 are not finite: \['w'\]\[0\], bfloat16\[2, 2\], has"
  )
  with pytest.raises(FloatingPointError, match=message):
    checks.check_finite("parameters after 3", tree)
  tree["w"] = [np.array([1.0, -np.inf])]
  with pytest.raises(FloatingPointError, match=r"\['w'\]\[0\], float64\[2\]"):
    checks.check_finite("parameters", tree)


def test_a_split_leaf_is_checked_as_a_whole():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  leaf = jax.device_put(jnp.ones(16), sharding)
  checks.check_finite("parameters", [leaf])
  with pytest.raises(FloatingPointError):
    checks.check_finite("parameters", [leaf.at[13].set(jnp.inf)])
