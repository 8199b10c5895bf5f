import numpy as np
import pytest

from pav_jax.provers import first_pits


def locate(counts, start, end, value, **settings):
  """Locates with known counts; also gives how often each was probed."""
  counts = np.array(counts)
  asked = np.zeros_like(counts)

  def probe(rows, prefixes):
    np.add.at(asked, (rows, prefixes), 1)
    return counts[rows, prefixes]

  found = first_pits.locate(
    probe,
    np.array(start),
    np.array(end),
    np.array(value),
    **({"num_probe": 8} | settings),
  )
  return found, asked


def test_bisection_finds_every_pit_with_few_probes():
  # One trace for each place of the pit, from 1 to the end, 16.
  pits = np.arange(1, 17)
  counts = (np.arange(17) < pits[:, None]).astype(int)
  size = len(pits)
  found, asked = locate(counts, [0] * size, [16] * size, [1.0] * size)
  assert found.pit.tolist() == pits.tolist()
  assert not found.linear.any()
  # log2(16) = 4 and one that has to fail too; nothing is asked twice.
  assert asked.sum(1).max() <= 5
  assert asked.max() == 1
  assert found.probes == asked.sum()
  # Neither the start nor the end is probed.
  assert not asked[:, [0, 16]].any()


def test_low_values_are_gone_through_one_by_one():
  # At q = .3 eight failures have probability .7⁸ = .058 > .05, at .32 .046.
  counts = [[9, 0, 3, 3, 0, 0, 0], [9, 3, 3, 3, 3, 0, 0]]
  found, asked = locate(counts, [0, 0], [6, 6], [0.3, 0.32])
  assert found.linear.tolist() == [True, False]
  # The first zero, though a success follows; bisection sees 3, 4 and 5.
  assert found.pit.tolist() == [1, 5]
  assert asked[0].tolist() == [0, 1, 0, 0, 0, 0, 0]
  assert asked[1].tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_a_success_after_the_pit_makes_it_linear():
  # Bisection goes to 4, a zero by chance, and 2, 3; then 6 succeeds.
  counts = [[8, 8, 8, 8, 0, 8, 8, 0, 0]]
  found, asked = locate(counts, [0], [8], [1.0])
  assert found.linear.tolist() == [True]
  assert found.pit.tolist() == [4]
  assert asked.max() == 1
  # One that bisection jumped over is found.
  counts = [[8, 0, 8, 8, 0, 8, 8, 0, 0]]
  assert locate(counts, [0], [8], [1.0])[0].pit.tolist() == [1]


def test_a_certain_end_next_to_the_start_takes_no_probe():
  found, asked = locate(np.ones((2, 9)), [3, 5], [4, 6], [1.0, 0.1])
  assert found.pit.tolist() == [4, 6]
  assert found.probes == asked.sum() == 0


def test_linear_ends_at_the_certain_end():
  found, asked = locate(np.ones((1, 9), int), [2], [5], [0.1])
  assert found.pit.tolist() == [5]
  assert asked.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0]]


def test_no_traces():
  found, _ = locate(np.ones((0, 3)), np.zeros(0, int), np.zeros(0, int), [])
  assert found.pit.shape == (0,)


def test_refuses_bad_settings():
  with pytest.raises(ValueError, match="num_probe is 0"):
    locate([[1, 0]], [0], [1], [1.0], num_probe=0)
  with pytest.raises(ValueError, match="tolerance is 1"):
    locate([[1, 0]], [0], [1], [1.0], tolerance=1.0)
  with pytest.raises(ValueError, match="end is 2 and start 2 in row 1"):
    locate([[1, 0]] * 2, [0, 2], [1, 2], [1.0, 1.0])
