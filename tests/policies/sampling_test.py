import pytest

from pav_jax.policies import sampling


@pytest.mark.parametrize(
  "number, most, size",
  [
    (0, 64, 16),
    (18, 64, 32),  # not 64 of which 46 are nothing
    (64, 64, 64),
    (65, 64, 48),  # two calls, and not one full and one of a single row
    (1000, 64, 64),
    (3, 2, 2),
    (300, 1024, 320),
  ],
)
def test_calls_are_few_and_no_larger_than_they_must_be(number, most, size):
  assert sampling.call_size(number, most) == size
  assert -(-number // size) == -(-number // most)
