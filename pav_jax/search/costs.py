"""What methods cost: tokens, and FLOPs of networks.

A token is charged one pass through a network that reads it, whoever drew it.
Problems are read once, whatever the number of samples or beams, by the policy
and by a verifier: for every method alike.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of each problem; add two with `+`.

  Attributes:
    generated: tokens drawn from the policy, C candidates of each step and
      steps that looked ahead among them.
    prefill: tokens of problems that the policy read.
    policy_flops: FLOPs of the policy's network.
    verifier_tokens: tokens that verifiers read.
    verifier_flops: FLOPs of their networks.
  """

  generated: Float[np.ndarray, "B"]
  prefill: Float[np.ndarray, "B"]
  policy_flops: Float[np.ndarray, "B"]
  verifier_tokens: Float[np.ndarray, "B"]
  verifier_flops: Float[np.ndarray, "B"]

  def __add__(self, other: "Cost") -> "Cost":
    names = [field.name for field in dataclasses.fields(self)]
    return Cost(*(getattr(self, x) + getattr(other, x) for x in names))

  @property
  def flops(self) -> Float[np.ndarray, "B"]:
    """All FLOPs."""
    return self.policy_flops + self.verifier_flops

  def rows(self) -> list[dict[str, float]]:
    """One dictionary for each problem, for writing."""
    columns = {
      field.name: getattr(self, field.name).tolist()
      for field in dataclasses.fields(self)
    }
    return [
      dict(zip(columns, row, strict=True))
      for row in zip(*columns.values(), strict=True)
    ]


def pass_flops(
  config: TransformerConfig,
  start: Int[np.ndarray, "*B"],
  count: Int[np.ndarray, "*B"],
  *,
  logits: bool,
) -> Float[np.ndarray, "*B"]:
  """FLOPs of reading tokens start … start + count - 1 of a text.

  Two for every multiplication of a product: with parameters, of queries with
  the keys that they see, and of weights with values.

  Args:
    config: the network's shape.
    start: tokens before, which are kept.
    count: tokens read.
    logits: whether the next token's logits are computed of each.
  """
  heads = config.num_heads * config.head_dim
  kv_heads = config.num_kv_heads * config.head_dim
  layer = config.width * (2 * heads + 2 * kv_heads + 3 * config.mlp_width)
  each = config.num_layers * layer
  if logits:
    each += config.width * config.vocab_size
  count = np.asarray(count, np.float64)
  stop = start + count
  windows = collections.Counter(spec.window for spec in config.layers)
  seen = sum(
    number * (_seen(stop, window) - _seen(start, window))
    for window, number in windows.items()
  )
  return 2 * (each * count + 2 * heads * seen)


def _seen(num, window):
  """Keys that the first `num` tokens see, Σ min(i + 1, window)."""
  num = np.asarray(num, np.float64)
  full = np.minimum(num, math.inf if window is None else window)
  return full * (full + 1) / 2 + np.where(num > full, (num - full) * full, 0.0)


def _verifier_flops(verifiers, start, count):
  """Of trunks, and of readers, which need the trunk's logits (`surprise`)."""
  flops = np.zeros(np.shape(start))
  for config in verifiers:
    reads = config.reader_layers > 0
    flops += pass_flops(config.trunk, start, count, logits=reads)
    if reads:
      flops += pass_flops(config.reader, start, count, logits=False)
  return flops


def of_problems(
  policy: TransformerConfig,
  verifiers: Sequence[VerifierConfig],
  prompt_len: Int[np.ndarray, "B"],
) -> Cost:
  """Of reading the problems."""
  start = np.zeros_like(prompt_len)
  length = np.asarray(prompt_len, np.float64)
  return Cost(
    generated=np.zeros(len(length)),
    prefill=length,
    policy_flops=pass_flops(policy, start, prompt_len, logits=False),
    verifier_tokens=length * len(verifiers),
    verifier_flops=_verifier_flops(verifiers, start, prompt_len),
  )


def of_steps(
  policy: TransformerConfig,
  verifiers: Sequence[VerifierConfig],
  start: Int[np.ndarray, "B *S"],
  count: Int[np.ndarray, "B *S"],
) -> Cost:
  """Of drawing tokens, and of reading them with verifiers.

  Args:
    policy: its network.
    verifiers: their networks; empty if nothing is evaluated.
    start: tokens before each step, or before each response.
    count: its tokens.
  """
  start, count = (np.reshape(x, (len(x), -1)) for x in (start, count))
  tokens = count.sum(-1).astype(np.float64)
  flops = pass_flops(policy, start, count, logits=True).sum(-1)
  return Cost(
    generated=tokens,
    prefill=np.zeros(len(tokens)),
    policy_flops=flops,
    verifier_tokens=tokens * len(verifiers),
    verifier_flops=_verifier_flops(verifiers, start, count).sum(-1),
  )


def of_samples(
  policy: TransformerConfig,
  verifiers: Sequence[VerifierConfig],
  prompt_len: Int[np.ndarray, "B"],
  length: Int[np.ndarray, "B S"],
  num: int,
) -> Cost:
  """Of N responses, on average over a problem's groups of N.

  Args:
    policy: its network.
    verifiers: their networks; empty where nothing is evaluated, as in plain
      voting.
    prompt_len: of the problems.
    length: tokens of problem and response, of S samples.
    num: N.
  """
  used = length.shape[1] // num * num
  start = np.broadcast_to(prompt_len[:, None], length.shape)[:, :used]
  steps = of_steps(policy, verifiers, start, length[:, :used] - start)
  share = num / used
  names = [field.name for field in dataclasses.fields(steps)]
  steps = Cost(*(share * getattr(steps, name) for name in names))
  return of_problems(policy, verifiers, prompt_len) + steps
