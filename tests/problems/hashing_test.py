import numpy as np

from pav_jax.problems import hashing


def test_an_address_alone_decides():
  # A grid, its transpose and single entries ask for the same addresses.
  row, column = np.arange(50), np.arange(-3, 30)
  grid = hashing.bits(7, row[:, None], column)
  np.testing.assert_array_equal(grid.T, hashing.bits(7, row, column[:, None]))
  assert hashing.bits(7, 11, column[4])[()] == grid[11, 4]


def test_different_addresses_get_different_bits():
  # 64 bits of 90,000 addresses coincide with probability 2e-10; (a, b) and
  # (b, a), and (a,) and (a, 0), are different addresses.
  pairs = hashing.bits(np.arange(300)[:, None], np.arange(300))
  assert len(np.unique(pairs)) == pairs.size
  assert not np.isin(hashing.bits(np.arange(300)), pairs).any()


def test_uniforms_are_uniform_and_unrelated():
  n = 40_000
  x = hashing.uniforms(np.arange(200)[:, None], np.arange(n // 200))
  assert x.min() >= 0 and x.max() < 1
  # 20 bins: the sum of squares is χ² with 19 degrees of freedom, mean 19 and
  # standard deviation √38.
  count = np.histogram(x, 20, (0, 1))[0]
  chi2 = ((count - n / 20) ** 2 / (n / 20)).sum()
  assert abs(chi2 - 19) < 4 * 38**0.5
  # Neighbours in either coordinate: correlation 0 within 4 / √n.
  for near in (x[1:] * x[:-1], x[:, 1:] * x[:, :-1]):
    assert abs(near.mean() - 0.25) < 4 * (7 / 144 / near.size) ** 0.5
