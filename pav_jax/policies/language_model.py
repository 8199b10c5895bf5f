"""A transformer as a policy: samples, completions and log-probabilities."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax import steps
from pav_jax.checks import check_least, concrete_value
from pav_jax.models import transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies import sampling
from pav_jax.policies.continuing import continue_rollouts
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """A policy: plain callables over the parameters of `models.transformer`.

  A response ends with the end token, which belongs to it, or when it has
  `max_new_tokens`. A delimiter ends a step, and so does the end of the
  response. An end token right after a delimiter belongs to the step that the
  delimiter ended. After `max_steps - 1` delimiters the last step has begun,
  and further ones are part of it.

  Log-probabilities are those of the distribution at the sampling temperature
  before top-k and top-p; at temperature 0 those at temperature 1. So `logp`
  has a gradient and is finite for any text, and only without truncation are
  they the probabilities of what was drawn.

  Attributes:
    config: of the network.
    end_token: ends a response.
    is_delimiter: for each token of the vocabulary, whether its text contains
      the delimiter of steps. Any sequence of V truth values; kept as bytes.
    max_new_tokens: of a response, counted from its problem.
    max_steps: H.
    temperature: logits are divided by it; 0 for the most probable token.
    top_k: draw among the k most probable tokens; None for all.
    top_p: draw among the fewest most probable tokens, of those that `top_k`
      leaves, whose probabilities sum to at least this.
    pad_token: what follows a response.
    num_slots: about how many rows are decoded at once; others wait, so more
      take more memory.
    layout: where arrays lie on a mesh; None to leave that to the compiler.
  """

  config: TransformerConfig
  end_token: int
  is_delimiter: Sequence[bool] | bytes
  max_new_tokens: int
  max_steps: int
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float = 1.0
  pad_token: int = 0
  num_slots: int = 128
  layout: Layout | None = None

  def __post_init__(self):
    table = np.asarray(list(self.is_delimiter), bool)
    object.__setattr__(self, "is_delimiter", table.tobytes())
    size = self.config.vocab_size
    if table.shape != (size,):
      raise ValueError(
        f"is_delimiter has shape {table.shape}, expected one entry for each of "
        f"the vocabulary's {size} tokens"
      )
    if not table.any():
      raise ValueError(
        "is_delimiter is False throughout, expected a token that ends a step"
      )
    for name in ("end_token", "pad_token"):
      if not 0 <= getattr(self, name) < size:
        raise ValueError(
          f"{name} is {getattr(self, name)}, expected 0 <= {name} < {size}, "
          "the vocabulary's size"
        )
    kept = self.config.kept
    if kept is not None and self.end_token not in kept.ids:
      raise ValueError(
        f"end_token is {self.end_token}, expected one of the {kept} that the "
        "network may say"
      )
    check_least(
      1,
      max_new_tokens=self.max_new_tokens,
      max_steps=self.max_steps,
      num_slots=self.num_slots,
    )
    if not 0 <= self.temperature < float("inf"):
      raise ValueError(
        f"temperature is {self.temperature}, expected > 0, or 0 for greedy"
      )
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f"top_k is {self.top_k}, expected >= 1 or None")
    if not 0 < self.top_p <= 1:
      raise ValueError(f"top_p is {self.top_p}, expected 0 < top_p <= 1")

  def init(self, key: jax.Array) -> dict:
    """Random parameters."""
    return transformer.init(self.config, key)

  def on(self, layout: Layout | None) -> "LanguageModel":
    """The same model with its arrays elsewhere."""
    return dataclasses.replace(self, layout=layout)

  def logp(self, params: dict, rollout: Rollout) -> Float[Array, "B T"]:
    """Teacher-forced log-probabilities in nats; 0 outside the response.

    One pass; equal to what `sample` and `complete` report. Logits exist for
    some positions at a time, in the gradient too.
    """
    self._check_params(params)
    tokens = jnp.asarray(rollout.tokens)
    hidden = transformer.hidden_states(
      self.config, params, tokens, layout=self.layout
    )
    logp = sampling.logp_of_next(
      self.config,
      params,
      hidden[:, :-1],
      tokens[:, 1:],
      temperature=self.temperature,
      layout=self.layout,
    )
    logp = jnp.pad(logp, ((0, 0), (1, 0)))
    mask = steps.response_mask(rollout.prefix_len, rollout.num_tokens)
    return jnp.where(mask, logp, 0.0)

  def has_ended(self, rollout: Rollout) -> Bool[Array, "B"]:
    """Responses with an end token; others were cut off by the length limit."""
    length = jnp.asarray(rollout.prefix_len)
    last = jnp.take_along_axis(
      jnp.asarray(rollout.tokens), length[:, -1:] - 1, axis=1
    )
    return (last[:, 0] == self.end_token) & (length[:, -1] > length[:, 0])

  def sample(
    self,
    params: dict,
    key: jax.Array,
    prompts: Int[ArrayLike, "B0 S"],
    prompt_len: Int[ArrayLike, "B0"],
    problem_id: Int[ArrayLike, "B0"],
    *,
    num_samples: int,
    first_sample: Int[ArrayLike, "B0"] | int = 0,
  ) -> Rollout:
    """N responses to each problem, whose cache is computed once.

    A response depends on the key, the ids and the prompt alone: not on the
    other rows, their order or padding.

    Args:
      params: of the network.
      key: the run's key.
      prompts: problems' tokens, then anything.
      prompt_len: how many of them are the problem's, in 1 … S.
      problem_id: addresses of the problems' randomness.
      num_samples: N.
      first_sample: each problem's samples are numbered from here; more samples
        of problems that already have some begin with their number.

    Returns:
      B0·N rows of T = S + `max_new_tokens` tokens, or `max_length` if that is
      less, ordered by problem, sample, with the outcome still NaN.

    Raises:
      ValueError: if there are no problems or samples, arrays' sizes differ, or
        a problem is empty or does not leave room for a response.
    """
    _check_problems(prompts, prompt_len, problem_id)
    _check_positive("num_samples", num_samples)
    prompts, prompt_len, problem_id = map(
      jnp.asarray, (prompts, prompt_len, problem_id)
    )
    self._check_lengths(prompt_len, prompts.shape[1])
    self._check_params(params)
    sample_id = sampling.sample_ids(problem_id, first_sample, num_samples)
    batch = prompts.shape[0]
    rollout = Rollout(
      tokens=prompts,
      logp=jnp.zeros(prompts.shape),
      prefix_len=jnp.broadcast_to(
        prompt_len[:, None], (batch, self.max_steps + 1)
      ),
      outcome=jnp.full(batch, jnp.nan),
      problem_id=problem_id,
      sample_id=jnp.zeros_like(problem_id),
    )
    return continue_rollouts(
      self,
      params,
      key,
      rollout,
      jnp.zeros((batch, 1), jnp.int32),
      (problem_id[:, None], sample_id),
      num_read=prompts.shape[1],
      width=min(prompts.shape[1] + self.max_new_tokens, self.config.max_length),
      max_new_tokens=self.max_new_tokens,
    )

  def complete(
    self,
    params: dict,
    key: jax.Array,
    rollout: Rollout,
    *,
    num_samples: int,
    prefixes: Int[ArrayLike, "B Q"] | None = None,
    max_new_tokens: int | None = None,
  ) -> Rollout:
    """M completions of prefixes of each rollout, whose cache is computed once.

    What is sampled is what the policy would go on with: a prefix that ends with
    the end token, or has `self.max_new_tokens` of response, is complete.

    Args:
      params: of the network.
      key: the run's key.
      rollout: of B rows; partial responses are fine.
      num_samples: M completions of each prefix.
      prefixes: indices h of prefixes in 0 … H; None for all.
      max_new_tokens: stop after so many new tokens, before the response may
        have ended; None to go on to its end.

    Returns:
      B·Q·M rows, ordered by rollout, prefix, completion, with room for T tokens
      as `rollout` has, which `sample` makes enough for any response. They begin
      with their prefix and keep its log-probabilities and the rollout's ids.
      A row's randomness is addressed by problem, sample, prefix h and
      completion.

    Raises:
      ValueError: if there are no rollouts, prefixes or samples, H is not
        `max_steps`, a prefix does not exist, or there is no room for responses.
    """
    batch, num_prefixes = rollout.prefix_len.shape
    if num_prefixes != self.max_steps + 1:
      raise ValueError(
        f"rollout has {num_prefixes - 1} steps, expected max_steps = "
        f"{self.max_steps}"
      )
    _check_problems(
      rollout.tokens, rollout.prefix_len[:, 0], rollout.problem_id
    )
    _check_positive("num_samples", num_samples)
    if max_new_tokens is None:
      max_new_tokens = self.max_new_tokens
    _check_positive("max_new_tokens", max_new_tokens)
    if prefixes is None:
      prefixes = np.broadcast_to(
        np.arange(num_prefixes, dtype=np.int32), (batch, num_prefixes)
      )
    _check_prefixes(prefixes, batch, num_prefixes)
    self._check_params(params)
    if rollout.num_tokens > self.config.max_length:
      raise ValueError(
        f"rollout has {rollout.num_tokens} tokens, expected at most max_length "
        f"= {self.config.max_length}"
      )
    rollout = jax.tree.map(jnp.asarray, rollout)
    # Nothing after the longest of the prefixes is read.
    prefixes = jnp.asarray(prefixes, jnp.int32)
    read = concrete_value(
      jnp.take_along_axis(rollout.prefix_len, prefixes, axis=1)
    )
    read = rollout.num_tokens if read is None else int(read.max())
    completion = jnp.arange(num_samples, dtype=jnp.int32)
    return continue_rollouts(
      self,
      params,
      key,
      rollout,
      prefixes,
      (
        rollout.problem_id[:, None],
        rollout.sample_id[:, None],
        jnp.repeat(prefixes, num_samples, axis=1),
        jnp.tile(completion, prefixes.shape[1]),
      ),
      num_read=read,
      width=rollout.num_tokens,
      max_new_tokens=min(max_new_tokens, self.max_new_tokens),
    )

  def _check_params(self, params):
    size = params["embedding"].shape[0]
    if size != self.config.num_outputs:
      raise ValueError(
        f"params have a vocabulary of {size} tokens, expected "
        f"{self.config.num_outputs}"
      )

  def _check_lengths(self, prompt_len, num_tokens):
    known = concrete_value(prompt_len)
    longest = num_tokens if known is None else int(known.max())
    if longest + self.max_new_tokens > self.config.max_length:
      raise ValueError(
        f"a prompt has {longest} tokens and responses up to "
        f"{self.max_new_tokens}, expected a sum of at most max_length = "
        f"{self.config.max_length}"
      )


def _check_positive(name: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{name} is {value}, expected >= 1")


def _check_problems(tokens, prompt_len, problem_id) -> None:
  shape = jnp.shape(tokens)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(
      f"problems have shape {shape}, expected [B, T] with B >= 1 and T >= 1"
    )
  for name, x in (("prompt_len", prompt_len), ("problem_id", problem_id)):
    if jnp.shape(x) != shape[:1]:
      raise ValueError(
        f"{name} has shape {jnp.shape(x)}, expected {shape[:1]}, one entry for "
        "each problem"
      )
  known = concrete_value(prompt_len)
  if known is not None and not ((known > 0) & (known <= shape[1])).all():
    raise ValueError(
      f"prompt_len spans {known.min()} … {known.max()}, expected 1 … "
      f"{shape[1]}, the width of prompts"
    )


def _check_prefixes(prefixes, batch: int, num_prefixes: int) -> None:
  shape = jnp.shape(prefixes)
  if len(shape) != 2 or shape[0] != batch or shape[1] < 1:
    raise ValueError(
      f"prefixes have shape {shape}, expected [{batch}, Q] with Q >= 1"
    )
  known = concrete_value(prefixes)
  if known is not None and not ((known >= 0) & (known < num_prefixes)).all():
    raise ValueError(
      f"prefixes span {known.min()} … {known.max()}, expected 0 … "
      f"{num_prefixes - 1}"
    )
