"""What a checkpoint says of its tokenizer, as tokenizer.json has it."""

import copy
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
PIECES = "tokenizer.model"
TEMPLATE = "chat_template.jinja"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class Definition(NamedTuple):
  """A tokenizer.

  Attributes:
    content: of tokenizer.json.
    special: texts of the special tokens in `SPECIAL` that there are.
    chat_template: in Jinja; None if there is none.
    add_bos: whether prompts begin with `bos_token`; None if `content` says so.
  """

  content: Mapping[str, Any]
  special: Mapping[str, str]
  chat_template: str | None = None
  add_bos: bool | None = None


def read(path: pathlib.Path) -> Definition:
  """The tokenizer of a checkpoint.

  Args:
    path: of a folder with tokenizer.json, or of that file.

  Raises:
    ValueError: naming the file that is not as expected.
  """
  folder = path.parent if path.is_file() else path
  content = _json(folder / TOKENIZER)
  if not isinstance(content.get("model"), dict):
    raise ValueError(f"{folder / TOKENIZER} has no model, expected one")
  settings = _json(folder / SETTINGS, optional=True)
  special = {
    name: text
    for name in SPECIAL
    if (text := _text(settings.get(name))) is not None
  }
  _add_ids(special, content, _json(folder / "config.json", optional=True))
  add_bos = settings.get("add_bos_token")
  if add_bos and "bos_token" not in special:
    raise ValueError(f"{folder / SETTINGS} says add_bos_token and no bos_token")
  return Definition(content, special, _template(folder, settings), add_bos)


def write(folder: pathlib.Path, definition: Definition) -> None:
  """Writes a tokenizer as `read` and transformers read it."""
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    **definition.special,
  }
  if definition.add_bos is not None:
    settings["add_bos_token"] = definition.add_bos
  if definition.chat_template is not None:
    (folder / TEMPLATE).write_text(definition.chat_template, encoding="utf-8")
  for name, content in (
    (TOKENIZER, definition.content),
    (SETTINGS, settings),
  ):
    text = json.dumps(content, ensure_ascii=False, indent=2)
    (folder / name).write_text(text + "\n", encoding="utf-8")


def _json(file: pathlib.Path, optional: bool = False) -> dict[str, Any]:
  if optional and not file.exists():
    return {}
  try:
    content = json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f"{file} cannot be read as JSON: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(f"{file} holds {content!r:.80}, expected named fields")
  return content


def _text(token: Any) -> str | None:
  """A special token, which may be written with its properties."""
  return token.get("content") if isinstance(token, dict) else token


def _add_ids(
  special: dict[str, str], content: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
  """Special tokens that config.json alone says, by their ids."""
  added = {
    token["id"]: token["content"] for token in content.get("added_tokens", ())
  }
  for name in SPECIAL:
    i = config.get(f"{name}_id")
    i = i[0] if isinstance(i, list) and i else i
    if name not in special and isinstance(i, int) and i in added:
      special[name] = added[i]


def _template(folder: pathlib.Path, settings: Mapping[str, Any]) -> str | None:
  if (folder / TEMPLATE).exists():
    return (folder / TEMPLATE).read_text(encoding="utf-8")
  template = settings.get("chat_template")
  if isinstance(template, list):  # several, by name
    template = {x["name"]: x["template"] for x in template}.get("default")
  return template


def parts(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
  """The components of a normalizer, pre_tokenizer or decoder, in order."""
  component = content.get(name)
  if component is None:
    return []
  if component["type"] != "Sequence":
    return [component]
  inner = next(x for x in component.values() if isinstance(x, list))
  return [part for x in inner for part in parts({name: x}, name)]


def is_byte_level(content: Mapping[str, Any]) -> bool:
  """Whether tokens are written in the characters that stand for bytes."""
  return any(x["type"] == "ByteLevel" for x in parts(content, "decoder"))


def without_normalisation(content: Mapping[str, Any]) -> dict[str, Any]:
  """The same tokens, with texts left as they are before they are split.

  A space is still written as `▁`. Nothing is put before a text, and what the
  decoder took away again it leaves.
  """
  content = copy.deepcopy(dict(content))
  kept = {
    "normalizer": [
      x
      for x in parts(content, "normalizer")
      if x["type"] == "Replace" and x["pattern"] == {"String": " "}
    ],
    "pre_tokenizer": parts(content, "pre_tokenizer"),
    "decoder": [x for x in parts(content, "decoder") if x["type"] != "Strip"],
  }
  inner = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "decoder": "decoders",
  }
  for name, components in kept.items():
    for x in components:
      if x["type"] == "Metaspace":
        x |= {"prepend_scheme": "never"}
        x.pop("add_prefix_space", None)
      elif x["type"] == "ByteLevel":
        x["add_prefix_space"] = False
    content[name] = (
      {"type": "Sequence", inner[name]: components} if components else None
    )
  return content
