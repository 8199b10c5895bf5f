import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from pav_jax.models import adapters, heads, partitioning, transformer
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import (
  PROJECTIONS,
  Lora,
  TransformerConfig,
)
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.policies.trunk_value import TrunkValue
from pav_jax.rollout import PackedTokens, Rollout
from pav_jax.training import fitting, sft

# Three layers with a period of two: scanned ones and one of the rest.
CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=24,
  sliding_window=4,
  max_length=24,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(24, size=(8, 10)))
apply = jax.jit(transformer.apply, static_argnums=0)


@pytest.fixture(scope="module")
def base():
  return jax.jit(transformer.init, static_argnums=0)(CONFIG, jax.random.key(0))


def add(base, lora, *, trained=False):
  """A network with adapters; `trained` ones are not zero any more."""
  config, params = adapters.add(CONFIG, base, lora, jax.random.key(1))
  if not trained:
    return config, params
  rng = np.random.default_rng(2)
  some, rest = adapters.split(params)
  some = jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), some
  )
  return config, adapters.join(some, rest)


def described(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_new_adapters_change_nothing(base):
  # B is zero, and what is added is then exactly zero.
  config, params = add(base, Lora(3, 6.0))
  np.testing.assert_array_equal(
    apply(config, params, TOKENS), apply(CONFIG, base, TOKENS)
  )
  assert described(params) == described(transformer.shapes(config))


def test_split_and_join_are_inverse_and_share_the_base(base):
  lora = Lora(3, 6.0, ("query", "down"))
  _, params = add(base, lora)
  trained, rest = adapters.split(params)
  assert described(rest) == described(base)
  assert jax.tree.leaves(rest)[0] is jax.tree.leaves(base)[0]
  joined = adapters.join(trained, rest)
  assert jax.tree.structure(joined) == jax.tree.structure(params)
  assert all(
    a is b for a, b in zip(*map(jax.tree.leaves, (joined, params)), strict=True)
  )
  # Two kernels in each of four scanned kinds and the rest have A and B:
  # D·r + r·N·H and M·r + r·D numbers, three layers.
  size = sum(x.size for x in jax.tree.leaves(trained))
  assert size == 3 * 3 * (16 + 32 + 24 + 16)
  # Without adapters all is trained.
  assert adapters.split(base) == (base, {})
  assert adapters.join(base, {}) is base


@pytest.mark.parametrize("targets", [PROJECTIONS, ("out",), ("key", "gate")])
def test_merged_kernels_compute_the_same(base, targets):
  config, params = add(base, Lora(3, 6.0, targets), trained=True)
  plain, merged = adapters.merge(config, params)
  assert plain == CONFIG
  assert described(merged) == described(base)
  got, want = apply(config, params, TOKENS), apply(plain, merged, TOKENS)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
  assert jnp.abs(want - apply(CONFIG, base, TOKENS)).max() > 0.1
  # What is no target is the base's.
  same = jax.tree.map(lambda a, b: bool((a == b).all()), merged, base)
  for layer in same["layers"]["local"], same["layers"]["remainder"]["local"]:
    kernels = layer["attention"] | layer["mlp"]
    assert {name for name, x in kernels.items() if not x} == set(targets)


def test_full_rank_is_any_update(base):
  # With r = min(I, O) and alpha = r, W' - W = U S Vᵀ is A = U, B = S Vᵀ.
  config, params = adapters.add(
    CONFIG, base, Lora(16, 16.0, ("out",)), jax.random.key(0)
  )
  other = jax.jit(transformer.init, static_argnums=0)(CONFIG, jax.random.key(9))

  def target(tree):
    return tree["layers"]["global"]["attention"]

  change = np.asarray(target(other)["out"] - target(base)["out"])
  u, s, v = np.linalg.svd(change.reshape(1, 32, 16), full_matrices=False)
  layer = dict(target(params))
  layer["out_lora_a"] = jnp.asarray(u.reshape(1, 4, 8, 16))
  layer["out_lora_b"] = jnp.asarray(s[..., None] * v)
  params["layers"]["global"]["attention"] = layer
  _, merged = adapters.merge(config, params)
  np.testing.assert_allclose(
    target(merged)["out"], target(other)["out"], atol=1e-5
  )


def test_adapters_alone_are_trained(base):
  config, params = add(base, Lora(3, 6.0))
  optimizer = sft.AdamW(clip_norm=1e9)(1e-2)
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  fitter = sft.fitter(config, optimizer, layout)
  state = fitter.init(params)
  trained, rest = adapters.split(params)
  # Moments are of adapters: as many arrays, twice.
  moments = [x for x in jax.tree.leaves(state.optimizer) if x.ndim]
  assert len(moments) == 2 * len(jax.tree.leaves(trained))
  batch = PackedTokens(
    TOKENS, jnp.ones_like(TOKENS), jnp.broadcast_to(jnp.arange(10), (8, 10)),
    jnp.ones(TOKENS.shape, bool),
  )  # fmt: skip
  new, metrics = jax.jit(fitter.step)(state, batch)
  gradient = jax.jit(
    jax.grad(lambda p: sft.loss(config, adapters.join(p, rest), batch))
  )(trained)
  np.testing.assert_allclose(
    metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-5
  )
  jax.tree.map(np.testing.assert_array_equal, new.base, rest)
  # The gradient of A is zero where B is, so B alone moves at first.
  for path, old in jax.tree_util.tree_leaves_with_path(trained):
    after = new.params
    for key in path:
      after = after[key.key]
    moved = bool((after != old).any())
    assert moved == path[-1].key.endswith("_lora_b"), path


def test_meshes_compute_the_same(base):
  config, params = add(base, Lora(4, 8.0), trained=True)
  want = apply(config, params, TOKENS)
  layout = Layout(partitioning.make_mesh(2, 2, 2))
  where = transformer.shardings(config, layout)
  # Each factor is split as its kernel is, and the rank is whole.
  layer = where["layers"]["local"]["mlp"]
  assert layer["up_lora_a"].spec == P(None, ("fsdp",), None)
  assert layer["up_lora_b"].spec == P(None, None, ("tensor",))
  placed = jax.device_put(params, where)
  got = jax.jit(
    lambda params: transformer.apply(config, params, TOKENS, layout=layout)
  )(placed)
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
  _, merged = adapters.merge(config, placed)
  plain = transformer.shardings(CONFIG, layout)
  assert jax.tree.map(lambda x: x.sharding, merged) == plain


def test_samples_report_what_a_full_pass_gives(base):
  # Sampling reads caches, and adapters there too.
  config, params = add(base, Lora(3, 6.0), trained=True)
  policy = LanguageModel(config, 1, [t == 3 for t in range(24)], 8, 3)
  prompts = np.array([[2, 5, 7], [2, 9, 0]], np.int32)
  rollout = policy.sample(
    params,
    jax.random.key(0),
    prompts,
    np.array([3, 2], np.int32),
    np.arange(2, dtype=np.int32),
    num_samples=2,
  )
  logp = jax.jit(policy.logp)(params, rollout)
  np.testing.assert_allclose(rollout.logp, logp, rtol=0, atol=1e-4)


def test_a_verifier_trains_adapters_head_and_reader(base):
  config, trunk = add(base, Lora(3, 6.0), trained=True)
  whole = VerifierConfig(config, reader_layers=1)
  params = network.init(whole, trunk, jax.random.key(3))
  assert described(params) == described(network.shapes(whole))
  trained, rest = network.split(params)
  assert set(trained) == {"trunk", "head", "reader"}
  assert rest == {"trunk": adapters.split(trunk)[1]}
  plain = VerifierConfig(CONFIG, reader_layers=1)
  without = network.init(plain, base, jax.random.key(3))
  assert network.split(without) == (without, {})


def test_a_value_function_shares_the_policys_base(base):
  config, params = add(base, Lora(3, 6.0), trained=True)
  trained, rest = adapters.split(params)
  value_function = TrunkValue(config)
  state = value_function.init(jax.random.key(0), params)
  assert described(state["trunk"]) == described(trained)
  state["head"]["kernel"] += 1.0
  rows = jnp.zeros(8)
  rollout = Rollout(
    TOKENS,
    jnp.zeros(TOKENS.shape),
    jnp.broadcast_to(jnp.array([3, 6, 10]), (8, 3)),
    rows,
    rows.astype(int),
    rows.astype(int),
  )
  values = jax.jit(
    lambda state, rest: value_function.with_base(rest).values(state, rollout)
  )
  _, merged = adapters.merge(config, params)
  want = jax.jit(heads.values, static_argnums=0)(
    CONFIG, merged, state["head"], TOKENS, rollout.prefix_len[:, :-1] - 1
  )
  np.testing.assert_allclose(values(state, rest), want, rtol=0, atol=1e-4)


def test_layers_that_are_split_by_fsdp_hold_moments_alike(base):
  config, params = add(base, Lora(4, 8.0))
  layout = Layout(partitioning.make_mesh(2, 4))
  optimizer = sft.AdamW()(1e-3)
  fitter = sft.fitter(config, optimizer, layout)
  state = fitter.init(params)
  assert isinstance(state, fitting.FitState)
  where = jax.tree.map(lambda x: x.sharding, state)
  assert where == fitter.shardings
  jax.tree.map(
    np.testing.assert_array_equal, adapters.join(state.params, state.base),
    params,
  )  # fmt: skip


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rank": 0}, "rank is 0"),
    ({"alpha": -1.0}, "alpha is -1.0"),
    ({"targets": ("query", "bias")}, "targets are .*bias"),
    ({"targets": ()}, "targets are"),
    ({"targets": ("up", "up")}, "each once"),
  ],
)
def test_bad_adapters_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    Lora(**changes)
