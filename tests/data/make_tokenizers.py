"""Writes small tokenizers of every kind, and how transformers encodes texts.

  byte_level  BPE of bytes with the pattern of Llama 3; prompts begin with a
              token; a chat template
  pieces      BPE of pieces that write a space as ▁, as Gemma's
  unigram     Unigram over pieces, with a space before every text, as T5's and
              many that SentencePiece made
Each folder has tokenizer.json and tokenizer_config.json, and expected.npz: the
token ids of the texts of tokenizer_texts.py, and chats.

  pip install transformers tokenizers jinja2
  python make_tokenizers.py OUT_DIR
"""

import argparse
import json
import pathlib

import numpy as np
import tokenizer_texts
import transformers as tf
from tokenizers import (
  AddedToken,
  Regex,
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|begin|>", "<|end|>", "<|turn|>", "<|spare|>"]
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>"]
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('no such role: ' + message.role) }}
    {%- endif %}
    {%- if message.role == 'system' and not message.content %}
        {%- continue %}
    {%- endif %}
    {{- '<|turn|>' + message.role + '\\n' }}
    {%- if message.tools is defined %}
        {{- message.tools | tojson }}
    {%- endif %}
    {{- message.content | trim + '<|end|>' }}
{%- endfor %}
{% if add_generation_prompt %}
<|turn|>assistant
{% endif %}
"""
CHATS = [
  [{"role": "user", "content": " What is 2+3? "}],
  [
    {"role": "system", "content": ""},
    {"role": "user", "content": "a", "tools": [{"name": "<é>", "n": 1}]},
    {"role": "assistant", "content": "b\n\nc"},
  ],
]


def byte_level():
  tokenizer = Tokenizer(models.BPE(ignore_merges=True))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=420,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  return tokenizer, trainer


def finish_byte_level(tokenizer):
  # As Llama 3: special tokens come after the others.
  tokenizer.add_special_tokens(
    [AddedToken(x, normalized=False) for x in SPECIAL]
  )
  begin = SPECIAL[0]
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
  )
  return {
    "bos_token": begin,
    "eos_token": "<|end|>",
    "pad_token": "<|end|>",  # as many have it
    "chat_template": TEMPLATE,
  }


def pieces():
  tokenizer = Tokenizer(
    models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
  )
  tokenizer.normalizer = normalizers.Replace(" ", "▁")
  tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  trainer = trainers.BpeTrainer(
    vocab_size=500,
    special_tokens=[
      *PIECES,
      "\n",
      "\n\n",
      *(f"<0x{byte:02X}>" for byte in range(256)),
    ],
    limit_alphabet=80,
    show_progress=False,
  )
  return tokenizer, trainer


def finish_pieces(tokenizer):
  content = json.loads(tokenizer.to_str())
  # Bytes are tokens that no text has; newlines are ordinary added tokens.
  content["added_tokens"] = [
    token | {"special": token["content"] in PIECES}
    for token in content["added_tokens"]
    if not token["content"].startswith("<0x")
  ]
  content["post_processor"] = {
    "type": "TemplateProcessing",
    "single": [
      {"SpecialToken": {"id": "<bos>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [
      {"Sequence": {"id": "A", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 0}},
    ],
    "special_tokens": {
      "<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}
    },
  }
  return content, {
    # As older versions write them.
    name: {"__type": "AddedToken", "content": text, "special": True}
    for name, text in zip(
      ("pad_token", "eos_token", "bos_token", "unk_token"), PIECES, strict=True
    )
  }


def unigram():
  tokenizer = Tokenizer(models.Unigram())
  tokenizer.normalizer = normalizers.NFKC()
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
  tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
  trainer = trainers.UnigramTrainer(
    vocab_size=300,
    special_tokens=PIECES,
    unk_token="<unk>",
    show_progress=False,
    initial_alphabet=[
      *map(chr, range(32, 127)),
      "\n",
      "\t",
      "²",
      "½",
      "×",
      "≥",
    ],
  )
  return tokenizer, trainer


def finish_unigram(_):
  return {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  args = parser.parse_args()
  texts = tokenizer_texts.texts()
  for make, finish in (
    (byte_level, finish_byte_level),
    (pieces, finish_pieces),
    (unigram, finish_unigram),
  ):
    folder = args.out / make.__name__
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, trainer = make()
    # Unigram wants a token for each character.
    tokenizer.train_from_iterator(filter(str.isascii, texts), trainer)
    settings = finish(tokenizer)
    content = json.loads(tokenizer.to_str())
    if isinstance(settings, tuple):
      content, settings = settings
    (folder / "tokenizer.json").write_text(
      json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(
      json.dumps(settings, indent=2) + "\n"
    )
    theirs = tf.AutoTokenizer.from_pretrained(folder)
    encoded = [theirs.encode(x, add_special_tokens=False) for x in texts]
    chats = [
      theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=prompted
      )
      for chat, prompted in zip(CHATS, (True, False), strict=True)
      if theirs.chat_template
    ]
    np.savez_compressed(
      folder / "expected.npz",
      texts=np.array(texts),
      ids=np.concatenate(encoded).astype(np.int32),
      lengths=np.array([len(x) for x in encoded]),
      prompt=np.array(theirs.encode("x"), np.int32),
      chats=np.array(chats, str),
    )
    print(
      make.__name__, len(theirs), sum(map(len, encoded)), theirs.encode("x")
    )


if __name__ == "__main__":
  main()
