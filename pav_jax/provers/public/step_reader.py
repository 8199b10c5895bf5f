"""Readers of reward models: sequences and marks in, scores of steps out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pav_jax.models import next_token, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers.public.reencoding import (
  AS_SAMPLED,
  PublicReader,
  room_for,
)
from pav_jax.provers.trace_reader import TraceReader
from pav_jax.provers.verifier import Verifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReader(PublicReader):
  """A decoder and a head that reads the log-odds of each step at its mark.

  Attributes:
    params: `{"backbone", "head"}`. The head is a tuple of layers
      `{"kernel": [inputs, outputs]}`, with `"bias"` or not, and ReLU between
      them; the last has one output, the log-odds, or two, the logits of a bad
      and a good step.
    config: of the decoder, without its output layer.
    meaning: of the scores, see `score_meanings`.
    offset: of the token that is read, from the mark: −1 where the mark is what
      is predicted.
    softcap: that bounds the head's logits, as an output layer's; None for none.
  """

  config: TransformerConfig
  meaning: str
  offset: int = 0
  softcap: float | None = None

  @property
  def networks(self) -> tuple[VerifierConfig, ...]:
    """Its one network, see `provers.base.HasParams`."""
    return (VerifierConfig(self.config),)

  def as_verifier(self) -> Verifier:
    """See `PublicReader`."""
    head = self.params["head"]
    if len(head) > 1 or self.offset or self.softcap or self.meaning != "value":
      raise ValueError(
        f"joining is {AS_SAMPLED!r} for a head of {len(head)} layers whose "
        f"scores are of the meaning {self.meaning!r}, expected one layer and "
        "'value', as `public.export` writes it"
      )
    kernel, bias = head[0]["kernel"], head[0].get("bias")
    bias = jnp.zeros(kernel.shape[1]) if bias is None else bias
    if kernel.shape[1] == 2:  # log-odds from the logits of both labels
      kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    params = {
      "trunk": self.params["backbone"],
      "head": {"kernel": kernel[:, 0], "bias": bias[0]},
    }
    return Verifier(params, VerifierConfig(self.config), self.layout)

  def trace_reader(self, *, num_traces: int, max_length: int) -> TraceReader:
    """Reads traces that grow, with the same scores, see `TraceReader`."""
    return TraceReader(
      VerifierConfig(self.config),
      {"trunk": self.params["backbone"]},
      self.params["head"],
      functools.partial(_log_odds, softcap=self.softcap),
      num_traces=num_traces,
      max_length=max_length,
      offset=self.offset,
    )

  def scores(
    self,
    tokens: Int[np.ndarray, "B T"],
    mark: Int[np.ndarray, "B H"],
    begin: Int[np.ndarray, "B"] | None = None,
  ) -> Float[np.ndarray, "B H"]:
    """Scores of steps, float32 in [0, 1]; NaN where there is no step.

    With two outputs a score is the softmax's probability of a good step, with
    one the sigmoid. What follows a mark is not looked at.

    Args:
      tokens: of the reward model, in 0 … V − 1, from the first one on.
      mark: index of the token at which each step is marked, 0 … T − 1; −1 for
        no step.
      begin: not looked at.

    Raises:
      ValueError: if shapes do not go together, or a token, a mark or the length
        is out of its range.
    """
    del begin
    number = len(tokens)
    tokens, mark = checked_marks(
      tokens, mark, self.config, least=-self.offset, layout=self.layout
    )
    hidden = _hidden(
      self.config, self.params["backbone"], tokens, layout=self.layout
    )
    at = np.maximum(mark + self.offset, 0)
    logit = _log_odds(self.params["head"], hidden, at, self.softcap)
    score = np.where(mark >= 0, np.asarray(jax.nn.sigmoid(logit)), np.nan)
    return score[:number]


_hidden = jax.jit(
  transformer.hidden_states, static_argnums=0, static_argnames="layout"
)


@functools.partial(jax.jit, static_argnames="softcap")
def _log_odds(
  head: tuple[dict, ...],
  hidden: Float[Array, "B T D"],
  at: Int[Array, "B H"],
  softcap: float | None,
) -> Float[Array, "B H"]:
  """The head's log-odds at some tokens."""
  x = jnp.take_along_axis(hidden.astype(jnp.float32), at[..., None], axis=1)
  for number, layer in enumerate(head):
    x = jax.nn.relu(x) if number else x
    x = jnp.einsum("bhd,de->bhe", x, layer["kernel"], precision="highest")
    x = x + layer["bias"] if "bias" in layer else x
  x = x if softcap is None else softcap * jnp.tanh(x / softcap)
  return x[..., 1] - x[..., 0] if x.shape[-1] == 2 else x[..., 0]


def checked_marks(
  tokens: Int[np.ndarray, "B T"],
  mark: Int[np.ndarray, "B H"],
  config: TransformerConfig,
  *,
  least: int = 0,
  layout: Layout | None = None,
) -> tuple[Int[np.ndarray, "B2 T2"], Int[np.ndarray, "B2 H"]]:
  """Tokens and marks as int32, filled up behind their ends.

  Args:
    tokens: as of `StepReader.scores`.
    mark: as of `StepReader.scores`.
    config: of the decoder that reads them.
    least: of the marks that are not −1.
    layout: over whose devices rows have to divide evenly.

  Raises:
    ValueError: as of `StepReader.scores`.
  """
  tokens, mark = np.asarray(tokens), np.asarray(mark)
  if tokens.ndim != 2 or mark.ndim != 2 or len(tokens) != len(mark):
    raise ValueError(
      f"tokens and mark have shapes {tokens.shape} and {mark.shape}, expected "
      "[B, T] and [B, H]"
    )
  length = tokens.shape[1]
  if not 1 <= length <= config.max_length:
    raise ValueError(
      f"sequences have {length} tokens, expected 1 … {config.max_length}, the "
      "reward model's max_length"
    )
  if tokens.size and not (
    0 <= tokens.min() <= tokens.max() < config.vocab_size
  ):
    raise ValueError(
      f"tokens span {tokens.min()} … {tokens.max()}, expected 0 … "
      f"{config.vocab_size - 1}, those of the reward model"
    )
  there = mark != -1
  if (there & ((mark < least) | (mark >= length))).any():
    raise ValueError(
      f"marks span {mark[there].min()} … {mark[there].max()}, expected {least} "
      f"… {length - 1}, or -1 for no step"
    )
  room = min(room_for(length), config.max_length) - length
  rows = 0 if layout is None else -len(tokens) % layout.num_shards("batch")
  tokens = np.pad(tokens.astype(np.int32), ((0, rows), (0, room)))
  fill = ((0, rows), (0, 0))
  return tokens, np.pad(mark.astype(np.int32), fill, constant_values=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogRatioReader(PublicReader):
  """Two language models: how much likelier the one finds each step's tokens.

  A step's score is β Σ log π(token) / π_ref(token) over its tokens, in nats:
  the implicit process reward of EurusPRM and PRIME (arXiv 2412.01981, Eq. 4),
  and, with β = 1 and π trained by reinforcement learning from π_ref, the
  progress advantage log π_RL/π_ref. A step's tokens are those after the mark
  before it, up to its own.

  Attributes:
    params: `{"policy", "reference"}`.
    config: of both, `(policy, reference)`, with their output layers.
    beta: β > 0.

  Raises:
    ValueError: if beta is not.
  """

  config: tuple[TransformerConfig, TransformerConfig]
  beta: float

  meaning = "log_ratio"

  def __post_init__(self):
    if not 0 < self.beta < float("inf"):
      raise ValueError(f"beta is {self.beta}, expected a number above 0")

  @property
  def networks(self) -> tuple[VerifierConfig, ...]:
    """Both, see `provers.base.HasParams`."""
    return tuple(map(VerifierConfig, self.config))

  def scores(
    self,
    tokens: Int[np.ndarray, "B T"],
    mark: Int[np.ndarray, "B H"],
    begin: Int[np.ndarray, "B"] | None = None,
  ) -> Float[np.ndarray, "B H"]:
    """Scores of steps, float32 in nats; NaN where there is no step.

    Args:
      tokens: of both models, in 0 … V − 1, from the first one on.
      mark: index of the last token of each step, rising; −1 for no step.
      begin: index of the first token of the first step, at least 1.

    Raises:
      ValueError: as of `StepReader.scores`, or if `begin` is absent or behind
        a mark, or marks do not rise.
    """
    if begin is None:
      raise ValueError(
        "begin is None, expected where each response begins: tokens of the "
        "problem count for no step"
      )
    # Filled up last for the model that has less room.
    for config in sorted(self.config, key=lambda x: -x.max_length):
      filled, filled_mark = checked_marks(
        tokens, mark, config, least=1, layout=self.layout
      )
    start = np.zeros((len(filled), 1), np.int32)
    start[: len(tokens), 0] = np.asarray(begin) - 1
    number, mark = len(tokens), filled_mark
    # Where there is no step, the mark before is repeated.
    ends = np.maximum.accumulate(np.concatenate([start, mark], 1), axis=1)
    if (start < 0).any() or (mark[mark >= 0] != ends[:, 1:][mark >= 0]).any():
      raise ValueError(
        f"begin is {start[:, 0] + 1} and marks are {mark.tolist()}, expected "
        "1 <= begin and marks that rise from there on"
      )
    logp, reference = (
      np.asarray(_logp(config, self.params[name], filled, layout=self.layout))
      for config, name in zip(self.config, ("policy", "reference"), strict=True)
    )
    # Entry t is of tokens 1 … t.
    total = np.cumsum(logp.astype(np.float64) - reference, axis=1)
    total = np.pad(total, ((0, 0), (1, 0)))
    ratio = np.diff(np.take_along_axis(total, ends, axis=1), axis=1)
    score = np.where(mark >= 0, self.beta * ratio, np.nan).astype(np.float32)
    return score[:number]


@functools.partial(jax.jit, static_argnums=0, static_argnames="layout")
def _logp(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "B T"],
  *,
  layout: Layout | None,
) -> Float[Array, "B T-1"]:
  """Log-probabilities of all tokens but the first, in nats."""

  def of_token(logits, tokens):
    logp = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]

  hidden = transformer.hidden_states(config, params, tokens, layout=layout)
  return next_token.read(
    config, params, hidden[:, :-1], tokens[:, 1:], of_token, layout=layout
  )
