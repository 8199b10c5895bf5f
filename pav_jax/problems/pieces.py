"""SentencePiece vocabularies, Gemma's for one."""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any, SupportsIndex

from pav_jax import packages
from pav_jax.checks import check_texts_return

# What it is called beside a model.
FILE = "tokenizer.model"

_SPACE = "▁"  # how pieces write a space: U+2581
# What follows a serialised message is merged into it. This is a ModelProto with
# only a normalizer_spec, which has only precompiled_charsmap = "",
# add_dummy_prefix = false and remove_extra_whitespaces = false.
_EXACT = b"\x1a\x06\x12\x00\x18\x00\x20\x00"


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary:
  """The vocabulary of a SentencePiece model file.

  Attributes have the names that seqio's vocabularies give them. The library
  `sentencepiece` (the extra `data`) is needed, and TensorFlow is not.

  Attributes:
    path: of the model file, `tokenizer.model` for Gemma.
    exact: whether the model's normalisation is switched off: a space before
      each text (`add_dummy_prefix`, SentencePiece's default, as in Llama 2),
      white space that is dropped, characters that are replaced. Steps are
      tokenised one by one, so with it they would not come back as they were.

  Raises:
    ValueError: if there is no such file, it is no SentencePiece model, it has
      no padding or end token, or texts of steps do not come back as they were.
  """

  path: str
  exact: bool = False

  def __post_init__(self):
    object.__setattr__(self, "path", str(self.path))
    for name in ("pad_id", "eos_id"):
      if getattr(self, name) < 0:
        raise ValueError(
          f"{self.path} has no {name}, expected a SentencePiece model with one"
        )
    try:
      check_texts_return(self.encode, self.decode, unknown=self.unk_id)
    except ValueError as error:
      advice = "another model" if self.exact else "exact=True, or another model"
      raise ValueError(
        f"{self.path} normalises texts, as with add_dummy_prefix: {error}; "
        f"expected {advice}"
      ) from error

  @functools.cached_property
  def _model(self) -> Any:
    sentencepiece = packages.require(
      "sentencepiece",
      package="sentencepiece",
      purpose=f"the tokenizer {self.path}",
    )
    if not pathlib.Path(self.path).is_file():
      raise ValueError(
        f"there is no file {self.path}, expected a SentencePiece model"
      )
    model = sentencepiece.SentencePieceProcessor()
    content = pathlib.Path(self.path).read_bytes()
    try:
      model.LoadFromSerializedProto(content + _EXACT * self.exact)
    except (RuntimeError, OSError) as error:
      raise ValueError(
        f"{self.path} cannot be read as a SentencePiece model: {error}"
      ) from error
    return model

  def save(self, folder: pathlib.Path) -> None:
    """Copies the model file into a folder that is there."""
    shutil.copyfile(self.path, folder / FILE)

  def __getstate__(self) -> dict[str, Any]:
    return {"path": self.path, "exact": self.exact}

  def __setstate__(self, state: dict[str, Any]) -> None:
    for name, value in state.items():
      object.__setattr__(self, name, value)

  @property
  def vocab_size(self) -> int:
    """V, all ids."""
    return self._model.vocab_size()

  @property
  def pad_id(self) -> int:
    """Fills up rows."""
    return self._model.pad_id()

  @property
  def eos_id(self) -> int:
    """Ends a response."""
    return self._model.eos_id()

  @property
  def bos_id(self) -> int | None:
    """Begins a prompt; None if the model has no such token."""
    return self._model.bos_id() if self._model.bos_id() >= 0 else None

  @property
  def unk_id(self) -> int:
    """Stands for text that has no tokens."""
    return self._model.unk_id()

  @functools.cached_property
  def _texts(self) -> tuple[str, ...]:
    model = self._model
    return tuple(
      _text(model.IdToPiece(i), model.IsByte(i))
      for i in range(model.vocab_size())
    )

  def token_text(self, token: SupportsIndex) -> str:
    """The text of one id.

    A space is written for `▁`. A byte of ASCII, as `<0x0A>`, is its character:
    a newline that was written as a byte is one. Bytes of longer characters,
    control tokens and the unknown token are their pieces, as `<0xE2>`, `<bos>`.

    Raises:
      ValueError: if there is no such id.
    """
    token = int(token)
    if not 0 <= token < self.vocab_size:
      raise ValueError(
        f"token is {token}, expected an id in 0 … {self.vocab_size - 1}"
      )
    return self._texts[token]

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without begin and end tokens."""
    return self._model.EncodeAsIds(text)

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """The text of ids; padding, begin and end tokens have none.

    Raises:
      ValueError: if there is no such id.
    """
    ids = [int(token) for token in ids]
    for token in ids:
      if not 0 <= token < self.vocab_size:
        raise ValueError(
          f"token is {token}, expected an id in 0 … {self.vocab_size - 1}"
        )
    return self._model.DecodeIds(ids)


def _text(piece: str, is_byte: bool) -> str:
  if is_byte:
    byte = int(piece[1:-1], 16)
    return chr(byte) if byte < 128 else piece
  return piece.replace(_SPACE, " ")
