import jax.numpy as jnp
import pytest

from pav_jax.rollout import Rollout


def make_rollout(num_steps, outcome, problem_id=None, tokens=None, room=3):
  """Rollouts of one problem token and steps of one token each.

  Args:
    num_steps: of each response.
    outcome: of each.
    problem_id: of each; 0 if not given.
    tokens: of responses, [B, room]; 1, 2, 3 … in each if not given.
    room: H.
  """
  size = len(num_steps)
  ends = jnp.minimum(jnp.arange(room + 1), jnp.array(num_steps)[:, None])
  if tokens is None:
    tokens = jnp.tile(jnp.arange(1, room + 1), (size, 1))
  return Rollout(
    tokens=jnp.pad(jnp.asarray(tokens, jnp.int32), ((0, 0), (1, 1))),
    logp=jnp.zeros((size, room + 2)),
    prefix_len=1 + ends.astype(jnp.int32),
    outcome=jnp.array(outcome, jnp.float32),
    problem_id=jnp.array(problem_id or [0] * size, jnp.int32),
    sample_id=jnp.arange(size, dtype=jnp.int32),
  )


@pytest.fixture(name="make_rollout")
def _make_rollout():
  return make_rollout
