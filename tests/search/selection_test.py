import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.search.selection import Settings, choose

KEYS = jax.random.split(jax.random.key(0), 1)


def choose_of(reward, *, valid=None, finished=None, q=None, keys=KEYS, **more):
  """One problem: rewards [N, C] to lists of parents, candidates, validity."""
  reward = jnp.asarray(reward, jnp.float32)[None]
  _, num_beams, num = reward.shape
  identity = more.pop("identity", None)
  settings = Settings(
    num_beams=num_beams, num_candidates=num, num_steps=2, **more
  )
  of_beams = functools.partial(jnp.full, (1, num_beams))
  chosen = choose(
    settings,
    keys,
    reward,
    of_beams(True) if valid is None else jnp.array([valid]),
    of_beams(False) if finished is None else jnp.array([finished]),
    of_beams(0.0) if q is None else jnp.array([q]),
    None if identity is None else jnp.array([identity])[..., None],
  )
  return [np.asarray(x)[0].tolist() for x in chosen]


def test_keeps_the_best_and_the_order_of_equal_ones():
  parent, candidate, valid, stays = choose_of([[1, 3], [3, 2], [0, 0]])
  # 3 of beam 0, then 3 of beam 1, then 2 of beam 1.
  assert (parent, candidate) == ([0, 1, 1], [1, 0, 1])
  assert all(valid) and not any(stays)


def test_candidates_of_beams_that_are_none_or_ended_do_not_count():
  parent, candidate, valid, stays = choose_of(
    [[9, 9], [9, 9], [1, 2], [9, 9]],
    valid=[True, False, True, True],
    finished=[True, True, False, True],
    q=[0.2, 0.9, 0.0, 0.4],
  )
  # Those that ended, the better one first; then the two that go on.
  assert (parent, candidate) == ([3, 0, 2, 2], [0, 0, 1, 0])
  assert all(valid) and stays == [True, True, False, False]


def test_where_all_have_ended_nothing_changes():
  found = choose_of(
    [[1, 3], [4, 2], [0, 0]],
    valid=[True, True, False],
    finished=[True, True, True],
    q=[0.1, 0.9, 0.5],
  )
  assert found == [
    [0, 1, 2],
    [0, 0, 0],
    [True, True, False],
    [True, True, False],
  ]


def test_trees_do_not_compete():
  parent, candidate, _, _ = choose_of(
    [[9, 8], [7, 6], [1, 2], [3, 4]], num_trees=2
  )
  assert (parent, candidate) == ([0, 0, 3, 3], [0, 1, 1, 0])


def test_merging_keeps_the_first_of_equal_prefixes():
  parent, candidate, valid, _ = choose_of(
    [[5, 4], [5, 3]], merge=True, identity=[[7, 8], [7, 7]]
  )
  # 7 occurs three times: its first, then 8.
  assert (parent, candidate, valid) == ([0, 0], [0, 1], [True, True])
  parent, candidate, valid, _ = choose_of(
    [[5, 4], [5, 3]], merge=True, identity=[[7, 7], [7, 7]]
  )
  assert (parent[0], candidate[0], valid) == (0, 0, [True, False])


def test_merging_does_not_hide_behind_candidates_that_do_not_count():
  parent, candidate, valid, stays = choose_of(
    [[5, 4], [5, 3]],
    finished=[True, False],
    merge=True,
    identity=[[7, 7], [7, 8]],
  )
  assert (parent, candidate) == ([0, 1], [0, 0])
  assert valid == [True, True] and stays == [True, False]


def test_draws_survivors_in_proportion_to_the_exponential_of_rewards():
  num, temperature = 8000, 0.5
  reward = np.log([1.0, 2.0, 5.0]) * temperature
  settings = Settings(
    num_beams=1, num_steps=1, num_candidates=3, temperature=temperature
  )
  chosen = choose(
    settings,
    jax.random.split(jax.random.key(1), num),
    jnp.broadcast_to(jnp.asarray(reward, jnp.float32), (num, 1, 3)),
    jnp.ones((num, 1), bool),
    jnp.zeros((num, 1), bool),
    jnp.zeros((num, 1)),
  )
  share = np.bincount(chosen.candidate[:, 0], minlength=3) / num
  want = np.array([1, 2, 5]) / 8
  assert (abs(share - want) < 4 * np.sqrt(want * (1 - want) / num)).all()


@pytest.mark.parametrize("temperature", [None, 1e-4])
def test_cold_draws_are_the_best(temperature):
  found = choose_of([[1, 3], [4, 2]], temperature=temperature)
  assert found[:2] == [[1, 0], [0, 1]]
