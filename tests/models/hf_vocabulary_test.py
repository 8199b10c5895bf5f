import json

import jax
import pytest

from pav_jax.models import hf, hf_vocabulary, transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity

CHAIN = Chain(horizon=2)  # 111 tokens, padding 0, end 1, no begin
CONFIG = TransformerConfig(
  vocab_size=111,
  width=8,
  num_layers=2,
  num_heads=1,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=8,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A checkpoint of a model for CHAIN, with its identity."""
  path = tmp_path_factory.mktemp("saved") / "checkpoint"
  params = transformer.init(CONFIG, jax.random.key(0))
  what = identity(CHAIN.vocabulary, CHAIN.delimiter)
  hf.save(path, CONFIG, params, identity=what)
  return path


@pytest.fixture
def copy(saved, tmp_path):
  """Its small files, to be changed."""
  for name in (hf.CONFIG, hf_vocabulary.SIDE_FILE):
    (tmp_path / name).write_text((saved / name).read_text())
  return tmp_path


def test_the_fingerprint_goes_with_the_checkpoint(saved):
  assert hf.check_fingerprint(saved, CHAIN.fingerprint)
  side = json.loads((saved / "pav_jax.json").read_text())
  assert side["delimiter"] == "\n" and side["vocabulary"] == "Vocabulary"
  assert side["vocab_size"] == 111
  hf.load(saved)  # which passes it over


def test_another_vocabulary_or_delimiter_is_refused_naming_both(saved):
  other = Chain(horizon=2, modulus=99).fingerprint
  with pytest.raises(ValueError) as error:
    hf.check_fingerprint(saved, other)
  assert other in str(error.value) and CHAIN.fingerprint in str(error.value)
  # The delimiter is a part of it.
  other = identity(CHAIN.vocabulary, "=")["fingerprint"]
  with pytest.raises(ValueError, match=other):
    hf.check_fingerprint(saved, other)


def test_checkpoints_of_others_have_none(copy):
  (copy / hf_vocabulary.SIDE_FILE).unlink()
  assert not hf.check_fingerprint(copy, CHAIN.fingerprint)


def test_a_damaged_side_file_is_an_error(copy):
  (copy / hf_vocabulary.SIDE_FILE).write_text("{")
  with pytest.raises(ValueError, match=r"pav_jax\.json cannot be read"):
    hf.check_fingerprint(copy, CHAIN.fingerprint)
  (copy / hf_vocabulary.SIDE_FILE).write_text("{}")
  with pytest.raises(ValueError, match="fingerprint None"):
    hf.check_fingerprint(copy, CHAIN.fingerprint)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"vocab_size": 112}, "identity has vocab_size 112 and the model 111"),
    ({"fingerprint": None}, "has the fingerprint None"),
  ],
)
def test_an_identity_of_another_model_is_not_written(change, message, tmp_path):
  what = identity(CHAIN.vocabulary, "\n") | change
  with pytest.raises(ValueError, match=message):
    hf.save(tmp_path / "new", CONFIG, {}, identity=what)
  assert not list(tmp_path.iterdir())
