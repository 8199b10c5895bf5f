import dataclasses

import numpy as np
import pytest

from pav_jax.problems.vocabulary import (
  Vocabulary,
  delimiter_table,
  fingerprint,
)


@dataclasses.dataclass
class Pieces:
  """A vocabulary of given texts, as a subword tokeniser might have."""

  pieces: tuple
  pad_id: int = 0
  eos_id: int = 1

  @property
  def vocab_size(self):
    return len(self.pieces)

  def token_text(self, token):
    return self.pieces[token]


def test_ids_by_hand():
  # 0 padding, 1 end, the 9 symbols from 2, integers from 11.
  vocabulary = Vocabulary()
  assert vocabulary.vocab_size == 2 + 9 + 100
  ids = [11 + 37, 3, 11 + 25, 8, 11 + 62, 2, 1, 0]
  assert vocabulary.encode("37+25=62\n<end><pad>") == ids
  assert vocabulary.decode(ids) == "37+25=62\n<end><pad>"
  assert vocabulary.decode([11 + 3, 11 + 7, 11 + 37]) == "3 7 37"


@pytest.mark.parametrize("vocabulary", [Vocabulary(), Vocabulary(7, "]^\\-\n")])
def test_random_ids_survive_decoding(vocabulary):
  rng = np.random.default_rng(0)
  for _ in range(200):
    ids = rng.integers(0, vocabulary.vocab_size, 20).tolist()
    assert vocabulary.encode(vocabulary.decode(ids)) == ids


@pytest.mark.parametrize(
  "text", ["100", "07", "3  7", " 3", "3 +", "+ 3", "x", "<eos>", "3 "]
)
def test_text_without_tokens_is_refused(text):
  with pytest.raises(ValueError, match="no token at character"):
    Vocabulary().encode(text)


@pytest.mark.parametrize("token", [-1, 111])
def test_ids_out_of_range_are_refused(token):
  with pytest.raises(ValueError, match=r"expected an id in 0 … 110"):
    Vocabulary().decode([token])


@pytest.mark.parametrize(
  "settings", [{"num_integers": 0}, {"symbols": "++"}, {"symbols": "a b"}]
)
def test_settings_are_checked(settings):
  with pytest.raises(ValueError, match="expected"):
    Vocabulary(**settings)


def test_tokens_that_contain_the_delimiter_end_steps():
  pieces = Pieces(("<pad>", "</s>\n", "a", "\n", "\n\n", ".\n", "b"))
  # The end token ends the response and is no delimiter, whatever its text.
  np.testing.assert_array_equal(
    delimiter_table(pieces, "\n"), [0, 0, 0, 1, 1, 1, 0]
  )
  table = delimiter_table(Vocabulary(), "\n")
  assert np.flatnonzero(table).tolist() == [2]


@pytest.mark.parametrize("delimiter", ["", "\n\n", "<end>"])
def test_a_delimiter_that_cannot_be_produced_is_refused(delimiter):
  with pytest.raises(ValueError, match="delimiter is"):
    fingerprint(Vocabulary(), delimiter)


def test_fingerprints_tell_vocabularies_and_delimiters_apart():
  # The cases differ from the first in one respect each: integers, symbols,
  # their order, the delimiter, an id; the second group joins to the same text.
  cases = [
    (Vocabulary(), "\n"),
    (Vocabulary(num_integers=99), "\n"),
    (Vocabulary(symbols="\n+-*~=,:"), "\n"),
    (Vocabulary(symbols="\n-+*/~=,:"), "\n"),
    (Vocabulary(), "+"),
    (Pieces(("p", "e", "a\n", "b")), "\n"),
    (Pieces(("p", "e", "a", "\nb")), "\n"),
    (Pieces(("p", "e", "a\n", "b"), pad_id=3), "\n"),
  ]
  digests = [fingerprint(*case) for case in cases]
  assert len(set(digests)) == len(cases)
  assert fingerprint(Vocabulary(), "\n") == digests[0]
  assert len(digests[0]) == 64 and int(digests[0], 16)
