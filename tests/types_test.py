import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pav_jax import steps, types


def rollout(num=2):
  return types.Rollout(
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
    seen.append((types.concrete_value(x), types.concrete_value(2.5)))
    return x

  f(1.0)
  assert seen[0][0] is None
  assert seen[0][1] == 2.5
  assert types.concrete_value(jnp.float32(3)) == 3


def test_check_shape_names_what_came_and_what_was_expected():
  types.check_shape("x", jnp.zeros((2, 5)), (2, None), "[B, T]")
  for bad in ((3, 5), (2,), (2, 5, 1)):
    with pytest.raises(ValueError, match=r"x has shape .*\(2, any\).*\[B, T\]"):
      types.check_shape("x", jnp.zeros(bad), (2, None), "[B, T]")


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
  assert types.widen(x).dtype == arithmetic
  assert types.float_dtype(x) == result
