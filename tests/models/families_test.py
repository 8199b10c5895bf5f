"""Every family against transformers, and through all that is built on it."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from pav_jax import models
from pav_jax.models import (
  cached_values,
  families,
  hf,
  layers,
  partitioning,
  transformer,
  value_network,
)
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import PRESETS
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout

# Made by tests/data/make_decoder_golden.py with transformers and PyTorch.
GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "decoders"
NAMES = sorted(path.name for path in GOLDEN.iterdir())


@functools.cache
def load(name):
  """A golden model in float32, and what is expected of it."""
  model = models.load(GOLDEN / name, param_dtype="float32")
  return model, np.load(GOLDEN / name / "expected.npz")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_agree_with_the_reference(name):
  model, expected = load(name)
  tokens = jnp.asarray(expected["tokens"], jnp.int32)
  logits, hidden = model.logits(tokens), model.hidden_states(tokens)
  np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-4)
  np.testing.assert_allclose(hidden, expected["last_hidden"], rtol=0, atol=2e-4)
  # The test would see a mistake: logits span far more than the tolerance.
  assert expected["logits"].std() > 0.5
  # Windows of five are exceeded by 20 tokens, where there are windows.
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
def test_greedy_continuations_agree_with_the_reference(name):
  # What comes later is not seen, so one compiled program serves every length.
  model, expected = load(name)
  want = expected["greedy"]
  tokens = np.where(np.arange(want.shape[1]) < 8, want, 0).astype(np.int32)
  for position in range(8, want.shape[1]):
    logits = model.logits(jnp.asarray(tokens))
    tokens[:, position] = np.argmax(logits[:, position - 1], axis=-1)
  np.testing.assert_array_equal(tokens, want)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name, tmp_path):
  model = models.load(GOLDEN / name)
  models.save(tmp_path / "copy", model)
  got = safetensors.numpy.load_file(tmp_path / "copy" / hf.SINGLE)
  want = safetensors.numpy.load_file(GOLDEN / name / hf.SINGLE)
  assert got.keys() == want.keys()
  for tensor, x in want.items():
    assert x.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got[tensor], x)
  again = models.load(tmp_path / "copy")
  assert (again.config, again.token_ids) == (model.config, model.token_ids)
  # What the reference reads is as it was, but for what changes no number.
  theirs = json.loads((GOLDEN / name / hf.CONFIG).read_text())
  ours = json.loads((tmp_path / "copy" / hf.CONFIG).read_text())
  for field in (
    *("use_cache", "initializer_range", "transformers_version"),
    *("pretraining_tp", "_sliding_window_pattern", "max_window_layers"),
    "use_bidirectional_attention",
  ):
    theirs.pop(field, None)
  assert theirs.items() <= ours.items()


@pytest.mark.parametrize("name", NAMES)
def test_transformers_computes_the_same_from_what_is_written(name, tmp_path):
  torch = pytest.importorskip("torch", reason="the extra `bench` is absent")
  transformers = pytest.importorskip("transformers")
  model, expected = load(name)
  models.save(tmp_path / "copy", model)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "copy", attn_implementation="eager", dtype=torch.float32
  ).eval()
  with torch.no_grad():
    logits = theirs(torch.tensor(expected["tokens"])).logits.numpy()
  ours = model.logits(jnp.asarray(expected["tokens"], jnp.int32))
  np.testing.assert_allclose(ours, logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_written_and_read(name):
  fields = json.loads(json.dumps(families.to_fields(PRESETS[name], {})))
  got, want = families.from_fields(fields), PRESETS[name]
  assert [(spec.window, spec.rotary) for spec in got.layers] == [
    (spec.window, spec.rotary) for spec in want.layers
  ]
  unused = ("sliding_window", "pattern", "local_rotary")
  keep = {field: getattr(want, field) for field in unused}
  assert dataclasses.replace(got, **keep) == want


POLICY = {
  "end_token": 1,
  "is_delimiter": [token % 6 == 5 for token in range(56)],
  "max_new_tokens": 14,
  "max_steps": 3,
}

# Whether layers are unrolled, or scanned with the rest behind.
FORMS = {
  "gemma2": "scanned",
  "gemma3": "scanned",
  "llama": "unrolled",
  "llama_biased": "scanned",
  "mistral": "unrolled",
  "qwen2": "scanned",
  "qwen3": "unrolled",
}


@pytest.fixture(params=NAMES)
def decoded(request, monkeypatch):
  """A golden model, whose decoding takes one of the two forms."""
  if FORMS[request.param] == "scanned":
    monkeypatch.setattr(layers, "is_unrolled", lambda config: False)
  return load(request.param)[0]


def test_completions_have_the_log_probabilities_of_full_passes(decoded):
  """Prefixes of 2 to 17 tokens end inside windows of five and beyond them."""
  policy = LanguageModel(decoded.config, **POLICY)
  rng = np.random.default_rng(2)
  rollout = Rollout(
    tokens=jnp.asarray(rng.integers(2, 56, size=(2, 24)), jnp.int32),
    logp=jnp.zeros((2, 24)),
    prefix_len=jnp.array([[2, 4, 9, 12], [7, 11, 13, 17]], jnp.int32),
    outcome=jnp.zeros(2),
    problem_id=jnp.arange(2),
    sample_id=jnp.zeros(2, jnp.int32),
  )
  done = policy.complete(
    decoded.params, jax.random.key(1), rollout, num_samples=2
  )
  logp = np.asarray(policy.logp(decoded.params, done))
  # What was given has no log-probabilities of its own.
  start = np.repeat(np.asarray(rollout.prefix_len), 2)
  position, end = np.arange(24), np.asarray(done.prefix_len)[:, -1:]
  is_new = (position >= start[:, None]) & (position < end)
  assert is_new.sum() > 60
  np.testing.assert_allclose(
    np.asarray(done.logp)[is_new], logp[is_new], atol=1e-4
  )


@pytest.mark.parametrize(
  "decoded", ["gemma3", "llama_biased", "qwen3"], indirect=True
)
def test_a_verifier_reads_on_behind_what_it_has_read(decoded):
  """Backbone and reader, in blocks of two and three tokens."""
  config = VerifierConfig(decoded.config, reader_layers=1)
  params = value_network.init(config, decoded.params, jax.random.key(0))
  rng = np.random.default_rng(1)
  texts = rng.integers(2, 56, size=(2, 8)).astype(np.int32)
  steps = rng.integers(2, 56, size=(2, 3, 5)).astype(np.int32)
  length = np.array([7, 4])

  def read(params):
    trunk, _, cache = cached_values.prefill(
      config, params, jnp.asarray(texts), jnp.asarray(length)
    )
    networks = cached_values.networks(config)
    shared = tuple(map(layers.unstack, networks, cache))
    own = cached_values.empty(config, 2, 3, 5)
    unrolled = cached_values.unstack(config, params)
    before, out = jnp.broadcast_to(trunk[:, None], (2, 3, 24)), []
    for begin, end in ((0, 2), (2, 5)):
      trunk, block, own = cached_values.extend(
        config,
        unrolled,
        jnp.asarray(steps[:, :, begin:end]),
        jnp.full((2, 3), begin),
        jnp.broadcast_to(length[:, None], (2, 3)),
        before,
        shared,
        own,
      )
      before = trunk[:, :, -1]
      out.append(block)
    return jnp.concatenate(out, axis=2)

  got = jax.jit(read)(params)
  rows = np.zeros((6, 12), np.int32)
  for row, (group, i) in enumerate(np.ndindex(2, 3)):
    text = [*texts[group, : length[group]], *steps[group, i]]
    rows[row, : len(text)] = text
  _, want = jax.jit(value_network.hidden_states, static_argnums=0)(
    config, params, jnp.asarray(rows)
  )
  for row, (group, i) in enumerate(np.ndindex(2, 3)):
    start = length[group]
    np.testing.assert_allclose(
      got[group, i], want[row, start : start + 5], atol=1e-4
    )


def loss(config, params, tokens, layout=None):
  logits = transformer.apply(config, params, tokens, layout=layout)
  return jax.nn.logsumexp(logits, axis=-1).mean()


# Between them: an output layer of its own, biases of every kind, norms of
# queries and keys, and layers after the last whole period.
@pytest.mark.parametrize("name", ["llama", "llama_biased", "gemma3"])
def test_eight_devices_compute_what_one_does(name):
  model, _ = load(name)
  config = dataclasses.replace(
    model.config, num_heads=4, num_kv_heads=2, remat="full"
  )
  if name == "gemma3":  # a shorter period compiles faster
    config = dataclasses.replace(
      config, num_layers=3, pattern=("local", "global")
    )
  params = transformer.init(config, jax.random.key(0))
  # Biases begin as zeros, which would hide mistakes.
  params = jax.tree.map(
    lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
  )
  tokens = jnp.asarray(np.random.default_rng(0).integers(56, size=(8, 9)))
  want, want_grads = jax.jit(
    jax.value_and_grad(functools.partial(loss, config))
  )(params, tokens)
  layout = Layout(partitioning.make_mesh(2, 2, 2))
  where = transformer.shardings(config, layout)
  got, grads = jax.jit(
    jax.value_and_grad(functools.partial(loss, config, layout=layout)),
    out_shardings=(None, where),
  )(jax.device_put(params, where), tokens)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    jax.device_get(grads),
    jax.device_get(want_grads),
  )
  bias = grads["layers"].get("global", {}).get("attention", {}).get("out_bias")
  if name == "llama_biased":
    assert bias.addressable_shards[0].data.shape == (3, 12)


@pytest.mark.parametrize("name", NAMES)
def test_loading_and_saving_on_a_mesh(name, tmp_path):
  layout = Layout(partitioning.make_mesh(data=4, fsdp=2))
  whole, split = (
    models.load(GOLDEN / name),
    models.load(GOLDEN / name, layout=layout),
  )
  jax.tree.map(np.testing.assert_array_equal, split.params, whole.params)
  where = transformer.shardings(whole.config, layout)
  jax.tree.map(
    lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(),
    split.params,
    where,
  )
  models.save(tmp_path / "copy", split)
  again = models.load(tmp_path / "copy")
  jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


@pytest.fixture
def copy(tmp_path):
  """Copies a golden checkpoint, to be changed."""

  def make(name):
    path = tmp_path / "changed"
    path.mkdir()
    for file in (hf.CONFIG, hf.SINGLE):
      shutil.copyfile(GOLDEN / name / file, path / file)
    return path

  return make


def edit(path, fields, tensors=None):
  """Writes changed fields, without those that are ..., and changed tensors."""
  config = json.loads((path / hf.CONFIG).read_text()) | fields
  config = {name: x for name, x in config.items() if x is not ...}
  (path / hf.CONFIG).write_text(json.dumps(config))
  if tensors:
    old = safetensors.numpy.load_file(path / hf.SINGLE)
    safetensors.numpy.save_file(tensors(old), path / hf.SINGLE)


def assert_same_network(path, name):
  got, want = models.load(path), models.load(GOLDEN / name)
  assert got.config == want.config
  jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_language_model_of_an_image_model_is_read(copy, prefix):
  """Names as older and newer versions of transformers write them."""
  path = copy("gemma3")
  text = json.loads((path / hf.CONFIG).read_text())

  def inside(tensors):
    short = prefix == "model.language_model."
    named = {
      prefix + (name.removeprefix("model.") if short else name): x
      for name, x in tensors.items()
    }
    image = np.ones((2, 2), np.float32)
    if short:
      named["lm_head.weight"] = tensors["model.embed_tokens.weight"]
      return named | {"model.vision_tower.patch.weight": image}
    return named | {"vision_tower.patch.weight": image}

  edit(path, {}, inside)
  config = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": text,
    "vision_config": {"hidden_size": 4},
    "mm_tokens_per_image": 4,
    "image_token_index": 55,
    "eos_token_id": [1, 5],
  }
  (path / hf.CONFIG).write_text(json.dumps(config))
  assert_same_network(path, "gemma3")
  assert dict(models.load(path).token_ids)["eos_token_id"] == (1, 5)


def test_tensors_that_say_nothing_new_are_accepted(copy):
  path = copy("qwen3")

  def more(tensors):
    return tensors | {
      "lm_head.weight": tensors["model.embed_tokens.weight"],
      "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
      "model.rotary_emb.inv_freq": np.ones(4, np.float32),
    }

  edit(path, {}, more)
  assert_same_network(path, "qwen3")


def test_fields_of_earlier_versions_are_read(copy):
  """Before transformers 5, rotary positions were said otherwise."""
  path = copy("llama")
  rope = json.loads((path / hf.CONFIG).read_text())["rope_parameters"]
  theta = rope.pop("rope_theta")
  old = {"rope_parameters": ..., "rope_theta": theta, "rope_scaling": rope}
  edit(path, old)
  assert_same_network(path, "llama")
  other = rope | {"type": rope["rope_type"]}
  other.pop("rope_type")
  edit(path, {"rope_scaling": other})
  assert_same_network(path, "llama")


def test_gemma_3_of_earlier_versions_is_read(copy):
  path = copy("gemma3")
  old = {
    "rope_parameters": ...,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
    "_sliding_window_pattern": ...,
    "layer_types": ...,
  }
  edit(path, old)
  assert_same_network(path, "gemma3")


def test_the_config_published_with_gemma_3_4b_is_its_preset():
  """Which says little: the rest are the reference implementation's defaults."""
  published = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255_999,
    "eoi_token_index": 256_000,
    "eos_token_id": [1, 106],
    "image_token_index": 262_144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
      "hidden_size": 2560,
      "intermediate_size": 10_240,
      "model_type": "gemma3_text",
      "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152},
  }
  assert families.from_fields(published) == PRESETS["gemma3_4b"]


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("llama", {"model_type": "mixtral"}, "'mixtral', expected one of .*llama"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
    ("llama", {"num_local_experts": 8}, "num_local_experts is 8, which is not"),
    ("llama", {"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25"),
    ("llama", {"sliding_window": 128}, "sliding_window is 128, which is not"),
    ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
    ("llama", {"attention_multiplier": 0.1}, "attention_multiplier is 0.1"),
    (
      "llama",
      {"rope_parameters": {"rope_type": "yarn"}},
      "rope_type is 'yarn'",
    ),
    (
      "llama",
      {"rope_parameters": {"rope_type": "linear"}},
      "factor is missing",
    ),
    (
      "llama",
      {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
      "partial_rotary_factor is 0.5, expected 1.0",
    ),
    ("qwen2", {"num_experts": 4}, "num_experts is 4, which is not supported"),
    (
      "qwen2",
      {"use_sliding_window": False},
      "layer_types has sliding_attention",
    ),
    ("qwen3", {"head_dim": "8"}, "head_dim is '8', expected a number"),
    ("qwen3", {"attention_bias": None}, "attention_bias is None, expected a"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_atte"),
    (
      "gemma3",
      {"rope_parameters": {"rope_theta": 1.0}},
      "has 'rope_theta', exp",
    ),
    ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types is"),
    (
      "mistral",
      {"num_hidden_layers": 10**9},
      "num_hidden_layers is 1000000000",
    ),
  ],
)
def test_what_is_not_supported_is_named(copy, name, fields, message):
  path = copy(name)
  edit(path, fields)
  with pytest.raises(ValueError, match=message):
    models.load(path)


def test_what_a_family_cannot_say_is_not_written():
  config = dataclasses.replace(PRESETS["llama3_2_1b"], qk_norm=True)
  with pytest.raises(ValueError, match="qk_norm is True, which files of llama"):
    families.to_fields(config, {})
