import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import bridges, losses, steps

# Problems of 1 and 2 tokens; steps of 2 and 1, and one of 1.
PREFIX_LEN = np.array([[1, 3, 4], [2, 3, 3]])
WEIGHTS = jnp.array([[0.5, -1.0], [2.0, 0.0]])
LOGP = jnp.array([[0.0, -1, -2, -4, 0], [0, 0, -8, 0, 0]])


def test_verl_gets_advantages_of_response_tokens():
  got = bridges.verl(WEIGHTS, PREFIX_LEN, 4)
  want = [[0.5, 0.5, -1, 0], [2, 0, 0, 0]]
  np.testing.assert_array_equal(got["advantages"], want)
  np.testing.assert_array_equal(got["returns"], want)
  mask = [[1, 1, 1, 0], [1, 0, 0, 0]]
  np.testing.assert_array_equal(got["response_mask"], mask)
  assert got["advantages"].dtype == np.float32
  assert got["response_mask"].dtype == np.int64


def test_tunix_gets_the_same_by_its_names():
  got = bridges.tunix(WEIGHTS, PREFIX_LEN, 4)
  want = bridges.verl(WEIGHTS, PREFIX_LEN, 4)
  assert got.keys() == {"advantages", "completion_mask"}
  np.testing.assert_array_equal(got["advantages"], want["advantages"])
  np.testing.assert_array_equal(got["completion_mask"], want["response_mask"])
  assert got["completion_mask"].dtype == np.int32


@pytest.mark.parametrize(
  ("aggregate", "normalization"),
  [
    # verl's loss_agg_mode: a mean over tokens; means of sequences; their sums.
    (lambda x, m: (x * m).sum() / m.sum(), "tokens"),
    (lambda x, m: ((x * m).sum(-1) / m.sum(-1)).mean(), "sequences"),
    (lambda x, m: (x * m).sum(-1).mean(), "responses"),
  ],
)
def test_losses_there_and_here_agree(aggregate, normalization):
  # Their policy gradient −A log π of tokens, averaged as they do.
  got = bridges.verl(WEIGHTS, PREFIX_LEN, 3)
  logp = np.array([[-1, -2, -4], [-8, 0, 0]])
  theirs = aggregate(-got["advantages"] * logp, got["response_mask"])
  ours = losses.policy_gradient_loss(
    LOGP, WEIGHTS, PREFIX_LEN, normalization=normalization
  )
  np.testing.assert_allclose(theirs, ours, rtol=1e-6)


def test_masks_of_tokens_are_taken_along():
  # Positions in rows with the problem: tokens 2 and 2.
  factor = jnp.array([[9.0, 1, 0, 1, 9], [9, 9, 0.5, 9, 9]])
  got = bridges.verl(WEIGHTS, PREFIX_LEN, 3, token_weights=factor)
  np.testing.assert_array_equal(got["advantages"], [[0.5, 0, -1], [1, 0, 0]])


def test_verl_rewards_stand_on_last_tokens():
  got = bridges.verl_rewards(WEIGHTS, PREFIX_LEN, 4)
  want = [[0, 0.5, -1, 0], [2, 0, 0, 0]]
  np.testing.assert_array_equal(got, want)


def test_nemo_gym_gets_a_list_of_steps_that_exist():
  got = bridges.nemo_gym(WEIGHTS, PREFIX_LEN)
  assert got == [[0.5, -1.0], [2.0]]
  assert all(isinstance(x, float) for row in got for x in row)


def test_room_is_checked():
  with pytest.raises(ValueError, match="3 tokens, expected at most 2"):
    bridges.verl(WEIGHTS, PREFIX_LEN, 2)


def test_tokens_have_their_steps_weight_wherever_responses_begin():
  rng = np.random.default_rng(0)
  prefix_len = np.sort(rng.integers(0, 12, (20, 5)), axis=1)
  weights = rng.normal(size=(20, 4)).astype(np.float32)
  got = bridges.tunix(weights, prefix_len, 12)
  rows = steps.spread_over_tokens(weights, prefix_len, 12)
  for b, start in enumerate(prefix_len[:, 0]):
    size = prefix_len[b, -1] - start
    np.testing.assert_array_equal(
      got["advantages"][b, :size], rows[b, start : start + size]
    )
    assert got["completion_mask"][b].sum() == size


def test_the_documented_example_gives_each_library_its_shapes():
  text = (pathlib.Path(__file__).parents[1] / "docs/credit.md").read_text()
  (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
  names = {}
  exec(compile(code, "docs/credit.md", "exec"), names)
  # Rewards: 1 + 2 · .25 and 1 + 2 · .5; −2 · .25. Means .5, and 2 alone.
  np.testing.assert_allclose(names["weights"], [[1, 0], [-1, 0]], atol=1e-6)
  np.testing.assert_allclose(
    names["advantages"], [[1, 1, 0], [-1, -1, 0]], atol=1e-6
  )
  np.testing.assert_array_equal(
    names["tunix"]["completion_mask"], [[1, 1, 1], [1, 1, 0]]
  )
  assert names["step_rewards"] == [[1.5, 2.0], [-0.5]]
  # q: .25 and .5 more, and .25 less; the second token was 99 % certain.
  np.testing.assert_allclose(
    names["masked"]["advantages"], [[0.25, 0, 0.5], [-0.25, -0.25, 0]]
  )
