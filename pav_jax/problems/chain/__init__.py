"""Chains of operations modulo 100, whose values of prefixes are known."""

from pav_jax.problems.chain.chain import Chain
from pav_jax.problems.chain.error_rates import ErrorRateValues, measured_values
from pav_jax.problems.chain.operations import Operation, harder

__all__ = [
  "Chain",
  "ErrorRateValues",
  "Operation",
  "harder",
  "measured_values",
]
