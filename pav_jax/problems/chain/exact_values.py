"""Exact values of prefixes of chains, from error rates per operation."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from pav_jax.problems.chain import operations
from pav_jax.problems.chain.reading import Contents, Notation, Steps

_BLOCK = 1024  # rows at a time; each needs modulus × 7 numbers


def success_rates(
  kind: Int[np.ndarray, "B N"],
  symbols: Sequence[str],
  error_rates: Mapping[str, float],
) -> Float[np.ndarray, "B"]:
  """Π (1 - e) over the operations of each problem: float64[B].

  Args:
    kind: index of each operation into `symbols`.
    symbols: of the operations.
    error_rates: e of each symbol, in [0, 1].

  Raises:
    ValueError: if the rates are of other symbols, or one is out of range.
  """
  if set(error_rates) != set(symbols):
    raise ValueError(
      f"error_rates are of {sorted(error_rates)}, expected {list(symbols)}"
    )
  rates = np.array([error_rates[symbol] for symbol in symbols], np.float64)
  if not ((rates >= 0) & (rates <= 1)).all():
    raise ValueError(
      f"error_rates are {dict(error_rates)}, expected numbers in [0, 1]"
    )
  return np.prod(1 - rates[kind], -1)


def by_every_result(
  notation: Notation, contents: Contents, steps: Steps
) -> Float[np.ndarray, "B P"]:
  """The teacher's chance that every result is right; 0 after a wrong one."""
  error = np.array([o.error for o in notation.operations])
  accuracy = 1 - error[contents.kind]
  left = np.cumprod(accuracy[:, ::-1], -1)[:, ::-1]
  left = np.pad(left, ((0, 0), (0, 1)), constant_values=1.0)
  values = np.take_along_axis(left, steps.done, -1)
  return np.where(steps.right, values, 0.0)


def by_final_number(
  notation: Notation, contents: Contents, steps: Steps
) -> Float[np.ndarray, "B P"]:
  """The teacher's chance that the last result is the right final number.

  A recursion over the value of every number, from the last operation back; 0
  for illegal prefixes.
  """
  values = [
    _by_final_number(
      notation,
      Contents(*(x[i : i + _BLOCK] for x in contents)),
      steps.done[i : i + _BLOCK],
      steps.value[i : i + _BLOCK],
    )
    for i in range(0, len(contents.start), _BLOCK)
  ]
  return np.where(steps.legal, np.concatenate(values), 0.0)


def _by_final_number(notation, contents, done, value):
  _, kind, operand = contents
  horizon = kind.shape[-1]
  other = np.roll(operand, -1, -1)
  every = np.arange(notation.modulus)
  ahead = every == notation.final(contents)[:, None]
  ahead = ahead.astype(np.float64)
  at_value = np.take_along_axis(ahead, value, -1)
  values = np.where(done == horizon, at_value, 0.0)
  for h in reversed(range(horizon)):
    now = (x[:, h, None] for x in (kind, operand, other))
    results, probs = operations.teacher(
      notation.operations, notation.modulus, every, *now
    )
    rows = np.arange(len(kind))[:, None, None]
    ahead = np.sum(ahead[rows, results] * probs, -1)
    at_value = np.take_along_axis(ahead, value, -1)
    values = np.where(done == h, at_value, values)
  return values
