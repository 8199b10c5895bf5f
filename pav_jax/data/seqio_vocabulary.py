"""Our vocabularies as seqio's."""

from collections.abc import Iterable

import numpy as np

from pav_jax.problems.frameworks import seqio, tf
from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.vocabulary import Tokens


class Vocabulary(seqio.Vocabulary):
  """One of our vocabularies, as seqio wants them.

  Attributes:
    vocabulary: has `Tokens`, `encode` and `decode`, and 0 for padding.

  Raises:
    ValueError: if padding is not 0, which seqio takes for granted.
  """

  def __init__(self, vocabulary: Tokens):
    if vocabulary.pad_id != 0:
      raise ValueError(
        f"pad_id is {vocabulary.pad_id}, expected 0, as seqio takes for granted"
      )
    super().__init__()
    self.vocabulary = vocabulary

  @property
  def bos_id(self) -> int | None:
    """Begins a prompt; None if nothing does."""
    return getattr(self.vocabulary, "bos_id", None)

  @property
  def eos_id(self) -> int:
    """Ends a response."""
    return self.vocabulary.eos_id

  @property
  def unk_id(self) -> int | None:
    """Stands for unknown text; None if that is refused."""
    return getattr(self.vocabulary, "unk_id", None)

  @property
  def _base_vocab_size(self) -> int:
    return self.vocabulary.vocab_size

  def _encode(self, s: str) -> list[int]:
    return self.vocabulary.encode(s)

  def _decode(self, ids: Iterable[int]) -> str:
    return self.vocabulary.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text):
      return np.array(
        self.vocabulary.encode(np.asarray(text).item().decode()), np.int32
      )

    ids = tf.numpy_function(encode, [s], tf.int32)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(ids):
      rows = ids.reshape(-1, ids.shape[-1])
      texts = [self.vocabulary.decode(row[row != self.pad_id]) for row in rows]
      texts = [text.encode() for text in texts]
      return np.array(texts, object).reshape(ids.shape[:-1])

    return tf.ensure_shape(
      tf.numpy_function(decode, [ids], tf.string), ids.shape[:-1]
    )

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Vocabulary):
      return False
    mine, others = self.vocabulary, other.vocabulary
    return mine == others or _all(mine) == _all(others)

  def __hash__(self) -> int:
    return hash((self.vocab_size, self.eos_id))


def _all(vocabulary: Tokens) -> tuple:
  texts = [vocabulary.token_text(i) for i in range(vocabulary.vocab_size)]
  return texts, vocabulary.pad_id, vocabulary.eos_id


def feature(vocabulary: Tokens) -> seqio.Feature:
  """The seqio feature of token ids to which nothing is to be added.

  Its vocabulary is seqio's own for SentencePiece, else a `Vocabulary`.

  Raises:
    ValueError: if padding is not 0.
  """
  theirs = Vocabulary(vocabulary)
  if isinstance(vocabulary, SentencePieceVocabulary) and not vocabulary.exact:
    theirs = seqio.SentencePieceVocabulary(vocabulary.path, extra_ids=0)
  return seqio.Feature(theirs, add_eos=False, dtype=tf.int32)
