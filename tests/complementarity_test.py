import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import complementarity, values
from pav_jax.testing import tabular

A, H = 3, 4
SEEDS = jax.random.split(jax.random.key(0), 64)


def setting(key, num_correct=4):
  """A random process, and a policy's table of logits."""
  process_key, policy_key = jax.random.split(key)
  process = tabular.random_process(
    process_key, num_actions=A, num_steps=H, num_correct=num_correct
  )
  return process, jax.random.normal(policy_key, (process.num_states, A))


def start_value(process, logits):
  return tabular.prefix_values(process, jax.nn.softmax(logits))[0]


def improvement(process, logits, adv_prover, alpha, step_size):
  """Exact V(s_1) after the step of Lemma F.2, less that before it."""
  v = tabular.prefix_values(process, jax.nn.softmax(logits))
  reward = tabular.q_table(process, v) + alpha * adv_prover
  return start_value(process, logits + step_size * reward) - v[0]


def tables(process, logits):
  """π, d^π, V^π of all prefixes and A^π."""
  probs = jax.nn.softmax(logits)
  v = tabular.prefix_values(process, probs)
  visits = tabular.state_visits(process, probs)
  return probs, visits, v, tabular.advantage_table(process, v)


def best_of_k_prover(process, v, k):
  return tabular.advantage_table(process, values.best_of_k(v, k))


def test_the_two_terms_by_hand():
  # π = (1/2, 1/4, 1/4), A^μ = (0, 0.5, −0.5): mean 0, variance 0.125.
  # A^π = (−0.25, 0.5, 0): E[A^μ A^π] = 0.25 · 0.25 = 0.0625.
  probs = jnp.array([0.5, 0.25, 0.25])
  mu, pi = jnp.array([0, 0.5, -0.5]), jnp.array([-0.25, 0.5, 0])
  assert complementarity.distinguishability(mu, probs) == 0.125
  assert complementarity.alignment(mu, pi, probs) == 0.0625
  # One state: γ (0.125 + 0.0625), with a plus.
  bound = complementarity.improvement_bound(
    mu[None], pi[None], probs[None], step_size=2.0
  )
  assert bound == 0.375


def test_distinguishability_is_centred_and_blind_to_state_constants():
  # Spread 1e-4 on top of 0.9: E[x²] − E[x]² would be off by its own size.
  spread = np.array([1e-4, -1e-4])
  got = complementarity.distinguishability(
    jnp.asarray(0.9 + spread, jnp.float32), jnp.array([0.5, 0.5])
  )
  np.testing.assert_allclose(got, 1e-8, rtol=2e-3)


def test_states_are_weighted_as_asked_and_leading_dimensions_kept():
  rng = np.random.default_rng(0)
  mu, pi = rng.normal(size=(2, 5, 4, A)).astype(np.float32)
  probs = rng.dirichlet(np.ones(A), size=(5, 4)).astype(np.float32)
  weights = rng.uniform(size=4).astype(np.float32)
  bound = functools.partial(complementarity.improvement_bound, mu, pi, probs)
  var = (probs * mu**2).sum(-1) - (probs * mu).sum(-1) ** 2
  per_state = var + (probs * mu * pi).sum(-1)
  np.testing.assert_allclose(bound(), per_state.mean(-1), rtol=1e-5)
  np.testing.assert_allclose(
    bound(state_probs=weights), per_state @ weights, rtol=1e-5
  )


def test_best_of_k_advantages_are_those_of_the_process():
  # Determinism of steps (Eq. 2): V^BoK of a state is Eq. 30 of its own value,
  # which is how the process has it; and best-of-1 is the policy.
  process, logits = setting(SEEDS[0])
  probs, _, v, adv = tables(process, logits)
  q = tabular.q_table(process, v)
  for k in (1, 2.5, 16):
    got = complementarity.best_of_k_advantages(q, probs, k)
    want = best_of_k_prover(process, v, k)
    np.testing.assert_allclose(got, want, atol=1e-6)
  got = complementarity.best_of_k_advantages(q, probs, 1)
  np.testing.assert_allclose(got, adv, atol=1e-6)


def test_first_order_improvement_is_the_exact_derivative():
  # d/dγ of V(s_1) after the step of Lemma F.2, differentiated through the
  # process at γ = 0; provers: Best-of-4, and an unrelated policy.
  def both(alpha, key):
    process, logits = setting(key)
    probs, visits, v, adv = tables(process, logits)
    other = tabular.prefix_values(process, jax.nn.softmax(logits[::-1]))
    for adv_prover in (
      best_of_k_prover(process, v, 4.0),
      tabular.advantage_table(process, other),
    ):
      f = functools.partial(improvement, process, logits, adv_prover, alpha)
      yield jax.jvp(f, (0.0,), (1.0,))[1]
      yield complementarity.first_order_improvement(
        adv_prover, adv, probs, alpha=alpha, state_probs=visits
      )

  alphas = jnp.tile(jnp.array([0.0, 1, 3, 5]), len(SEEDS) // 4)
  got = jax.jit(jax.vmap(lambda *x: jnp.stack(list(both(*x)))))(alphas, SEEDS)
  np.testing.assert_allclose(got[:, 0::2], got[:, 1::2], rtol=2e-4)


def test_first_order_improvement_with_alpha_0_does_not_see_the_prover():
  rng = np.random.default_rng(1)
  mu, pi = rng.normal(size=(2, 4, A))
  probs = np.full((4, A), 1 / A)
  got = complementarity.first_order_improvement(
    mu, pi, probs, alpha=0, step_size=0.5
  )
  var = complementarity.distinguishability(pi, probs)
  np.testing.assert_allclose(got, 0.5 * var.mean(), rtol=1e-6)


@pytest.fixture(scope="module")
def exact():
  """Exact improvements and the bound in float64, [K, γ, seed] and [K, seed]."""
  ks, step_sizes = jnp.array([1.0, 4, 16, 64]), jnp.array([0.005, 0.01, 1, 30])

  def one(k, key):
    process, logits = setting(key)
    probs, visits, v, adv = tables(process, logits)
    adv_prover = best_of_k_prover(process, v, k)
    args = adv_prover, adv, probs
    f = functools.partial(improvement, process, logits, adv_prover, 1.0)
    bound = functools.partial(
      complementarity.improvement_bound, state_probs=visits
    )
    return (
      jax.vmap(f)(step_sizes),
      complementarity.first_order_improvement(
        *args, alpha=1.0, state_probs=visits
      ),
      bound(*args),
      complementarity.distinguishability(adv_prover, probs),
      complementarity.alignment(*args),
    )

  with jax.enable_x64(True):
    over_seeds = jax.vmap(one, in_axes=(None, 0))
    out = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(
      ks.astype(jnp.float64), SEEDS
    )
    names = (
      "gained",
      "first_order",
      "bound",
      "distinguishability",
      "alignment",
    )
    return {
      "k": np.asarray(ks),
      "step_size": np.asarray(step_sizes),
      **dict(zip(names, map(np.asarray, out), strict=True)),
    }


def test_small_steps_improve_as_the_first_order_says(exact):
  # What is left is O(γ²): twice the step, four times the error.
  assert exact["gained"].dtype == np.float64
  step = exact["step_size"][:2]
  error = exact["gained"][..., :2] - step * exact["first_order"][..., None]
  np.testing.assert_allclose(error[..., 1] / error[..., 0], 4, rtol=0.05)


def test_theorem_bounds_the_improvement_for_best_of_k_provers(exact):
  # A^μ is an increasing function of A^π with slopes in [0, K], so at each state
  # alignment >= distinguishability / K, and the improvement, to first order
  # Var[A^π] + α·alignment, is at least α / (K + 1) times the bound. Here α = 1.
  k = exact["k"][:, None]
  per_state = exact["alignment"] - exact["distinguishability"] / k[..., None]
  assert (per_state > -1e-12).all()
  for i in (0, 1):
    bound = exact["step_size"][i] * exact["bound"] / (k + 1)
    assert (bound > 0).all()
    assert (exact["gained"][..., i] > bound).all()


def test_best_of_k_provers_never_make_the_policy_worse_at_any_step_size(exact):
  # Actions gain weight in the order of Q^π, so E_{a~π'} A^π >= 0 everywhere.
  assert (exact["gained"] > 0).all()
  assert exact["step_size"].max() == 30


def test_the_constant_of_the_theorem_must_shrink_with_k():
  # Q^π = (0, q), q ≪ 1/K: A^μ = K A^π, so with α = 1 the improvement is
  # (1 + K) Var[A^π] and the bound (K² + K) Var[A^π]: their ratio is 1 / K.
  k = 100.0
  q, probs = jnp.array([[0.0, 1e-7]]), jnp.array([[0.5, 0.5]])
  adv = complementarity.best_of_k_advantages(q, probs, 1)
  args = complementarity.best_of_k_advantages(q, probs, k), adv, probs
  ratio = complementarity.first_order_improvement(
    *args, alpha=1.0
  ) / complementarity.improvement_bound(*args)
  np.testing.assert_allclose(ratio, 1 / k, rtol=1e-4)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0))
def bound_and_improvement_if_misaligned(c, key):
  process, logits = setting(key)
  probs, visits, _, adv = tables(process, logits)
  bound = complementarity.improvement_bound(
    -c * adv, adv, probs, state_probs=visits
  )
  return bound, improvement(process, logits, -c * adv, 1.0, 0.05)


@pytest.mark.parametrize(
  # A^μ = −c A^π, α = 1: the bound is (c² − c) Var[A^π], the first-order
  # improvement (1 − c) Var[A^π].
  ("c", "sign_of_bound", "sign_of_improvement"),
  [
    (-1.0, 1, 1),  # the policy itself as prover: they agree
    (0.5, -1, 1),  # mildly misaligned: the bound is too dark
    (2.0, 1, -1),  # strongly misaligned: the bound does not hold
  ],
)
def test_misaligned_provers_part_the_bound_from_the_improvement(
  c, sign_of_bound, sign_of_improvement
):
  bound, gained = bound_and_improvement_if_misaligned(c, SEEDS)
  assert (jnp.sign(bound) == sign_of_bound).all()
  assert (jnp.sign(gained) == sign_of_improvement).all()


def test_remark_3_1_distinguishability_grows_as_k_squared_alignment_as_k():
  # Q^BoK is a function of Q^π with slopes in [K (1 − q)^(K−1), K]. With
  # q <= c / K, c = 0.1, the lower one is at least K (1 − c).
  rng = np.random.default_rng(2)
  probs = rng.dirichlet(np.ones(A), size=50).astype(np.float32)
  for k in (2, 8, 32, 128):
    q = rng.uniform(0, 0.1 / k, size=(50, A)).astype(np.float32)
    adv = complementarity.best_of_k_advantages(q, probs, 1)
    adv_prover = complementarity.best_of_k_advantages(q, probs, k)
    variance = complementarity.distinguishability(adv, probs)
    growth = complementarity.distinguishability(adv_prover, probs) / variance
    assert (growth >= 0.999 * (k * 0.9) ** 2).all()
    assert (growth <= 1.001 * k**2).all()
    growth = complementarity.alignment(adv_prover, adv, probs) / variance
    assert (growth >= 0.999 * k * 0.9).all()
    assert (growth <= 1.001 * k).all()


KS = np.array([1, 2, 4, 8, 16, 32, 64, 128])


def test_best_k_is_the_argmax_over_the_processs_own_provers():
  # Bound by bound, from the exact values of prefixes instead of Q^π and π.
  @jax.jit
  @jax.vmap
  def both(key):
    process, logits = setting(key, num_correct=8)
    probs, visits, v, adv = tables(process, logits)
    q = tabular.q_table(process, v)
    got = complementarity.best_k(q, probs, KS, state_probs=visits)
    bounds = [
      complementarity.improvement_bound(
        best_of_k_prover(process, v, k), adv, probs, state_probs=visits
      )
      for k in KS
    ]
    return got, jnp.stack(bounds)

  got, bounds = both(SEEDS)
  chosen = jnp.take_along_axis(bounds, jnp.log2(got).astype(int)[:, None], -1)
  np.testing.assert_allclose(chosen[:, 0], bounds.max(-1), rtol=1e-5)
  assert len(np.unique(got)) >= 4


def test_best_k_lies_inside_and_follows_the_policy():
  # With two actions of probability 1/2 and d the difference of their Q^BoK, the
  # bound is d²/4 + d (Q^π_1 − Q^π_0)/4, which increases in d.
  probs = jnp.full((2, 1, 2), 0.5)
  q = jnp.array([[[0.01, 0.05]], [[0.6, 1.0]]])
  # Row 0: d = 0.99^K − 0.95^K, largest at ln(ln .95 / ln .99) / ln(.99 / .95)
  # = 39.5; of the candidates at 32. Row 1: d = 0.4^K, largest at 1.
  assert complementarity.best_k(q, probs, KS).tolist() == [32, 1]


def test_best_k_takes_traced_candidates_and_keeps_their_dtype():
  probs, q = jnp.full((1, 2), 0.5), jnp.array([[0.01, 0.05]])
  fn = jax.jit(complementarity.best_k)
  for ks in (jnp.array([2.0, 39.5, 500.0]), jnp.array([500, 40, 2])):
    got = fn(q, probs, ks)
    assert got == ks[1]
    assert got.dtype == ks.dtype
  assert complementarity.best_k(q, probs, (1, 40, 500)) == 40


def test_best_k_of_equals_takes_the_first():
  # Nothing is ever correct: every bound is 0.
  got = complementarity.best_k(
    jnp.zeros((1, 2)), jnp.full((1, 2), 0.5), (4, 2, 8)
  )
  assert got == 4


def test_bfloat16_is_computed_in_float32_and_returned_in_bfloat16():
  rng = np.random.default_rng(3)
  mu, pi, probs = (
    jnp.asarray(x, jnp.bfloat16) for x in rng.uniform(size=(3, 6, A))
  )
  wide = [x.astype(jnp.float32) for x in (mu, pi, probs)]
  for fn in (
    lambda mu, pi, probs: complementarity.distinguishability(mu, probs),
    complementarity.alignment,
    complementarity.improvement_bound,
    functools.partial(complementarity.first_order_improvement, alpha=2.0),
    lambda mu, pi, probs: complementarity.best_of_k_advantages(mu, probs, 2),
  ):
    got = fn(mu, pi, probs)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, fn(*wide).astype(jnp.bfloat16))


@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_refused():
  table, longer = jnp.zeros((2, A)), jnp.zeros((2, A + 1))
  bound = complementarity.improvement_bound
  for message, call in (
    ("shapes are", lambda: complementarity.alignment(table, longer, table)),
    ("shapes are", lambda: bound(table, table, table[:1])),
    (
      "state_probs has shape",
      lambda: bound(table, table, table, state_probs=jnp.zeros(3)),
    ),
    ("K >= 1", lambda: complementarity.best_k(table, table, [2, 0])),
    ("not empty", lambda: complementarity.best_k(table, table, [])),
    ("one axis", lambda: complementarity.best_k(table, table, 4)),
    (
      "K >= 1",
      lambda: complementarity.best_of_k_advantages(table, table, 0.5),
    ),
  ):
    with pytest.raises(ValueError, match=message):
      call()
