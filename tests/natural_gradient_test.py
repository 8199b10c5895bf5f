import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import partitioning
from pav_jax.natural_gradient import natural_gradient, softmax_update


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


# --- softmax_update -----------------------------------------------------------


def test_softmax_update_by_hand():
  # π = (1/2, 1/4, 1/4); effective reward Q + 2 A = (0, 1, 2); γ = ln 2 doubles
  # the weight for every unit of reward: weights 1/2, 2/4, 4/4 over their sum 2.
  logits = jnp.log(jnp.array([2.0, 1.0, 1.0])) + 5.0
  new = softmax_update(
    logits,
    jnp.array([0.5, 0.0, 1.0]),
    jnp.array([-0.25, 0.5, 0.5]),
    alpha=2.0,
    step_size=jnp.log(2.0),
  )
  np.testing.assert_allclose(jnp.exp(new), [0.25, 0.25, 0.5], rtol=1e-6)


def test_softmax_update_is_the_lemma_at_every_state():
  rng = np.random.default_rng(0)
  logits, q, adv = rng.normal(size=(3, 2, 4, 5))
  alpha, gamma = 0.7, 1.3
  pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  want = pi * np.exp(gamma * (q + alpha * adv))
  want /= want.sum(-1, keepdims=True)
  args = [jnp.asarray(x, jnp.float32) for x in (logits, q, adv)]
  update = jax.jit(
    lambda a, g, *args: softmax_update(*args, alpha=a, step_size=g)
  )
  np.testing.assert_allclose(
    np.exp(update(alpha, gamma, *args)), want, rtol=1e-5
  )
  # Constants of a state, in the logits or in either reward, move nothing; they
  # cost the digits that a sum with them loses: |c| · 2^-24 each, below 1e-5.
  moved = [x + 3.0 * jnp.arange(4.0)[:, None] for x in args]
  np.testing.assert_allclose(
    update(alpha, gamma, *moved), update(alpha, gamma, *args), atol=2e-5
  )
  # Without a step, or without a reward, the policy stays.
  np.testing.assert_allclose(np.exp(update(alpha, 0.0, *args)), pi, rtol=1e-5)


def test_softmax_update_in_bfloat16_rounds_only_the_result():
  # 8 bits of precision: half an ulp is at most 2^-8 of the number.
  rng = np.random.default_rng(1)
  args = [jnp.asarray(x, jnp.bfloat16) for x in rng.normal(size=(3, 6, 8))]
  got = softmax_update(
    *args, alpha=jnp.float32(0.3), step_size=jnp.float32(0.01)
  )
  assert got.dtype == jnp.bfloat16
  wide = [x.astype(jnp.float32) for x in args]
  want = softmax_update(*wide, alpha=0.3, step_size=0.01)
  np.testing.assert_allclose(
    got.astype(jnp.float32), want, rtol=2.0**-8, atol=0
  )


@pytest.mark.usefixtures("no_shape_checks")
def test_softmax_update_refuses_to_broadcast():
  with pytest.raises(ValueError, match=r"logits \(3, 2\), q_policy \(2,\)"):
    softmax_update(
      jnp.ones((3, 2)), jnp.ones(2), jnp.ones((3, 2)), alpha=1.0, step_size=1.0
    )


# --- a softmax table, all state-action pairs enumerated -----------------------

# Probabilities are multiples of 1/8 and states equally likely: repeating each
# pair 8 π(a|s) times makes the mean over samples the exact expectation.
PI = np.array([[1, 2, 5], [4, 3, 1], [2, 2, 4], [6, 1, 1]]) / 8
STATE, ACTION = (
  np.repeat(index, (8 * PI).astype(int).ravel())
  for index in (np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4))
)


def table_logp(logits):
  return jax.nn.log_softmax(logits)[STATE, ACTION]


def dense_fisher_and_gradient(effective_reward):
  """F = E_s E_a ∇log π ∇log πᵀ and g = E_s E_a r ∇log π, by definition."""
  fisher, gradient = np.zeros((12, 12)), np.zeros(12)
  for s in range(4):
    for a in range(3):
      score = np.zeros((4, 3))
      score[s] = (np.arange(3) == a) - PI[s]
      weight = PI[s, a] / 4
      fisher += weight * np.outer(score, score)
      gradient += weight * effective_reward[s, a] * score.ravel()
  return fisher, gradient


@pytest.mark.usefixtures("float64")
def test_on_a_softmax_table_it_is_the_dense_pseudo_inverse_and_the_lemma():
  rng = np.random.default_rng(0)
  q, adv = rng.uniform(size=(4, 3)), rng.uniform(-1, 1, size=(4, 3))
  reward = q + 0.5 * adv
  logits = jnp.log(PI)
  update, diagnostics = natural_gradient(
    table_logp,
    logits,
    jnp.asarray(reward[STATE, ACTION]),
    damping=1e-8,
    num_cg_steps=60,
    tol=1e-13,
  )
  fisher, gradient = dense_fisher_and_gradient(reward)
  want = np.linalg.pinv(fisher, rcond=1e-10) @ gradient
  # Damping λ is relative to F's non-zero eigenvalues, here at least 0.03:
  # 1e-8 / 0.03 < 1e-6 of d is what it takes away.
  np.testing.assert_allclose(np.ravel(update), want, atol=1e-6)
  # By arithmetic, d is the reward centred at every state.
  centred = reward - reward.mean(-1, keepdims=True)
  np.testing.assert_allclose(update, centred, atol=1e-6)
  # So a step of size γ is Lemma F.2's.
  for gamma in (0.1, 3.0):
    np.testing.assert_allclose(
      jax.nn.log_softmax(logits + gamma * update),
      softmax_update(
        logits, jnp.asarray(q), jnp.asarray(adv), alpha=0.5, step_size=gamma
      ),
      atol=1e-5,
    )
  # First-order gain gᵀF⁺g, which is the mean variance of the reward (Thm 3.1).
  gain = np.mean((PI * reward**2).sum(-1) - (PI * reward).sum(-1) ** 2)
  np.testing.assert_allclose(diagnostics.improvement, gain, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_constants_of_a_state_do_not_matter_on_the_table():
  reward = np.random.default_rng(1).normal(size=(4, 3))
  moved = reward + np.array([[3.0], [-2.0], [0.0], [10.0]])

  @jax.jit
  def solve(weights):
    logits = jnp.log(PI)
    return natural_gradient(
      table_logp, logits, weights, damping=1e-2, num_cg_steps=60, tol=1e-13
    )[0]

  np.testing.assert_allclose(
    solve(moved[STATE, ACTION]), solve(reward[STATE, ACTION]), atol=1e-10
  )


@pytest.mark.usefixtures("float64")
def test_predicted_kl_is_the_true_kl_to_second_order():
  logits = jnp.log(PI)
  reward = np.random.default_rng(2).normal(size=(4, 3))
  update, diagnostics = natural_gradient(
    table_logp,
    logits,
    jnp.asarray(reward[STATE, ACTION]),
    damping=0.05,
    num_cg_steps=60,
  )

  def kl(scale):
    new = jax.nn.log_softmax(logits + scale * update)
    return float(np.mean(np.sum(PI * (logits - new), axis=-1)))

  # KL(c) / c² = predicted + O(c): at half the step, half the error is left, so
  # twice the one less the other has an error of O(c²).
  predicted = float(diagnostics.predicted_kl)
  assert predicted > 0.01
  coarse, fine = kl(1e-2) / 1e-4, kl(5e-3) / 2.5e-5
  assert abs(fine - predicted) < 0.6 * abs(coarse - predicted)
  np.testing.assert_allclose(2 * fine - coarse, predicted, rtol=1e-3)


# --- a small network ----------------------------------------------------------

NUM_SAMPLES = 16


def network_logp(params, x, chosen):
  kernel, bias = params["hidden"]
  logits = jnp.tanh(x @ kernel + bias) @ params["out"][0]["kernel"]
  logp = jax.nn.log_softmax(logits)
  return jnp.take_along_axis(logp, chosen[:, None], axis=-1)[:, 0]


@jax.jit
def solve(params, x, chosen, weights, damping):
  """To a residual of 1e-6, in one compiled program for most tests below."""
  return natural_gradient(
    lambda p: network_logp(p, x, chosen),
    params,
    weights,
    damping=damping,
    num_cg_steps=100,
    tol=1e-6,
  )


def network(inputs=4, hidden=5, actions=3, num_samples=NUM_SAMPLES):
  """Parameters (a nested pytree), inputs, chosen actions and weights."""
  rng = np.random.default_rng(3)

  def array(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  params = {
    "hidden": (array(inputs, hidden), array(hidden)),
    "out": [{"kernel": array(hidden, actions)}],
  }
  x, weights = array(num_samples, inputs), array(num_samples)
  chosen = jnp.asarray(rng.integers(actions, size=num_samples))

  return params, x, chosen, weights


def flat(tree):
  return np.concatenate(
    [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  )


@pytest.fixture(scope="module")
def dense():
  """J in float64: of every sample, ∇log π in the order of the tree's leaves."""
  params, x, chosen, _ = network()
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    jacobian = jax.jit(jax.jacrev(network_logp))(wide, x, chosen)
    rows = [np.reshape(x, (NUM_SAMPLES, -1)) for x in jax.tree.leaves(jacobian)]
  return np.concatenate(rows, axis=1)


def solve_dense(jacobian, weights, damping):
  """(F + λI)⁻¹ g, in the space of parameters."""
  num_samples, num_params = jacobian.shape
  fisher = jacobian.T @ jacobian / num_samples
  gradient = jacobian.T @ np.asarray(weights, np.float64) / num_samples
  return (
    np.linalg.solve(fisher + damping * np.eye(num_params), gradient),
    fisher,
    gradient,
  )


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_on_a_network_it_is_the_dense_solve(dense, damping):
  params, x, chosen, weights = network()
  update, diagnostics = solve(params, x, chosen, weights, damping)
  assert jax.tree.structure(update) == jax.tree.structure(params)
  want, fisher, gradient = solve_dense(dense, weights, damping)
  # A residual of 1e-6 (and a few roundings of 2^-24) is amplified by at most
  # the system's condition number.
  condition = 1 + np.linalg.norm(fisher, 2) / damping
  bound = 2e-6 * condition
  error = np.linalg.norm(flat(update) - want) / np.linalg.norm(want)
  assert error < bound
  assert diagnostics.residual < 2e-6
  np.testing.assert_allclose(
    diagnostics.predicted_kl, want @ fisher @ want / 2, rtol=2 * bound
  )
  np.testing.assert_allclose(
    diagnostics.improvement, gradient @ want, rtol=bound
  )


def test_one_conjugate_gradient_step_by_hand(dense):
  # z = (wᵀw / wᵀAw) w with A = JJᵀ + λN: the steepest-descent step from 0. The
  # residual is reported, not hidden.
  params, x, chosen, weights = network()
  update, diagnostics = natural_gradient(
    lambda p: network_logp(p, x, chosen),
    params,
    weights,
    damping=0.1,
    num_cg_steps=1,
  )
  w = np.asarray(weights, np.float64)
  gram = dense @ dense.T + 0.1 * NUM_SAMPLES * np.eye(NUM_SAMPLES)
  z = (w @ w) / (w @ gram @ w) * w
  np.testing.assert_allclose(flat(update), dense.T @ z, rtol=1e-4, atol=1e-6)
  residual = np.linalg.norm(w - gram @ z) / np.linalg.norm(w)
  assert residual > 0.1
  np.testing.assert_allclose(diagnostics.residual, residual, rtol=1e-4)


def test_with_much_damping_it_is_the_plain_gradient(dense):
  # (F + λ)⁻¹ g = g/λ · (1 + O(‖F‖/λ)).
  params, x, chosen, weights = network()
  damping = 1e6
  update, _ = solve(params, x, chosen, weights, damping)

  @jax.jit
  @jax.grad
  def gradient_of(p):
    return jnp.mean(weights * network_logp(p, x, chosen))

  gradient = gradient_of(params)
  fisher_norm = np.linalg.norm(dense, 2) ** 2 / NUM_SAMPLES
  error = damping * flat(update) - flat(gradient)
  assert fisher_norm / damping < 1e-4
  assert np.linalg.norm(error) < 1e-4 * np.linalg.norm(flat(gradient))


@pytest.mark.usefixtures("float64")
def test_constant_log_probabilities_only_count():
  # N' samples, all but N of them constant: what they weigh must not matter, and
  # λN' = (λN'/N) N makes them equal to being cut out at another damping.
  params, x, chosen, weights = network()
  params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
  x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
  exists = np.arange(24).reshape(4, 6) % 6 < 4

  def cut_out(p):
    return network_logp(p, x, chosen)

  def padded(p):
    return jnp.pad(cut_out(p).reshape(4, 4), [(0, 0), (0, 2)])

  def solve(fn, w, damping):
    update, _ = jax.jit(
      lambda p, w: natural_gradient(
        fn, p, w, damping=damping, num_cg_steps=100, tol=1e-12
      )
    )(params, w)
    return flat(update)

  want = solve(cut_out, weights, 0.1 * 24 / 16)
  for filler in (0.0, 5.0):
    w = np.full((4, 6), filler)
    w[exists] = weights
    np.testing.assert_allclose(solve(padded, w, 0.1), want, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_samples_that_do_not_count_are_cut_out():
  # As above, told which count: the same d, KL and gain at the same damping,
  # whatever log-probabilities and weights the others have.
  params, x, chosen, weights = network()
  params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
  x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
  counts = np.arange(24).reshape(4, 6) % 6 < 4

  def solve(fn, w, where=None):
    return jax.jit(
      lambda p, w: natural_gradient(
        fn, p, w, damping=0.1, num_cg_steps=100, tol=1e-12, where=where
      )
    )(params, w)

  def cut_out(p):
    return network_logp(p, x, chosen)

  def padded(p):
    filler = jnp.broadcast_to(jnp.sum(p["hidden"][1]), (4, 2))
    return jnp.concatenate([cut_out(p).reshape(4, 4), filler], axis=1)

  want, expected = solve(cut_out, weights)
  w = np.full((4, 6), np.nan)
  w[counts] = weights
  got, diagnostics = solve(padded, w, counts)
  np.testing.assert_allclose(flat(got), flat(want), rtol=0, atol=1e-10)
  np.testing.assert_allclose(diagnostics[1:], expected[1:], rtol=1e-9)


def test_no_sample_no_step():
  params, x, chosen, weights = network()
  update, diagnostics = natural_gradient(
    lambda p: network_logp(p, x, chosen),
    params,
    weights,
    damping=0.1,
    num_cg_steps=2,
    where=jnp.zeros(NUM_SAMPLES, bool),
  )
  assert not flat(update).any()
  assert not any(float(x) for x in diagnostics)


def assert_close(first, second):
  """For two solves at damping 0.5 and tol 1e-6.

  The largest eigenvalue of F is 2.1, so the condition number 1 + 2.1 / 0.5 < 6;
  ‖d‖ is below 0.5: each solve is within 6 · 2e-6 · 0.5 of the exact one.
  """
  np.testing.assert_allclose(flat(first), flat(second), rtol=0, atol=1.2e-5)


def test_order_of_samples_does_not_matter():
  params, x, chosen, weights = network()
  order = np.random.default_rng(0).permutation(NUM_SAMPLES)
  first, _ = solve(params, x, chosen, weights, 0.5)
  second, _ = solve(
    params,
    *(np.asarray(a)[order] for a in (x, chosen, weights)),
    0.5,
  )
  assert_close(first, second)


def test_no_reward_no_step():
  params, x, chosen, weights = network()
  update, diagnostics = solve(params, x, chosen, 0 * weights, 0.1)
  assert not flat(update).any()
  assert not any(float(x) for x in diagnostics)


def equations(jaxpr):
  """All equations of a jaxpr, those of inner jaxprs included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


def largest_array(jaxpr):
  return max(
    variable.aval.size
    for equation in equations(jaxpr.jaxpr)
    for variable in equation.outvars
  )


def test_the_jacobian_is_never_formed():
  # N = 64 samples; P = 8·16 + 16 + 16·4 = 208 parameters; N·P = 13,312. The
  # largest array of one forward pass is the hidden layer's, N·16 = 1,024.
  params, x, chosen, weights = network(8, 16, 4, num_samples=64)
  num_params = flat(params).size
  assert num_params == 208
  dense = jax.make_jaxpr(jax.jacrev(network_logp))(params, x, chosen)
  assert largest_array(dense) >= 64 * 128
  jaxpr = jax.make_jaxpr(solve)(params, x, chosen, weights, 0.1)
  assert largest_array(jaxpr) == 64 * 16
  # What conjugate gradients carry from one iteration to the next is vectors
  # over samples, scalars, and of the size of the parameters the update alone.
  loops = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "while"]
  assert loops
  for loop in loops:
    constants = loop.params["cond_nconsts"] + loop.params["body_nconsts"]
    carried = [v.aval for v in loop.invars[constants:]]
    vectors = [x.size for x in carried if x.shape == (64,)]
    assert len(vectors) == 3
    assert sum(x.size for x in carried) <= 3 * 64 + num_params + 2


def test_all_products_with_the_jacobian_are_those_of_iterations():
  # Diagnostics and the update take none of their own: outside of the loop there
  # are the forward pass's products alone, and in it a vjp's and a jvp's.
  params, x, chosen, weights = network(8, 16, 4, num_samples=64)
  jaxpr = jax.make_jaxpr(solve)(params, x, chosen, weights, 0.1)

  def products(jaxpr):
    made = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    return sum(e.outvars[0].aval.ndim == 2 for e in made)

  (loop,) = (e for e in equations(jaxpr.jaxpr) if e.primitive.name == "while")
  inside = products(loop.params["body_jaxpr"].jaxpr)
  forward = products(jax.make_jaxpr(network_logp)(params, x, chosen).jaxpr)
  assert products(jaxpr.jaxpr) - inside == forward == 2
  # Of each layer's products: one with the cotangent for each of kernel and
  # input, one with the tangent of each; the first layer's input has none.
  assert inside == 3 + 3


def test_lanes_of_a_vmap_are_independent_problems():
  # Each converges after another number of iterations; the last at once, since
  # nothing depends on a network of zeros.
  params, x, chosen, weights = network()
  scales = np.array([1.0, 0.3, 0.0], np.float32)
  dampings = np.array([0.5, 3.0, 1.0], np.float32)

  def lane_params(scale):
    return jax.tree.map(lambda x: scale * x, params)

  lanes = jax.vmap(
    lambda scale, w, damping: solve(lane_params(scale), x, chosen, w, damping)
  )
  moved = np.asarray(weights) + scales[:, None]
  updates, diagnostics = jax.jit(lanes)(scales, moved, dampings)
  for lane in range(3):
    want, report = solve(
      lane_params(scales[lane]), x, chosen, moved[lane], dampings[lane]
    )
    got = jax.tree.map(lambda x, i=lane: x[i], updates)
    # Two solves to 2e-6 of problems with condition numbers below 6.
    error = np.linalg.norm(flat(got) - flat(want))
    assert error <= 2.4e-5 * np.linalg.norm(flat(want))
    np.testing.assert_allclose(
      diagnostics.predicted_kl[lane], report.predicted_kl, rtol=5e-5
    )


def test_sharded_over_eight_devices_it_is_the_same():
  params, x, chosen, weights = network()
  mesh = partitioning.make_mesh()
  rows, whole = partitioning.over_batch(mesh), partitioning.replicated(mesh)
  sharded = jax.jit(
    solve, in_shardings=(whole, rows, rows, rows, whole), out_shardings=whole
  )
  got, report = sharded(params, x, chosen, weights, 0.5)
  want, expected = solve(params, x, chosen, weights, 0.5)
  assert len(jax.tree.leaves(got)[0].sharding.device_set) == 8
  assert_close(got, want)
  np.testing.assert_allclose(
    report.predicted_kl, expected.predicted_kl, rtol=5e-5
  )


def test_bfloat16_parameters_are_solved_for_in_float32(dense):
  # J has 8 bits, so d has an error of 2^-8 times the condition number, which
  # is 1 + 2.1 / 0.5 < 6: 2.4 %, and as much again for the vectors' rounding.
  params, x, chosen, weights = network()
  narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, x))
  update, diagnostics = solve(*narrow, chosen, weights, jnp.float32(0.5))
  dtypes = [x.dtype for x in jax.tree.leaves(update)]
  assert dtypes == [jnp.dtype("bfloat16")] * 3
  assert [x.dtype for x in diagnostics] == [jnp.dtype("float32")] * 3
  want, *_ = solve_dense(dense, weights, 0.5)
  error = np.linalg.norm(flat(update) - want) / np.linalg.norm(want)
  assert error < 0.05


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"num_cg_steps": 0}, "num_cg_steps is 0, expected at least 1"),
    ({"damping": 0.0}, "damping is 0.0, expected more than 0"),
    ({"damping": -1.0}, "damping is -1.0, expected more than 0"),
    ({"damping": float("nan")}, "damping is nan, expected more than 0"),
    ({"damping": jnp.float32(0)}, "damping is 0.0, expected more than 0"),
    ({"weights": jnp.ones(3)}, r"weights have shape \(3,\), expected \(16,\)"),
    ({"weights": jnp.ones((16, 1))}, r"shape \(16, 1\), expected \(16,\)"),
    ({"where": jnp.ones(3, bool)}, r"where has shape \(3,\); expected \(16\)"),
  ],
)
def test_bad_input_is_refused(kwargs, message):
  params, x, chosen, weights = network()
  good = {"weights": weights, "damping": 0.1, "num_cg_steps": 2}
  with pytest.raises(ValueError, match=message):
    natural_gradient(
      lambda p: network_logp(p, x, chosen), params, **{**good, **kwargs}
    )
