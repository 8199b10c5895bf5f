import dataclasses
import json
import os
import pathlib
import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pav_jax import files
from pav_jax.models import families, hf, partitioning, transformer
from pav_jax.models.presets import preset
from pav_jax.models.transformer_config import Rotary

# Made by tests/data/make_gemma2_golden.py with transformers and PyTorch.
GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "gemma2_tiny"

hidden_states = jax.jit(transformer.hidden_states, static_argnums=0)
logits = jax.jit(transformer.logits, static_argnums=0)


@pytest.fixture(scope="module")
def golden():
  return *hf.load(GOLDEN), np.load(GOLDEN / "expected.npz")


@pytest.fixture
def copy(tmp_path):
  """A copy of the checkpoint, to be spoilt."""
  path = tmp_path / "copy"
  path.mkdir()
  for name in (hf.CONFIG, hf.SINGLE):
    shutil.copyfile(GOLDEN / name, path / name)
  return path


def edit_config(path, **fields):
  config = json.loads((path / hf.CONFIG).read_text()) | fields
  config = {name: value for name, value in config.items() if value != "ABSENT"}
  (path / hf.CONFIG).write_text(json.dumps(config))


def edit_tensors(path, edit, name=hf.SINGLE):
  tensors = safetensors.numpy.load_file(path / name)
  edit(tensors)
  safetensors.numpy.save_file(tensors, path / name)


def assert_same(got, want):
  """Equal structures, types and bits."""

  def check(x, y):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)

  jax.tree.map(check, got, want)


def test_config_is_read(golden):
  config, params, _ = golden
  assert config == dataclasses.replace(
    preset("tiny"), sliding_window=8, max_length=256, query_pre_attn_scalar=24.0
  )
  shapes = transformer.shapes(config)
  jax.tree.map(
    lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype) or pytest.fail(),
    params,
    shapes,
  )


def test_outputs_agree_with_the_reference(golden):
  config, params, expected = golden
  tokens = jnp.asarray(expected["tokens"], jnp.int32)
  hidden = hidden_states(config, params, tokens)
  np.testing.assert_allclose(hidden, expected["last_hidden"], rtol=0, atol=2e-4)
  np.testing.assert_allclose(
    logits(config, params, hidden), expected["logits"], rtol=0, atol=2e-4
  )
  # The test would see a mistake: logits span far more than the tolerance.
  assert expected["logits"].std() > 1


def test_greedy_continuations_agree_with_the_reference(golden):
  # By full passes over a row that is filled from the left; what comes later is
  # not seen, so one compiled program serves every length.
  config, params, expected = golden
  tokens = np.zeros_like(expected["greedy"], np.int32)
  tokens[:, :8] = expected["greedy_prompt"]
  for position in range(8, 24):
    hidden = hidden_states(config, params, jnp.asarray(tokens))
    last = logits(config, params, hidden)[:, position - 1]
    # The reference was told to go on, so token 1, the end, was no choice.
    tokens[:, position] = jnp.argmax(last.at[:, 1].set(-jnp.inf), axis=-1)
  np.testing.assert_array_equal(tokens, expected["greedy"])


@pytest.mark.parametrize("max_shard_bytes", [10**9, 200_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_is_exact(golden, dtype, max_shard_bytes, tmp_path):
  config = dataclasses.replace(golden[0], dtype=dtype, param_dtype=dtype)
  params = jax.tree.map(lambda x: x.astype(dtype), golden[1])
  path = tmp_path / "new" / "checkpoint"
  hf.save(path, config, params, max_shard_bytes=max_shard_bytes)
  files = sorted(path.glob("*.safetensors"))
  # 181,312 parameters of 4 or 2 bytes, of which a layer's largest take 40,960:
  # files of 200,000 bytes are filled to 159,040 at least.
  if max_shard_bytes == 10**9:
    assert [file.name for file in files] == [hf.SINGLE]
    assert not (path / hf.INDEX).exists()
  else:
    total = 181_312 * jnp.dtype(dtype).itemsize
    assert total / 200_000 <= len(files) <= total / 159_040 + 1
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((path / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == total
    # 4,096 is ample for a header.
    assert max(file.stat().st_size for file in files) < 200_000 + 4096
  got_config, got = hf.load(path)
  assert got_config == config
  assert_same(got, params)
  # Nothing but the checkpoint was left behind.
  assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]


def test_what_was_read_is_written_as_it_was(golden, tmp_path):
  config, params, _ = golden
  path = tmp_path / "checkpoint"
  ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
  hf.save(path, config, params, token_ids=ids)
  want = safetensors.numpy.load_file(GOLDEN / hf.SINGLE)
  got = safetensors.numpy.load_file(path / hf.SINGLE)
  assert_same(got, want)
  with safetensors.safe_open(path / hf.SINGLE, "numpy") as file:
    assert file.metadata() == {"format": "pt"}
  want = json.loads((GOLDEN / hf.CONFIG).read_text())
  got = json.loads((path / hf.CONFIG).read_text())
  # For versions of transformers before 5.
  assert got.pop("rope_theta") == 10_000.0
  assert got.pop("torch_dtype") == "float32"
  # These change nothing that a forward pass computes.
  for name in ("initializer_range", "transformers_version", "use_cache"):
    want.pop(name)
  assert want.pop("use_bidirectional_attention") is None
  assert got == want
  # Its numbers have the types that transformers 5 insists on.
  assert {k: type(v) for k, v in got.items()} == {
    k: type(v) for k, v in want.items()
  }


@pytest.mark.parametrize("axes", [(1, 4, 2), (2, 2, 2)])
def test_loading_onto_a_mesh(golden, axes):
  config, params, _ = golden
  layout = partitioning.Layout(partitioning.make_mesh(*axes))
  got_config, got = hf.load(GOLDEN, layout=layout)
  assert got_config == config
  assert_same(got, params)
  shardings = transformer.shardings(config, layout)
  jax.tree.map(
    lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(),
    got,
    shardings,
  )
  _, fsdp, tensor = axes
  query = got["layers"]["local"]["attention"]["query"]
  assert {s.data.shape for s in query.addressable_shards} == {
    (2, 64 // fsdp, 4 // tensor, 16)
  }


def test_a_sharded_model_is_saved_as_a_whole_one_is(golden, tmp_path):
  config, params, _ = golden
  layout = partitioning.Layout(partitioning.make_mesh(2, 2, 2))
  sharded = jax.device_put(params, transformer.shardings(config, layout))
  hf.save(tmp_path / "sharded", config, sharded)
  _, got = hf.load(tmp_path / "sharded")
  assert_same(got, params)


def test_types_and_rematerialisation_may_be_chosen(golden):
  config, params, _ = golden
  got_config, got = hf.load(
    GOLDEN, param_dtype="bfloat16", dtype="float32", remat="full"
  )
  assert got_config == dataclasses.replace(
    config, param_dtype="bfloat16", remat="full"
  )
  assert_same(got, jax.tree.map(lambda x: x.astype("bfloat16"), params))


@pytest.mark.usefixtures("no_shape_checks")  # a spy is no safe_open
def test_the_host_holds_one_tensor_at_a_time(monkeypatch):
  # On CPU devices live in host memory too: the embedding, which is not stacked,
  # may become a parameter without a copy.
  read, opened = [], safetensors.safe_open

  class Spy:
    def __init__(self, *args, **kwargs):
      self.file = opened(*args, **kwargs)

    def __enter__(self):
      return self

    def __exit__(self, *args):
      self.file.__exit__(*args)

    def __getattr__(self, name):
      return getattr(self.file, name)

    def get_tensor(self, name):
      alive = [n for n, x in read if x() is not None]
      assert set(alive) <= {"model.embed_tokens.weight"}
      x = self.file.get_tensor(name)
      read.append((name, weakref.ref(x)))
      return x

  monkeypatch.setattr(hf.safetensors, "safe_open", Spy)
  hf.load(GOLDEN)
  assert len(read) == len({name for name, _ in read}) == 4 * 11 + 2


TENSOR = "model.layers.2.mlp.up_proj.weight"


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda t: t.pop(TENSOR), f"tensor {TENSOR} is missing"),
    (
      lambda t: t.update({"lm_head.weight": np.zeros((128, 64), np.float32)}),
      "tensor lm_head.weight differs from the embedding, expected the same",
    ),
    (
      lambda t: t.update({"model.head.weight": np.zeros((1, 64), np.float32)}),
      "tensor model.head.weight is not one of this architecture's",
    ),
    (
      lambda t: t[TENSOR].__setitem__((3, 5), np.nan),
      f"tensor {TENSOR} holds numbers that are not finite",
    ),
    (
      lambda t: t["model.norm.weight"].__setitem__(0, -np.inf),
      "tensor model.norm.weight holds numbers that are not finite",
    ),
    (
      lambda t: t.update({TENSOR: t[TENSOR].T.copy()}),
      rf"tensor {TENSOR} has shape \(64, 160\), expected \(160, 64\)",
    ),
    (
      lambda t: t.update({TENSOR: t[TENSOR].astype(np.int32)}),
      f"tensor {TENSOR} has type I32, expected one of",
    ),
    (
      lambda t: t.update({TENSOR: t[TENSOR].astype(jnp.bfloat16)}),
      f"tensor {TENSOR} has type BF16, expected all to be F32 or all BF16",
    ),
    (
      lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}),
      "tensor .* has type F16, expected all",
    ),
  ],
)
def test_tensors_that_do_not_fit_are_named(copy, edit, message):
  edit_tensors(copy, edit)
  with pytest.raises(ValueError, match=message):
    hf.load(copy)


def test_mixed_types_are_converted_when_asked(copy, golden):
  edit_tensors(copy, lambda t: t.update({TENSOR: t[TENSOR].astype(np.float16)}))
  _, params = hf.load(copy, param_dtype="float32")
  up = golden[1]["layers"]["local"]["mlp"]["up"]
  up = up.at[1].set(up[1].astype(jnp.float16))
  np.testing.assert_array_equal(params["layers"]["local"]["mlp"]["up"], up)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"model_type": "gemma"},
      "model_type is 'gemma', expected one of gemma2, ",
    ),
    ({"model_type": "ABSENT"}, "model_type is None, expected .*qwen3"),
    (
      {"architectures": ["Gemma2ForSequenceClassification"]},
      r"architectures is \['Gemma2ForSequenceClassification'\], expected",
    ),
    ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu', expected"),
    ({"attention_bias": True}, r"self_attn.q_proj.bias is missing"),
    ({"attention_bias": 1}, "attention_bias is 1, expected a boolean"),
    ({"num_experts": 8}, "num_experts is 8, which is not supported"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected"),
    ({"attention_sinks": True}, "attention_sinks is True, which is not supp"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expecte"),
    ({"hidden_size": 10**9}, "width is 1000000000, expected at most"),
    ({"attention_dropout": 0.1}, "attention_dropout is 0.1, expected 0.0"),
    ({"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention is"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ({"layer_types": ["full_attention"] * 3}, "layer_types is"),
    ({"layer_types": ["chunked_attention"] * 4}, "layer_types is"),
    ({"rope_scaling": {"factor": 2.0}}, "factor of rotary positions is 2.0"),
    ({"rope_theta": 5.0}, "rope_theta is 10000.0 in rope_parameters and 5.0"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn', expect"),
    ({"rope_parameters": 1e4}, "rope_parameters is 10000.0"),
    ({"attn_logit_softcapping": "50"}, "attn_logit_softcapping is '50', expec"),
    ({"hidden_size": "ABSENT"}, "hidden_size is missing"),
    ({"head_dim": 16.0}, "head_dim is 16.0, expected a number"),
    (
      {"query_pre_attn_scalar": True},
      "query_pre_attn_scalar is True, expected",
    ),
    (
      {"num_hidden_layers": 3, "layer_types": None},
      r"tensor model\.layers\.3\..* not",
    ),
    (
      {"num_hidden_layers": 2, "layer_types": None},
      r"model\.layers\.2\..* not",
    ),
    (
      {"num_hidden_layers": 6, "layer_types": None},
      r"model\.layers\.4\..* miss",
    ),
    ({"num_attention_heads": 8}, r"o_proj.* has shape \(64, 64\), .*\(64, 128"),
  ],
)
def test_fields_that_do_not_fit_are_named(copy, fields, message):
  edit_config(copy, **fields)
  with pytest.raises(ValueError, match=message):
    hf.load(copy)


def test_fields_of_earlier_versions_are_read():
  fields = json.loads((GOLDEN / hf.CONFIG).read_text())
  want = families.from_fields(fields)
  for name in (
    "rope_parameters",
    "layer_types",
    "attention_bias",
    "architectures",
    "tie_word_embeddings",
    "use_bidirectional_attention",
  ):
    del fields[name]
  assert families.from_fields(fields | {"sliding_window_size": 8}) == want
  assert families.from_fields(fields | {"rope_theta": 5000}) == (
    dataclasses.replace(want, rotary=Rotary(5000.0))
  )


def test_the_config_published_with_gemma_2_9b_is_its_preset():
  published = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "float32",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
  }
  assert families.from_fields(published) == preset("gemma2_9b")


def split_in_two(copy):
  tensors = safetensors.numpy.load_file(copy / hf.SINGLE)
  (copy / hf.SINGLE).unlink()
  names = sorted(tensors)
  weight_map = {}
  for file, part in (
    ("a.safetensors", names[:9]),
    ("b.safetensors", names[9:]),
  ):
    safetensors.numpy.save_file({k: tensors[k] for k in part}, copy / file)
    weight_map |= dict.fromkeys(part, file)
  return weight_map


def write_index(path, weight_map):
  (path / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_must_tell_the_truth(copy, golden):
  weight_map = split_in_two(copy)
  write_index(copy, weight_map)
  assert_same(hf.load(copy)[1], golden[1])

  write_index(copy, weight_map | {TENSOR: "a.safetensors"})
  with pytest.raises(
    ValueError, match=rf"tensor {TENSOR} is in b\.saf.*, and .* in a\.safe"
  ):
    hf.load(copy)
  write_index(copy, {k: v for k, v in weight_map.items() if k != TENSOR})
  with pytest.raises(ValueError, match=f"tensor {TENSOR} is in b.* in none"):
    hf.load(copy)
  write_index(copy, weight_map | {"other": "a.safetensors"})
  with pytest.raises(ValueError, match="tensor other is in no file, and"):
    hf.load(copy)
  write_index(copy, weight_map | {TENSOR: "../copy/b.safetensors"})
  with pytest.raises(ValueError, match="files beside the index"):
    hf.load(copy)
  write_index(copy, None)
  with pytest.raises(ValueError, match="weight_map is None, expected"):
    hf.load(copy)

  write_index(copy, weight_map)
  shutil.copyfile(copy / "a.safetensors", copy / "b.safetensors")
  with pytest.raises(ValueError, match=r"is in a\.safetensors and b\.saf"):
    hf.load(copy)
  (copy / "b.safetensors").unlink()
  with pytest.raises(ValueError, match=r"b\.safetensors cannot be read"):
    hf.load(copy)


def test_files_that_cannot_be_read_are_named(copy, tmp_path):
  content = (copy / hf.SINGLE).read_bytes()
  (copy / hf.SINGLE).write_bytes(content[:-1])
  with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
    hf.load(copy)
  (copy / hf.SINGLE).unlink()
  with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor"):
    hf.load(copy)
  # A pickle, which this stands for, is not even looked at.
  (copy / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")
  with pytest.raises(
    ValueError,
    match=r"holds neither .*; pytorch_model\.bin is a pickle, .*save_p",
  ):
    hf.load(copy)
  pointer = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
  )
  for name in (hf.SINGLE, hf.CONFIG):
    (copy / name).write_bytes(pointer)
    with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer"):
      hf.load(copy)
  for text in ("{", "[]", "[" * 100_000, "\udcff"):
    (copy / hf.CONFIG).write_text(text, errors="surrogateescape")
    with pytest.raises(
      ValueError, match=r"\.json (cannot be|holds \[\]|is nested too deep)"
    ):
      hf.load(copy)
  with pytest.raises(ValueError, match=r"config\.json cannot be read"):
    hf.load(tmp_path / "nowhere")


def test_parameters_of_another_model_are_not_written(golden, tmp_path):
  config, params, _ = golden
  path = tmp_path / "checkpoint"
  for other, message in [
    (dataclasses.replace(config, num_layers=2), r"\[2, .*\], expected .*\[1, "),
    (dataclasses.replace(config, param_dtype="bfloat16"), "float32.* bfloat16"),
  ]:
    with pytest.raises(ValueError, match=rf"params\[.* is .*{message}"):
      hf.save(path, other, params)
  with pytest.raises(ValueError, match=r"params\['head'\] .* no such param"):
    hf.save(path, config, params | {"head": params["embedding"]})
  less = {k: v for k, v in params.items() if k != "embedding"}
  with pytest.raises(ValueError, match=r"params\['embedding'\] is missing"):
    hf.save(path, config, less)
  with pytest.raises(ValueError, match="token_ids has 'eos', expected some of"):
    hf.save(path, config, params, token_ids={"eos": 1})
  with pytest.raises(ValueError, match="max_shard_bytes is 0, expected >= 1"):
    hf.save(path, config, params, max_shard_bytes=0)
  assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_or_left_half_written(
  golden, tmp_path, monkeypatch
):
  config, params, _ = golden
  path = tmp_path / "checkpoint"
  path.mkdir()
  (path / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match="exists, expected a new or empty direc"):
    hf.save(path, config, params)
  (path / "tokenizer.json").unlink()

  def full_disk(*args, **kwargs):
    raise OSError("no space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(hf.safetensors.numpy, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
      hf.save(path, config, params)
  assert list(tmp_path.iterdir()) == [path]
  assert not list(path.iterdir())
  hf.save(path, config, params)
  assert_same(hf.load(path)[1], params)


def test_a_byte_that_was_changed_is_named_when_it_is_loaded(golden, tmp_path):
  config, params, _ = golden
  path = tmp_path / "saved"
  hf.save(path, config, params)
  weights = path / hf.SINGLE
  assert weights.stat().st_mode & 0o777 == 0o666 & ~_umask()
  data = bytearray(weights.read_bytes())
  data[-5] ^= 1
  weights.write_bytes(data)
  with pytest.raises(
    ValueError, match=r"model.safetensors is damaged: its SHA"
  ):
    hf.load(path)
  # The way out for one that was changed on purpose.
  (path / files.SUMS).unlink()
  hf.load(path)


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_not_written(golden, tmp_path, bad):
  config, params, _ = golden
  leaves, tree = jax.tree.flatten(params)
  leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(bad)
  with pytest.raises(FloatingPointError, match="parameters are not finite"):
    hf.save(tmp_path / "saved", config, jax.tree.unflatten(tree, leaves))
  assert not list(tmp_path.iterdir())
