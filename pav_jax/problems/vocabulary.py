"""A small vocabulary of integers and symbols, and what identifies one."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Bool

PAD_TEXT, END_TEXT = "<pad>", "<end>"


@runtime_checkable
class Tokens(Protocol):
  """What `delimiter_table` and `fingerprint` need of a vocabulary.

  Attributes:
    vocab_size: V; ids are 0 … V - 1.
    pad_id: fills up rows.
    eos_id: ends a response.
  """

  vocab_size: int
  pad_id: int
  eos_id: int

  def token_text(self, token: SupportsIndex) -> str:
    """The text of one id."""
    ...


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """One token for each integer and each symbol.

  Ids are 0 for padding, 1 for the end of a response, then the symbols, then
  the integers. Text and ids correspond one to one: padding and end are written
  `<pad>` and `<end>`, and neighbouring integers are kept apart by a space.
  Attributes have the names that seqio's vocabularies give them.

  Attributes:
    num_integers: 0 … num_integers - 1 have a token each.
    symbols: different single characters; not digits, space or `<`.

  Raises:
    ValueError: if a symbol is none, or occurs twice, or no integer is wanted.
  """

  num_integers: int = 100
  symbols: str = "\n+-*/~=,:"

  def __post_init__(self):
    if self.num_integers < 1:
      raise ValueError(
        f"num_integers is {self.num_integers}, expected at least 1"
      )
    bad = [s for s in self.symbols if s.isdigit() or s in " <"]
    if bad or len(set(self.symbols)) < len(self.symbols):
      raise ValueError(
        f"symbols are {self.symbols!r}, expected different characters other "
        "than digits, space and <"
      )

  @property
  def pad_id(self) -> int:
    """Fills up rows: 0."""
    return 0

  @property
  def eos_id(self) -> int:
    """Ends a response: 1."""
    return 1

  @property
  def unk_id(self) -> None:
    """There is no unknown token: text that has no tokens is refused."""
    return None

  @property
  def vocab_size(self) -> int:
    """V, all ids."""
    return self.first_integer + self.num_integers

  @property
  def first_integer(self) -> int:
    """The id of 0; integer i is `first_integer + i`."""
    return 2 + len(self.symbols)

  @functools.cached_property
  def _texts(self) -> tuple[str, ...]:
    integers = map(str, range(self.num_integers))
    return (PAD_TEXT, END_TEXT, *self.symbols, *integers)

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {text: i for i, text in enumerate(self._texts)}

  @functools.cached_property
  def _pattern(self) -> re.Pattern:
    symbols = "".join(map(re.escape, self.symbols))
    symbol = f"|[{symbols}]" if symbols else ""
    # A space separates two integers and is allowed nowhere else.
    return re.compile(
      rf"(?:(?<=[0-9]) (?=[0-9]))?([0-9]+{symbol}|{PAD_TEXT}|{END_TEXT})"
    )

  def token_text(self, token: SupportsIndex) -> str:
    """The text of one id.

    Raises:
      ValueError: if there is no such id.
    """
    token = int(token)
    if not 0 <= token < self.vocab_size:
      raise ValueError(
        f"token is {token}, expected an id in 0 … {self.vocab_size - 1}"
      )
    return self._texts[token]

  def symbol_id(self, symbol: str) -> int:
    """The id of a symbol.

    Raises:
      ValueError: if the vocabulary does not have it.
    """
    if len(symbol) != 1 or symbol not in self.symbols:
      raise ValueError(
        f"symbol is {symbol!r}, expected one of {self.symbols!r}"
      )
    return self._ids[symbol]

  def encode(self, text: str) -> list[int]:
    """The ids of a text, which `decode` turns back into the same text.

    Raises:
      ValueError: if a part of the text has no token; an integer out of range
        or with leading zeros has none.
    """
    ids, position = [], 0
    while position < len(text):
      match = self._pattern.match(text, position)
      if match is None or match[1] not in self._ids:
        raise ValueError(
          f"text {text!r} has no token at character {position}; expected "
          f"integers below {self.num_integers} and symbols {self.symbols!r}"
        )
      ids.append(self._ids[match[1]])
      position = match.end()
    return ids

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """The text of ids, which `encode` turns back into the same ids.

    Nothing is cut off at the end token, as seqio would.

    Raises:
      ValueError: if there is no such id.
    """
    parts, after_integer = [], False
    for token in map(int, ids):
      integer = token >= self.first_integer
      parts.append(" " if integer and after_integer else "")
      parts.append(self.token_text(token))
      after_integer = integer
    return "".join(parts)


@runtime_checkable
class TextTokens(Tokens, Protocol):
  """A vocabulary that turns text into ids and back."""

  def encode(self, text: str) -> list[int]:
    """The ids of a text, with neither padding nor end."""
    ...

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """The text of ids."""
    ...


@runtime_checkable
class HasFiles(Protocol):
  """A vocabulary that other libraries can read too."""

  def write(self, folder: pathlib.Path) -> None:
    """Writes files into a folder that is there."""
    ...


def write_files(vocabulary: Tokens, folder: pathlib.Path) -> None:
  """`HasFiles.write`; of other vocabularies nothing is written."""
  if isinstance(vocabulary, HasFiles):
    vocabulary.write(folder)


def encode_prompt(vocabulary: TextTokens, text: str) -> list[int]:
  """The ids of a prompt, which begins with `<bos>` if there is one.

  Raises:
    ValueError: if it has no token: the value of a bare problem is read at its
      prompt's last token.
  """
  bos = getattr(vocabulary, "bos_id", None)
  ids = [*([] if bos is None else [bos]), *map(int, vocabulary.encode(text))]
  if not ids:
    raise ValueError(
      f"the prompt {text!r} has no token, expected at least one, or a "
      "vocabulary with bos_id"
    )
  return ids


def delimiter_table(
  vocabulary: Tokens, delimiter: str
) -> Bool[np.ndarray, "V"]:
  """Which tokens end a step: those whose text contains the delimiter.

  Args:
    vocabulary: any that can write a token as text.
    delimiter: ends a step; a newline in the paper.

  Returns:
    bool[V]; False for padding and end.

  Raises:
    ValueError: if the delimiter is empty or no token contains it.
  """
  if not delimiter:
    raise ValueError("delimiter is empty, expected at least one character")
  table = np.array(
    [
      i not in (vocabulary.pad_id, vocabulary.eos_id)
      and delimiter in vocabulary.token_text(i)
      for i in range(vocabulary.vocab_size)
    ]
  )
  if not table.any():
    raise ValueError(
      f"delimiter is {delimiter!r}, expected one that a token of the "
      f"vocabulary's {vocabulary.vocab_size} contains"
    )
  return table


def fingerprint(vocabulary: Tokens, delimiter: str) -> str:
  """Identifies vocabulary and delimiter; kept with checkpoints and data.

  Two that tokenise or delimit differently differ in it; so a policy and a
  verifier with the same fingerprint agree about what a prefix is.

  Returns:
    The SHA-256 digest, 64 hexadecimal characters, of all tokens' texts in
    order, the padding and end ids and the delimiter.

  Raises:
    ValueError: if the vocabulary cannot produce the delimiter.
  """
  delimiter_table(vocabulary, delimiter)
  what = {
    "tokens": [vocabulary.token_text(i) for i in range(vocabulary.vocab_size)],
    "pad_id": vocabulary.pad_id,
    "eos_id": vocabulary.eos_id,
    "delimiter": delimiter,
  }
  return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def identity(vocabulary: Tokens, delimiter: str) -> dict[str, Any]:
  """What is kept beside a model's weights, to be written as JSON.

  Returns:
    The fingerprint, and what it is of for readers: vocabulary, delimiter,
    vocab_size, pad_id, eos_id and bos_id, the last None without such a token.

  Raises:
    ValueError: if the vocabulary cannot produce the delimiter.
  """
  return {
    "fingerprint": fingerprint(vocabulary, delimiter),
    "vocabulary": type(vocabulary).__name__,
    "delimiter": delimiter,
    "vocab_size": vocabulary.vocab_size,
    "pad_id": vocabulary.pad_id,
    "eos_id": vocabulary.eos_id,
    "bos_id": getattr(vocabulary, "bos_id", None),
  }
