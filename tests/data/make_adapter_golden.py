"""Writes adapters of a tiny decoder as PEFT keeps them, and their outputs.

Random adapters of the checkpoint `decoders/qwen2` that `make_decoder_golden.py`
made, with the fields that `peft.PeftModel.save_pretrained` writes, and
`expected.npz`: the logits of that checkpoint's tokens, in float32.

  pip install torch transformers peft safetensors
  python make_adapter_golden.py
"""

import pathlib

import numpy as np
import peft
import torch
import transformers

DATA = pathlib.Path(__file__).parent
BASE, OUT = DATA / "decoders" / "qwen2", DATA / "adapters"


@torch.no_grad()
def main():
  torch.manual_seed(0)
  base = transformers.AutoModelForCausalLM.from_pretrained(
    BASE, attn_implementation="eager", dtype=torch.float32
  )
  config = peft.LoraConfig(
    r=3,
    lora_alpha=9,
    target_modules=["o_proj", "q_proj", "v_proj", "down_proj", "gate_proj"],
    task_type="CAUSAL_LM",
  )
  model = peft.get_peft_model(base, config).eval()
  for name, p in model.named_parameters():
    if "lora_" in name:
      p.copy_(torch.randn_like(p) * 0.3)
  config.base_model_name_or_path = "decoders/qwen2"
  model.save_pretrained(OUT)
  (OUT / "README.md").unlink(missing_ok=True)
  tokens = np.load(BASE / "expected.npz")["tokens"]
  logits = model(torch.tensor(tokens)).logits.numpy()
  np.savez_compressed(OUT / "expected.npz", tokens=tokens, logits=logits)


if __name__ == "__main__":
  main()
