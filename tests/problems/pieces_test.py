import dataclasses
import io
import pickle

import numpy as np
import pytest

from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.vocabulary import (
  Tokens,
  delimiter_table,
  encode_prompt,
  fingerprint,
  identity,
)

sentencepiece = pytest.importorskip("sentencepiece")


def train(path, **settings):
  """A model laid out as Gemma's: its special ids, bytes, runs of newlines."""
  model = io.BytesIO()
  settings = {
    "vocab_size": 320,
    "model_type": "bpe",
    "byte_fallback": True,
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "user_defined_symbols": ["\n", "\n\n", "▁▁"],
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
  } | settings
  words = ["start", "add", "times", "minus", "carry", "step", "then", "result"]
  sentences = [f"{a} {b} {i}+{i}" for i, a in enumerate(words) for b in words]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    minloglevel=3,
    num_threads=1,
    **settings,
  )
  path.write_bytes(model.getvalue())
  return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return train(tmp_path_factory.mktemp("pieces") / "tokenizer.model")


@pytest.fixture
def vocabulary(path):
  return SentencePieceVocabulary(path)


def test_it_has_what_problems_need(vocabulary):
  assert isinstance(vocabulary, Tokens)
  assert vocabulary.vocab_size == 320
  ids = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id)
  assert (*ids, vocabulary.unk_id) == (0, 1, 2, 3)


@pytest.mark.parametrize(
  "text", ["start add 3+4", "then  step\n\n\nadd\n", "héllo → 10", " ", ""]
)
def test_texts_come_back(vocabulary, text):
  ids = vocabulary.encode(text)
  assert vocabulary.decode(ids) == text
  assert vocabulary.decode(np.array([2, *ids, 1, 0], np.int32)) == text
  # The texts of tokens are the text's parts, but for bytes beyond ASCII.
  if text.isascii():
    assert "".join(map(vocabulary.token_text, ids)) == text


def test_prompts_begin_with_bos(vocabulary, tmp_path):
  ids = vocabulary.encode("start add")
  assert encode_prompt(vocabulary, "start add") == [2, *ids]
  assert encode_prompt(vocabulary, "") == [2]
  none = SentencePieceVocabulary(train(tmp_path / "m", bos_id=-1, unk_id=2))
  assert none.bos_id is None
  assert encode_prompt(none, "start add") == none.encode("start add")
  with pytest.raises(ValueError, match="prompt '' has no token"):
    encode_prompt(none, "")


@pytest.mark.parametrize(
  "settings",
  [
    {"add_dummy_prefix": True},
    {"remove_extra_whitespaces": True},
    {"normalization_rule_name": "nmt_nfkc", "byte_fallback": True},
  ],
)
def test_texts_that_would_not_come_back_are_refused_or_repaired(
  tmp_path, settings
):
  path = train(tmp_path / "m", **settings)
  with pytest.raises(ValueError, match=r"comes back as .* expected exact=True"):
    SentencePieceVocabulary(path)
  repaired = SentencePieceVocabulary(path, exact=True)
  for step in ("It is 5.", "  a  b ", "x² = ½", "\t3+4"):
    ids = repaired.encode(step) + repaired.encode("\n")
    assert repaired.decode(ids) == step + "\n"
  assert pickle.loads(pickle.dumps(repaired)).encode(" a") == repaired.encode(
    " a"
  )
  # It has the tokens that it had.
  assert repaired.vocab_size == 320 and repaired.token_text(5) == "\n\n"


def test_tokens_with_a_newline_end_steps(vocabulary):
  # The newline, the double one, and the byte 10 that is a newline too. Bytes
  # follow the four special tokens and three symbols in order: 7 + 10 = 17.
  (ends,) = delimiter_table(vocabulary, "\n").nonzero()
  assert ends.tolist() == [4, 5, 17]
  assert vocabulary.decode([17]) == "\n"
  assert vocabulary.encode("\n\n\n") == [5, 4]
  # Pieces that only look like that byte are no newlines.
  texts = [vocabulary.token_text(i) for i in (2, 6, 7 + 65, 7 + 0xC3)]
  assert texts == ["<s>", "  ", "A", "<0xC3>"]


def test_a_literal_that_looks_like_a_byte_is_none(tmp_path):
  path = train(
    tmp_path / "m",
    byte_fallback=False,
    vocab_size=60,
    user_defined_symbols=["<0x0A>"],
  )
  vocabulary = SentencePieceVocabulary(path)
  assert vocabulary.token_text(4) == "<0x0A>"
  with pytest.raises(ValueError, match="expected one that a token"):
    delimiter_table(vocabulary, "\n")


def test_fingerprints_are_of_content_and_not_of_paths(path, tmp_path):
  copy = tmp_path / "copy.model"
  with open(path, "rb") as file:
    copy.write_bytes(file.read())
  one, two = SentencePieceVocabulary(path), SentencePieceVocabulary(str(copy))
  assert fingerprint(one, "\n") == fingerprint(two, "\n")
  assert fingerprint(one, "\n") != fingerprint(one, " ")
  other = SentencePieceVocabulary(train(tmp_path / "m", vocab_size=319))
  assert fingerprint(one, "\n") != fingerprint(other, "\n")
  what = identity(one, "\n")
  assert what["fingerprint"] == fingerprint(one, "\n")
  assert (what["vocab_size"], what["bos_id"]) == (320, 2)


def test_it_can_be_copied_as_gin_does(vocabulary):
  vocabulary.encode("start")  # the model is loaded, and cannot be pickled
  copy = pickle.loads(pickle.dumps(vocabulary))
  assert copy == vocabulary and copy.encode("add") == vocabulary.encode("add")
  assert dataclasses.replace(vocabulary).vocab_size == 320


@pytest.mark.parametrize("token", [-1, 320])
def test_unknown_ids_are_refused(vocabulary, token):
  with pytest.raises(ValueError, match=r"expected an id in 0 … 319"):
    vocabulary.token_text(token)
  with pytest.raises(ValueError, match=r"expected an id in 0 … 319"):
    vocabulary.decode([token])


def test_files_that_are_none_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"no file .*absent\.model"):
    SentencePieceVocabulary(str(tmp_path / "absent.model"))
  (tmp_path / "text").write_text("no model")
  with pytest.raises(ValueError, match="text cannot be read as a Sentence"):
    SentencePieceVocabulary(str(tmp_path / "text"))
  (tmp_path / "empty").write_bytes(b"")
  with pytest.raises(ValueError, match="empty cannot be read as a Sentence"):
    SentencePieceVocabulary(str(tmp_path / "empty"))
  bare = train(tmp_path / "bare", pad_id=-1)
  with pytest.raises(ValueError, match="bare has no pad_id"):
    SentencePieceVocabulary(bare)


def test_seqio_tokenises_alike(vocabulary):
  pytest.importorskip("seqio", reason="seqio is not installed")
  from pav_jax.data import seqio_vocabulary
  from pav_jax.problems.frameworks import tf

  theirs = seqio_vocabulary.feature(vocabulary).vocabulary
  text = "start  add 3+4\n\n\nhéllo\n"
  ids = vocabulary.encode(text)
  assert theirs.encode(text) == ids
  assert theirs.encode_tf(tf.constant(text)).numpy().tolist() == ids
  assert theirs.decode(ids) == text
  assert (theirs.vocab_size, theirs.eos_id, theirs.pad_id) == (320, 1, 0)
