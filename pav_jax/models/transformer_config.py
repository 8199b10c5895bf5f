"""What a decoder computes, as data: sizes, layers, and how each attends."""

import dataclasses
import functools
import math
import zlib

import numpy as np
from jaxtyping import Float, Int

REMAT = ("none", "dots", "full")
ATTENTION = ("plain", "kernel")
DTYPES = ("float32", "bfloat16")
KINDS = ("local", "global")
ACTIVATIONS = ("gelu_tanh", "silu")
SCALINGS = ("none", "linear", "llama3")
PROJECTIONS = ("query", "key", "value", "out", "gate", "up", "down")

# More than any decoder has, and little enough that a description of a network
# takes no memory to speak of.
MAX_LAYERS, MAX_SIZE, MAX_POSITION = 4096, 2**24, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rotary:
  """How fast rotary positions turn each pair of features (arXiv 2104.09864).

  Pair i of H / 2 turns by `theta^(-2i / H)` a position, or more slowly where
  a model was stretched to longer texts.

  Attributes:
    theta: the longest wavelength is nearly 2π times this, in tokens.
    scaling: "none"; "linear", all frequencies are divided by `factor`; or
      "llama3", the low ones are, the high ones are not, and those in between
      are interpolated (arXiv 2407.21783).
    factor: by which frequencies are divided.
    low_freq_factor: of "llama3"; wavelengths above `original_max_length` over
      this are stretched in full.
    high_freq_factor: of "llama3"; wavelengths below `original_max_length` over
      this are not stretched.
    original_max_length: of "llama3"; tokens of texts before stretching.
  """

  theta: float = 10_000.0
  scaling: str = "none"
  factor: float = 1.0
  low_freq_factor: float = 1.0
  high_freq_factor: float = 4.0
  original_max_length: int = 8192

  def __post_init__(self):
    if self.scaling not in SCALINGS:
      raise ValueError(
        f"scaling is {self.scaling!r}, expected one of {SCALINGS}"
      )
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is not str and not 0 < value < math.inf:
        raise ValueError(f"{field.name} is {value}, expected > 0")
    if not self.low_freq_factor < self.high_freq_factor:
      raise ValueError(
        f"low_freq_factor is {self.low_freq_factor}, expected less than "
        f"high_freq_factor, {self.high_freq_factor}"
      )

  def frequencies(self, head_dim: int) -> Float[np.ndarray, "F"]:
    """Radians per position, float32, of each pair of features."""
    half = head_dim // 2
    plain = self.theta ** (-np.arange(half) / half)
    if self.scaling == "none":
      return plain.astype(np.float32)
    slow = plain / self.factor
    if self.scaling == "linear":
      return slow.astype(np.float32)
    # 0 for what is stretched in full, 1 for what is left.
    turns = self.original_max_length * plain / (2 * np.pi)
    span = self.high_freq_factor - self.low_freq_factor
    kept = np.clip((turns - self.low_freq_factor) / span, 0.0, 1.0)
    return (kept * plain + (1 - kept) * slow).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters of kernels, trained in their place (arXiv 2106.09685).

  A kernel W [I, O] acts as `W + alpha / rank · A B`, with A [I, rank] random
  and B [rank, O] zero at first. Adapters are in float32, whatever kernels are.

  Attributes:
    rank: inner size of the products, at least 1.
    alpha: times 1 / rank what the products are multiplied by, > 0.
    targets: kernels that have adapters, some of `PROJECTIONS`, in all layers.

  Raises:
    ValueError: if a number is out of its range, or a target is none of those.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: tuple[str, ...] = PROJECTIONS

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f"rank is {self.rank}, expected >= 1")
    if not 0 < self.alpha < math.inf:
      raise ValueError(f"alpha is {self.alpha}, expected > 0")
    targets = tuple(name for name in PROJECTIONS if name in self.targets)
    if not targets or len(targets) != len(self.targets):
      raise ValueError(
        f"targets are {self.targets}, expected some of {PROJECTIONS}, each once"
      )
    object.__setattr__(self, "targets", targets)

  @property
  def scale(self) -> float:
    """What products of A and B are multiplied by."""
    return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, repr=False)
class KeptTokens:
  """The tokens that a network may say; it may be told any.

  Logits are of these alone, so their softmax is that of all tokens, given that
  it is one of these. See `models.trimming`.

  Attributes:
    ids: of the tokens, in any order; kept sorted and each once.

  Raises:
    ValueError: if there is none, or one is negative.
  """

  ids: tuple[int, ...]

  def __post_init__(self):
    ids = tuple(sorted({int(token) for token in self.ids}))
    if not ids or ids[0] < 0:
      raise ValueError(
        f"kept tokens are {ids[:3]} …, expected one or more, none negative"
      )
    object.__setattr__(self, "ids", ids)

  def __repr__(self):
    digest = zlib.crc32(np.asarray(self.ids, "<i4").tobytes())
    return f"KeptTokens({len(self.ids)} ids, crc32 {digest:08x})"

  def places(self, vocab_size: int) -> Int[np.ndarray, "V"]:
    """The index of each token among those kept; their number for others."""
    places = np.full(vocab_size, len(self.ids), np.int32)
    places[list(self.ids)] = np.arange(len(self.ids))
    return places


@dataclasses.dataclass(frozen=True)
class LayerSpec:
  """How one layer attends.

  Attributes:
    name: of the layer's parameters within a period of layers.
    window: how many tokens a token sees, itself included; None for all.
    rotary: positions of its queries and keys.
  """

  name: str
  window: int | None
  rotary: Rotary


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """A decoder's static shape; what is not said otherwise is as in Gemma 2.

  Kinds of layers repeat with a period. Whole periods are scanned, so that a
  program's size does not depend on their number; the layers of a last, partial
  period follow one by one.

  Attributes:
    vocab_size: V, tokens are 0 … V - 1.
    width: D, of the residual stream.
    num_layers: in all.
    num_heads: N, of queries.
    num_kv_heads: K, of keys and values; each serves N / K heads of queries.
    head_dim: size of a query or a key.
    mlp_width: hidden units of the gated MLP.
    sliding_window: tokens that a local layer sees, the present one included.
    max_length: longest sequence that is accepted.
    query_pre_attn_scalar: queries are multiplied by its inverse square root;
      None for `head_dim`.
    attn_softcap: attention logits x become `cap · tanh(x / cap)`; None for x.
    final_softcap: the same for the logits of tokens.
    norm_eps: added to mean squares in RMSNorm.
    dtype: of computation; norms, softmax and logits are in float32 anyway.
    param_dtype: of stored parameters.
    attention: of texts to themselves: "plain", or "kernel" for that of the
      platform where there is one, see `models.attention_kernels`; natural
      gradients need "plain".
    remat: what the backward pass recomputes: "none"; "dots", all but products
      with parameters; or "full", everything within a period of layers.
    family: whose files the network is kept in, see `models.families`.
    pattern: kinds of the layers of a period, "local" or "global".
    rotary: of global layers.
    local_rotary: of local layers; None for that of global ones.
    norm_offset: norms multiply by 1 + scale; otherwise by scale.
    post_norms: attention and MLP are followed by norms, not only preceded.
    qk_norm: queries and keys are normalised before they are rotated.
    qkv_bias: queries, keys and values have biases.
    out_bias: attention's output has one.
    mlp_bias: the MLP's three products have them.
    activation: of the MLP's gate, "gelu_tanh" or "silu".
    scaled_embedding: embeddings are multiplied by √D.
    tied: the embedding is the output layer too.
    lora: adapters of the layers' kernels, see `models.adapters`; None for none.
    kept: tokens that have logits, see `models.trimming`; None for all.
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
  attn_softcap: float | None = 50.0
  final_softcap: float | None = 30.0
  norm_eps: float = 1e-6
  dtype: str = "float32"
  param_dtype: str = "float32"
  attention: str = "plain"
  remat: str = "none"
  family: str = "gemma2"
  pattern: tuple[str, ...] = KINDS
  rotary: Rotary = Rotary()
  local_rotary: Rotary | None = None
  norm_offset: bool = True
  post_norms: bool = True
  qk_norm: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  activation: str = "gelu_tanh"
  scaled_embedding: bool = True
  tied: bool = True
  lora: Lora | None = None
  kept: KeptTokens | None = None

  def __post_init__(self):
    if self.query_pre_attn_scalar is None:
      object.__setattr__(self, "query_pre_attn_scalar", float(self.head_dim))
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and value < 1:
        raise ValueError(f"{field.name} is {value}, expected >= 1")
      is_number = field.type in (float, float | None)
      if is_number and value is not None and not 0 < value < math.inf:
        raise ValueError(f"{field.name} is {value}, expected > 0")
    sizes = ("width", "num_heads", "head_dim", "mlp_width", "vocab_size")
    limits = dict.fromkeys(sizes, MAX_SIZE) | dict.fromkeys(
      ("sliding_window", "max_length"), MAX_POSITION
    )
    for name, limit in {"num_layers": MAX_LAYERS, **limits}.items():
      if getattr(self, name) > limit:
        raise ValueError(
          f"{name} is {getattr(self, name)}, expected at most {limit}"
        )
    if self.head_dim % 2:
      raise ValueError(f"head_dim is {self.head_dim}, expected even")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads is {self.num_heads}, expected a multiple of num_kv_heads, "
        f"{self.num_kv_heads}"
      )
    for name, allowed in (
      ("dtype", DTYPES),
      ("param_dtype", DTYPES),
      ("remat", REMAT),
      ("attention", ATTENTION),
      ("activation", ACTIVATIONS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"{name} is {getattr(self, name)!r}, expected one of {allowed}"
        )
    if self.kept is not None and self.kept.ids[-1] >= self.vocab_size:
      raise ValueError(
        f"token {self.kept.ids[-1]} is kept, expected tokens below vocab_size, "
        f"{self.vocab_size}"
      )
    object.__setattr__(self, "pattern", tuple(self.pattern))
    if not self.pattern or not set(self.pattern) <= set(KINDS):
      raise ValueError(
        f"pattern is {self.pattern}, expected some of {KINDS}, in order"
      )

  @functools.cached_property
  def period(self) -> tuple[LayerSpec, ...]:
    """The layers of one period; those of a kind that repeats are numbered."""
    local = self.local_rotary or self.rotary
    specs = []
    for index, kind in enumerate(self.pattern):
      number = self.pattern[:index].count(kind)
      specs.append(
        LayerSpec(
          name=f"{kind}_{number}" if self.pattern.count(kind) > 1 else kind,
          window=self.sliding_window if kind == "local" else None,
          rotary=local if kind == "local" else self.rotary,
        )
      )
    return tuple(specs)

  @property
  def num_outputs(self) -> int:
    """Tokens that have logits."""
    return self.vocab_size if self.kept is None else len(self.kept.ids)

  @property
  def num_periods(self) -> int:
    """How many whole periods there are."""
    return self.num_layers // len(self.pattern)

  @property
  def remainder(self) -> tuple[LayerSpec, ...]:
    """The layers after the last whole period."""
    return self.period[: self.num_layers % len(self.pattern)]

  @property
  def layers(self) -> tuple[LayerSpec, ...]:
    """All layers in order."""
    return self.num_periods * self.period + self.remainder

  def with_layers(
    self, num_layers: int, *, first: int = 0
  ) -> "TransformerConfig":
    """The same network with other layers.

    Args:
      num_layers: of the result.
      first: which place of the present pattern its first layer has; may be
        negative, so that -2 begins with the last two of a period.
    """
    start = first % len(self.pattern)
    return dataclasses.replace(
      self,
      num_layers=num_layers,
      pattern=self.pattern[start:] + self.pattern[:start],
    )


def shortest_period(kinds: tuple[str, ...]) -> tuple[str, ...]:
  """The fewest first kinds that, repeated, give all: a `pattern`."""
  for size in range(1, len(kinds)):
    if all(kind == kinds[i % size] for i, kind in enumerate(kinds)):
      return kinds[:size]
  return kinds
