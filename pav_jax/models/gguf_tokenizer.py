"""The tokenizer in a GGUF file, as a tokenizer.json would have it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pav_jax.models.gguf_fields import value
from pav_jax.models.tokenizer_files import SPECIAL, Definition

_FIELDS = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)

# How texts are split before byte-level BPE, by names of llama.cpp.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
  r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> list[dict[str, Any]]:
  pattern = _CONTRACTIONS + _WORDS.replace("DIGITS", digits)
  return [
    {
      "type": "Split",
      "pattern": {"Regex": pattern},
      "behavior": "Isolated",
      "invert": False,
    }
  ]


_DIGITS = [{"type": "Digits", "individual_digits": True}]
# name -> what comes before byte-level BPE, and whether that has GPT-2's pattern
_PRE = {
  **dict.fromkeys(("gpt-2", "gpt2"), ([], True)),
  **dict.fromkeys(("smollm",), (_DIGITS, True)),
  **dict.fromkeys(
    ("llama-bpe", "llama3", "llama-v3"), (_split("{1,3}"), False)
  ),
  **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_split(""), False)),
}
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN = ("qwen2", "deepseek-r1-qwen")


def read(reader: Any) -> Definition:
  """The tokenizer, special tokens and chat template of a file.

  Args:
    reader: from `gguf_files.open_file`.

  Raises:
    ValueError: naming a kind of tokenizer that is not supported.
  """
  tokens = value(reader, _FIELDS + "tokens")
  if not tokens:
    raise ValueError("tokenizer.ggml.tokens is missing")
  kinds = value(reader, _FIELDS + "token_type") or [_NORMAL] * len(tokens)
  model = value(reader, _FIELDS + "model")
  if model == "gpt2":
    content, begins = _byte_level(reader, tokens)
  elif model == "llama":
    content, begins = _pieces(reader, tokens, kinds)
  else:
    raise ValueError(
      f"tokenizer.ggml.model is {model!r}, expected 'gpt2' (byte-level BPE) or "
      "'llama' (SentencePiece's BPE); load the tokenizer from a tokenizer.json"
    )
  content["added_tokens"] = [
    {
      "id": i,
      "content": token.replace(" ", "▁") if model == "llama" else token,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      # Only then has a text the ▁ of such a token.
      "normalized": model == "llama" and kind == _USER,
      "special": kind != _USER,
    }
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
    if kind in (_CONTROL, _USER, _UNKNOWN)
  ]
  special = _special(reader, tokens)
  return Definition(
    content={"version": "1.0", **content},
    special=special,
    chat_template=value(reader, "tokenizer.chat_template"),
    add_bos=value(reader, _FIELDS + "add_bos_token", begins)
    and "bos_token" in special,
  )


def _special(reader: Any, tokens: Sequence[str]) -> dict[str, str]:
  names = {"pad_token": "padding", "unk_token": "unknown"}
  ids = {
    name: value(reader, f"{_FIELDS}{names.get(name, name[:3])}_token_id")
    for name in SPECIAL
  }
  return {name: tokens[i] for name, i in ids.items() if i is not None}


def _byte_level(
  reader: Any, tokens: Sequence[str]
) -> tuple[dict[str, Any], bool]:
  name = value(reader, _FIELDS + "pre", "gpt-2")
  if name not in _PRE:
    raise ValueError(
      f"tokenizer.ggml.pre is {name!r}, expected one of {', '.join(_PRE)}; "
      "load the tokenizer from a tokenizer.json"
    )
  before, has_pattern = _PRE[name]
  byte_level = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
  }
  content = {
    "normalizer": {"type": "NFC"} if name in _QWEN else None,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [*before, {**byte_level, "use_regex": has_pattern}],
    },
    "decoder": {**byte_level, "use_regex": True},
    "model": {
      "type": "BPE",
      "vocab": _ids(tokens),
      "merges": [
        merge.split(" ", 1) for merge in value(reader, _FIELDS + "merges", [])
      ],
      "ignore_merges": name in _LLAMA3,
    },
  }
  return content, name in _LLAMA3


def _pieces(
  reader: Any, tokens: Sequence[str], kinds: Sequence[int]
) -> tuple[dict[str, Any], bool]:
  """BPE of SentencePiece: what gives the piece that scores best is merged."""
  scores = value(reader, _FIELDS + "scores")
  if scores is None:
    raise ValueError("tokenizer.ggml.scores is missing")
  # llama.cpp writes the spaces of some added tokens as they are.
  ids = _ids([token.replace(" ", "▁") for token in tokens])
  replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
  normalizers, decoders = [replace], []
  if value(reader, _FIELDS + "add_space_prefix", True):
    normalizers = [{"type": "Prepend", "prepend": "▁"}, replace]
    decoders = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
  back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
  unknown = [i for i, kind in enumerate(kinds) if kind == _UNKNOWN]
  content = {
    "normalizer": {"type": "Sequence", "normalizers": normalizers},
    "pre_tokenizer": None,
    "decoder": {
      "type": "Sequence",
      "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *decoders],
    },
    "model": {
      "type": "BPE",
      "vocab": ids,
      "merges": _merges(ids, scores, kinds),
      "byte_fallback": _BYTE in kinds,
      "fuse_unk": True,
      "unk_token": tokens[unknown[0]] if unknown else None,
    },
  }
  return content, True


def _merges(
  ids: Mapping[str, int], scores: Sequence[float], kinds: Sequence[int]
) -> list[list[str]]:
  """All ways to make a piece of two, those of the best piece first."""
  every = []
  for piece, i in ids.items():
    if kinds[i] != _NORMAL:
      continue
    for at in range(1, len(piece)):
      left, right = piece[:at], piece[at:]
      if left in ids and right in ids:
        every.append((-scores[i], i, ids[left], ids[right], left, right))
  return [list(x[-2:]) for x in sorted(every)]


def _ids(tokens: Sequence[str]) -> dict[str, int]:
  ids = {token: i for i, token in enumerate(tokens)}
  if len(ids) != len(tokens):
    raise ValueError(
      f"tokenizer.ggml.tokens has {len(tokens) - len(ids)} tokens twice, "
      "expected different ones"
    )
  return ids
