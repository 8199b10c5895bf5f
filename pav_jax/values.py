"""Values of prefixes: Best-of-K in closed form, and pass@k."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from pav_jax import checks


def best_of_k(
  q: Float[ArrayLike, "*#B"], k: Real[ArrayLike, "*#B"]
) -> Float[Array, "..."]:
  """The value of Best-of-K from the policy's value (Eq. 30).

  `Q^{BoK(π)} = 1 − (1 − Q^π)^K`: the probability that the best of K independent
  completions is correct, given an exact outcome check. It is computed without
  the cancellation of that formula, `−expm1(K log1p(−q))`, and is accurate to a
  few units in the last place (relative) everywhere. At the bare problem it is
  Pass@K (Sec. 2).

  Args:
    q: probability of success, in [0, 1]; what rounding puts outside counts as
      the nearest end.
    k: number of samples K >= 1, a real number, possibly traced; it broadcasts
      against `q`. Infinity is the limit: 1 but for q = 0.

  Returns:
    Probabilities in [q, 1], in `q`'s dtype. First derivatives by `q` and by `k`
    are finite and right on all of [0, 1], the ends included; so are higher ones
    by `q` for whole K. (By `k` they are taken to be 0 at q = 1.)

  Raises:
    ValueError: `k` is known while tracing, and below 1 or NaN.
  """
  check_k(k)
  value = _best_of_k(checks.widen(q), checks.widen(k))
  return value.astype(checks.float_dtype(q))


def best_of_k_from_logit(
  logit: Float[ArrayLike, "*#B"], k: Real[ArrayLike, "*#B"]
) -> Float[Array, "..."]:
  """`best_of_k(sigmoid(logit), k)`, without forming the sigmoid (Eq. 30).

  `Q^{BoK(π)} = −expm1(K log σ(−logit))`. A probability near 1 has no room for
  what its logit knows; so a verifier's output should come this way.

  Args:
    logit: log-odds of success of one sample, in nats; any real number.
    k: number of samples K >= 1, a real number, possibly traced; it broadcasts
      against `logit`.

  Returns:
    Probabilities in [0, 1], in `logit`'s dtype; derivatives are finite for
    finite logits.

  Raises:
    ValueError: `k` is known while tracing, and below 1 or NaN.
  """
  check_k(k)
  log_failure = jax.nn.log_sigmoid(-checks.widen(logit))
  # A logit of minus infinity is q = 0, where infinitely many samples fail too.
  log_failure = jnp.where(log_failure == 0, 0, checks.widen(k) * log_failure)
  value = _one_minus_exp(log_failure)
  return value.astype(checks.float_dtype(logit))


def pass_at_k(
  num_correct: Real[ArrayLike, "*#B"],
  num_samples: Real[ArrayLike, "*#B"],
  k: Real[ArrayLike, "*#B"],
) -> Float[Array, "..."]:
  """The unbiased estimate of Pass@k from n >= k samples, c of them correct.

  `1 − C(n−c, k) / C(n, k)`: the share of the k-subsets of the n samples that
  hold a correct one, with expectation `best_of_k(q, k)` (Eq. 30) where samples
  are correct with probability q. The ratio is
  `Π_{j<m} (1 − M / (n − j))` with `m = min(c, k)` and `M = max(c, k)`, summed
  here as logarithms: no factorial, no cancellation.

  Args:
    num_correct: c, 0 <= c <= n.
    num_samples: n >= 1.
    k: 1 <= k <= n. All three broadcast and may be traced, and are whole
      numbers, of any dtype.

  Returns:
    float32 in [0, 1]: 0 iff c = 0, and 1 iff n − c < k. NaN where traced
    arguments are out of range.

  Raises:
    ValueError: arguments known while tracing are out of range.
  """
  _check_counts(num_correct, num_samples, k)
  counts = map(jnp.asarray, (num_correct, num_samples, k))
  counts = jnp.broadcast_arrays(*counts)
  whole = functools.reduce(jnp.logical_and, (x == jnp.floor(x) for x in counts))
  c, n, k = map(_widen_integers, counts)
  fewer, more = jnp.minimum(c, k), jnp.maximum(c, k)
  certain = c + k > n

  def add_factor(j: Array, log_ratio: Array) -> Array:
    used = (j < fewer) & ~certain
    factor = jnp.log1p(-more / jnp.where(used, n - j, more + 1))
    return log_ratio + jnp.where(used, factor, 0)

  rounds = jnp.max(jnp.where(certain, 0, fewer), initial=0)
  start = jnp.zeros(c.shape, jnp.float32)
  log_ratio = jax.lax.fori_loop(0, rounds, add_factor, start)
  value = jnp.where(certain, 1.0, -jnp.expm1(log_ratio))
  valid = whole & (c >= 0) & (c <= n) & (k >= 1) & (k <= n)
  return jnp.where(valid, value, jnp.nan).astype(jnp.float32)


def check_k(k: Real[ArrayLike, "..."]) -> None:
  """Raises ValueError if `k` is known while tracing and not all >= 1."""
  known = checks.concrete_value(k)
  if known is not None and not (known >= 1).all():
    raise ValueError(f"k is {k}; expected a number of samples K >= 1")


# What rounding puts outside [0, 1] is clipped inside of functions that have
# rules for their derivatives, so that no derivative is that of clipping.


@jax.custom_jvp
def _best_of_k(q, k):
  q = jnp.clip(q, 0, 1)
  return -jnp.expm1(jnp.where(q == 0, 0, k * jnp.log1p(-q)))


@_best_of_k.defjvp
def _best_of_k_jvp(primals, tangents):
  # ∂q: K (1 − q)^{K−1}, which is 1 at K = 1 even at q = 1, and 0 at K = ∞.
  # ∂K: −(1 − q)^K log(1 − q), which tends to 0 as q does to 1.
  (q, k), (q_dot, k_dot) = primals, tangents
  finite = jnp.isfinite(k) | (q <= 0)
  by_q = jnp.where(finite, k, 0) * _failure(q, jnp.where(finite, k - 1, 0))
  by_k = jnp.where(q < 1, -_log_failure(q) * _failure(q, k), 0)
  return _best_of_k(q, k), by_q * q_dot + by_k * k_dot


@jax.custom_jvp
def _failure(q, power):
  """(1 − q)^power, 1 for power 0."""
  log = jnp.log1p(-jnp.clip(q, 0, 1))
  return jnp.exp(jnp.where((power == 0) | (log == 0), 0, power * log))


@_failure.defjvp
def _failure_jvp(primals, tangents):
  (q, power), (q_dot, power_dot) = primals, tangents
  less = jnp.where(power == 0, 0, power - 1)
  by_q = -power * _failure(q, less)
  by_power = jnp.where(q < 1, _log_failure(q) * _failure(q, power), 0)
  return _failure(q, power), by_q * q_dot + by_power * power_dot


@jax.custom_jvp
def _log_failure(q):
  """log(1 − q); 0 for q = 1, of which it is a factor that tends to 0."""
  q = jnp.clip(q, 0, 1)
  return jnp.where(q < 1, jnp.log1p(-q), 0)


@_log_failure.defjvp
def _log_failure_jvp(primals, tangents):
  (q,), (q_dot,) = primals, tangents
  by_q = jnp.where(q < 1, -1 / (1 - jnp.clip(q, 0, 1)), 0)
  return _log_failure(q), by_q * q_dot


@jax.custom_jvp
def _one_minus_exp(x):
  return -jnp.expm1(x)


@_one_minus_exp.defjvp
def _one_minus_exp_jvp(primals, tangents):
  # JAX takes exp(x) as expm1(x) + 1 here, which loses it where x << 0.
  (x,), (x_dot,) = primals, tangents
  return _one_minus_exp(x), -jnp.exp(x) * x_dot


def _check_counts(num_correct, num_samples, k) -> None:
  check_k(k)
  names = {"num_correct": num_correct, "num_samples": num_samples, "k": k}
  values = {name: checks.concrete_value(x) for name, x in names.items()}
  for name, x in values.items():
    if x is not None and not (x == np.floor(x)).all():
      raise ValueError(f"{name} is {x}; expected whole numbers")
  # Numpy's small and unsigned integers would wrap round.
  c, n, of_k = (
    None if x is None else x.astype(np.float64) for x in values.values()
  )
  if n is not None and of_k is not None and (of_k > n).any():
    raise ValueError(
      f"k is {k} with {num_samples} samples; expected k <= num_samples"
    )
  if c is not None and (c < 0).any():
    raise ValueError(f"num_correct is {num_correct}; expected >= 0")
  if c is not None and n is not None and (c > n).any():
    raise ValueError(
      f"num_correct is {num_correct} of {num_samples}; expected <= num_samples"
    )


def _widen_integers(x):
  """Whole numbers in a dtype that has room for sums of two."""
  integer = jnp.issubdtype(x.dtype, jnp.integer)
  return x.astype(
    jnp.promote_types(x.dtype, jnp.int32) if integer else jnp.int32
  )
