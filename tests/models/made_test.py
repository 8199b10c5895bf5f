import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import made

CONFIGS = [
  made.MadeConfig(length=5, vocab_size=3, num_outputs=3, hidden=(7, 4, 9)),
  made.MadeConfig(length=2, vocab_size=4, num_outputs=1, hidden=(3, 1)),
  made.MadeConfig(length=1, vocab_size=3, num_outputs=3, hidden=(2,)),
]
each_config = pytest.mark.parametrize(
  "config", CONFIGS, ids=lambda c: f"length{c.length}"
)


apply = jax.jit(made.apply, static_argnums=0)


def random_params(config):
  """Parameters with biases too: initial ones are 0 and would hide mistakes."""
  params = jax.eval_shape(lambda: made.init(config, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32)
    for name, x in params.items()
  }


def positive_params(config):
  """All units are active and any path that the masks allow has an effect."""
  return {k: jnp.abs(v) + 0.1 for k, v in random_params(config).items()}


def random_tokens(config, batch):
  rng = np.random.default_rng(1)
  shape = (batch, config.length)
  return jnp.asarray(rng.integers(config.vocab_size, size=shape), jnp.int32)


@each_config
def test_outputs_see_all_tokens_before_them_and_none_other(config):
  # A token enters through its row of kernel_0 alone, so the gradient by that
  # row is the gradient by the token's embedding.
  params = positive_params(config)
  tokens = random_tokens(config, 1)

  def outputs(kernel):
    return made.apply(config, {**params, "kernel_0": kernel}, tokens)[0]

  jacobian = jax.jit(jax.jacrev(outputs))(params["kernel_0"])
  jacobian = np.asarray(jacobian).reshape(
    config.length, config.num_outputs, config.length, config.vocab_size, -1
  )
  for position in range(config.length):
    for seen in range(config.length):
      gradient = jacobian[position, :, seen, int(tokens[0, seen])]
      if seen >= position:
        assert not gradient.any()
      else:
        assert (gradient.sum(axis=-1) > 0).all()


def test_later_tokens_change_nothing_to_the_last_bit():
  config = CONFIGS[0]
  params = positive_params(config)
  tokens = random_tokens(config, 6)
  outputs = apply(config, params, tokens)
  for position in range(config.length):
    future = jnp.arange(config.length) >= position
    other = jnp.where(future, (tokens + 1) % config.vocab_size, tokens)
    changed = apply(config, params, other)
    np.testing.assert_array_equal(
      changed[:, : position + 1], outputs[:, : position + 1]
    )
    if position + 1 < config.length:
      assert (changed[:, position + 1] != outputs[:, position + 1]).any()


@each_config
def test_apply_is_a_plain_masked_network(config):
  # Float64 NumPy, unit by unit, from the definition: degrees 1 … L - 1 spread
  # evenly in ascending order, and an edge where the degree does not fall.
  params = random_params(config)
  float32 = params
  params = {k: np.asarray(v, np.float64) for k, v in params.items()}
  tokens = np.asarray(random_tokens(config, 4))
  x = np.eye(config.vocab_size)[tokens].reshape(4, -1)
  degree = np.repeat(np.arange(1, config.length + 1), config.vocab_size)
  for layer, units in enumerate(config.hidden):
    counts = np.bincount(
      [1 + u * max(config.length - 1, 1) // units for u in range(units)]
    )[1:]
    assert counts.max() - counts.min() <= 1
    assert len(counts) == max(config.length - 1, 1)
    above = np.repeat(np.arange(1, len(counts) + 1), counts)
    y = np.zeros((4, units))
    for u in range(units):
      inputs = degree <= above[u]
      y[:, u] = x[:, inputs] @ params[f"kernel_{layer}"][inputs, u]
    x, degree = np.maximum(y + params[f"bias_{layer}"], 0), above
  last = len(config.hidden)
  want = np.zeros((4, config.length, config.num_outputs))
  for t in range(config.length):
    for o in range(config.num_outputs):
      column = t * config.num_outputs + o
      kernel = params[f"kernel_{last}"][degree <= t, column]
      want[:, t, o] = x[:, degree <= t] @ kernel
      want[:, t, o] += params[f"bias_{last}"][column]
  got = apply(config, float32, jnp.asarray(tokens))
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@each_config
def test_decoding_gives_the_outputs_of_a_full_pass(config):
  params = random_params(config)
  tokens = random_tokens(config, 4)
  asked = []

  def forced(position, outputs):
    asked.append(position)
    assert outputs.shape == (4, config.num_outputs)
    return tokens[:, position]

  decode = jax.jit(lambda p: made.decode(config, p, forced, 4))
  got, outputs = decode(params)
  assert asked == list(range(config.length))
  np.testing.assert_array_equal(got, tokens)
  np.testing.assert_allclose(
    outputs, apply(config, params, tokens), rtol=1e-5, atol=1e-6
  )


def test_next_tokens_may_depend_on_the_outputs():
  # Greedy decoding: every token is the argmax of the teacher-forced outputs.
  config = CONFIGS[0]
  params = random_params(config)

  @jax.jit
  def greedy(params):
    return made.decode(config, params, lambda _, o: jnp.argmax(o, -1), 2)

  tokens, outputs = greedy(params)
  np.testing.assert_array_equal(tokens, jnp.argmax(outputs, -1))
  np.testing.assert_allclose(
    outputs, apply(config, params, tokens), rtol=1e-5, atol=1e-6
  )


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


@each_config
def test_decoding_computes_each_unit_once(config):
  batch = 2
  tokens = random_tokens(config, batch)
  params = random_params(config)
  jaxpr = jax.make_jaxpr(
    lambda p: made.decode(config, p, lambda t, _: tokens[:, t], batch)
  )(params)
  relu_units = matmul_units = multiply_adds = 0
  for equation in equations(jaxpr.jaxpr):
    out = equation.outvars[0].aval
    if equation.primitive.name == "max":
      relu_units += out.size // batch
    if equation.primitive.name == "dot_general":
      matmul_units += out.size // batch
      contracted = equation.invars[0].aval.size // batch
      multiply_adds += contracted * out.size // batch
  # Position 0 sees nothing, so with one position no hidden unit is needed.
  hidden = config.hidden if config.length > 1 else (0,) * len(config.hidden)
  outputs = config.length * config.num_outputs
  assert relu_units == sum(hidden)
  # Layer 0 adds rows of its kernel and multiplies nothing.
  assert matmul_units == sum(hidden[1:]) + outputs
  dense = np.dot((*hidden[1:], outputs), hidden)
  assert multiply_adds <= dense


@each_config
def test_one_row_and_stacks_of_batches_agree_with_a_batch(config):
  params = random_params(config)
  tokens = random_tokens(config, 4)
  batch = apply(config, params, tokens)
  np.testing.assert_allclose(
    apply(config, params, tokens[0]), batch[0], rtol=1e-5, atol=1e-6
  )
  stacked = apply(config, params, tokens.reshape(2, 2, -1))
  np.testing.assert_allclose(
    stacked.reshape(batch.shape), batch, rtol=1e-5, atol=1e-6
  )


def test_parameters_are_a_flat_dictionary_of_float32():
  config = CONFIGS[1]  # 2 positions, 4 tokens, hidden (3, 1), 1 output
  params = made.init(config, jax.random.key(0))
  assert {name: x.shape for name, x in params.items()} == {
    "kernel_0": (8, 3),
    "bias_0": (3,),
    "kernel_1": (3, 1),
    "bias_1": (1,),
    "kernel_2": (1, 2),
    "bias_2": (2,),
  }
  assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}


@pytest.mark.usefixtures("no_shape_checks")  # gin brings lists
def test_config_is_hashable_however_hidden_was_written():
  config = made.MadeConfig(5, 3, 3, [7, 4, 9])
  assert config == CONFIGS[0]
  assert hash(config) == hash(CONFIGS[0])


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"length": 0}, "length is 0, expected >= 1"),
    ({"vocab_size": 0}, "vocab_size is 0, expected >= 1"),
    ({"num_outputs": -1}, "num_outputs is -1, expected >= 1"),
    ({"hidden": ()}, r"hidden is \(\), expected"),
    ({"hidden": (8, 3)}, r"hidden is \(8, 3\), expected .* = 4 units"),
  ],
)
def test_bad_shapes_are_refused(kwargs, message):
  good = {"length": 5, "vocab_size": 3, "num_outputs": 3, "hidden": (4,)}
  made.MadeConfig(**good)
  with pytest.raises(ValueError, match=message):
    made.MadeConfig(**{**good, **kwargs})
