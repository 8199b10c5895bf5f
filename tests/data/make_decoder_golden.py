"""Writes tiny random decoders of every family and their reference outputs.

Made with Hugging Face transformers 5 and PyTorch: weights that bfloat16 holds,
computed with in float32 and eager attention. Shapes are odd on purpose: depths
that leave part of a period over, six heads over three, windows of five, biases,
stretched rotary positions. Each folder has a checkpoint as `save_pretrained`
writes it, and `expected.npz`: tokens, logits, the last hidden states, and
greedy continuations, whose two largest logits differ by at least 2e-3.

  pip install torch transformers safetensors
  python make_decoder_golden.py OUT_DIR
"""

import argparse
import copy
import pathlib

import numpy as np
import torch
import transformers as tf

SIZES = {
  "vocab_size": 56,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_attention_heads": 6,
  "num_key_value_heads": 3,
  "max_position_embeddings": 128,
  "num_hidden_layers": 3,
  "pad_token_id": 0,
  "eos_token_id": 1,
  "bos_token_id": 2,
  "attn_implementation": "eager",
}
LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 500_000.0,
  "factor": 4.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
NEARBY = {"rope_type": "default", "rope_theta": 10_000.0}


def families():
  """Name, class and configuration."""
  yield (
    "llama",
    tf.LlamaForCausalLM,
    tf.LlamaConfig(
      **SIZES,
      tie_word_embeddings=False,
      rope_parameters=LLAMA3,
      rms_norm_eps=1e-5,
    ),
  )
  yield (
    "llama_biased",
    tf.LlamaForCausalLM,
    tf.LlamaConfig(
      **SIZES,
      tie_word_embeddings=True,
      rope_parameters=LINEAR,
      attention_bias=True,
      mlp_bias=True,
    ),
  )
  yield (
    "mistral",
    tf.MistralForCausalLM,
    tf.MistralConfig(
      **SIZES, sliding_window=5, tie_word_embeddings=False, head_dim=8
    ),
  )
  yield (
    "qwen2",
    tf.Qwen2ForCausalLM,
    tf.Qwen2Config(
      **SIZES,
      use_sliding_window=True,
      sliding_window=5,
      max_window_layers=2,
      rope_theta=1_000_000.0,
    ),
  )
  yield (
    "qwen3",
    tf.Qwen3ForCausalLM,
    tf.Qwen3Config(
      **SIZES, head_dim=8, tie_word_embeddings=True, rope_theta=1_000_000.0
    ),
  )
  yield (
    "gemma2",
    tf.Gemma2ForCausalLM,
    tf.Gemma2Config(
      **SIZES, head_dim=8, sliding_window=5, query_pre_attn_scalar=24
    ),
  )
  yield (
    "gemma3",
    tf.Gemma3ForCausalLM,
    tf.Gemma3TextConfig(
      **{**SIZES, "num_hidden_layers": 7},
      head_dim=8,
      sliding_window=5,
      query_pre_attn_scalar=20,
      rope_parameters={"sliding_attention": NEARBY, "full_attention": LINEAR},
    ),
  )


def reference(model, vocab_size):
  """Tokens and outputs without near ties, which rounding would decide."""
  gap = 0.0
  while gap < 2e-3:
    tokens = torch.randint(3, vocab_size, (2, 20))
    greedy, gap = tokens[:, :8], np.inf
    for _ in range(12):
      best = model(greedy).logits[:, -1].topk(2)
      gap = min(gap, float((best.values[:, 0] - best.values[:, 1]).min()))
      greedy = torch.cat([greedy, best.indices[:, :1]], 1)
  out = model(tokens, output_hidden_states=True)
  return {
    "tokens": tokens.numpy(),
    "logits": out.logits.numpy(),
    "last_hidden": out.hidden_states[-1].numpy(),
    "greedy": greedy.numpy(),
  }


@torch.no_grad()
def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  args = parser.parse_args()
  for name, cls, config in families():
    torch.manual_seed(0)
    model = cls(config).eval().float()
    for key, p in model.named_parameters():
      if "norm" in key:
        # Gemma's scales are offsets from 1, the others' are factors.
        p.copy_(torch.randn_like(p) * 0.3 + (0.0 if "gemma" in name else 1.0))
      else:
        p.copy_(torch.randn_like(p) * (0.3 if "bias" in key else 0.2))
    kept = copy.deepcopy(model).bfloat16()
    for p, rounded in zip(model.parameters(), kept.parameters(), strict=True):
      p.copy_(rounded.float())
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    kept.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(
      folder / "expected.npz", **reference(model, config.vocab_size)
    )


if __name__ == "__main__":
  main()
