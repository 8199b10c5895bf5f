import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.data.packing import Demonstrations, pack
from pav_jax.problems.chain import Chain

PROBLEM = Chain(horizon=2, modulus=10, operations=Chain().operations[:1])
LONGEST = PROBLEM.prompt_len + PROBLEM.max_response_len
BATCHES = Demonstrations(PROBLEM, num_rows=3, row_length=2 * LONGEST)


def texts_of(batch):
  """(tokens, tokens that are learnt) of each text, from the batch alone."""
  found = []
  for tokens, segments, positions, mask in zip(
    *dataclasses.astuple(batch), strict=True
  ):
    for segment in range(1, segments.max() + 1):
      own = segments == segment
      np.testing.assert_array_equal(positions[own], np.arange(own.sum()))
      found.append((tuple(tokens[own]), tuple(tokens[own & mask])))
  return found


def test_texts_go_to_the_first_row_with_room():
  # Lengths 3, 4, 2, 3 into rows of 5: [3 + 2], [4]; the last finds no room.
  texts = [np.arange(1, n + 1) for n in (3, 4, 2, 3)]
  batch, packed = pack(texts, [1, 2, 1, 1], num_rows=2, row_length=5)
  assert packed == 3
  np.testing.assert_array_equal(
    batch.tokens, [[1, 2, 3, 1, 2], [1, 2, 3, 4, 0]]
  )
  np.testing.assert_array_equal(
    batch.segments, [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
  )
  np.testing.assert_array_equal(
    batch.positions, [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
  )
  np.testing.assert_array_equal(
    batch.loss_mask, [[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]]
  )


def test_batches_hold_every_demonstration_once_and_in_order():
  found, position = [], 0
  for _ in range(4):
    batch, position = BATCHES(position)
    texts = sorted(texts_of(batch))
    found.append(texts)
  ids = PROBLEM.problem_ids("train", 0, position)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  start, end = rollout.prefix_len[:, 0], rollout.prefix_len[:, -1]
  expected = [
    (tuple(row[:e]), tuple(row[s:e]))
    for row, s, e in zip(rollout.tokens, start, end, strict=True)
  ]
  assert sum(map(len, found)) == position
  first = 0
  for texts in found:
    assert texts == sorted(expected[first : first + len(texts)])
    first += len(texts)


def test_a_batch_depends_on_its_position_alone():
  _, position = BATCHES(0)
  again, _ = dataclasses.replace(BATCHES)(position)
  jax.tree.map(np.testing.assert_array_equal, BATCHES(position)[0], again)


def test_the_second_pass_has_each_problems_second_demonstration():
  few = dataclasses.replace(BATCHES, num_problems=4, num_rows=1)
  second, _ = few(4)
  ids = PROBLEM.problem_ids("train", 0, 4)
  rollout = PROBLEM.demonstrations(ids, np.ones_like(ids))
  length = rollout.prefix_len[0, -1]
  assert texts_of(second)[0][0] == tuple(rollout.tokens[0, :length])


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_rows": 0}, "num_rows is 0"),
    ({"num_problems": 0}, "num_problems is 0"),
    ({"row_length": LONGEST - 1}, f"expected at least {LONGEST}"),
  ],
)
def test_bad_settings(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(BATCHES, **change)


def test_a_text_longer_than_a_row_is_refused():
  with pytest.raises(ValueError, match="has 6 tokens, expected at most"):
    pack([np.arange(6)], [1], num_rows=1, row_length=5)
