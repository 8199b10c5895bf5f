import itertools
import math

import numpy as np
import pytest

from pav_jax.provers.budget import Budget, EarlyStopping, is_decided


def binomial(n, p):
  return [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]


def test_decided_by_exact_tails():
  # 6 of 6 have probability 2⁻⁶ = .0156 <= .025 at p = 1/2, 5 of 5 .031 > .025;
  # of 16, P(c <= 3) = 697/2¹⁶ = .0106 and P(c <= 4) = 2517/2¹⁶ = .0384.
  c = np.array([0, 6, 0, 5, 3, 4, 12, 13, 0])
  n = np.array([6, 6, 5, 5, 16, 16, 16, 16, 0])
  expected = [True, True, False, False, True, False, False, True, False]
  assert is_decided(c, n).tolist() == expected
  # At confidence 1 - 2 · 2⁻⁵ the bound is met exactly.
  assert is_decided(0, 5, confidence=0.9375)
  assert not is_decided(0, 5, confidence=0.9376)


def test_decided_about_another_boundary():
  # (3/4)⁸ = .1001, (3/4)¹³ = .0238: 13 failures put q below 1/4, 8 do not.
  assert not is_decided(0, 8, boundary=0.25)
  assert is_decided(0, 13, boundary=0.25)


@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.9])
def test_stored_values_are_unbiased_by_enumeration(q):
  stopping = EarlyStopping(pilot=6, least=2)
  mean = with_pilot = 0.0
  for c0, p0 in enumerate(binomial(6, q)):
    n = int(stopping.number(np.array([c0]), 16)[0])
    assert n == (2 if c0 in (0, 6) else 10)
    for c, p in enumerate(binomial(n, q)):
      mean += p0 * p * c / n
      with_pilot += p0 * p * (c0 + c) / (6 + n)
  assert mean == pytest.approx(q, abs=1e-12)
  # What is not stored would make values too extreme.
  if q != 0.5:
    assert abs(with_pilot - q) > 1e-4
    assert (with_pilot < q) == (q < 0.5)


def test_example_of_a_biased_rule():
  # Stop at a success; else once more: of q = 1/2, mean 1/2 · 1 + 1/4 · 1/2.
  outcomes = itertools.product((0, 1), repeat=2)
  mean = sum(1 if a else b / 2 for a, b in outcomes) / 4
  assert mean == 5 / 8


def test_refuses_bad_early_stopping():
  with pytest.raises(ValueError, match="larger pilot"):
    EarlyStopping(pilot=5)
  with pytest.raises(ValueError, match="least is 0"):
    EarlyStopping(least=0)
  with pytest.raises(ValueError, match="expected at least 8"):
    EarlyStopping(pilot=6, least=2).number(np.zeros(1, int), 7)


def cost(n_cov, n_mc, prefixes):
  return n_mc * (1 + n_cov * prefixes)


@pytest.mark.parametrize("prefixes", [0.0, 3.7, 9.0])
def test_budget_is_kept_and_used(prefixes):
  for share in (12, 100, 1000, 10_000):
    n_cov, n_mc = Budget(share * 7).split(7, prefixes)
    assert cost(n_cov, n_mc, prefixes) <= share * (1 + 1e-9)
    assert cost(n_cov, n_mc + 1, prefixes) > share


def test_rule_of_thumb():
  # At the crossover, 8 seeds with 8 completions of 10 prefixes and the problem.
  assert Budget(8 * 81).split(1, 10.0) == (8, 8)
  n_cov, n_mc = Budget(200).split(1, 10.0)
  assert n_cov > n_mc
  n_cov, n_mc = Budget(20_000).split(1, 10.0)
  assert n_mc > n_cov
  # N is 16 times that at the crossover, so n_mc / n_cov is 4: 64 and 16.
  n_cov, n_mc = Budget(64 * 161).split(1, 10.0)
  assert (n_cov, n_mc) == (16, 64)


def test_budget_that_is_too_small():
  assert Budget(30).split(3, 9.0) == (1, 1)
  with pytest.raises(ValueError, match="expected at least 30"):
    Budget(29).split(3, 9.0)
  with pytest.raises(ValueError, match="crossover is 0"):
    Budget(10, crossover=0.0)
