"""Tokenizers that come with decoders: tokenizer.json, or inside a GGUF file."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

from pav_jax import packages
from pav_jax.checks import check_texts_return
from pav_jax.models import (
  chat_templates,
  gguf_files,
  gguf_tokenizer,
  sources,
  tokenizer_files,
)

_SPACE = "▁"  # how pieces of SentencePiece write a space: U+2581


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A tokenizer as the library `tokenizers` reads it (the extra `hf`).

  Byte-level BPE (Llama 3, Qwen, SmolLM2), and BPE or Unigram over pieces that
  write a space as `▁` (Gemma, Mistral). It has what problems need of a
  vocabulary, see `problems.vocabulary.TextTokens`.

  Attributes:
    path: of a checkpoint's folder with tokenizer.json and, for special tokens
      and chat template, tokenizer_config.json; of a GGUF file; or another
      source of `models.load`.
    exact: whether normalisation is switched off, such as a space before each
      text, or characters that are replaced. Steps are tokenised one by one, so
      with it they would not come back as they were.
    eos_token: text of the token that ends a response; None for the files'.
    pad_token: text of the token that fills up rows; None for the files', or if
      that ends a response too, for the first special token that neither
      begins nor ends anything and is in no chat.

  Raises:
    ValueError: if the files cannot be read, say no end token, or texts of steps
      do not come back as they were.
  """

  path: str
  exact: bool = False
  eos_token: str | None = None
  pad_token: str | None = None

  def __post_init__(self):
    object.__setattr__(self, "path", os.fspath(self.path))
    _ = self.eos_id, self.pad_id  # or their errors
    try:
      check_texts_return(self.encode, self.decode, unknown=self.unk_id)
    except ValueError as error:
      advice = "another one" if self.exact else "exact=True, or another one"
      raise ValueError(
        f"the tokenizer of {self.path} normalises texts: {error}; expected "
        f"{advice}"
      ) from error

  def __getstate__(self) -> dict[str, Any]:
    return {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}

  def __setstate__(self, state: dict[str, Any]) -> None:
    for name, value in state.items():
      object.__setattr__(self, name, value)

  @functools.cached_property
  def _files(self) -> tokenizer_files.Definition:
    definition = read(sources.resolve(self.path))
    if not self.exact:
      return definition
    content = tokenizer_files.without_normalisation(definition.content)
    return definition._replace(content=content)

  @functools.cached_property
  def _tokenizer(self) -> Any:
    library = packages.require(
      "tokenizers", package="tokenizers", purpose=f"the tokenizer {self.path}"
    )
    try:
      content = json.dumps(self._files.content)
      tokenizer = library.Tokenizer.from_str(content)
    except Exception as error:  # the library raises no other class
      raise ValueError(
        f"the tokenizer of {self.path} cannot be read: {error}"
      ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return self._tokenizer.get_vocab(with_added_tokens=True)

  @functools.cached_property
  def vocab_size(self) -> int:
    """V, all ids; a model may have more, which are no token's."""
    return max(self._ids.values()) + 1

  @functools.cached_property
  def eos_id(self) -> int:
    """Ends a response."""
    text = self.eos_token or self._files.special.get("eos_token")
    if text is None:
      raise ValueError(
        f"the tokenizer of {self.path} says no eos_token, expected one in "
        "tokenizer_config.json, or as an argument"
      )
    return self.token_id(text)

  @functools.cached_property
  def pad_id(self) -> int:
    """Fills up rows; never the token that ends a response."""
    if self.pad_token is not None:
      if self.token_id(self.pad_token) == self.eos_id:
        raise ValueError(
          f"pad_token is {self.pad_token!r}, which ends a response; expected "
          "another token"
        )
      return self.token_id(self.pad_token)
    text = self._files.special.get("pad_token")
    if text is not None and self.token_id(text) != self.eos_id:
      return self.token_id(text)
    used = (self.eos_id, self.bos_id)
    special = [
      i
      for i, token in self._tokenizer.get_added_tokens_decoder().items()
      if token.special
      and i not in used
      and token.content not in (self._files.chat_template or "")
    ]
    if not special:
      raise ValueError(
        f"the tokenizer of {self.path} has no special token to spare for "
        "padding, expected pad_token as an argument"
      )
    return min(special)

  @functools.cached_property
  def bos_id(self) -> int | None:
    """Begins a prompt; None for models whose prompts begin with no token."""
    begins = self._files.add_bos
    if begins is None:
      ids = self._tokenizer.encode("", add_special_tokens=True).ids
      return ids[0] if ids and ids[0] != self.eos_id else None
    return self.token_id(self._files.special["bos_token"]) if begins else None

  @functools.cached_property
  def unk_id(self) -> int | None:
    """Stands for text that has no tokens; None if there is no such text."""
    model = self._files.content["model"]
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and not model.get("byte_fallback"):
      return self._ids.get(unknown)
    return model.get("unk_id")

  def token_id(self, text: str) -> int:
    """The id of a token by its text in the files, as `<|im_end|>`.

    Raises:
      ValueError: if no token has it.
    """
    if text not in self._ids:
      raise ValueError(
        f"the tokenizer of {self.path} has no token {text!r}, expected one of "
        f"its {len(self._ids)}"
      )
    return self._ids[text]

  @functools.cached_property
  def _texts(self) -> tuple[str, ...]:
    added = self._tokenizer.get_added_tokens_decoder()
    has_bytes = tokenizer_files.is_byte_level(self._files.content)
    texts = [""] * self.vocab_size
    for piece, i in self._ids.items():
      if i in added and (has_bytes or added[i].special):
        texts[i] = piece
      else:
        texts[i] = _bytes_text(piece) if has_bytes else _piece_text(piece)
    return tuple(texts)

  def token_text(self, token: SupportsIndex) -> str:
    r"""The text of one id.

    Bytes that are no whole character are written as `\xe2`, and an id of no
    token has no text.

    Raises:
      ValueError: if the id is negative or not below `vocab_size`.
    """
    self._check([int(token)])
    return self._texts[int(token)]

  def encode(self, text: str) -> list[int]:
    """The ids of a text; nothing is put before or behind it.

    Special tokens that are written out, as chat templates do, are tokens.
    """
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """The text of ids.

    The tokens that begin a prompt and fill up rows have none; other special
    tokens do, since they are parts of a chat.

    Raises:
      ValueError: if there is no such id.
    """
    ids = [int(token) for token in ids]
    self._check(ids)
    silent = (self.pad_id, self.bos_id)
    return self._tokenizer.decode(
      [i for i in ids if i not in silent], skip_special_tokens=False
    )

  @property
  def has_chat_template(self) -> bool:
    """Whether `chat` works."""
    return self._files.chat_template is not None

  def chat(
    self,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **variables: Any,
  ) -> str:
    """A conversation as the model was trained to read it.

    The model's own template is run in a sandbox. The text has all special
    tokens in it, the one that begins a prompt too where the template says so.

    Args:
      messages: each with `role` and `content`.
      add_generation_prompt: whether the answer of the model is to follow.
      **variables: others that the template knows, as Qwen 3's enable_thinking.

    Raises:
      ValueError: if the model has no template, or it refuses the messages.
    """
    template = self._files.chat_template
    if template is None:
      raise ValueError(
        f"{self.path} has no chat template, expected one in "
        "tokenizer_config.json, chat_template.jinja or the GGUF file"
      )
    try:
      return chat_templates.render(
        template,
        messages=list(messages),
        add_generation_prompt=add_generation_prompt,
        **self._files.special,
        **variables,
      )
    except ValueError as error:
      raise ValueError(f"the chat template of {self.path} {error}") from error

  def save(self, folder: str | os.PathLike) -> None:
    """Writes what this class and transformers read of a tokenizer.

    Args:
      folder: that is there.
    """
    special = {
      "eos_token": self._tokenizer.id_to_token(self.eos_id),
      "pad_token": self._tokenizer.id_to_token(self.pad_id),
    }
    definition = self._files._replace(special=self._files.special | special)
    tokenizer_files.write(pathlib.Path(folder), definition)

  def _check(self, ids: Sequence[int]) -> None:
    for token in ids:
      if not 0 <= token < self.vocab_size:
        raise ValueError(
          f"token is {token}, expected an id in 0 … {self.vocab_size - 1}"
        )


def read(path: pathlib.Path) -> tokenizer_files.Definition:
  """The tokenizer of a checkpoint, as its files have it.

  Args:
    path: of a folder with tokenizer.json, of that file, or of a GGUF file.

  Raises:
    ValueError: naming the file or field that is not as expected.
  """
  if path.is_file() and path.name != tokenizer_files.TOKENIZER:
    stat = path.stat()
    return _read_gguf(path, stat.st_mtime_ns, stat.st_size)
  return tokenizer_files.read(path)


@functools.lru_cache(maxsize=4)
def _read_gguf(path: pathlib.Path, *stamp: int) -> tokenizer_files.Definition:
  """`read`; its fields take seconds, and every part of a run asks for them."""
  del stamp
  return gguf_tokenizer.read(gguf_files.open_file(path))


def _piece_text(piece: str) -> str:
  if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
    byte = int(piece[3:5], 16)
    return chr(byte) if byte < 128 else f"\\x{byte:02x}"
  return piece.replace(_SPACE, " ")


def _bytes_text(piece: str) -> str:
  table = _byte_of_character()
  if not all(character in table for character in piece):
    return piece
  content = bytes(table[character] for character in piece)
  return content.decode("utf-8", "backslashreplace")


@functools.cache
def _byte_of_character() -> dict[str, int]:
  """How byte-level BPE (GPT-2's) writes bytes as printable characters."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {chr(byte): byte for byte in printable} | {
    chr(256 + i): byte for i, byte in enumerate(others)
  }
