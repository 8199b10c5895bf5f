import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax.data.packing import Demonstrations
from pav_jax.models import partitioning, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.training import fitting, sft

PROBLEM = Chain(horizon=2, modulus=10, operations=Chain().operations[:1])
LONGEST = PROBLEM.prompt_len + PROBLEM.max_response_len
CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  sliding_window=8,
  max_length=64,
)
PARAMS = transformer.init(CONFIG, jax.random.key(0))
BATCHES = Demonstrations(PROBLEM, num_rows=8, row_length=LONGEST)
STAGE = sft.Stage(BATCHES, num_steps=10, learning_rate=1.0, warmup_steps=4)


def test_loss_is_the_policys_negative_log_likelihood_per_token():
  # Packing changes nothing: a token sees those of its own text alone.
  packed = dataclasses.replace(BATCHES, num_rows=4, row_length=2 * LONGEST)
  batch, number = packed(0)
  assert batch.segments.max() > 1
  ids = PROBLEM.problem_ids("train", 0, number)
  rollout = jax.tree.map(
    jnp.asarray, PROBLEM.demonstrations(ids, np.zeros_like(ids))
  )
  logp = language_model(CONFIG, PROBLEM).logp(PARAMS, rollout)
  tokens = jnp.sum(rollout.prefix_len[:, -1] - rollout.prefix_len[:, 0])
  np.testing.assert_allclose(
    sft.loss(CONFIG, PARAMS, batch), -logp.sum() / tokens, rtol=1e-5
  )


def test_padding_does_not_change_the_loss():
  batch, _ = BATCHES(0)
  changed = dataclasses.replace(
    batch, tokens=np.where(batch.segments == 0, 3, batch.tokens)
  )
  assert (changed.tokens != batch.tokens).any()
  assert sft.loss(CONFIG, PARAMS, changed) == sft.loss(CONFIG, PARAMS, batch)


def test_a_step_is_one_of_the_optimizer_on_the_losss_gradient():
  optimizer = sft.AdamW(clip_norm=1e9)(1e-2)
  batch, _ = BATCHES(0)
  state = fitting.FitState(PARAMS, optimizer.init(PARAMS))
  new, metrics = sft.train_step(CONFIG, optimizer, state, batch)
  value, gradient = jax.value_and_grad(
    lambda params: sft.loss(CONFIG, params, batch)
  )(PARAMS)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
  np.testing.assert_allclose(
    metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-5
  )
  # The first step of Adam is the learning rate along the gradient's sign.
  for old, after, g in zip(
    *map(jax.tree.leaves, (PARAMS, new.params, gradient)), strict=True
  ):
    large = np.abs(g) > 1e-4
    np.testing.assert_allclose(
      (after - old)[large], -1e-2 * np.sign(g)[large], rtol=1e-2, atol=1e-6
    )


def test_only_scales_of_norms_do_not_decay():
  # With gradients of zero Adam stands still and decay alone moves.
  optimizer = sft.AdamW(weight_decay=0.5)(0.1)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  updates, _ = optimizer.update(zeros, optimizer.init(ones), ones)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    expected = 0.0 if path[-1].key == "scale" else -0.05
    np.testing.assert_allclose(update, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [sft.AdamW, sft.Muon])
def test_first_moments_may_be_in_bfloat16(kind):
  # Of every parameter one moment is; Adam has the other in float32.
  states = [
    jax.eval_shape(kind(mu_dtype=dtype)(0.1).init, PARAMS)
    for dtype in (None, "bfloat16")
  ]
  before, after = (
    [x for x in jax.tree.leaves(state) if x.ndim] for state in states
  )
  rounded = [x for x in after if x.dtype == jnp.bfloat16]
  assert len(rounded) == len(jax.tree.leaves(PARAMS))
  assert all(x.dtype == jnp.float32 for x in before)
  assert [x.shape for x in after] == [x.shape for x in before]
  with pytest.raises(ValueError, match="mu_dtype is 'int8'"):
    kind(mu_dtype="int8")


def test_muon_makes_kernels_steps_orthogonal():
  # A matrix [m, n] with orthonormal rows or columns has min(m, n) singular
  # values of 1. Its elements have a root mean square of 1 / √max(m, n), which
  # is scaled to `rms`. Newton and Schulz's iteration ends near, not at, 1.
  optimizer = sft.Muon(rms=0.5)(0.1)
  gradient = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(x.size), x.shape), PARAMS
  )
  updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
  layer = updates["layers"]["global"]
  matrices = {
    "query": layer["attention"]["query"].reshape(16, 16),
    "key": layer["attention"]["key"].reshape(16, 8),
    "out": layer["attention"]["out"].reshape(16, 16),
    "down": layer["mlp"]["down"][0],
  }
  for name, matrix in matrices.items():
    found = np.linalg.svd(matrix / (0.1 * 0.5 * 4), compute_uv=False)
    assert 0.4 < found.min() < found.max() < 1.4, (name, found)


def test_muon_leaves_embeddings_and_scales_to_adam():
  # Adam's first step with Nesterov's momentum is its learning rate times
  # b1 (1 - b1) / (1 - b1²) + 1 along the gradient's sign: 1 + 0.9 / 1.9.
  optimizer = sft.Muon(adam_scale=0.5, weight_decay=0.5, clip_norm=1e9)(0.1)
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
  for update in (
    updates["embedding"],
    updates["layers"]["local"]["pre_mlp_norm"]["scale"],
  ):
    np.testing.assert_allclose(update, -0.05 * (1 + 0.9 / 1.9), rtol=1e-4)


def test_schedule_joins_the_stages():
  # Warm-up to 1 in 4 steps, then half a cosine to 0 in 6; then the next stage.
  rates = sft.schedule([STAGE, dataclasses.replace(STAGE, learning_rate=3.0)])
  found = [float(rates(i)) for i in (0, 1, 4, 7, 10, 11, 14)]
  np.testing.assert_allclose(found, [0, 0.25, 1, 0.5, 0, 0.75, 3], atol=1e-6)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_steps": 0}, "num_steps is 0"),
    ({"warmup_steps": 10}, "warmup_steps is 10, expected 0 … 9"),
    ({"final_learning_rate": 2.0}, "final_learning_rate is 2.0"),
  ],
)
def test_bad_stages(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(STAGE, **change)


@pytest.mark.parametrize("kind", [sft.AdamW(), sft.Muon()])
def test_a_chunk_on_a_mesh_equals_single_steps_on_one_device(kind):
  optimizer = kind(1e-2)
  batches, position = [], 0
  for _ in range(3):
    batch, position = BATCHES(position)
    batches.append(batch)
  one = fitting.FitState(PARAMS, optimizer.init(PARAMS))
  losses = []
  for batch in batches[:2]:
    one, metrics = sft.train_step(CONFIG, optimizer, one, batch)
    losses.append(metrics["loss"])

  layout = Layout(partitioning.make_mesh(data=2, fsdp=2, tensor=2))
  params = jax.tree.map(jnp.copy, PARAMS)
  fitter = sft.fitter(CONFIG, optimizer, layout)
  state = fitter.init(params)
  moments = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(state.optimizer)
    if getattr(path[-1], "key", None) in ("embedding", "gate")
  ]
  # Of 2 gates and the embedding: Adam's means of gradients and squares, Muon's
  # momentum alone.
  assert len(moments) == {sft.AdamW: 6, sft.Muon: 4}[type(kind)]
  for x in moments:
    assert x.addressable_shards[0].data.size == x.size // 4
  stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
  state, metrics = fitter.train_chunk(state, stacked, np.int32(2))
  np.testing.assert_allclose(metrics["loss"][:2], losses, rtol=1e-5)
  assert np.isnan(metrics["loss"][2])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    state.params,
    one.params,
  )
