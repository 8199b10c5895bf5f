"""Where wrong traces go wrong: the first step whose value is 0 (App. D)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# (rows int[J], prefixes int[J]) -> how many completions of each were correct.
ProbeFn = Callable[
  [Int[np.ndarray, "J"], Int[np.ndarray, "J"]], Int[np.ndarray, "J"]
]

_UNKNOWN = -1


class Found(NamedTuple):
  """First pits of B traces.

  Attributes:
    pit: the first prefix after `start` that was found to fail, int64[B].
    linear: traces that were gone through prefix by prefix, bool[B].
    probes: how many prefixes were probed.
  """

  pit: Int[np.ndarray, "B"]
  linear: np.ndarray
  probes: int


def locate(
  probe_fn: ProbeFn,
  start: Int[np.ndarray, "B"],
  end: Int[np.ndarray, "B"],
  value: Float[np.ndarray, "B"],
  *,
  num_probe: int,
  tolerance: float = 0.05,
) -> Found:
  """Finds the first prefix of each trace none of whose completions succeeds.

  Once a value is 0 it stays 0, so bisection finds where. But a low value also
  looks like 0, by chance, with probability (1 - q)^n. So bisection is used
  where that is at most `tolerance` at the start; it takes log2(end - start)
  probes, and one of a prefix after the pit, which has to fail too. Where that
  succeeds, or values are low, prefixes are probed one after the other from the
  start on.

  Args:
    probe_fn: completes prefixes `num_probe` times. Rounds of it are shared by
      all traces; no prefix is probed twice.
    start: a prefix whose value is not 0, in 0 … H - 1.
    end: a later one whose value is 0 for certain, such as a wrong response.
    value: (estimated) value of the start, in [0, 1].
    num_probe: n >= 1.
    tolerance: in [0, 1); 0 for no bisection unless the value is 1.

  Raises:
    ValueError: if a setting is out of its range, or an end is not after its
      start.
  """
  if num_probe < 1:
    raise ValueError(f"num_probe is {num_probe}, expected >= 1")
  if not 0 <= tolerance < 1:
    raise ValueError(f"tolerance is {tolerance}, expected 0 <= tolerance < 1")
  if (end <= start).any():
    row = int((end <= start).argmax())
    raise ValueError(
      f"end is {end[row]} and start {start[row]} in row {row}, expected an end "
      "after the start"
    )
  size = len(start)
  known = np.full((size, int(end.max(initial=0)) + 1), _UNKNOWN)
  probes = 0

  def probe(rows, prefixes):
    """Probes what is not known yet; gives what is known then."""
    nonlocal probes
    new = known[rows, prefixes] == _UNKNOWN
    if new.any():
      known[rows[new], prefixes[new]] = probe_fn(rows[new], prefixes[new])
      probes += int(new.sum())
    return known[rows, prefixes] > 0

  linear = (1 - value) ** num_probe > tolerance
  low, high = start.copy(), end.copy()
  while len(rows := np.flatnonzero(~linear & (high - low > 1))):
    middle = (low[rows] + high[rows]) // 2
    alive = probe(rows, middle)
    low[rows[alive]] = middle[alive]
    high[rows[~alive]] = middle[~alive]
  rows = np.flatnonzero(~linear & (end - high > 1))
  contradicted = probe(rows, (high[rows] + end[rows]) // 2)
  linear[rows[contradicted]] = True

  at = start + 1
  while len(rows := np.flatnonzero(linear & (at < end))):
    alive = probe(rows, at[rows])
    at[rows[alive]] += 1
    # What failed is the pit: it is not gone on with.
    end = np.where(np.isin(np.arange(size), rows[~alive]), at, end)
  return Found(np.where(linear, np.minimum(at, end), high), linear, probes)
