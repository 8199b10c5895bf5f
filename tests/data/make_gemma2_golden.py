"""Writes a tiny random Gemma 2 checkpoint and its reference outputs.

Made with Hugging Face `transformers` (PyTorch, float32, eager attention), so
that another implementation of the architecture can be held against it.

  pip install torch transformers safetensors
  python make_gemma2_golden.py OUT_DIR --seed 0
"""

import argparse
import pathlib

import numpy as np
import torch
import transformers


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--vocab", type=int, default=128)
  parser.add_argument("--hidden", type=int, default=64)
  parser.add_argument("--layers", type=int, default=4)
  parser.add_argument("--heads", type=int, default=4)
  parser.add_argument("--kv_heads", type=int, default=2)
  parser.add_argument("--head_dim", type=int, default=16)
  parser.add_argument("--intermediate", type=int, default=160)
  parser.add_argument("--sliding_window", type=int, default=8)
  parser.add_argument("--query_pre_attn_scalar", type=int, default=24)
  parser.add_argument("--length", type=int, default=24)
  args = parser.parse_args()

  torch.manual_seed(args.seed)
  config = transformers.Gemma2Config(
    vocab_size=args.vocab,
    hidden_size=args.hidden,
    intermediate_size=args.intermediate,
    num_hidden_layers=args.layers,
    num_attention_heads=args.heads,
    num_key_value_heads=args.kv_heads,
    head_dim=args.head_dim,
    max_position_embeddings=256,
    sliding_window=args.sliding_window,
    query_pre_attn_scalar=args.query_pre_attn_scalar,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
    attn_implementation="eager",
  )
  model = transformers.Gemma2ForCausalLM(config).eval().float()
  with torch.no_grad():
    for name, p in model.named_parameters():
      # Norm scales start at zero in Gemma: random values make them matter.
      p.copy_(torch.randn_like(p) * (0.3 if "norm" in name else 0.15))
  tokens = torch.randint(3, args.vocab, (3, args.length))
  with torch.no_grad():
    out = model(tokens, output_hidden_states=True)
    greedy = model.generate(
      tokens[:, :8], max_new_tokens=16, do_sample=False, min_new_tokens=16
    )
  args.out.mkdir(parents=True, exist_ok=True)
  model.save_pretrained(args.out, safe_serialization=True)
  np.savez_compressed(
    args.out / "expected.npz",
    tokens=tokens.numpy(),
    logits=out.logits.float().numpy(),
    last_hidden=out.hidden_states[-1].float().numpy(),
    greedy_prompt=tokens[:, :8].numpy(),
    greedy=greedy.numpy(),
  )


if __name__ == "__main__":
  main()
