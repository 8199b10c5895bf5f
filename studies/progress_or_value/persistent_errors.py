"""When do effective rewards order a verifier's noisy values better?

  python -m studies.progress_or_value.persistent_errors

A family, that is a beam and its children, shares an error of the verifier that
persists, and every value has a fresh one. The closed forms of `right_choice`,
`progress_helps` and `best_alpha` are derived in RESULTS.md; here they are held
against simulated choices. Prints the tables there; a minute on one core.
"""

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


def right_choice(
  gap: float, sigma_bias: float, sigma_fresh: float, alpha: float
) -> float:
  """How often the better of two children is chosen, of equally good parents.

  Each family has a bias `b ~ N(0, σ_b²)` that is in the verifier's values of
  parent and child, and each value a fresh error `e ~ N(0, σ_e²)`. Chosen is the
  child with the higher effective reward, `q̂_c + α (q̂_c − q̂_p)`:

      Φ( (1 + α) gap / √(2 (σ_b² + ((1 + α)² + α²) σ_e²)) )

  Args:
    gap: how much more the better child is worth, > 0.
    sigma_bias: σ_b >= 0.
    sigma_fresh: σ_e >= 0.
    alpha: weight of progress, >= 0.

  Raises:
    ValueError: if an argument is out of its range, or there are no errors.
  """
  if not (gap > 0 and sigma_bias >= 0 and sigma_fresh >= 0 and alpha >= 0):
    raise ValueError(
      f"gap, sigma_bias, sigma_fresh and alpha are {gap}, {sigma_bias}, "
      f"{sigma_fresh} and {alpha}; expected a positive gap and the others >= 0"
    )
  if sigma_bias == sigma_fresh == 0:
    raise ValueError("both sigmas are 0, expected errors of some kind")
  scale = (1 + alpha) ** 2 + alpha**2
  noise = math.sqrt(sigma_bias**2 + scale * sigma_fresh**2)
  return 0.5 * math.erfc(-(1 + alpha) * gap / noise / 2)


def progress_helps(sigma_bias: float, sigma_fresh: float, alpha: float) -> bool:
  """σ_e² / σ_b² < 1 + 2 / α: whether `right_choice` exceeds that of α = 0.

  Args:
    sigma_bias: σ_b >= 0.
    sigma_fresh: σ_e >= 0.
    alpha: weight of progress, > 0.
  """
  return sigma_fresh**2 * alpha < sigma_bias**2 * (alpha + 2)


def best_alpha(
  sigma_bias: float, sigma_fresh: float, spread: float, progress: float
) -> float:
  """The α whose effective reward tells most about a child's value.

  Of normal values and errors:

      (ω² σ_b² − τ² σ_e²) / (ω² (τ² + σ_e²) + 2 τ² σ_e²)

  So progress helps at all iff σ_e² / σ_b² < ω² / τ²; for equally good beams,
  τ = 0, this is σ_b² / σ_e².

  Args:
    sigma_bias: σ_b, of errors that a beam and its children share.
    sigma_fresh: σ_e > 0, of errors of each value.
    spread: τ, standard deviation of the beams' true values.
    progress: ω > 0, standard deviation of what a step adds to them.

  Raises:
    ValueError: if an argument is out of its range.
  """
  if not (sigma_bias >= 0 and spread >= 0 and sigma_fresh > 0 and progress > 0):
    raise ValueError(
      f"sigma_bias, sigma_fresh, spread and progress are {sigma_bias}, "
      f"{sigma_fresh}, {spread} and {progress}; expected sigma_fresh and "
      "progress > 0 and the others >= 0"
    )
  bias, fresh, spread, progress = (
    x * x for x in (sigma_bias, sigma_fresh, spread, progress)
  )
  rest = progress * (spread + fresh) + 2 * spread * fresh
  return (progress * bias - spread * fresh) / rest


def fit_alpha(
  q_parent: Float[np.ndarray, "S"],
  q_child: Float[np.ndarray, "S"],
  q_exact: Float[np.ndarray, "S"],
) -> float:
  """The α whose effective reward is closest to the children's values, linearly.

  The least-squares fit of exact values to both estimates,
  `q ≈ c + u q̂_c − v q̂_p`, is in proportion to an effective reward with
  `α / (1 + α) = v / u`. Below 0, the parent's estimate is one more measurement
  of the child, and progress takes away what should be added.

  Args:
    q_parent: q̂_p, the verifier's values of prefixes, of one problem and step
      each, or less the mean of their problem and step.
    q_child: q̂_c of a next step of each.
    q_exact: q of that next step.

  Returns:
    α > −1/2; infinity where the difference of values alone is better than any
    finite α.

  Raises:
    ValueError: if the child's estimate is worth nothing (u <= 0).
  """
  columns = np.stack([np.ones_like(q_child), q_child, -q_parent], -1)
  _, child, parent = np.linalg.lstsq(columns, q_exact, rcond=None)[0]
  if not child > 0:
    raise ValueError(
      f"exact values fall with the child's estimate (slope {child:.3g}), "
      "expected that they rise"
    )
  return parent / (child - parent) if child > parent else math.inf


class Families(NamedTuple):
  """Beams and their children, in many searches.

  Attributes:
    q_parent: estimates of the beams.
    q_child: estimates of their children.
    q_exact: values of the children.
  """

  q_parent: Float[np.ndarray, "S N 1"]
  q_child: Float[np.ndarray, "S N C"]
  q_exact: Float[np.ndarray, "S N C"]

  def chosen(self, alpha: float) -> Float[np.ndarray, "S"]:
    """The value of the child with the highest effective reward."""
    reward = self.q_child + alpha * (self.q_child - self.q_parent)
    flat = reward.reshape(len(reward), -1).argmax(-1)[:, None]
    exact = self.q_exact.reshape(len(reward), -1)
    return np.take_along_axis(exact, flat, -1)[:, 0]


def families(
  rng: np.random.Generator,
  shape: Sequence[int],
  *,
  sigma_bias: float,
  sigma_fresh: float,
  spread: float,
  progress: float,
) -> Families:
  """Normal values and errors.

  Args:
    rng: draws them.
    shape: searches S, beams N and children C.
    sigma_bias: σ_b of errors that a beam and its children share.
    sigma_fresh: σ_e of errors of each value.
    spread: τ, standard deviation of the beams' true values.
    progress: standard deviation of what a step changes.
  """
  searches, beams, _ = shape
  one_each = (searches, beams, 1)
  parent = spread * rng.normal(size=one_each)
  bias = sigma_bias * rng.normal(size=one_each)
  child = parent + progress * rng.normal(size=shape)
  return Families(
    parent + bias + sigma_fresh * rng.normal(size=one_each),
    child + bias + sigma_fresh * rng.normal(size=shape),
    child,
  )


def choices(
  rng: np.random.Generator,
  num: int,
  *,
  gap: float,
  sigma_bias: float,
  sigma_fresh: float,
  alpha: float,
) -> Bool[np.ndarray, "S"]:
  """Whether the better of two children is chosen, in simulated choices."""
  made = families(
    rng,
    (num, 2, 1),
    sigma_bias=sigma_bias,
    sigma_fresh=sigma_fresh,
    spread=0.0,
    progress=0.0,
  )
  better = gap * np.array([1.0, 0.0])[:, None]
  made = made._replace(
    q_child=made.q_child + better, q_exact=made.q_exact + better
  )
  return made.chosen(alpha) == gap


def main() -> None:
  """Prints the tables."""
  argparse.ArgumentParser(description=__doc__).parse_args()
  gap, num = 0.1, 1_000_000
  print(f"| σ_b | σ_e | α | closed form | {num} choices |")
  print("|---|---|---|---|---|")
  for bias, fresh in ((0.1, 0.02), (0.02, 0.1)):
    for alpha in (0, 0.5, 2):
      want = right_choice(gap, bias, fresh, alpha)
      rate = choices(
        np.random.default_rng(0),
        num,
        gap=gap,
        sigma_bias=bias,
        sigma_fresh=fresh,
        alpha=alpha,
      ).mean()
      print(f"| {bias} | {fresh} | {alpha} | {want:.4f} | {rate:.4f} |")

  print("\nsign of right choices with α less those with 0, and the condition:")
  clear = agree = 0
  for ratio in (0.25, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0):
    for alpha in (0.2, 0.5, 1.0, 2.0, 5.0):
      size = {"gap": gap, "sigma_bias": 0.1, "sigma_fresh": 0.1 * ratio}
      with_, without = (
        choices(np.random.default_rng(1), num, alpha=a, **size).astype(int)
        for a in (alpha, 0.0)
      )
      difference = with_ - without
      z = difference.mean() / (difference.std() / num**0.5)
      if abs(z) > 3:
        clear += 1
        agree += (z > 0) == progress_helps(0.1, 0.1 * ratio, alpha)
      else:
        print(f"  undecided: σ_e/σ_b = {ratio}, α = {alpha}, z = {z:+.2f}")
  print(
    f"  of 40 pairs {clear} are decided by 3 standard errors, {agree} agree"
  )

  print("\nmean value of the chosen child, gain over α = 0 in 10⁻⁴ (± 1 s.e.)")
  alphas = (0.2, 0.5, 1.0, 2.0, 4.0, 16.0)
  print(
    "| ρ | τ | best α | fitted | "
    + " | ".join(f"α = {a:g}" for a in alphas)
    + " |"
  )
  print("|" + "---|" * (4 + len(alphas)))
  for rho in (0.2, 0.5, 0.8):
    for spread in (0.0, 0.05, 0.1, 0.2):
      made = families(
        np.random.default_rng(2),
        (100_000, 8, 3),
        spread=spread,
        progress=0.1,
        sigma_bias=0.1 * rho**0.5,
        sigma_fresh=0.1 * (1 - rho) ** 0.5,
      )
      parent = np.broadcast_to(made.q_parent, made.q_child.shape)
      best = best_alpha(0.1 * rho**0.5, 0.1 * (1 - rho) ** 0.5, spread, 0.1)
      fit = fit_alpha(
        parent.ravel(), made.q_child.ravel(), made.q_exact.ravel()
      )
      plain = made.chosen(0.0)
      cells = []
      for alpha in alphas:
        gain = made.chosen(alpha) - plain
        error = gain.std() / len(gain) ** 0.5
        cells.append(f"{1e4 * gain.mean():+.0f} ± {1e4 * error:.0f}")
      print(
        f"| {rho} | {spread} | {best:.2f} | {fit:.2f} | "
        + " | ".join(cells)
        + " |"
      )


if __name__ == "__main__":
  main()
