"""How good a verifier's values are: ranking, correlation, error, calibration.

A verifier's values `q_hat[..., B, P]` of the prefixes of B rollouts are held
against what they should tell: outcomes (0 or 1, `outcome[:, None]`), or values
of the same prefixes, Monte-Carlo or exact. Targets, masks and groups broadcast
to the values. `axis` says what a measure reduces: None for everything, 0 for
one number per step from [B, P]. What a mask leaves out does not enter, whatever
it holds, NaN included; a measure that is left without the entries it needs is
NaN. Results are float32 (float64 for float64 input).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from pav_jax import checks, steps


class ReliabilityCurve(NamedTuple):
  """Values against frequencies, bin by bin; `K` bins.

  Attributes:
    value: mean value in each bin; NaN where it is empty.
    frequency: mean target in each bin; NaN where it is empty.
    count: entries in each bin.
  """

  value: Float[Array, "*B K"]
  frequency: Float[Array, "*B K"]
  count: Int[Array, "*B K"]


def prefix_mask(prefix_len: Int[ArrayLike, "*B P"]) -> Bool[Array, "*B P"]:
  """Which prefixes there are: the bare problem, and those after a step.

  Raises:
    ValueError: `prefix_len` has no axis of prefixes, or an empty one.
  """
  grew = steps.step_mask(prefix_len)
  root = jnp.ones((*grew.shape[:-1], 1), bool)
  return jnp.concatenate([root, grew], -1)


def auc(
  scores: Real[ArrayLike, "*B"],
  labels: Bool[ArrayLike, "*#B"] | Real[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  groups: Int[ArrayLike, "*#B"] | None = None,
  axis: int | None = None,
) -> Float[Array, "..."]:
  """Area under the ROC curve: how often a positive scores above a negative.

  `P(s⁺ > s⁻) + P(s⁺ = s⁻) / 2` over all pairs of a positive and a negative
  entry; with groups, over the pairs within one group, so that knowing how hard
  each group is does not help. By sorting: O(N log N).

  Args:
    scores: any real numbers.
    labels: 1 or True for positives, 0 or False for negatives.
    mask: which entries count; None for all.
    groups: any integers, such as operation kinds or problem ids.
    axis: reduced; None for all axes.

  Returns:
    In [0, 1]; 0.5 for chance. NaN without such a pair, or if a score is NaN.

  Raises:
    ValueError: shapes do not match; labels known while tracing are not 0 or 1.
  """
  groups = 0 if groups is None else groups
  wins, pairs, _ = _wins(scores, labels, mask, groups, axis)
  return _ratio(wins.sum(-1), pairs.sum(-1))


def auc_by_group(
  scores: Real[ArrayLike, "*B"],
  labels: Bool[ArrayLike, "*#B"] | Real[ArrayLike, "*#B"],
  groups: Int[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  num_groups: int,
  axis: int | None = None,
) -> Float[Array, "... G"]:
  """`auc` within each of the groups 0 … G − 1; entries of others are left out.

  Args:
    scores: any real numbers.
    labels: 1 or True for positives, 0 or False for negatives.
    groups: of the entries.
    mask: which entries count; None for all.
    num_groups: G.
    axis: reduced; None for all axes.

  Returns:
    [..., G], NaN for groups without a pair.

  Raises:
    ValueError: as of `auc`.
  """
  wins, pairs, groups = _wins(scores, labels, mask, groups, axis)
  member = groups[..., None, :] == jnp.arange(num_groups)[:, None]
  total = [jnp.where(member, x[..., None, :], 0).sum(-1) for x in (wins, pairs)]
  return _ratio(*total)


def correlation(
  x: Real[ArrayLike, "*B"],
  y: Real[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  axis: int | None = None,
) -> Float[Array, "..."]:
  """Pearson's correlation, `cov(x, y) / (sd(x) sd(y))`.

  Args:
    x: values.
    y: targets.
    mask: which entries count; None for all.
    axis: reduced; None for all axes.

  Returns:
    In [−1, 1]; NaN where x or y is constant.

  Raises:
    ValueError: shapes do not match.
  """
  mask, x, y = _rows(axis, mask, x, y)
  # Deviations from the least value first: those of a constant are exactly 0.
  # Scaled then, lest the squares of small ones vanish.
  x, y = (v - _extreme(jnp.min, v, mask, jnp.inf) for v in (x, y))
  x, y = (v - _mean(v, mask)[..., None] for v in (x, y))
  x, y = (v / _extreme(jnp.max, abs(v), mask, 0) for v in (x, y))
  spread = jnp.sqrt(_mean(x * x, mask)) * jnp.sqrt(_mean(y * y, mask))
  return jnp.clip(_mean(x * y, mask) / spread, -1, 1)


def error_correlation(
  q_hat: Float[ArrayLike, "B P"],
  q_exact: Float[ArrayLike, "B P"],
  prefix_len: Int[ArrayLike, "B P"],
  mask: Bool[ArrayLike, "B P-1"] | None = None,
  *,
  groups: Int[ArrayLike, "B"] | None = None,
  axis: int | None = None,
) -> Float[Array, "..."]:
  """How far a verifier's error at a prefix persists after the next step.

  The correlation of `q̂ − q` before a step and after it, over all steps. With
  ρ of it, and errors that are as large before as after, effective rewards order
  children of equally good parents better than `q̂` alone iff
  `α / (1 + α) < 2 ρ`; the best is `α / (1 + α) = ρ`.

  Args:
    q_hat: values of the prefixes.
    q_exact: what they should be: exact values, or accurate ones whose errors
      are independent of one another and of the verifier's.
    prefix_len: as of `Rollout`; repeated prefixes do not count.
    mask: which steps count; None for all.
    groups: of the rollouts, such as problem ids. Errors are then deviations
      from their group's mean error at the step, for what is common to all
      beams of a problem orders none of them.
    axis: reduced; None for one number, 0 for one for each step.

  Returns:
    In [−1, 1]; NaN where errors are constant.

  Raises:
    ValueError: shapes do not match.
  """
  num_rows, num_prefixes = np.shape(q_hat)
  for name, x in (("q_exact", q_exact), ("prefix_len", prefix_len)):
    checks.check_shape(name, x, (num_rows, num_prefixes), "[B, P], as q_hat")
  counts = steps.step_mask(prefix_len)
  if mask is not None:
    checks.check_shape("mask", mask, counts.shape, "[B, P - 1], of steps")
    counts &= jnp.asarray(mask)
  error = checks.widen(q_hat) - checks.widen(q_exact)
  before, after = (
    jnp.where(counts, x, 0) for x in (error[:, :-1], error[:, 1:])
  )
  if groups is not None:
    checks.check_shape("groups", groups, (num_rows,), "[B]")
    before, after = (
      _deviations(x, counts, jnp.asarray(groups)) for x in (before, after)
    )
  return correlation(before, after, counts, axis=axis)


def mean_squared_error(
  q_hat: Real[ArrayLike, "*B"],
  targets: Real[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  axis: int | None = None,
) -> Float[Array, "..."]:
  """Mean of `(q̂ − y)²`; with outcomes as targets, the Brier score.

  Args:
    q_hat: values.
    targets: y, of the same unit.
    mask: which entries count; None for all.
    axis: reduced; None for all axes.

  Returns:
    At least 0; at most 1 for values and targets in [0, 1].

  Raises:
    ValueError: shapes do not match.
  """
  mask, q_hat, targets = _rows(axis, mask, q_hat, targets)
  return _mean(jnp.square(q_hat - targets), mask)


def reliability_curve(
  q_hat: Real[ArrayLike, "*B"],
  targets: Bool[ArrayLike, "*#B"] | Real[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  num_bins: int = 10,
  equal_mass: bool = False,
  low: float | int = 0.0,
  high: float | int = 1.0,
  axis: int | None = None,
) -> ReliabilityCurve:
  """Mean value and mean target of entries with similar values.

  Bins are of equal width between `low` and `high`, closed below, the last one
  on both sides; what lies outside falls into the nearest. Or they are of equal
  mass: the entry of rank r among n, counted from 0, is in bin `⌊K r / n⌋`;
  equal values have their mean rank, and so share a bin.

  Args:
    q_hat: values.
    targets: outcomes or values.
    mask: which entries count; None for all.
    num_bins: K.
    equal_mass: whether bins have equal mass instead of width.
    low: least value, of bins of equal width.
    high: largest value.
    axis: reduced; None for all axes.

  Returns:
    The curve, bins on a last axis, in order of values. A calibrated verifier
    has `value == frequency` but for noise.

  Raises:
    ValueError: shapes do not match; `num_bins` < 1; not `low` < `high`.
  """
  if num_bins < 1:
    raise ValueError(f"num_bins is {num_bins}, expected at least 1")
  if not low < high:
    raise ValueError(f"low and high are {low} and {high}, expected low < high")
  mask, q_hat, targets = _rows(axis, mask, q_hat, targets)
  if equal_mass:
    index = _equal_mass_bins(q_hat, mask, num_bins)
  else:
    # By comparison with the edges: of a quotient, rounding may cross them.
    edges = np.linspace(low, high, num_bins + 1)[1:-1]
    index = jnp.sum(q_hat[..., None] >= edges.astype(q_hat.dtype), -1)
  member = index[..., None, :] == jnp.arange(num_bins)[:, None]
  member &= mask[..., None, :]
  value, frequency = (_mean(x[..., None, :], member) for x in (q_hat, targets))
  return ReliabilityCurve(value, frequency, member.sum(-1, dtype=jnp.int32))


def expected_calibration_error(
  q_hat: Real[ArrayLike, "*B"],
  targets: Bool[ArrayLike, "*#B"] | Real[ArrayLike, "*#B"],
  mask: Bool[ArrayLike, "*#B"] | None = None,
  *,
  num_bins: int = 10,
  equal_mass: bool = False,
  low: float | int = 0.0,
  high: float | int = 1.0,
  axis: int | None = None,
) -> Float[Array, "..."]:
  """`Σ_k n_k / n |value_k − frequency_k|` over `reliability_curve`'s bins.

  A calibrated verifier has a positive one too: noise of `√(q (1 − q) / n_k)`
  in each bin.

  Args:
    q_hat: values.
    targets: outcomes or values.
    mask: which entries count; None for all.
    num_bins: K.
    equal_mass: whether bins have equal mass instead of width.
    low: least value, of bins of equal width.
    high: largest value.
    axis: reduced; None for all axes.

  Returns:
    At least 0; at most 1 for values and targets in [0, 1].

  Raises:
    ValueError: as of `reliability_curve`.
  """
  curve = reliability_curve(
    q_hat,
    targets,
    mask,
    num_bins=num_bins,
    equal_mass=equal_mass,
    low=low,
    high=high,
    axis=axis,
  )
  gap = jnp.abs(curve.value - curve.frequency)
  total = jnp.where(curve.count > 0, curve.count * gap, 0).sum(-1)
  return _ratio(total, curve.count.sum(-1))


def _wins(scores, labels, mask, groups, axis):
  """Of each entry: pairs won, pairs, and its group; sorted on the last axis.

  Positives have the pairs. The entries are sorted by group and score, so that
  those of one group, and equal ones in it, stand together.
  """
  check_binary("labels", labels)
  mask, scores, labels, groups = _rows(axis, mask, scores, labels, groups)
  invalid = (mask & jnp.isnan(scores)).any(-1, keepdims=True)
  order = jnp.lexsort((scores, groups), axis=-1)
  scores, labels, mask, groups = (
    jnp.take_along_axis(x, order, -1) for x in (scores, labels, mask, groups)
  )
  positive, negative = mask & (labels > 0), mask & (labels <= 0)
  counts = _counts_before(negative)
  new_group = groups[..., 1:] != groups[..., :-1]
  group_start, group_end = _run(new_group)
  new_score = scores[..., 1:] != scores[..., :-1]
  tie_start, tie_end = _run(new_group | new_score)
  below, upto, first, last = (
    jnp.take_along_axis(counts, at, -1).astype(scores.dtype)
    for at in (tie_start, tie_end, group_start, group_end)
  )
  wins = jnp.where(positive, (below - first) + (upto - below) / 2, 0)
  pairs = jnp.where(positive, last - first, 0)
  return jnp.where(invalid, jnp.nan, wins), pairs, groups


def _run(new):
  """Where the run of each entry begins, and one past where it ends."""
  n = new.shape[-1] + 1
  edge = jnp.ones_like(new, shape=(*new.shape[:-1], 1))
  begins = jnp.concatenate([edge, new], -1)
  ends = jnp.concatenate([new, edge], -1)
  at, axis = jnp.arange(n), new.ndim - 1
  start = jax.lax.cummax(jnp.where(begins, at, 0), axis)
  end = jax.lax.cummin(jnp.where(ends, at + 1, n), axis, reverse=True)
  return start, end


def _counts_before(x):
  """How many of the first 0 … N entries hold."""
  counts = jnp.cumsum(x, -1, dtype=jnp.int32)
  return jnp.pad(counts, [(0, 0)] * (x.ndim - 1) + [(1, 0)])


def _equal_mass_bins(q_hat, mask, num_bins: int):
  """The bin of each entry's mean rank among those of the mask."""
  order = jnp.argsort(q_hat, -1)
  score = jnp.take_along_axis(q_hat, order, -1)
  start, end = _run(score[..., 1:] != score[..., :-1])
  counts = _counts_before(jnp.take_along_axis(mask, order, -1))
  first, past = (jnp.take_along_axis(counts, x, -1) for x in (start, end))
  # Twice the mean rank, (first + past - 1), in whole numbers.
  number = jnp.maximum(counts[..., -1:], 1)
  index = num_bins * (first + past - 1) // (2 * number)
  return jnp.take_along_axis(index, jnp.argsort(order, -1), -1)


def _deviations(x, mask, groups):
  """Entries less the mean of those of their group, column by column."""
  _, groups = jnp.unique(groups, return_inverse=True, size=len(groups))
  total, count = (
    jax.ops.segment_sum(v, groups, len(groups))
    for v in (jnp.where(mask, x, 0), mask.astype(x.dtype))
  )
  return jnp.where(mask, x - (total / jnp.maximum(count, 1))[groups], 0)


def _rows(axis: int | None, mask, values, *others) -> list[Array]:
  """The mask and the arrays, broadcast, with the reduced axis last.

  What the mask leaves out is 0.
  """
  values = checks.widen(values)
  mask = checks.as_mask("mask", True if mask is None else mask)
  rows = []
  for x in (mask, values, *others):
    try:
      x = jnp.broadcast_to(jnp.asarray(x), values.shape)
    except ValueError:
      raise ValueError(
        f"an argument has shape {np.shape(x)}, expected one that broadcasts "
        f"to {values.shape}, that of the values"
      ) from None
    rows.append(x.reshape(-1) if axis is None else jnp.moveaxis(x, axis, -1))
  mask, *arrays = rows
  # Integers stay what they are: a problem's id has no room in a float32.
  arrays = [
    checks.widen(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
    for x in arrays
  ]
  return [mask, *(jnp.where(mask, x, jnp.zeros_like(x)) for x in arrays)]


def _extreme(reduce, x, mask, otherwise):
  x = jnp.where(mask, x, otherwise)
  return reduce(x, axis=-1, keepdims=True, initial=otherwise)


def _mean(x, mask):
  total = jnp.where(mask, x, 0).sum(-1)
  return _ratio(total, mask.sum(-1))


def _ratio(total, count):
  """`total / count`, and NaN for 0 / 0."""
  dtype = checks.widen(total).dtype
  return total.astype(dtype) / count.astype(dtype)


def check_binary(name: str, x: ArrayLike) -> None:
  """Raises ValueError if `x` is known while tracing and not all 0 or 1."""
  known = checks.concrete_value(x)
  if known is not None and not np.isin(known, (0, 1)).all():
    other = known[~np.isin(known, (0, 1))].flat[0]
    raise ValueError(f"{name} hold {other}, expected 0 and 1 only")
