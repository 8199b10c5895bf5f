import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import layers, partitioning, transformer
from pav_jax.models.presets import preset
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  sliding_window=3,
  max_length=32,
)

init = jax.jit(transformer.init, static_argnums=0)
apply = jax.jit(transformer.apply, static_argnums=0)


def random_params(config):
  """Parameters with norms' scales too: they begin as 0 and would hide mistakes.

  By NumPy, so that nothing is compiled.
  """
  shapes = transformer.shapes(config)
  rng = np.random.default_rng(0)

  def leaf(path, x):
    std = 0.3 if path[-1].key == "scale" else config.width**-0.5
    return jnp.asarray(std * rng.normal(size=x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_tokens(config, *shape, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(config.vocab_size, size=shape), jnp.int32)


def loss(config, params, tokens, layout=None):
  """Mean negative log-likelihood of next tokens, and the logits."""
  logits = transformer.apply(config, params, tokens, layout=layout)
  logp = jax.nn.log_softmax(logits[:, :-1])
  picked = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)
  return -picked.mean(), logits


grad = jax.jit(jax.grad(loss, argnums=1, has_aux=True), static_argnums=0)


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


def test_shapes_are_those_of_init_and_the_callers_own():
  expected = jax.eval_shape(
    functools.partial(transformer.init, CONFIG), jax.random.key(0)
  )
  shapes = transformer.shapes(CONFIG)
  assert shapes == expected
  shapes["layers"].clear()
  assert transformer.shapes(CONFIG) == expected


def test_initial_kernels_have_variance_one_over_inputs():
  config = preset("tiny")  # width 64, 4 heads of 16, MLP of 160
  params = init(config, jax.random.key(0))
  layer = params["layers"]["global"]
  # Relative error of a standard deviation from n samples: 1/√(2n); the fewest
  # are 2 · 64 · 32 = 4096, so 5 % is more than four times that.
  for kernel, inputs in [
    (params["embedding"], 64),
    (layer["attention"]["query"], 64),
    (layer["attention"]["key"], 64),
    (layer["attention"]["out"], 4 * 16),
    (layer["mlp"]["gate"], 64),
    (layer["mlp"]["down"], 160),
  ]:
    np.testing.assert_allclose(kernel.std(), inputs**-0.5, rtol=0.05)
  # Pairs of layers begin differently from one another.
  first, second = layer["mlp"]["up"]
  assert (first != second).all()
  for name in ("pre_attention_norm", "post_mlp_norm"):
    assert not layer[name]["scale"].any()


def test_norm_divides_by_the_root_mean_square():
  # (3, 4) has the mean square 12.5; scales 0 and 1 multiply by 1 and 2.
  config = dataclasses.replace(CONFIG, width=2)
  params = {"scale": jnp.array([0.0, 1.0])}
  got = layers.RMSNorm(config).apply({"params": params}, jnp.array([3.0, 4.0]))
  want = np.array([3, 8]) / 12.5**0.5
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_no_gradient_comes_from_the_future():
  # All tokens differ, so the gradient by a row of the embedding is that by the
  # one token which it embeds (hidden states do not use it as output layer).
  params = random_params(CONFIG)
  tokens = jnp.arange(7)[None]

  def hidden(embedding):
    states = transformer.hidden_states(
      CONFIG, {**params, "embedding": embedding}, tokens
    )
    return states[0, :, 0]

  jacobian = np.asarray(jax.jit(jax.jacrev(hidden))(params["embedding"]))
  for position, other in itertools.product(range(7), range(7)):
    # Global layers see past the window of 3.
    assert jacobian[position, other].any() == (other <= position)


def test_padding_and_packing_change_nothing():
  params = random_params(CONFIG)
  first, second = random_tokens(CONFIG, 2, 7)
  second, junk = second[:5], jnp.arange(30, 35)
  tokens = jnp.stack(
    [
      jnp.concatenate([first, junk]),
      jnp.concatenate([first, junk + 1]),
      jnp.concatenate([junk, first]),
      jnp.concatenate([first, second]),
      jnp.concatenate([first, second]),
    ]
  )
  whole = jnp.zeros(12, jnp.int32)
  left = jnp.array([0] * 5 + [1] * 7)
  packed = jnp.array([1] * 7 + [2] * 5)
  segments = jnp.stack([whole, whole, left, packed, packed])
  row = jnp.arange(12)
  restart = jnp.concatenate([jnp.arange(7), jnp.arange(5)])
  positions = jnp.stack([row, row, row, row, restart])
  got = apply(CONFIG, params, tokens, positions=positions, segments=segments)
  alone = apply(CONFIG, params, first[None])[0]
  np.testing.assert_array_equal(got[0, :7], got[1, :7])
  close = {"rtol": 1e-5, "atol": 1e-5}
  np.testing.assert_allclose(got[0, :7], alone, **close)
  np.testing.assert_allclose(got[2, 5:], alone, **close)
  np.testing.assert_allclose(got[3, :7], alone, **close)
  # The second text is alone too, and only differences of positions matter.
  np.testing.assert_allclose(got[3, 7:], got[4, 7:], **close)
  alone = apply(CONFIG, params, jnp.pad(second, (0, 2))[None])[0]
  np.testing.assert_allclose(got[4, 7:], alone[:5], **close)


def test_the_window_and_gaps_in_positions_matter():
  params = random_params(CONFIG)
  tokens = random_tokens(CONFIG, 1, 7)
  near = apply(CONFIG, params, tokens)
  wide = apply(dataclasses.replace(CONFIG, sliding_window=7), params, tokens)
  # Positions 0, 1 and 2 lie within a window of 3.
  np.testing.assert_allclose(near[:, :3], wide[:, :3], rtol=1e-5, atol=1e-5)
  assert (abs(near - wide)[:, 3:].max(axis=-1) > 1e-3).all()
  gap = apply(
    CONFIG, params, tokens, positions=jnp.array([[0, 1, 2, 3, 9, 10, 11]])
  )
  np.testing.assert_allclose(gap[:, :4], near[:, :4], rtol=1e-5, atol=1e-5)
  assert (abs(gap - near)[:, 4:].max(axis=-1) > 1e-3).all()


def test_logits_stay_below_their_cap():
  params = random_params(CONFIG)
  hidden = 1000 * jnp.ones((1, 1, CONFIG.width))
  logits = transformer.logits(CONFIG, params, hidden)
  # tanh is 1 in float32 from about 9.
  assert 29.9 < abs(logits).max() <= 30.0
  small = transformer.logits(CONFIG, params, hidden / 1e6)
  want = params["embedding"].sum(axis=1) / 1000
  np.testing.assert_allclose(small[0, 0], want, rtol=1e-4, atol=1e-7)


def test_bfloat16_computes_norms_softmax_and_logits_in_float32():
  config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
  tokens = random_tokens(config, 2, 7)
  shapes = transformer.shapes(config)
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}
  jaxpr = jax.make_jaxpr(lambda p: transformer.apply(config, p, tokens))(shapes)
  seen = set()
  for equation in equations(jaxpr.jaxpr):
    name = equation.primitive.name
    out = equation.outvars[0].aval
    if name in ("exp", "rsqrt", "reduce_sum", "tanh"):
      # GELU's tanh alone is in bfloat16.
      if out.dtype != jnp.float32:
        assert (name, out.shape[-1]) == ("tanh", config.mlp_width)
      seen.add(name)
    if name == "dot_general":
      # Products take bfloat16, and those that give logits keep float32.
      assert {v.aval.dtype for v in equation.invars} == {jnp.dtype("bfloat16")}
  assert seen == {"exp", "rsqrt", "reduce_sum", "tanh"}
  assert jaxpr.out_avals[0].dtype == jnp.float32

  params = random_params(config)
  got = apply(config, params, tokens)
  want = apply(
    CONFIG, jax.tree.map(lambda x: x.astype(jnp.float32), params), tokens
  )
  # 2^-9 is the relative error of one rounding; sixteen sums of about unit
  # variance are rounded along the residual stream and logits have variance 1.
  assert abs(got - want).mean() < 16 * 2**-9
  np.testing.assert_allclose(got, want, atol=0.2)


def residual_bytes(config):
  """What the backward pass keeps, the parameters aside."""
  tokens = random_tokens(config, 2, 8)
  params = transformer.shapes(config)
  kept = jax.eval_shape(
    lambda p: jax.vjp(lambda q: loss(config, q, tokens)[0], p)[1], params
  )
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_depth_does_not_enlarge_the_program(remat):
  sizes = []
  for num_layers in (4, 8):
    config = dataclasses.replace(CONFIG, num_layers=num_layers, remat=remat)
    shapes = transformer.shapes(config)
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    lowered = grad.lower(config, shapes, tokens).as_text()
    sizes.append(len(lowered.splitlines()))
  assert sizes[0] == sizes[1]


def test_memory_grows_as_the_text_does():
  """Temporaries of a rematerialised training step, by XLA's own analysis.

  Attention to 4,096 tokens at once would take 16 times that to 1,024.
  """
  config = dataclasses.replace(
    CONFIG, num_layers=3, sliding_window=100, max_length=4096, remat="full"
  )
  sizes = []
  for length in (1024, 4096):
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    compiled = grad.lower(config, transformer.shapes(config), tokens).compile()
    sizes.append(compiled.memory_analysis().temp_size_in_bytes)
  assert sizes[1] < 1.2 * 4 * sizes[0]


SHARDED = TransformerConfig(
  vocab_size=48,
  width=32,
  num_layers=4,
  num_heads=16,
  num_kv_heads=8,
  head_dim=4,
  mlp_width=56,
  sliding_window=3,
)
MESHES = {
  "data": (8, 1, 1),
  "fsdp": (1, 8, 1),
  "tensor": (1, 1, 8),
  "mixed": (2, 2, 2),
}


@pytest.fixture(scope="module")
def single_device():
  params = random_params(SHARDED)
  tokens = random_tokens(SHARDED, 8, 9)
  return params, tokens, grad(SHARDED, params, tokens)


def test_rematerialisation_keeps_less_and_changes_no_gradient(single_device):
  params, tokens, (want, _) = single_device
  dots, full = (
    dataclasses.replace(SHARDED, remat=remat) for remat in ("dots", "full")
  )
  assert residual_bytes(full) < residual_bytes(dots) < residual_bytes(SHARDED)
  for config in (dots, full):
    got, _ = grad(config, params, tokens)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      got,
      want,
    )


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_computes_what_one_device_does(name, single_device):
  params, tokens, (want_grads, want_logits) = single_device
  mesh = partitioning.make_mesh(*MESHES[name])
  layout = partitioning.Layout(mesh)
  shardings = transformer.shardings(SHARDED, layout)
  compiled = (
    jax.jit(
      lambda params, tokens: jax.grad(loss, argnums=1, has_aux=True)(
        SHARDED, params, tokens, layout
      ),
      in_shardings=(shardings, partitioning.over_batch(mesh)),
      out_shardings=(shardings, partitioning.over_batch(mesh)),
    )
    .lower(params, tokens)
    .compile()
  )
  # The program of a device takes its part of each parameter and of the batch,
  # and gives as much of each gradient.
  data, fsdp, tensor = MESHES[name]
  pairs, width, mlp = 2, 32 // fsdp, 56 // tensor
  heads, kv_heads, vocab = 16 // tensor, 8 // tensor, 48 // tensor
  attention = {
    "query": (pairs, width, heads, 4),
    "key": (pairs, width, kv_heads, 4),
    "value": (pairs, width, kv_heads, 4),
    "out": (pairs, heads, 4, width),
  }
  kernels = {
    "gate": (pairs, width, mlp),
    "up": (pairs, width, mlp),
    "down": (pairs, mlp, width),
  }
  norms = {
    f"{when}_{what}_norm": {"scale": (pairs, 32)}
    for when in ("pre", "post")
    for what in ("attention", "mlp")
  }
  layer = {"attention": attention, "mlp": kernels, **norms}
  per_device = {
    "embedding": (vocab, width),
    "final_norm": {"scale": (32,)},
    "layers": {"local": layer, "global": layer},
  }
  flat = jax.tree.leaves(per_device, is_leaf=lambda x: isinstance(x, tuple))
  text = compiled.as_text()
  layout_text = text[text.index("entry_computation_layout={") :].split("->")[0]
  for shape in flat:
    assert f"f32[{','.join(map(str, shape))}]" in layout_text
  num_bytes = 4 * sum(int(np.prod(shape)) for shape in flat)
  batch = 8 // (data * fsdp)
  memory = compiled.memory_analysis()
  assert memory.argument_size_in_bytes == num_bytes + 4 * batch * 9
  # Outputs are rounded up and hold a table of their addresses.
  out_bytes = num_bytes + 4 * batch * 9 * 48
  assert out_bytes <= memory.output_size_in_bytes < out_bytes + 2048
  if fsdp > 1 or tensor > 1:
    # Nor is a whole stack gathered anywhere in between.
    for whole in ("2,32,16,4", "2,32,56", "2,56,32", "2,16,4,32"):
      assert f"f32[{whole}]" not in text

  grads, logits = compiled(
    jax.device_put(params, shardings),
    jax.device_put(tokens, partitioning.over_batch(mesh)),
  )
  for gradient, shape in zip(jax.tree.leaves(grads), flat, strict=True):
    assert {s.data.shape for s in gradient.addressable_shards} == {shape}
  np.testing.assert_allclose(logits, want_logits, rtol=1e-5, atol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    jax.device_get(grads),
    jax.device_get(want_grads),
  )


def test_parameters_may_be_made_where_they_belong():
  config = preset("tiny")
  layout = partitioning.Layout(partitioning.make_mesh(2, 2, 2))
  sharded = jax.jit(
    lambda: transformer.init(config, jax.random.key(0)),
    out_shardings=transformer.shardings(config, layout),
  )()
  whole = init(config, jax.random.key(0))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), sharded, whole
  )
  query = sharded["layers"]["local"]["attention"]["query"]
  assert query.shape == (2, 64, 4, 16)
  assert query.addressable_shards[0].data.shape == (2, 32, 2, 16)


def test_parameters_that_do_not_divide_are_named():
  layout = partitioning.Layout(partitioning.make_mesh(tensor=8))
  with pytest.raises(
    ValueError, match=r"'key'.* has 'kv_heads' of size 2, .* multiple of 8,"
  ):
    transformer.shardings(CONFIG, layout)


def test_text_beyond_the_context_is_refused():
  tokens = jnp.zeros((1, 33), jnp.int32)
  with pytest.raises(ValueError, match=r"have length 33, .* max_length = 32"):
    transformer.apply(CONFIG, {}, tokens)
