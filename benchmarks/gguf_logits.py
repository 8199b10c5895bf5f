"""Logits of a GGUF file beside those that transformers computes from it.

  pip install -e '.[bench,hf]' accelerate
  python -m benchmarks.gguf_logits FILE.gguf [--text=TEXT] [--tokens=24]

Continues a text greedily, and prints the largest difference between logits of
the whole, in float32, and how many greedy tokens transformers chooses too.
"""

import argparse
import pathlib

import numpy as np

from pav_jax import models


def continued(model, ids, num_tokens):
  """Token ids with as many greedy ones behind them."""
  row = np.zeros((1, len(ids) + num_tokens), np.int32)
  row[0, : len(ids)] = ids
  for end in range(len(ids), row.shape[1]):
    row[0, end] = np.argmax(model.logits(row)[0, end - 1])
  return row


def theirs(path, row):
  """Logits by transformers, which dequantises the file itself."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation="eager",
  ).eval()
  with torch.inference_mode():
    return model(torch.as_tensor(row, dtype=torch.int64)).logits.numpy()


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("file", type=pathlib.Path)
  parser.add_argument("--text", default="The capital of France is")
  parser.add_argument("--tokens", type=int, default=24)
  args = parser.parse_args()

  model = models.load(args.file)
  tokenizer = model.tokenizer
  first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ids = first + tokenizer.encode(args.text)
  row = continued(model, ids, args.tokens)
  print(tokenizer.decode(row[0, len(first) :].tolist()))
  ours, other = np.asarray(model.logits(row)), theirs(args.file, row)
  same = np.argmax(other[0, len(ids) - 1 : -1], -1) == row[0, len(ids) :]
  print(
    f"largest difference of {ours.size:,} logits: "
    f"{np.abs(ours - other).max():.1e}, of at most {np.abs(other).max():.0f}; "
    f"greedy tokens: {same.sum()} of {same.size}"
  )


if __name__ == "__main__":
  main()
