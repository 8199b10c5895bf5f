"""Which provers help a policy: the two terms of Theorem 3.1, and choosing K.

Tables over states and actions are `[..., S, A]`; `probs` is π(a|s) and sums to
1 over actions. With μ the prover, π the policy and γ the step size of a natural
policy gradient step (Lemma F.2), the theorem bounds the improvement of V from
below, up to constants, by

    γ E_s Var_{a~π}[A^μ(s, a)]  +  γ E_s E_{a~π}[A^μ(s, a) A^π(s, a)].
      distinguishability             alignment (plus sign, Eq. 27)

To first order in γ the improvement itself is another sum, in which the prover's
variance does not occur (`first_order_improvement`):

    γ E_{s~d^π} { Var_{a~π}[A^π(s, a)]  +  α E_{a~π}[A^μ(s, a) A^π(s, a)] }.

So the bound cannot hold for every prover with one constant: for
`A^μ = −c A^π` with c > 1 = α it is positive while the policy gets worse. It
does hold for Best-of-K provers of the policy, with the constant α / (K + 1):
`A^μ` is then an increasing function of `A^π` with slopes in [0, K], hence
`alignment >= distinguishability / K >= 0`, and the policy gets worse at no step
size. The tests show all of this.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from pav_jax import checks, values


def distinguishability(
  adv_prover: Float[ArrayLike, "*S A"], probs: Float[ArrayLike, "*S A"]
) -> Float[Array, "*S"]:
  """How well a prover tells the policy's actions apart (Theorem 3.1).

  `Var_{a~π}[A^μ(s, a)]` at each state, from deviations from the mean. A
  constant of the state changes nothing, so `Q^μ` may stand in for `A^μ`.

  Args:
    adv_prover: `A^μ(s, a)`, in [−1, 1].
    probs: `π(a|s)`.

  Returns:
    Variances in [0, 1], in the dtype of the arguments.

  Raises:
    ValueError: shapes differ.
  """
  _check_tables(adv_prover=adv_prover, probs=probs)
  adv, prob = checks.widen(adv_prover), checks.widen(probs)
  mean = jnp.sum(prob * adv, axis=-1, keepdims=True)
  variance = jnp.sum(prob * jnp.square(adv - mean), axis=-1)
  return variance.astype(checks.float_dtype(adv_prover, probs))


def alignment(
  adv_prover: Float[ArrayLike, "*S A"],
  adv_policy: Float[ArrayLike, "*S A"],
  probs: Float[ArrayLike, "*S A"],
) -> Float[Array, "*S"]:
  """How far prover and policy agree on what is progress (Theorem 3.1).

  `E_{a~π}[A^μ(s, a) A^π(s, a)]` at each state.

  Args:
    adv_prover: `A^μ(s, a)`, in [−1, 1].
    adv_policy: `A^π(s, a)`, in [−1, 1]; its mean under π is 0.
    probs: `π(a|s)`.

  Returns:
    Inner products in [−1, 1], in the dtype of the arguments.

  Raises:
    ValueError: shapes differ.
  """
  _check_tables(adv_prover=adv_prover, adv_policy=adv_policy, probs=probs)
  product = checks.widen(adv_prover) * checks.widen(adv_policy)
  product = jnp.sum(checks.widen(probs) * product, axis=-1)
  return product.astype(checks.float_dtype(adv_prover, adv_policy, probs))


def improvement_bound(
  adv_prover: Float[ArrayLike, "*N S A"],
  adv_policy: Float[ArrayLike, "*N S A"],
  probs: Float[ArrayLike, "*N S A"],
  *,
  step_size: Real[ArrayLike, ""] = 1.0,
  state_probs: Float[ArrayLike, "*#N S"] | None = None,
) -> Float[Array, "*N"]:
  """The right-hand side of Theorem 3.1, up to its constants.

  `γ Σ_s d(s) {Var_{a~π}[A^μ(s, a)] + E_{a~π}[A^μ(s, a) A^π(s, a)]}`. See the
  head of this module for where it bounds the improvement.

  Args:
    adv_prover: `A^μ(s, a)`.
    adv_policy: `A^π(s, a)`.
    probs: `π(a|s)`.
    step_size: γ.
    state_probs: d(s), the weights of states; 1 / S each if not given. Weights
      that sum to 1 give a mean over steps; expected visits, which sum to the
      number of steps, give the sum over a response.

  Returns:
    The bound, in units of success probability, in the arguments' dtype.

  Raises:
    ValueError: shapes do not match.
  """
  _check_tables(adv_prover=adv_prover, adv_policy=adv_policy, probs=probs)
  wide = [checks.widen(x) for x in (adv_prover, adv_policy, probs)]
  per_state = distinguishability(wide[0], wide[2]) + alignment(*wide)
  bound = step_size * _mean_over_states(per_state, state_probs)
  return bound.astype(checks.float_dtype(adv_prover, adv_policy, probs))


def first_order_improvement(
  adv_prover: Float[ArrayLike, "*N S A"],
  adv_policy: Float[ArrayLike, "*N S A"],
  probs: Float[ArrayLike, "*N S A"],
  *,
  alpha: Real[ArrayLike, ""],
  step_size: Real[ArrayLike, ""] = 1.0,
  state_probs: Float[ArrayLike, "*#N S"] | None = None,
) -> Float[Array, "*N"]:
  """γ times the derivative of V along the step of Lemma F.2, at γ = 0.

  `γ Σ_s d^π(s) {Var_{a~π}[A^π(s, a)] + α E_{a~π}[A^μ(s, a) A^π(s, a)]}`. It
  follows from the policy gradient, `dV = Σ_s d^π(s) Σ_a dπ(a|s) A^π(s, a)`, and
  from `dπ/dγ = π (w − E_{a~π} w)` with `w = Q^π + α A^μ`. The improvement of a
  step differs from it by O(γ²).

  Args:
    adv_prover: `A^μ(s, a)`.
    adv_policy: `A^π(s, a)`; its mean under π is 0.
    probs: `π(a|s)`.
    alpha: weight of progress in the effective reward, Eq. 5.
    step_size: γ.
    state_probs: d^π(s), the expected visits of each state by the policy for the
      improvement of V at the start; 1 / S each if not given.

  Returns:
    The improvement, in units of success probability, in the arguments' dtype.

  Raises:
    ValueError: shapes do not match.
  """
  _check_tables(adv_prover=adv_prover, adv_policy=adv_policy, probs=probs)
  wide = [checks.widen(x) for x in (adv_prover, adv_policy, probs)]
  per_state = distinguishability(*wide[1:]) + alpha * alignment(*wide)
  improvement = step_size * _mean_over_states(per_state, state_probs)
  return improvement.astype(checks.float_dtype(adv_prover, adv_policy, probs))


def best_of_k_advantages(
  q_policy: Float[ArrayLike, "*S A"],
  probs: Float[ArrayLike, "*S A"],
  k: Real[ArrayLike, ""],
) -> Float[Array, "*S A"]:
  """`A^{BoK(π)}(s, a) = Q^{BoK(π)}(s, a) − V^{BoK(π)}(s)` (Eq. 2 and 30).

  `V^{BoK(π)}(s) = 1 − (1 − V^π(s))^K` with `V^π(s) = E_{a~π} Q^π(s, a)`: steps
  are deterministic, so the value of a state is the Q of the step that led to it
  (Sec. 2), and Eq. 30 applies to that. It exceeds `E_{a~π} Q^{BoK(π)}(s, a)`:
  these advantages are not centred under π unless K = 1, where they are `A^π`.

  Args:
    q_policy: `Q^π(s, a)`, in [0, 1].
    probs: `π(a|s)`.
    k: K >= 1, a real number, possibly traced.

  Returns:
    Advantages in [−1, 1], in the dtype of the arguments.

  Raises:
    ValueError: shapes differ; or `k` is known while tracing and below 1.
  """
  _check_tables(q_policy=q_policy, probs=probs)
  q = checks.widen(q_policy)
  v = jnp.sum(checks.widen(probs) * q, axis=-1, keepdims=True)
  adv = values.best_of_k(q, k) - values.best_of_k(v, k)
  return adv.astype(checks.float_dtype(q_policy, probs))


def best_k(
  q_policy: Float[ArrayLike, "*N S A"],
  probs: Float[ArrayLike, "*N S A"],
  ks: Real[ArrayLike, "K"] | Sequence[int | float],
  *,
  state_probs: Float[ArrayLike, "*#N S"] | None = None,
) -> Real[Array, "*N"]:
  """The K whose Best-of-K prover has the largest `improvement_bound`.

  Remark 3.1: while `Q^π = O(1/K)`, distinguishability grows as K² and
  alignment as K; beyond, `Q^{BoK(π)}` saturates at 1 and both vanish. So the
  maximum is inside. The step size does not matter.

  Args:
    q_policy: `Q^π(s, a)`, in [0, 1].
    probs: `π(a|s)`.
    ks: the candidates, each >= 1, possibly traced; of equals the first wins.
    state_probs: as in `improvement_bound`.

  Returns:
    One of `ks` for each leading index, in the dtype of `ks`.

  Raises:
    ValueError: shapes do not match; `ks` is empty or not one-dimensional, or is
      known while tracing and holds a K < 1.
  """
  _check_tables(q_policy=q_policy, probs=probs)
  ks = np.asarray(ks) if isinstance(ks, Sequence) else ks
  values.check_k(ks)
  ks = jnp.asarray(ks)
  if ks.ndim != 1 or not ks.size:
    raise ValueError(f"ks has shape {ks.shape}; expected one axis, not empty")
  q, prob = checks.widen(q_policy), checks.widen(probs)
  adv_policy = best_of_k_advantages(q, prob, 1)

  def bound(k: Array) -> Array:
    adv_prover = best_of_k_advantages(q, prob, k)
    return improvement_bound(
      adv_prover, adv_policy, prob, state_probs=state_probs
    )

  return ks[jnp.argmax(jax.vmap(bound)(ks), axis=0)]


def _mean_over_states(per_state: Array, state_probs: ArrayLike | None) -> Array:
  if state_probs is None:
    return jnp.mean(per_state, axis=-1)
  shape = np.shape(state_probs)
  if shape[-1:] != per_state.shape[-1:]:
    raise ValueError(
      f"state_probs has shape {shape}; expected [..., S] with "
      f"S = {per_state.shape[-1]}"
    )
  return jnp.sum(checks.widen(state_probs) * per_state, axis=-1)


def _check_tables(**tables: ArrayLike) -> None:
  shapes = {name: np.shape(table) for name, table in tables.items()}
  if len(set(shapes.values())) > 1 or () in shapes.values():
    raise ValueError(f"shapes are {shapes}; expected one, [..., S, A]")
