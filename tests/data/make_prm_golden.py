"""Writes tiny random process reward models in public formats, and their scores.

Made with Hugging Face transformers 5 and PyTorch, in float32 and eager
attention, as the authors of each format read theirs:

  token_classification  Qwen2ForTokenClassification with two labels, as TRL's
                        trainer writes: softmax, label 1, at the mark
  qwen_prm              head Linear-ReLU-Linear named score.0 and score.2, as
                        Qwen2.5-Math-PRM: softmax, label 1, at the mark
  plus_minus            MistralForCausalLM: softmax over the logits of two
                        tokens at the mark, as Math-Shepherd
  assistant_plus        LlamaForCausalLM: the same at the token before the mark,
                        which predicts it, as RLHFlow
  v_head                Qwen2 and v_head.summary: sigmoid at the mark, as
                        Skywork-o1-Open-PRM

`expected.npz` of each holds tokens int64[B, T], mark int64[B, H], −1 for no
step, and score float32[B, H], NaN there.

  pip install torch transformers safetensors
  python make_prm_golden.py OUT_DIR
"""

import argparse
import json
import pathlib

import numpy as np
import safetensors.torch
import torch
import transformers as tf

GOOD, BAD = 7, 9
SIZES = {
  "vocab_size": 56,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 128,
  "pad_token_id": 0,
  "eos_token_id": 1,
  "bos_token_id": 2,
  "attn_implementation": "eager",
}


def randomised(model):
  """The model with weights that make scores of all kinds."""
  with torch.no_grad():
    for name, p in model.named_parameters():
      around = float("norm" in name)
      spread = 0.3 if "bias" in name or "norm" in name else 0.2
      p.copy_(torch.randn_like(p) * spread + around)
  return model.eval().float()


def write(folder, model, score, mark, tokens, head=None, **config):
  """Writes a checkpoint and what it is expected to say."""
  folder.mkdir(parents=True, exist_ok=True)
  if head is None:
    model.save_pretrained(folder)
  else:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | head
    safetensors.torch.save_file(
      {k: v.contiguous() for k, v in tensors.items()},
      folder / "model.safetensors",
      {"format": "pt"},
    )
    model.config.save_pretrained(folder)
  path = folder / "config.json"
  fields = json.loads(path.read_text()) | config
  path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
  (folder / "generation_config.json").unlink(missing_ok=True)
  score = np.where(mark.numpy() >= 0, score.numpy(), np.nan)
  np.savez_compressed(
    folder / "expected.npz",
    tokens=tokens.numpy(),
    mark=mark.numpy(),
    score=score.astype(np.float32),
  )
  print(folder.name, np.nanmin(score), np.nanmax(score))


@torch.no_grad()
def main():
  """Writes all formats."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("out", type=pathlib.Path)
  out = parser.parse_args().out
  torch.manual_seed(0)
  tokens = torch.randint(12, 56, (3, 30))
  mark = torch.tensor([[5, 11, 19, 26], [4, 9, 15, -1], [8, 20, -1, -1]])
  rows, at = torch.arange(3)[:, None], mark.clamp(min=0)

  def named(prefix, head):
    return {f"{prefix}.{k}": v for k, v in head.state_dict().items()}

  model = randomised(
    tf.Qwen2ForTokenClassification(tf.Qwen2Config(**SIZES, num_labels=2))
  )
  score = model(tokens).logits.softmax(-1)[rows, at, 1]
  write(out / "token_classification", model, score, mark, tokens)

  model = randomised(tf.Qwen2Model(tf.Qwen2Config(**SIZES)))
  head = randomised(
    torch.nn.Sequential(
      torch.nn.Linear(24, 24), torch.nn.ReLU(), torch.nn.Linear(24, 2)
    )
  )
  score = head(model(tokens).last_hidden_state).softmax(-1)[rows, at, 1]
  write(
    out / "qwen_prm",
    model,
    score,
    mark,
    tokens,
    named("score", head),
    architectures=["Qwen2ForProcessRewardModel"],
    auto_map={"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"},
  )

  model = randomised(
    tf.MistralForCausalLM(tf.MistralConfig(**SIZES, sliding_window=8))
  )
  score = model(tokens).logits[rows, at][..., [GOOD, BAD]].softmax(-1)[..., 0]
  write(out / "plus_minus", model, score, mark, tokens)

  model = randomised(
    tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, tie_word_embeddings=False))
  )
  logits = model(tokens).logits[rows, (at - 1).clamp(min=0)]
  score = logits[..., [GOOD, BAD]].softmax(-1)[..., 0]
  write(out / "assistant_plus", model, score, mark, tokens)

  model = randomised(tf.Qwen2Model(tf.Qwen2Config(**SIZES)))
  head = randomised(torch.nn.Linear(24, 1))
  score = head(model(tokens).last_hidden_state)[..., 0].sigmoid()[rows, at]
  write(
    out / "v_head",
    model,
    score,
    mark,
    tokens,
    named("v_head.summary", head),
    architectures=["Qwen2ForRewardModel"],
  )


if __name__ == "__main__":
  main()
