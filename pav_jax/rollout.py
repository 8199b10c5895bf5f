"""The data that passes between rooms."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Rollout:
  """Sampled responses, their steps and their outcomes: a frozen pytree.

  `B` rollouts of `T` tokens, padding included, and at most `H` steps. `P` is
  H + 1, the number of prefixes: the bare problem, then one after each step.
  With `0 <= h < H`, token t belongs to the step of 0-based index h iff
  `prefix_len[h] <= t < prefix_len[h + 1]`, and the scoring token of prefix h
  is `prefix_len[h] - 1`. Positions count from the first token of the problem.

  Attributes:
    tokens: the problem, then the response, then padding. Read by policies,
      verifiers and provers.
    logp: log-probability of each sampled token under the policy that sampled
      it, in nats, <= 0; exactly 0 on problem tokens and padding. Read by
      whatever needs the behaviour policy.
    prefix_len: number of tokens in the problem plus the first h steps; entry 0
      is the problem's length, 0 for an empty one. Non-decreasing; it repeats
      its last value once the response has ended. The whole step structure:
      read by `steps`, and through it by every loss.
    outcome: 1 for a correct final answer, 0 for a wrong one (`Rex`, Sec. 2).
      Read by the reward and by first-pit collection.
    problem_id: which problem this answers; with `sample_id`, the address of the
      rollout's randomness.
    sample_id: which of the problem's samples this is.
  """

  tokens: Int[Array, "*B T"]
  logp: Float[Array, "*B T"]
  prefix_len: Int[Array, "*B P"]
  outcome: Float[Array, "*B"]
  problem_id: Int[Array, "*B"]
  sample_id: Int[Array, "*B"]

  @property
  def num_tokens(self) -> int:
    """T, padding included."""
    return self.tokens.shape[-1]

  @property
  def num_steps(self) -> int:
    """H, the room for steps; see `steps.step_mask` for those that exist."""
    return self.prefix_len.shape[-1] - 1


@jax.tree_util.register_dataclass
@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class PackedTokens:
  """Texts to learn, several one after another in a row: a frozen pytree.

  Attributes:
    tokens: problem and response of one text, then of the next, then padding.
    segments: 1 for the first text of a row, 2 for the second, …; 0 on padding.
    positions: of tokens in their own text, from 0.
    loss_mask: True on tokens of responses: those that are learnt.
  """

  tokens: Int[Array, "*B T"]
  segments: Int[Array, "*B T"]
  positions: Int[Array, "*B T"]
  loss_mask: Bool[Array, "*B T"]


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class StepTargets:
  """Traces and what is known of the value of each prefix: a frozen pytree.

  Tokens and steps are those of `Rollout`. Counts are stored and no estimate,
  so that a mean, an interval, a likelihood or Best-of-K can be computed later:
  `values.best_of_k(q_mc, k)`, or, of whole numbers and without bias,
  `values.pass_at_k(num_correct, num_completions, k)` (Eq. 30).

  Attributes:
    tokens: the problem, then the response, then padding.
    prefix_len: as in `Rollout`; repeats its last value, the number of tokens
      that are not padding, once the response has ended.
    num_completions: n >= 0, how often the prefix was completed; 0 where
      nothing is known of it, and for entries past the end of the response. A
      prefix whose completions are all alike for certain (a whole response, a
      dead one) has the counts that completing it would have given. A label
      that was imported counts as one completion.
    num_correct: c, how many of them were correct, 0 <= c <= n: whole numbers
      from Monte Carlo; of imported soft labels the label itself, with n = 1.
      float32, or float64 in numpy where float32 cannot hold a soft label.
    outcome: 1 for a correct final answer, 0 for a wrong one, NaN where it is
      not known, as of an imported response that was cut short.
    problem_id: which problem this answers.
    sample_id: which of the problem's traces this is.
  """

  tokens: Int[Array, "*B T"]
  prefix_len: Int[Array, "*B P"]
  num_completions: Int[Array, "*B P"]
  num_correct: Float[Array, "*B P"]
  outcome: Float[Array, "*B"]
  problem_id: Int[Array, "*B"]
  sample_id: Int[Array, "*B"]

  @property
  def is_labelled(self) -> Bool[Array, "*B P"]:
    """Prefixes of which something is known."""
    return self.num_completions > 0

  @property
  def q_mc(self) -> Float[Array, "*B P"]:
    """Fractions correct, c / n, in [0, 1]; NaN where n = 0 (Sec. 4.2)."""
    n = self.num_completions
    return jnp.where(n > 0, self.num_correct / jnp.maximum(n, 1), jnp.nan)
