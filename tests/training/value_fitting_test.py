import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax import losses
from pav_jax.models import adapters, partitioning, transformer
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.rollout import StepTargets
from pav_jax.training import fitting, labelling, sft, value_fitting
from pav_jax.training.value_fitting import VerifierSchedule

PROBLEM = Chain(horizon=2, modulus=10, operations=Chain().operations[:1])
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
TRUNK = transformer.init(CONFIG, jax.random.key(0))
ROWS = 8


def make():
  """Eight traces of other problems, with labels that no rule explains."""
  ids = PROBLEM.problem_ids("train", 0, ROWS)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  rng = np.random.default_rng(0)
  exists = np.diff(rollout.prefix_len, prepend=0) > 0
  n = np.where(exists, 16, 0)
  targets = StepTargets(
    rollout.tokens,
    rollout.prefix_len,
    n.astype(np.int32),
    rng.binomial(n, rng.random(n.shape)).astype(np.float32),
    rollout.outcome,
    rollout.problem_id,
    rollout.sample_id,
  )
  return rollout, targets


ROLLOUT, TARGETS = make()
EXAMPLES = labelling.examples(TARGETS, labelling.Labelling())
NETWORK = VerifierConfig(CONFIG)
PARAMS = {
  "trunk": TRUNK,
  "head": {
    "kernel": jax.random.normal(jax.random.key(1), (16,)),
    "bias": jnp.float32(0.3),
  },
}
READING = VerifierConfig(CONFIG, reader_layers=2)


def test_loss_is_that_of_the_pure_function():
  # On a whole data set the buckets of the batch are those of the data.
  q = np.nan_to_num(np.asarray(TARGETS.q_mc))
  hidden = transformer.hidden_states(CONFIG, TRUNK, jnp.asarray(TARGETS.tokens))
  rows = np.arange(ROWS)[:, None]
  logits = hidden[rows, TARGETS.prefix_len - 1] @ PARAMS["head"]["kernel"] + 0.3
  for balanced in (True, False):
    expected = losses.verifier_loss(
      logits, q, TARGETS.prefix_len, balanced=balanced
    )
    settings = labelling.Labelling(balanced=balanced)
    batch = labelling.examples(TARGETS, settings)
    found = value_fitting.losses(NETWORK, PARAMS, batch, next_token=False)
    np.testing.assert_allclose(found["values"], expected, rtol=1e-5)


def test_next_token_loss_is_the_trunks_likelihood_of_responses():
  logp = language_model(CONFIG, PROBLEM).logp(TRUNK, ROLLOUT)
  tokens = (TARGETS.prefix_len[:, -1] - TARGETS.prefix_len[:, 0]).sum()
  every = dataclasses.replace(
    EXAMPLES, imitated=np.ones_like(EXAMPLES.imitated)
  )
  found = value_fitting.losses(NETWORK, PARAMS, every)
  np.testing.assert_allclose(
    found["next_token"], -logp.sum() / tokens, rtol=1e-5
  )
  # Of the first steps alone.
  first = dataclasses.replace(
    EXAMPLES, imitated=np.zeros_like(EXAMPLES.imitated)
  )
  first.imitated[:, 0] = True
  found = value_fitting.losses(NETWORK, PARAMS, first)
  at = np.arange(logp.shape[1])
  mask = (at >= TARGETS.prefix_len[:, :1]) & (at < TARGETS.prefix_len[:, 1:2])
  np.testing.assert_allclose(found["next_token"], -logp[mask].mean(), rtol=1e-5)


def test_what_has_no_weight_has_no_part():
  longer = dataclasses.replace(
    EXAMPLES,
    tokens=np.where(
      np.arange(EXAMPLES.tokens.shape[1]) < EXAMPLES.prefix_len[:, -1:],
      EXAMPLES.tokens,
      7,
    ),
    label=np.where(EXAMPLES.weight > 0, EXAMPLES.label, np.nan),
  )
  assert (longer.tokens != EXAMPLES.tokens).any()
  a, b = (value_fitting.losses(NETWORK, PARAMS, x) for x in (EXAMPLES, longer))
  for name in ("values", "next_token"):
    np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


@pytest.fixture(scope="module")
def step():
  schedule = VerifierSchedule(
    num_steps=300, learning_rate=1e-2, batch_size=ROWS, backbone_rate=0.3
  )
  optimizer = schedule.optimizer(sft.AdamW(clip_norm=1e9))
  return optimizer, jax.jit(
    lambda config, state, aux: value_fitting.train_step(
      config, optimizer, state, EXAMPLES, aux_weight=aux
    ),
    static_argnums=(0, 2),
  )


def test_a_step_adds_the_weighted_losses_and_moves_the_head_faster(step):
  optimizer, function = step
  state = fitting.FitState(PARAMS, optimizer.init(PARAMS))
  new, metrics = function(NETWORK, state, 0.5)
  found = value_fitting.losses(NETWORK, PARAMS, EXAMPLES)
  np.testing.assert_allclose(
    metrics["loss"], found["values"] + 0.5 * found["next_token"], rtol=1e-5
  )

  # Adam's first step is the learning rate along the gradient's sign; the
  # trunk's is three tenths as long.
  @jax.jit
  @jax.grad
  def gradient_of(params):
    parts = value_fitting.losses(NETWORK, params, EXAMPLES)
    return parts["values"] + 0.5 * parts["next_token"]

  gradient = gradient_of(PARAMS)
  np.testing.assert_allclose(
    metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4
  )
  for part, rate in (("trunk", 3e-3), ("head", 1e-2)):
    for old, after, g in zip(
      *map(jax.tree.leaves, (PARAMS[part], new.params[part], gradient[part])),
      strict=True,
    ):
      old, after, g = (np.asarray(x) for x in (old, after, g))
      large = np.abs(g) > 1e-4
      np.testing.assert_allclose(
        (after - old)[large], -rate * np.sign(g)[large], rtol=1e-2, atol=1e-6
      )


def test_of_a_backbone_with_adapters_these_and_the_head_are_trained(step):
  optimizer, function = step
  config, trunk = adapters.add(
    NETWORK.trunk, TRUNK, Lora(2, 4.0, ("up",)), jax.random.key(4)
  )
  config = dataclasses.replace(NETWORK, trunk=config)
  params = network.init(config, trunk, jax.random.key(2))
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  state = value_fitting.fitter(config, optimizer, layout).init(params)
  new, _ = function(config, state, 0.5)
  # At the rates of backbone and head: B, for A has no gradient while B is zero.
  for (path, old), after in zip(
    jax.tree_util.tree_leaves_with_path(state.params),
    jax.tree.leaves(new.params),
    strict=True,
  ):
    name, moved = path[-1].key, np.abs(after - old).max()
    rate = {"up_lora_a": 0.0, "up_lora_b": 3e-3}.get(name, 1e-2)
    np.testing.assert_allclose(moved, rate, rtol=1e-2, err_msg=name)
  assert set(new.params) == {"trunk", "head"}
  jax.tree.map(np.testing.assert_array_equal, new.base, {"trunk": TRUNK})


def test_a_frozen_backbone_stays_and_no_gradient_passes_it():
  schedule = VerifierSchedule(
    num_steps=300, learning_rate=1e-2, batch_size=ROWS, backbone_rate=0.0
  )
  optimizer = schedule.optimizer(sft.AdamW())
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  fitter = value_fitting.fitter(
    READING, optimizer, layout, split=schedule.split
  )
  params = network.init(READING, TRUNK, jax.random.key(2))
  state = fitter.init(jax.tree.map(jnp.copy, params))
  assert set(state.params) == {"reader", "head"}
  batch = jax.tree.map(lambda x: np.stack([x] * 4), EXAMPLES)
  program = fitter.train_chunk.lower(state, batch, np.int32(4)).as_text()
  state, metrics = fitter.train_chunk(state, batch, np.int32(4))
  assert metrics["values"][3] < metrics["values"][0]
  jax.tree.map(np.testing.assert_array_equal, state.base, {"trunk": TRUNK})
  assert set(state.network) == {"trunk", "reader", "head"}
  # The layers of the trunk are gone through once, forwards; those of the reader
  # forwards and back: with all trained there is one loop more.
  loops = program.count("stablehlo.while")
  fitter = value_fitting.fitter(READING, optimizer, layout)
  state = fitter.init(params)
  program = fitter.train_chunk.lower(state, batch, np.int32(4)).as_text()
  assert program.count("stablehlo.while") > loops


def test_a_backbones_rate_is_no_less_than_0():
  with pytest.raises(ValueError, match=r"rate is -1\.0, expected >= 0"):
    VerifierSchedule(num_steps=1, learning_rate=1.0, backbone_rate=-1.0)


def test_learns_labels_of_a_few_traces_by_heart(step):
  optimizer, function = step
  params = network.init(READING, TRUNK, jax.random.key(2))
  state = fitting.FitState(params, optimizer.init(params))
  start = value_fitting.losses(READING, params, EXAMPLES)["values"]
  np.testing.assert_allclose(start, np.log(2), rtol=1e-5)  # one half everywhere
  for _ in range(300):
    state, metrics = function(READING, state, 0.0)
  y, w = EXAMPLES.label.astype(np.float64), EXAMPLES.weight
  least = -np.sum(w * (xlogy(y) + xlogy(1 - y))) / ROWS
  assert set(metrics) == {"loss", "values", "gradient_norm"}
  # No prediction does better than the labels' own entropy.
  assert -1e-4 < metrics["loss"] - least < 0.02


def xlogy(y):
  return y * np.log(np.where(y > 0, y, 1))


def test_a_chunk_on_a_mesh_equals_single_steps_on_one_device(step):
  optimizer, function = step
  params = network.init(READING, TRUNK, jax.random.key(2))
  one = fitting.FitState(params, optimizer.init(params))
  found = []
  for _ in range(2):
    one, metrics = function(READING, one, 0.0)
    found.append(metrics["loss"])

  layout = Layout(partitioning.make_mesh(data=2, fsdp=2, tensor=2))
  params = jax.tree.map(jnp.copy, params)
  fitter = value_fitting.fitter(READING, optimizer, layout)
  state = fitter.init(params)
  moments = state.optimizer[0][1][0].mu["trunk"]["embedding"]
  assert moments.addressable_shards[0].data.size == moments.size // 4
  stacked = jax.tree.map(lambda x: np.stack([x] * 3), EXAMPLES)
  state, metrics = fitter.train_chunk(state, stacked, np.int32(2))
  np.testing.assert_allclose(metrics["loss"][:2], found, rtol=1e-5)
  assert np.isnan(metrics["loss"][2])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    state.params,
    one.params,
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_steps": 0}, "num_steps is 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ({"backbone_rate": -1.0}, "backbone_rate is -1.0"),
    ({"warmup_steps": 10}, "warmup_steps is 10, expected 0 … 9"),
    ({"final_learning_rate": 2.0}, "final_learning_rate is 2.0"),
  ],
)
def test_bad_schedules(change, message):
  with pytest.raises(ValueError, match=message):
    VerifierSchedule(**{"num_steps": 10, "learning_rate": 1.0} | change)
