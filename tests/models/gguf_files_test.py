"""GGUF files, written from golden checkpoints as llama.cpp's converter does."""

import dataclasses
import functools
import io
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from pav_jax import models
from pav_jax.models import families, gguf_fields, gguf_files, hf, hf_tensors
from pav_jax.models.presets import PRESETS
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.problems.vocabulary import fingerprint

gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

DATA = pathlib.Path(__file__).parents[1] / "data"
GOLDEN = DATA / "decoders"
ARCHITECTURES = {
  "llama": gguf.MODEL_ARCH.LLAMA,
  "qwen2": gguf.MODEL_ARCH.QWEN2,
  "qwen3": gguf.MODEL_ARCH.QWEN3,
  "gemma2": gguf.MODEL_ARCH.GEMMA2,
  "gemma3": gguf.MODEL_ARCH.GEMMA3,
}


def beside(x, num_heads):
  """The converter's permutation of rows: halves of a head, interleaved."""
  shape = x.shape
  x = x.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:])
  return x.swapaxes(1, 2).reshape(shape)


def write(path, config, tensors, more=lambda writer: None):
  """Writes a file with the library's own table of names.

  Args:
    path: of the file.
    config: of the decoder.
    tensors: by Hugging Face's names.
    more: adds fields and tensors with a `gguf.GGUFWriter`.
  """
  arch = ARCHITECTURES[config.family]
  names = gguf.get_tensor_name_map(arch, config.num_layers)
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
  writer.add_block_count(config.num_layers)
  writer.add_context_length(config.max_length)
  writer.add_embedding_length(config.width)
  writer.add_feed_forward_length(config.mlp_width)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  writer.add_rope_freq_base(config.rotary.theta)
  if config.rotary.scaling == "linear":
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rotary.factor)
  if "gemma" in config.family:
    writer.add_sliding_window(config.sliding_window)
  if config.attn_softcap:
    writer.add_attn_logit_softcapping(config.attn_softcap)
  if config.final_softcap:
    writer.add_final_logit_softcapping(config.final_softcap)
  writer.add_eos_token_id(1)
  for ours, x in tensors.items():
    x = np.asarray(x, np.float32)
    if config.family == "llama" and "q_proj" in ours:
      x = beside(x, config.num_heads)
    if config.family == "llama" and "k_proj" in ours:
      x = beside(x, config.num_kv_heads)
    if "gemma" in config.family and ours.endswith("norm.weight"):
      x = x + 1
    writer.add_tensor(names.get_name(ours, (".weight", ".bias")), x)
  more(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def tensors_of(model):
  """A model's tensors by Hugging Face's names."""
  return {
    name: hf.to_host(model.params, tensor)
    for name, tensor in hf_tensors.tensors(model.config).items()
  }


def golden(name):
  return models.load(GOLDEN / name, param_dtype="float32")


@pytest.mark.parametrize("name", ["llama_biased", "qwen3", "gemma3"])
def test_a_gguf_file_is_the_checkpoint_that_it_was_made_of(name, tmp_path):
  want = golden(name)
  path = write(tmp_path / "model.gguf", want.config, tensors_of(want))
  got = models.load(path)
  # What the converter does not write, llama.cpp takes from the sizes.
  scale = want.config.query_pre_attn_scalar
  config = dataclasses.replace(got.config, query_pre_attn_scalar=scale)
  assert config == want.config
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-7),
    got.params,
    want.params,
  )
  assert dict(got.token_ids) == {"eos_token_id": 1}


def rotary_factors(theta, size, factor):
  """The converter's, for Llama 3."""
  factors = []
  for frequency in theta ** -(np.arange(0, size, 2) / size):
    wavelength = 2 * np.pi / frequency
    if wavelength < 8192 / 4:
      factors.append(1.0)
    elif wavelength > 8192:
      factors.append(factor)
    else:
      smooth = (8192 / wavelength - 1) / (4 - 1)
      factors.append(1 / ((1 - smooth) / factor + smooth))
  return np.array(factors, np.float32)


@pytest.mark.parametrize(
  "name",
  [
    *("llama3_2_1b", "llama3_1_8b", "smollm2_1_7b", "qwen2_5_7b"),
    *("qwen3_8b", "gemma2_9b", "gemma2_27b", "gemma3_1b", "gemma3_27b"),
  ],
)
def test_fields_of_published_models_are_their_presets(name, tmp_path):
  want = dataclasses.replace(PRESETS[name], vocab_size=8)
  tensors = {"model.embed_tokens.weight": np.zeros((8, want.width))}
  if not want.tied:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

  def more(writer):
    if want.rotary.scaling == "llama3":
      factors = rotary_factors(
        want.rotary.theta, want.head_dim, want.rotary.factor
      )
      writer.add_tensor("rope_freqs.weight", factors)

  path = write(tmp_path / "model.gguf", want, tensors, more)
  reader = gguf_files.open_file(path)
  got = families.from_fields(gguf_fields.config_fields(reader))
  assert got.layers == want.layers
  unused = ("sliding_window", "pattern", "local_rotary")
  keep = {field: getattr(want, field) for field in unused}
  assert dataclasses.replace(got, **keep) == want


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (
      lambda w: w.add_uint32("qwen3.expert_count", 8),
      "qwen3.expert_count is 8, which is not supported",
    ),
    (
      lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
      "rope.scaling.type is 'yarn', expected 'none' or 'linear'",
    ),
    (
      lambda w: w.add_rope_dimension_count(4),
      "rope.dimension_count is 4, expected 8",
    ),
    (
      lambda w: w.add_tensor("blk.0.odd.weight", np.zeros(3, np.float32)),
      "tensor blk.0.odd.weight is not one of this architecture's",
    ),
    (
      lambda w: w.add_tensor("blk.9.ffn_up.weight", np.zeros(3, np.float32)),
      "tensor blk.9.ffn_up.weight is not one of this architecture's",
    ),
    (
      lambda w: w.add_tensor("rope_freqs.weight", np.full(4, 3, np.float32)),
      "rope_freqs.weight are not those of Llama 3 with the factor 3.0",
    ),
  ],
)
def test_what_would_change_numbers_is_refused(more, message, tmp_path):
  model = golden("qwen3")
  path = write(tmp_path / "m.gguf", model.config, tensors_of(model), more)
  with pytest.raises(ValueError, match=message):
    models.load(path)


def test_damaged_files_are_named(tmp_path):
  model = golden("qwen3")
  tensors = tensors_of(model)
  missing = tensors.pop("model.norm.weight")
  path = write(tmp_path / "a.gguf", model.config, tensors)
  with pytest.raises(ValueError, match=r"tensor model.norm.weight is missing"):
    models.load(path)
  tensors["model.norm.weight"] = missing * np.nan
  path = write(tmp_path / "b.gguf", model.config, tensors)
  with pytest.raises(ValueError, match=r"output_norm.weight holds numbers"):
    models.load(path)
  (tmp_path / "c.gguf").write_bytes(path.read_bytes()[:-100])
  (tmp_path / "d.gguf").write_bytes(b"pickle" * 9)
  (tmp_path / "e.gguf").touch()
  for name in ("c", "d", "e"):
    with pytest.raises(ValueError, match=rf"{name}.gguf cannot be read as a G"):
      models.load(tmp_path / f"{name}.gguf")
  other = gguf.GGUFWriter(tmp_path / "f.gguf", "mamba")
  other.write_header_to_file()
  other.write_kv_data_to_file()
  other.close()
  with pytest.raises(ValueError, match="architecture is 'mamba', expected one"):
    models.load(tmp_path / "f.gguf")


def tokens_only(path, more):
  """A file that holds a tokenizer."""
  writer = gguf.GGUFWriter(path, "llama")
  more(writer)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return str(path)


def byte_level(writer):
  """The small tokenizer that is like Llama 3's, as its converter writes it."""
  folder = DATA / "tokenizers" / "byte_level"
  content = json.loads((folder / "tokenizer.json").read_text())
  tokens = {i: token for token, i in content["model"]["vocab"].items()}
  added = {x["id"]: x["content"] for x in content["added_tokens"]}
  tokens |= added
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("llama-bpe")
  writer.add_token_list([tokens[i] for i in range(len(tokens))])
  writer.add_token_types([3 if i in added else 1 for i in range(len(tokens))])
  writer.add_token_merges([" ".join(x) for x in content["model"]["merges"]])
  writer.add_bos_token_id(min(added))
  writer.add_eos_token_id(min(added) + 1)
  settings = json.loads((folder / "tokenizer_config.json").read_text())
  writer.add_chat_template(settings["chat_template"])


def test_a_byte_level_tokenizer_is_that_of_the_folder(tmp_path):
  want = Tokenizer(str(DATA / "tokenizers" / "byte_level"))
  got = Tokenizer(tokens_only(tmp_path / "t.gguf", byte_level))
  texts = np.load(DATA / "tokenizers" / "byte_level" / "expected.npz")["texts"]
  for text in map(str, texts):
    assert got.encode(text) == want.encode(text)
  assert fingerprint(got, "\n") == fingerprint(want, "\n")
  for name in ("bos_id", "eos_id", "pad_id", "unk_id", "vocab_size"):
    assert getattr(got, name) == getattr(want, name)
  chat = [{"role": "user", "content": "a"}]
  assert got.chat(chat) == want.chat(chat)


@pytest.mark.parametrize("prefix", [False, True])
def test_pieces_are_those_of_sentencepiece(prefix, tmp_path):
  """Laid out as Gemma's, or as Llama 2's with a space before each text."""
  sentencepiece = pytest.importorskip("sentencepiece")
  content = io.BytesIO()
  words = ("start", "add", "times", "minus", "carry", "step", "then", "result")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(f"{a} {b} {a}{b}" for a in words for b in words),
    model_writer=content,
    minloglevel=3,
    num_threads=1,
    vocab_size=340,
    model_type="bpe",
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    user_defined_symbols=["\n", "\n\n", "▁▁"],
    normalization_rule_name="identity",
    add_dummy_prefix=prefix,
    remove_extra_whitespaces=False,
  )
  model = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
  ids = range(model.vocab_size())

  def kind(i):
    if model.IsByte(i):
      return 6
    return 2 if i == 3 else 3 if i < 3 else 4 if i < 7 else 1

  def more(writer):
    writer.add_tokenizer_model("llama")
    # The converter writes the spaces of symbols that users defined.
    writer.add_token_list(
      [
        model.IdToPiece(i).replace("▁", " ")
        if kind(i) == 4
        else model.IdToPiece(i)
        for i in ids
      ]
    )
    writer.add_token_scores([model.GetScore(i) for i in ids])
    writer.add_token_types([kind(i) for i in ids])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_space_prefix(prefix)

  path = tokens_only(tmp_path / "t.gguf", more)
  if prefix:
    with pytest.raises(ValueError, match="expected exact=True"):
      Tokenizer(path)
    # What follows a message is merged into it: add_dummy_prefix = false.
    model.LoadFromSerializedProto(content.getvalue() + b"\x1a\x02\x18\x00")
  tokenizer = Tokenizer(path, exact=prefix)
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 1, 0)
  texts = [
    *("start add", " step", "then  carry\n\n\nminus", "", " ", "naïve ½ 数"),
    *("addstart timesthen", "resultresult", "xstep", "   three", "a\n"),
  ]
  for text in texts:
    assert tokenizer.encode(text) == model.EncodeAsIds(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
  path = tokens_only(tmp_path / "t.gguf", byte_level)
  opened = []
  open_file = gguf_files.open_file
  monkeypatch.setattr(
    gguf_files, "open_file", lambda path: opened.append(path) or open_file(path)
  )
  for _ in range(2):
    assert Tokenizer(path).eos_id == Tokenizer(path).eos_id
  assert len(opened) == 1
  os.utime(path, (1, 1))
  Tokenizer(path)
  assert len(opened) == 2


def test_other_tokenizers_are_refused_by_name(tmp_path):
  def more(writer, kind="gpt2", name="odd"):
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(name)
    writer.add_token_list(["a"])
    writer.add_eos_token_id(0)

  path = tokens_only(tmp_path / "a.gguf", more)
  with pytest.raises(ValueError, match=r"pre is 'odd', expected .*qwen2"):
    Tokenizer(path)
  path = tokens_only(tmp_path / "b.gguf", functools.partial(more, kind="t5"))
  with pytest.raises(ValueError, match="model is 't5', expected 'gpt2'"):
    Tokenizer(path)
  path = tokens_only(tmp_path / "c.gguf", lambda writer: None)
  with pytest.raises(ValueError, match=r"tokenizer.ggml.tokens is missing"):
    Tokenizer(path)
