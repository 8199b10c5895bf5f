"""The planted sub-sequence: a problem small enough to know every value of.

A response of `length` tokens is correct iff the planted sequence occurs in it
contiguously (Sec. 3.3, App. B). Every token is a step, and the problem itself
is empty, so prefix h of a rollout is its first h tokens.

How far a prefix has got is all in the state of a matching automaton with
m + 2 states, m being the planted sequence's length:

    0 … m-1   the longest suffix that is a prefix of the planted sequence has
              this length, and the sequence has not occurred yet
    m         it has occurred: correct, whatever follows
    m + 1     the response has ended without it: wrong, whatever follows
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from pav_jax.problems.base import SPLITS
from pav_jax.rollout import Rollout


@dataclasses.dataclass(frozen=True)
class Planted:
  """The problem's static description.

  Attributes:
    planted: the tokens that must occur contiguously; `[3, 6, 0, 3, 5]` in the
      paper's Fig. 9. It may not hold the end token.
    length: most tokens in a response, the end token included.
    vocab_size: tokens are 0 … vocab_size - 1.
    end_token: ends the response; `None` for the last of the vocabulary.

  Raises:
    ValueError: if the planted sequence is empty, longer than the response, or
      has a token that no response can hold in it.
  """

  placement: ClassVar[Literal["device", "host"]] = "device"
  prompt_len: ClassVar[int] = 0

  planted: tuple[int, ...] = (3, 6, 0, 3, 5)
  length: int = 10
  vocab_size: int = 15
  end_token: int | None = None

  def __post_init__(self):
    object.__setattr__(self, "planted", tuple(self.planted))
    if self.vocab_size < 2:
      raise ValueError(f"vocab_size is {self.vocab_size}, expected at least 2")
    if self.end_token is None:
      object.__setattr__(self, "end_token", self.vocab_size - 1)
    if not 0 <= self.end_token < self.vocab_size:
      raise ValueError(
        f"end_token is {self.end_token}, expected one of the vocabulary's "
        f"tokens 0 … {self.vocab_size - 1}"
      )
    if not 1 <= len(self.planted) <= self.length:
      raise ValueError(
        f"planted has {len(self.planted)} tokens, expected 1 to {self.length}, "
        "the response's length"
      )
    for token in self.planted:
      if isinstance(token, bool) or not isinstance(token, int | np.integer):
        raise ValueError(f"planted holds {token!r}, expected integers")
      if not 0 <= token < self.vocab_size or token == self.end_token:
        raise ValueError(
          f"planted holds token {token}, expected tokens of the vocabulary "
          f"0 … {self.vocab_size - 1} other than the end token "
          f"{self.end_token}"
        )

  @property
  def num_states(self) -> int:
    """m + 2, see the module's docstring."""
    return len(self.planted) + 2

  @functools.cached_property
  def transitions(self) -> np.ndarray:
    """int32[num_states, vocab_size]: the state that each token leads to."""
    m = len(self.planted)
    done, dead = m, m + 1
    table = np.full((m + 2, self.vocab_size), dead, np.int32)
    table[done] = done
    for matched in range(m):
      for token in range(self.vocab_size):
        if token == self.end_token:
          continue
        seen = (*self.planted[:matched], token)
        table[matched, token] = max(
          k
          for k in range(len(seen) + 1)
          if seen[len(seen) - k :] == self.planted[:k]
        )
    return table

  def states(
    self, tokens: Int[ArrayLike, "*B T"], prefix_len: Int[ArrayLike, "*B P"]
  ) -> Int[Array, "*B P"]:
    """The automaton's state at every prefix; int32 in 0 … m + 1.

    A prefix that has used up all `length` tokens without an end token is not
    marked dead here: no value of it differs, since nothing can follow.
    """
    transitions = jnp.asarray(self.transitions)
    tokens, prefix_len = jnp.asarray(tokens), jnp.asarray(prefix_len)

    def advance(state, token):
      state = transitions[state, token]
      return state, state

    start = jnp.zeros(tokens.shape[:-1], jnp.int32)
    _, states = jax.lax.scan(advance, start, jnp.moveaxis(tokens, -1, 0))
    states = jnp.concatenate([start[None], states])
    return jnp.take_along_axis(jnp.moveaxis(states, 0, -1), prefix_len, -1)

  @property
  def num_problems(self) -> int:
    """There is one problem, the empty prompt."""
    return 1

  @property
  def fingerprint(self) -> str:
    """Names the tokens and the one that ends a response."""
    return f"planted-{self.vocab_size}-{self.end_token}"

  @property
  def max_steps(self) -> int:
    """H: every token is a step."""
    return self.length

  @property
  def max_response_len(self) -> int:
    """Most tokens in a response."""
    return self.length

  def split_size(self, split: str) -> int:
    """1: the one problem is in every split.

    Raises:
      ValueError: if there is no such split.
    """
    if split not in SPLITS:
      raise ValueError(f"split is {split!r}, expected one of {SPLITS}")
    return self.num_problems

  def problem_ids(
    self, split: str, start: int, stop: int
  ) -> Int[np.ndarray, "B"]:
    """The one problem's id, int32[1].

    Raises:
      ValueError: if there is no such split, or the range is not 0 … 1.
    """
    if (start, stop) != (0, self.split_size(split)):
      raise ValueError(
        f"start and stop are {start} and {stop}, expected 0 and 1: there is "
        "one problem"
      )
    return np.zeros(1, np.int32)

  def prompts(self, problem_id: Int[ArrayLike, "B"]) -> Int[np.ndarray, "B L"]:
    """Empty prompts, int32[B, 0]."""
    return np.zeros((len(np.asarray(problem_id)), 0), np.int32)

  def prompt_lengths(
    self, problem_id: Int[ArrayLike, "B"]
  ) -> Int[np.ndarray, "B"]:
    """Zeros, int32[B]."""
    return np.zeros(len(np.asarray(problem_id)), np.int32)

  def grade(self, rollout: Rollout) -> Float[Array, "*B"]:
    """The outcome reward: 1 iff the planted sequence occurs, else 0."""
    final = self.states(rollout.tokens, rollout.prefix_len[..., -1:])[..., 0]
    return (final == len(self.planted)).astype(jnp.float32)

  def ended(self, tokens: Int[Array, "*B"]) -> Bool[Array, "*B"]:
    """Whether a token ends the response."""
    return tokens == self.end_token
