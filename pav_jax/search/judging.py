"""Who judges prefixes in a search, from whole traces or from kept caches."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax import values
from pav_jax.checks import Leaf
from pav_jax.models import cached_values, heads
from pav_jax.models.decoding import Caches
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.rollout import Rollout
from pav_jax.search import caches

# Tokens that are read at once, and for which there is room at least.
BLOCK = 8


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["policy", "prover", "k"],
  meta_fields=["by_trace"],
)
@dataclasses.dataclass(frozen=True)
class Judge:
  """Values of prefixes under the policy and under the prover.

  Attributes:
    policy: a prover `(key, rollout) -> q` whose values are Q^π.
    prover: whose values the prover's are, those of one sample; None for
      `policy`.
    k: the prover is Best-of-K of that (Eq. 30); float or float32[].
    by_trace: read the whole trace for every step even where verifiers could
      keep what they have read.
  """

  policy: Callable[[jax.Array | None, Rollout], Any]
  prover: Callable[[jax.Array | None, Rollout], Any] | None = None
  k: Leaf = 1.0
  by_trace: bool = False

  @property
  def is_cached(self) -> bool:
    """Whether both are verifiers that can read step by step."""
    return not self.by_trace and all(
      network(prover) is not None and hasattr(prover, "logits")
      for prover in self.verifiers
    )

  @property
  def verifiers(self) -> tuple[Any, ...]:
    """The policy's, and the prover's if that is another."""
    if self.prover is None:
      return (self.policy,)
    return (self.policy, self.prover)

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> tuple[Float[Array, "B P"], Float[Array, "B P"]]:
    """`(q_policy, q_prover)` of all prefixes of whole traces."""
    if all(hasattr(prover, "logits") for prover in self.verifiers):
      return _from_logits(self, rollout)
    q = [jnp.asarray(prover(key, rollout)) for prover in self.verifiers]
    return q[0], values.best_of_k(q[-1], jnp.asarray(self.k, jnp.float32))

  def of_logits(
    self, logits: list[Float[Array, "*B"]]
  ) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """`(q_policy, q_prover)` from the logits of each of the verifiers."""
    ks = [jnp.asarray(v.k, jnp.float32) for v in self.verifiers]
    k = jnp.asarray(self.k, jnp.float32)
    return (
      values.best_of_k_from_logit(logits[0], ks[0]),
      values.best_of_k_from_logit(logits[-1], ks[-1] * k),
    )


@jax.jit
def _from_logits(judge: Judge, rollout: Rollout) -> tuple[Array, Array]:
  return judge.of_logits([v.logits(rollout) for v in judge.verifiers])


class Memory(NamedTuple):
  """What a verifier has read of G = B · N beams.

  Attributes:
    texts: its caches, one for each of its networks.
    last: its trunk's output at the last token.
  """

  texts: tuple[Caches, ...]
  last: Float[Array, "G D"]


class Read(NamedTuple):
  """What a verifier has read of the steps of candidates.

  Attributes:
    steps: caches, as of `Memory`.
    last: its trunk's output at their last tokens.
  """

  steps: tuple[Caches, ...]
  last: Float[Array, "G C D"]


def network(prover: Any) -> VerifierConfig | None:
  """The shape of a verifier's network; None of what is none."""
  config = getattr(prover, "config", None)
  if isinstance(config, TransformerConfig):
    return VerifierConfig(config)
  return config if isinstance(config, VerifierConfig) else None


def start(
  judge: Judge,
  prompts: Int[Array, "B S"],
  prompt_len: Int[Array, "B"],
  num_beams: int,
  length: int,
) -> tuple[tuple[Memory, ...], tuple[Float[Array, "B"], Float[Array, "B"]]]:
  """Reads problems; the memory of all their beams, and their values."""
  memory, logits = [], []
  for verifier in judge.verifiers:
    config = network(verifier)
    last, read, texts = cached_values.prefill(
      config, verifier.params, prompts, prompt_len, layout=verifier.layout
    )
    zero = jnp.zeros((len(prompts), 1), jnp.int32)
    head = verifier.params["head"]
    logits.append(heads.read(head, read[:, None], zero)[:, 0])
    texts = tuple(
      caches.of_beams(part, cache, num_beams, length)
      for part, cache in zip(cached_values.networks(config), texts, strict=True)
    )
    memory.append(Memory(texts, jnp.repeat(last, num_beams, axis=0)))
  return tuple(memory), judge.of_logits(logits)


def read(
  judge: Judge,
  memory: tuple[Memory, ...],
  tokens: Int[Array, "G C U"],
  count: Int[Array, "G C"],
  prefix_len: Int[Array, "G"],
) -> tuple[tuple[Read, ...], tuple[Float[Array, "G C"], Float[Array, "G C"]]]:
  """Reads the steps of candidates; what to keep of them, and their values.

  Args:
    judge: with verifiers.
    memory: of the beams.
    tokens: of candidates.
    count: how many; the values of those with none mean nothing.
    prefix_len: tokens of the beams.
  """
  groups, num, room = tokens.shape
  block = min(BLOCK, room)
  blocks = -(-room // block)
  tokens = jnp.pad(tokens, ((0, 0), (0, 0), (0, blocks * block - room)))
  prefix_len = jnp.broadcast_to(prefix_len[:, None], (groups, num))
  found, logits = [], []
  for verifier, known in zip(judge.verifiers, memory, strict=True):
    config = network(verifier)
    params = cached_values.unstack(config, verifier.params)

    def body(
      carry, verifier=verifier, config=config, params=params, known=known
    ):
      at, before, last, steps = carry
      trunk, read, steps = cached_values.extend(
        config,
        params,
        jax.lax.dynamic_slice_in_dim(tokens, at, block, axis=2),
        jnp.full((groups, num), at),
        prefix_len,
        before,
        known.texts,
        steps,
        layout=verifier.layout,
      )
      within = count - 1 - at
      here = ((within >= 0) & (within < block))[..., None]
      within = jnp.clip(within, 0, block - 1)[:, :, None, None]
      last = tuple(
        jnp.where(here, jnp.take_along_axis(x, within, axis=2)[:, :, 0], old)
        for x, old in zip((trunk, read), last, strict=True)
      )
      return at + block, trunk[:, :, -1], last, steps

    before = jnp.broadcast_to(
      known.last[:, None], (groups, num, known.last.shape[-1])
    )
    empty = cached_values.empty(
      config, groups, num, room, layout=verifier.layout
    )
    _, _, (trunk, of_head), steps = jax.lax.while_loop(
      lambda carry: carry[0] < jnp.max(count),
      body,
      (jnp.int32(0), before, (before, before), empty),
    )
    found.append(Read(steps, trunk))
    every = jnp.broadcast_to(jnp.arange(num), (groups, num))
    logits.append(heads.read(verifier.params["head"], of_head, every))
  return tuple(found), judge.of_logits(logits)


def keep(
  configs: tuple[VerifierConfig, ...],
  memory: tuple[Memory, ...],
  found: tuple[Read, ...],
  parent: Int[Array, "B M"],
  candidate: Int[Array, "B M"],
  prefix_len: Int[Array, "G"],
  count: Int[Array, "G"],
) -> tuple[Memory, ...]:
  """The memory of survivors.

  Args:
    configs: of the verifiers' networks.
    memory: of the beams before.
    found: of their candidates, from `read`.
    parent: see `caches.select`.
    candidate: likewise.
    prefix_len: tokens that the survivors had before, G = B · M.
    count: tokens of their steps.
  """
  batch = len(parent)
  rows = jnp.arange(batch)[:, None]
  out = []
  for config, old, new in zip(configs, memory, found, strict=True):
    texts = []
    for part, text, step in zip(
      cached_values.networks(config), old.texts, new.steps, strict=True
    ):
      text, step = caches.select(part, text, step, parent, candidate)
      texts.append(caches.append(text, step, prefix_len, count))
    last = new.last.reshape(batch, -1, *new.last.shape[1:])
    last = last[rows, parent, candidate].reshape(-1, last.shape[-1])
    out.append(Memory(tuple(texts), last))
  return tuple(out)
