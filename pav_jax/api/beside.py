"""What a checkpoint was trained on: found beside it, or asked for."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pav_jax.models import tokenizer_files
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.problems import pieces, prompt_format, text_format
from pav_jax.problems.base import PromptFrame
from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.text_format import TextFormat
from pav_jax.problems.vocabulary import TextTokens, Vocabulary


def read_format(
  path: pathlib.Path,
  side: Mapping[str, Any] | None,
  *,
  tokenizer: TextTokens | str | os.PathLike | None = None,
  prompt: str | None = None,
  delimiter: str | None = None,
) -> TextFormat:
  """How a checkpoint reads texts.

  Args:
    path: of a folder, or of a GGUF file.
    side: what pav_jax.json beside it says; None without such a file.
    tokenizer: of the checkpoint, or its path; None for what is beside it.
    prompt: a template with `{problem}` in it; None for what is said beside the
      checkpoint, else its chat template.
    delimiter: ends a step; None for what is said beside it, else a newline.

  Raises:
    ValueError: for what neither is beside it nor was given, naming the
      argument; or if the tokenizer is not the checkpoint's.
  """
  side = dict(side or {})
  vocabulary = _vocabulary(path, side, tokenizer)
  if text_format.TEXT in side and prompt is None and delimiter is None:
    return text_format.read(side, vocabulary)
  if prompt is None:
    prompt = _chat_template(path, vocabulary)
  if "{problem}" not in prompt:
    raise ValueError(f"prompt is {prompt!r}, expected {{problem}} in it")
  before, after = prompt.split("{problem}", 1)
  return TextFormat(
    vocabulary=vocabulary,
    delimiter=delimiter or side.get("delimiter", "\n"),
    frame=PromptFrame(before, after),
  )


def _vocabulary(path, side, tokenizer) -> TextTokens:
  if isinstance(tokenizer, str | os.PathLike):
    return _read(pathlib.Path(tokenizer), {})
  if tokenizer is not None:
    return tokenizer
  settings = side.get(text_format.TOKENIZER, {})
  if side.get("vocabulary") == Vocabulary.__name__ and settings:
    return Vocabulary(**settings)
  return _read(path, settings)


def _read(path: pathlib.Path, settings: Mapping[str, Any]) -> TextTokens:
  """The tokenizer in a folder or a file."""
  if path.suffix == ".model":
    return SentencePieceVocabulary(str(path), **settings)
  if path.is_file() or (path / tokenizer_files.TOKENIZER).exists():
    return Tokenizer(str(path), **settings)
  if (path / pieces.FILE).exists():
    return SentencePieceVocabulary(str(path / pieces.FILE), **settings)
  raise ValueError(
    f"{path} has neither {tokenizer_files.TOKENIZER} nor {pieces.FILE} and "
    "does not say what it was trained on, expected tokenizer= a path or an "
    "object with encode and decode"
  )


def _chat_template(path: pathlib.Path, vocabulary: Any) -> str:
  chats = isinstance(vocabulary, Tokenizer) and vocabulary.has_chat_template
  if not chats:
    raise ValueError(
      f"{path} does not say how it is asked and its tokenizer has no chat "
      "template, expected prompt= a text with {problem} in it"
    )
  return prompt_format.chat_prompt(vocabulary).question
