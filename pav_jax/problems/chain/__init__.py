"""Chains of operations modulo 100, whose values of prefixes are known.

`__all__` names what experiments bind; each is imported when it is asked for.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
  from pav_jax.problems.chain.chain import Chain
  from pav_jax.problems.chain.error_rates import (
    ErrorRateValues,
    measured_values,
  )
  from pav_jax.problems.chain.operations import Operation, harder

__all__ = [
  "Chain",
  "ErrorRateValues",
  "Operation",
  "harder",
  "measured_values",
]

_MODULES = {
  "Chain": "chain",
  "ErrorRateValues": "error_rates",
  "Operation": "operations",
  "harder": "operations",
  "measured_values": "error_rates",
}


def __getattr__(name: str) -> typing.Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
  return getattr(module, name)
