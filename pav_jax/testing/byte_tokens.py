"""A tokenizer of bytes and of texts that are one token each."""

import dataclasses
import re
from collections.abc import Iterable
from typing import SupportsIndex

_FIRST = 3


@dataclasses.dataclass(frozen=True)
class ByteTokens:
  """Bytes are tokens; so are some longer texts, the longest that fits first.

  Attributes:
    texts: that are a token each, such as special tokens.
    bos_id: begins a prompt; None for no such token, or 2.
  """

  texts: tuple[str, ...] = ()
  bos_id: int | None = None

  pad_id, eos_id = 0, 1

  @property
  def vocab_size(self) -> int:
    """V, all ids: padding, end, beginning, bytes, then `texts`."""
    return _FIRST + 256 + len(self.texts)

  def encode(self, text: str) -> list[int]:
    """The ids of a text."""
    longest = sorted(self.texts, key=len, reverse=True)
    ids = []
    for part in re.split(f"({'|'.join(map(re.escape, longest))})", text):
      if part in self.texts:
        ids.append(_FIRST + 256 + self.texts.index(part))
      else:
        ids += [_FIRST + byte for byte in part.encode()]
    return ids

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """The text of ids; the first three have none."""
    parts = [self._bytes(int(token)) for token in ids]
    return b"".join(parts).decode(errors="replace")

  def token_text(self, token: int) -> str:
    """The text of one id."""
    return self._bytes(int(token)).decode(errors="replace")

  def _bytes(self, token: int) -> bytes:
    if not 0 <= token < self.vocab_size:
      raise ValueError(
        f"token is {token}, expected an id in 0 … {self.vocab_size - 1}"
      )
    if token >= _FIRST + 256:
      return self.texts[token - _FIRST - 256].encode()
    return bytes([token - _FIRST]) if token >= _FIRST else b""
