import pytest

pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.data import seqio_vocabulary
from pav_jax.problems.frameworks import tf
from pav_jax.problems.vocabulary import Vocabulary


def test_the_vocabulary_is_ours():
  ours = Vocabulary()
  theirs = seqio_vocabulary.Vocabulary(ours)
  line = "37+25=62\n62<end>"
  ids = ours.encode(line)
  assert theirs.encode(line) == ids
  assert theirs.decode(ids) == line
  assert theirs.encode_tf(tf.constant(line)).numpy().tolist() == ids
  assert theirs.decode_tf(tf.constant(ids)).numpy().decode() == line
  rows = tf.constant([ids, ids[:3] + [0] * (len(ids) - 3)])
  assert theirs.decode_tf(rows).numpy().tolist() == [line.encode(), b"37+25"]
  assert (theirs.vocab_size, theirs.eos_id, theirs.pad_id) == (111, 1, 0)
  assert theirs == seqio_vocabulary.Vocabulary(Vocabulary())
  assert theirs != seqio_vocabulary.Vocabulary(Vocabulary(num_integers=99))


def test_other_padding_than_seqios_is_refused():
  class Other(Vocabulary):
    pad_id = 1

  with pytest.raises(ValueError, match="pad_id is 1, expected 0"):
    seqio_vocabulary.feature(Other())
