"""A vocabulary for problems that come from files."""

import io
import json
import pathlib

import pytest

DATA = pathlib.Path(__file__).parents[1] / "data"


def train_pieces(path, sentences):
  """A SentencePiece model laid out as Gemma's: special ids, bytes, newlines."""
  sentencepiece = pytest.importorskip("sentencepiece")
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    minloglevel=3,
    num_threads=1,
    vocab_size=360,
    model_type="bpe",
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    user_defined_symbols=["\n", "\n\n"],
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
  )
  path.write_bytes(model.getvalue())
  return str(path)


@pytest.fixture(scope="session")
def pieces_path(tmp_path_factory):
  """A model trained on the made-up MATH files."""
  sentences = [
    line
    for path in sorted((DATA / "math").rglob("*.json"))
    for line in json.loads(path.read_text())["solution"].split("\n")
  ]
  return train_pieces(tmp_path_factory.mktemp("pieces") / "math", sentences)
