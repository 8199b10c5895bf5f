import numpy as np
import pytest

from studies.progress_or_value import persistent_errors as study

SETTINGS = [
  (bias, fresh, alpha)
  for bias, fresh in ((0.1, 0.02), (0.02, 0.1), (0.1, 0.1))
  for alpha in (0.0, 0.5, 2.0)
]


@pytest.mark.parametrize("bias, fresh, alpha", SETTINGS)
def test_simulated_choices_are_as_often_right_as_the_closed_form(
  bias, fresh, alpha
):
  want = study.right_choice(0.1, bias, fresh, alpha)
  num = 40_000
  right = study.choices(
    np.random.default_rng(0),
    num,
    gap=0.1,
    sigma_bias=bias,
    sigma_fresh=fresh,
    alpha=alpha,
  )
  assert abs(right.mean() - want) < 3 * (want * (1 - want) / num) ** 0.5


def test_rates_of_an_independent_simulation():
  # Its rates have errors of about .001.
  for bias, fresh, want in (
    (0.1, 0.02, (0.757, 0.844, 0.957)),
    (0.02, 0.1, (0.756, 0.746, 0.721)),
  ):
    got = [study.right_choice(0.1, bias, fresh, a) for a in (0, 0.5, 2)]
    np.testing.assert_allclose(got, want, atol=0.0015)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0, 10.0])
def test_the_condition_is_where_the_closed_form_turns(alpha):
  bias = 0.1
  turns = bias * (1 + 2 / alpha) ** 0.5
  plain, at = (study.right_choice(0.3, bias, turns, a) for a in (0.0, alpha))
  np.testing.assert_allclose(at, plain, rtol=1e-12)
  for fresh, helps in ((0.99 * turns, True), (1.01 * turns, False)):
    assert study.progress_helps(bias, fresh, alpha) == helps
    plain, at = (study.right_choice(0.3, bias, fresh, a) for a in (0.0, alpha))
    assert (at > plain) == helps


def test_equal_parents_are_told_apart_best_at_the_best_alpha():
  best = study.best_alpha(0.1, 0.07, 0.0, 0.05)
  np.testing.assert_allclose(best, 0.1**2 / 0.07**2)
  rates = [
    study.right_choice(0.1, 0.1, 0.07, factor * best)
    for factor in (0.9, 1.0, 1.1)
  ]
  assert rates[1] == max(rates)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2])
def test_the_fitted_alpha_is_the_closed_form(spread):
  sigmas = {"sigma_bias": 0.08, "sigma_fresh": 0.06}
  made = study.families(
    np.random.default_rng(1),
    (60_000, 1, 2),
    spread=spread,
    progress=0.1,
    **sigmas,
  )
  parent = np.broadcast_to(made.q_parent, made.q_child.shape)
  fit = study.fit_alpha(
    parent.ravel(), made.q_child.ravel(), made.q_exact.ravel()
  )
  want = study.best_alpha(*sigmas.values(), spread, 0.1)
  np.testing.assert_allclose(fit, want, atol=0.05)
  # And no other α correlates better with the values of children.
  q_child, q_parent, q = (
    x.ravel() for x in (made.q_child, parent, made.q_exact)
  )

  def correlation(alpha):
    return np.corrcoef(q_child + alpha * (q_child - q_parent), q)[0, 1]

  around = [correlation(fit + shift) for shift in (-0.1, 0.0, 0.1)]
  assert around[1] == max(around)


def test_errors_of_one_kind_alone():
  # Persistent ones cancel in the difference: an ever larger α is ever better.
  # Fresh ones add up: of 1 + 2 α (1 + α) / (1 + α)² times the variance.
  assert study.right_choice(0.1, 0.1, 0.0, 100) > 1 - 1e-9
  plain = study.right_choice(0.1, 0.0, 0.1, 0.0)
  assert study.right_choice(0.1, 0.0, 0.1, 0.5) < plain
  rng = np.random.default_rng(2)
  q, errors = rng.normal(size=1000), rng.normal(size=1000)
  # A parent that is all error, and the same one: only the difference is right.
  assert study.fit_alpha(errors, q + errors, q) > 1e6


def test_bad_arguments():
  with pytest.raises(ValueError, match="expected a positive gap"):
    study.right_choice(0.0, 0.1, 0.1, 0.5)
  with pytest.raises(ValueError, match="expected errors of some kind"):
    study.right_choice(0.1, 0.0, 0.0, 0.5)
  q = np.arange(5.0)
  with pytest.raises(ValueError, match="expected that they rise"):
    study.fit_alpha(q**2, -q, q)
