"""Sizes of a Gemma 2 transformer (arXiv 2408.00118), published and small."""

import dataclasses
from typing import Any

REMAT = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The network's static shape.

  Attributes:
    vocab_size: V, tokens are 0 … V - 1.
    width: D, of the residual stream.
    num_layers: even; layers 0, 2, … attend locally and 1, 3, … globally.
    num_heads: N, of queries.
    num_kv_heads: K, of keys and values; each serves N / K heads of queries.
    head_dim: size of a query or a key.
    mlp_width: hidden units of the gated MLP.
    sliding_window: tokens that a local layer sees, the present one included.
    max_length: longest sequence that is accepted.
    query_pre_attn_scalar: queries are multiplied by its inverse square root;
      None for `head_dim`.
    attn_softcap: attention logits x become `cap · tanh(x / cap)`.
    final_softcap: likewise for the logits of tokens.
    rope_theta: longest wavelength of rotary positions is nearly 2π times this.
    norm_eps: added to mean squares in RMSNorm.
    dtype: of computation; norms, softmax and logits are in float32 anyway.
    param_dtype: of stored parameters.
    remat: what the backward pass recomputes: "none"; "dots", all but products
      with parameters; or "full", everything within a pair of layers.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  sliding_window: int = 4096
  max_length: int = 8192
  query_pre_attn_scalar: float | None = None
  attn_softcap: float = 50.0
  final_softcap: float = 30.0
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  dtype: str = "float32"
  param_dtype: str = "float32"
  remat: str = "none"

  def __post_init__(self):
    if self.query_pre_attn_scalar is None:
      object.__setattr__(self, "query_pre_attn_scalar", float(self.head_dim))
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and value < 1:
        raise ValueError(f"{field.name} is {value}, expected >= 1")
      if field.type in (float, float | None) and not value > 0:
        raise ValueError(f"{field.name} is {value}, expected > 0")
    for name in ("num_layers", "head_dim"):
      if getattr(self, name) % 2:
        raise ValueError(f"{name} is {getattr(self, name)}, expected even")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads is {self.num_heads}, expected a multiple of num_kv_heads, "
        f"{self.num_kv_heads}"
      )
    for name in ("dtype", "param_dtype"):
      if getattr(self, name) not in DTYPES:
        raise ValueError(
          f"{name} is {getattr(self, name)!r}, expected one of {DTYPES}"
        )
    if self.remat not in REMAT:
      raise ValueError(f"remat is {self.remat!r}, expected one of {REMAT}")


PRESETS = {
  # Published sizes: 2.6, 9.2 and 27.2 billion parameters.
  "gemma2_2b": TransformerConfig(
    vocab_size=256_000,
    width=2304,
    num_layers=26,
    num_heads=8,
    num_kv_heads=4,
    head_dim=256,
    mlp_width=9216,
  ),
  "gemma2_9b": TransformerConfig(
    vocab_size=256_000,
    width=3584,
    num_layers=42,
    num_heads=16,
    num_kv_heads=8,
    head_dim=256,
    mlp_width=14_336,
  ),
  "gemma2_27b": TransformerConfig(
    vocab_size=256_000,
    width=4608,
    num_layers=46,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    mlp_width=36_864,
    query_pre_attn_scalar=144.0,  # width / num_heads, not head_dim
  ),
  # For CPU: 0.2, 0.6 and 4.9 million parameters.
  "tiny": TransformerConfig(
    vocab_size=128,
    width=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_width=160,
    sliding_window=64,
    max_length=1024,
  ),
  "small": TransformerConfig(
    vocab_size=128,
    width=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_width=256,
    sliding_window=64,
    max_length=1024,
  ),
  "medium": TransformerConfig(
    vocab_size=512,
    width=256,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    mlp_width=512,
    sliding_window=64,
    max_length=1024,
  ),
}


def preset(name: str, **changes: Any) -> TransformerConfig:
  """A configuration by name, with some fields changed.

  Args:
    name: a key of `PRESETS`.
    **changes: fields of `TransformerConfig`.

  Raises:
    ValueError: if there is no such preset or field, or a value does not fit.
  """
  if name not in PRESETS:
    raise ValueError(f"preset is {name!r}, expected one of {sorted(PRESETS)}")
  known = {field.name for field in dataclasses.fields(TransformerConfig)}
  for field in changes:
    if field not in known:
      raise ValueError(f"field is {field!r}, expected one of {sorted(known)}")
  return dataclasses.replace(PRESETS[name], **changes)
